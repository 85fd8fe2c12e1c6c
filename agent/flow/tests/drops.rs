//! `docs/drops.md` and the datapath know the same reasons.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a panic is a test's report")]

use strake_abi::flow::DropReason;

/// The table's rows: cells without the bars.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn every_drop_reason_is_explained_and_every_explanation_is_of_a_reason() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/drops.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = rows(&text);
    for row in &rows {
        assert_eq!(row.len(), 4, "name, meaning, usual cause, what to do: {row:?}");
        assert!(row.iter().all(|cell| cell.len() > 3), "a cell is empty: {row:?}");
    }
    let explained: Vec<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let known: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(explained, known, "the table in docs/drops.md (left) has the reasons of DropReason, in its order");
}
