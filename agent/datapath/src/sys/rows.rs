//! Rows of a map whose types are not known here: as bytes.
//!
//! May not know: what is in them.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{BPF_MAP_LOOKUP_BATCH, BPF_MAP_UPDATE_BATCH, BatchAttr, bpf};

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_NOEXIST: u64 = 1;

#[repr(C)]
struct ElemAttr {
    map: u32,
    unused: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

/// Lengths of a map's keys and values, as system calls take them (of a per-CPU map, all CPUs' values).
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub key: usize,
    pub value: usize,
}

/// A row, or none.
pub fn get(map: BorrowedFd<'_>, sizes: Sizes, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
    assert_eq!(key.len(), sizes.key, "a key of the map");
    let mut value = vec![0_u8; sizes.value];
    let mut attr = ElemAttr {
        map: map.as_raw_fd() as u32,
        unused: 0,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a row.
pub fn put(map: BorrowedFd<'_>, sizes: Sizes, key: &[u8], value: &[u8]) -> io::Result<()> {
    put_with(map, sizes, key, value, 0)
}

/// Writes a row unless there is one of that key. Returns whether it did.
pub fn put_new(map: BorrowedFd<'_>, sizes: Sizes, key: &[u8], value: &[u8]) -> io::Result<bool> {
    match put_with(map, sizes, key, value, BPF_NOEXIST) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

fn put_with(map: BorrowedFd<'_>, sizes: Sizes, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    assert_eq!((key.len(), value.len()), (sizes.key, sizes.value), "a row of the map");
    let (key, value) = (key.as_ptr() as u64, value.as_ptr() as u64);
    let mut attr = ElemAttr { map: map.as_raw_fd() as u32, unused: 0, key, value, flags };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// The key after `key`; the first, if there is none. None at the end.
pub fn next_key(map: BorrowedFd<'_>, sizes: Sizes, key: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
    let mut next = vec![0_u8; sizes.key];
    let mut attr = ElemAttr {
        map: map.as_raw_fd() as u32,
        unused: 0,
        key: key.map_or(0, |key| key.as_ptr() as u64),
        value: next.as_mut_ptr() as u64,
        flags: 0,
    };
    match bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How far a walk has come.
pub struct Walk {
    at: Option<u32>,
    room: usize,
    done: bool,
}

impl Walk {
    pub fn new(room: usize) -> Self {
        Self { at: None, room, done: false }
    }
}

/// The next keys and values, one after the other, of a hash map or an array (5.6); none at its end.
pub fn step(map: BorrowedFd<'_>, sizes: Sizes, walk: &mut Walk) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    while !walk.done {
        let (mut keys, mut values) = (vec![0_u8; walk.room * sizes.key], vec![0_u8; walk.room * sizes.value]);
        let (at, mut next) = (walk.at.unwrap_or_default(), 0_u32);
        let mut attr = BatchAttr {
            in_batch: if walk.at.is_some() { std::ptr::from_ref(&at) as u64 } else { 0 },
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: walk.room as u32,
            map: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => walk.done = true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                walk.room *= 2;
                continue;
            }
            Err(error) => return Err(error),
        }
        walk.at = Some(next);
        let count = (attr.count as usize).min(walk.room);
        keys.truncate(count * sizes.key);
        values.truncate(count * sizes.value);
        if count > 0 {
            return Ok(Some((keys, values)));
        }
    }
    Ok(None)
}

/// Writes rows, keys and values one after the other, in one call (5.6).
pub fn put_all(map: BorrowedFd<'_>, sizes: Sizes, keys: &[u8], values: &[u8]) -> io::Result<()> {
    let count = keys.len() / sizes.key;
    assert_eq!((keys.len(), values.len()), (count * sizes.key, count * sizes.value), "whole rows of the map");
    if count == 0 {
        return Ok(());
    }
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: count as u32,
        map: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_BATCH, &mut attr).map(drop)
}

const _: () = assert!(size_of::<ElemAttr>() == 32, "as the kernel has it");
