//! Maglev tables of Services: rows of `MAGLEV`, and what is in them.
//!
//! May not know: which Services have one.

use strake_abi::service::{Backend, MAGLEV_ROW, MaglevRow};
use strake_logic::maglev::{self, FREE, Turn};

use crate::slices::Extent;

/// Where a Service's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its rows.
    pub rows: Extent,
    /// Its entries; the rest of the last row is unused.
    pub size: u32,
}

impl Table {
    pub fn new(base: u32, size: u32) -> Self {
        Self { rows: Extent { base, count: rows(size) }, size }
    }
}

/// Rows of a table of `size` entries.
pub fn rows(size: u32) -> u32 {
    size.div_ceil(MAGLEV_ROW)
}

/// The table of a slice.
pub fn make(slice: &[Backend], size: u32) -> Vec<MaglevRow> {
    let names: Vec<_> = slice.iter().map(|backend| (backend.addr, backend.port)).collect();
    let mut entries = vec![FREE; size as usize];
    maglev::fill(&names, &mut vec![Turn::default(); names.len()], &mut entries);
    let row = |entries: &[u16]| {
        let mut row = MaglevRow { entries: [FREE; MAGLEV_ROW as usize] };
        row.entries[..entries.len()].copy_from_slice(entries);
        row
    };
    entries.chunks(MAGLEV_ROW as usize).map(row).collect()
}
