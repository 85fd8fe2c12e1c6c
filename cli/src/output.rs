//! Tables for people, JSON and YAML for programs.

use anyhow::Result;
use comfy_table::{ColumnConstraint, Table, Width, presets};
use serde_json::Value;

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

/// [`Format`] of lists that have more to tell than a table of usual width holds.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Default)]
pub enum Columns {
    #[default]
    Table,
    /// A table with more columns
    Wide,
    Json,
    Yaml,
}

impl Columns {
    /// How a document is printed; none for a table.
    pub fn document(self) -> Option<Format> {
        match self {
            Self::Table | Self::Wide => None,
            Self::Json => Some(Format::Json),
            Self::Yaml => Some(Format::Yaml),
        }
    }
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

/// A table too long to be held: in blocks, each with columns at least as wide as those of the blocks before it.
pub struct Blocks<'a> {
    head: &'a [&'a str],
    rows: Vec<Vec<String>>,
    widths: Vec<u16>,
    printed: bool,
}

/// Rows a block.
const BLOCK: usize = 1_000;

impl<'a> Blocks<'a> {
    pub fn new(head: &'a [&'a str]) -> Self {
        Self { head, rows: Vec::new(), widths: vec![0; head.len()], printed: false }
    }

    /// Adds a row; returns a block when one is full.
    pub fn put(&mut self, row: Vec<String>) -> Option<Table> {
        self.rows.push(row);
        (self.rows.len() >= BLOCK).then(|| self.cut())
    }

    /// What is left, with the head if nothing was printed yet.
    pub fn last(mut self) -> Table {
        self.cut()
    }

    fn cut(&mut self) -> Table {
        let mut table = table(self.head, std::mem::take(&mut self.rows));
        if std::mem::replace(&mut self.printed, true) {
            table = {
                let mut bare = Table::new();
                bare.load_style(presets::NOTHING);
                table.row_iter().for_each(|row| {
                    bare.add_row(row.clone());
                });
                bare.column_iter_mut().for_each(|column| {
                    column.set_padding((0, 3));
                });
                bare
            };
        }
        for (column, width) in table.column_iter_mut().zip(&self.widths) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(*width)));
        }
        for (width, content) in self.widths.iter_mut().zip(table.column_max_content_widths()) {
            // The constraint is about content and padding.
            *width = (*width).max(content + 3);
        }
        table
    }
}

/// `48s`, `5m2s`, `3h10m`, `2d3h`, as kubectl tells an age.
pub fn duration(seconds: u64) -> String {
    let two = |big: u64, unit: &str, small: u64, of: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{of}") }
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// A field as text: strings without quotes.
pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().map_or_else(|| value[key].to_string(), str::to_owned)
}

/// Prints a document as JSON or YAML.
pub fn document(format: Format, value: &Value) -> Result<()> {
    match format {
        Format::Yaml => print!("{}", serde_saphyr::to_string(value)?),
        Format::Json | Format::Table => println!("{value:#}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_blocks_of_a_table_have_no_head_and_keep_its_columns() {
        let mut blocks = Blocks::new(&["A", "B"]);
        let mut lines = Vec::new();
        for n in 0..BLOCK {
            if let Some(block) = blocks.put(vec![format!("{n:06}"), "x".into()]) {
                lines.extend(block.to_string().lines().map(str::to_owned));
            }
        }
        assert_eq!(lines.len(), 1 + BLOCK);
        assert!(blocks.put(vec!["1".into(), "last".into()]).is_none());
        let last = blocks.last().to_string();
        assert_eq!(last.lines().count(), 1, "{last}");
        assert_eq!(last.find("last"), lines[1].find('x'), "{last}\n{}", lines[1]);
        let empty = Blocks::new(&["A", "B"]).last().to_string();
        assert!(empty.starts_with('A'), "{empty}");
    }

    #[test]
    fn durations_are_told_with_two_units() {
        let told = [0, 59, 60, 302, 7_200, 11_400, 183_600].map(duration);
        assert_eq!(told, ["0s", "59s", "1m", "5m2s", "2h", "3h10m", "2d3h"]);
    }
}
