//! Tables for people, JSON and YAML for programs.

use anyhow::Result;
use comfy_table::{Table, presets};
use serde_json::Value;

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

/// A table in kubectl's manner: upper-case heads, no lines.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
}

/// Prints a document as JSON or YAML.
pub fn document(format: Format, value: &Value) -> Result<()> {
    match format {
        Format::Yaml => print!("{}", serde_saphyr::to_string(value)?),
        Format::Json | Format::Table => println!("{value:#}"),
    }
    Ok(())
}
