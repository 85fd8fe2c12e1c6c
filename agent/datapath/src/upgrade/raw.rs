//! A pinned map of any version: its shape, and its rows as bytes carried into another.
//!
//! May not know: what the rows mean.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::maps::{MapData, MapInfo, MapType};

use super::UpgradeError;
use super::layout::Conversion;
use crate::sys::rows::{self, Sizes, Walk};

/// Rows a system call.
const STEP: usize = 4096;

/// What a map is, apart from how its rows look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub kind: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub flags: u32,
}

/// Which rows are written where there is one already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Replace,
    Keep,
}

pub struct RawMap {
    name: String,
    data: MapData,
    info: MapInfo,
    kind: MapType,
}

impl RawMap {
    /// Opens the map pinned in a folder.
    pub fn open(folder: &Path, name: &str) -> Result<Self, UpgradeError> {
        let path = folder.join(name);
        let fail = |source| UpgradeError::Pinned { path: path.clone(), source };
        let data = MapData::from_pin(&path).map_err(fail)?;
        let info = data.info().map_err(fail)?;
        let kind = info.map_type().map_err(fail)?;
        Ok(Self { name: name.to_owned(), data, info, kind })
    }

    pub fn id(&self) -> u32 {
        self.info.id()
    }

    pub fn capacity(&self) -> u32 {
        self.info.max_entries()
    }

    pub fn shape(&self) -> Shape {
        Shape {
            kind: self.kind as u32,
            key_size: self.info.key_size(),
            value_size: self.info.value_size(),
            flags: self.info.map_flags(),
        }
    }

    pub fn key_size(&self) -> usize {
        self.info.key_size() as usize
    }

    pub fn value_size(&self) -> usize {
        self.info.value_size() as usize
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    fn is_array(&self) -> bool {
        matches!(self.kind, MapType::Array | MapType::PerCpuArray)
    }

    fn cpus(&self) -> io::Result<usize> {
        if matches!(self.kind, MapType::PerCpuArray) { aya::util::nr_cpus().map_err(|(_, error)| error) } else { Ok(1) }
    }

    fn sizes(&self) -> io::Result<Sizes> {
        let value = match self.kind {
            // The kernel hands out each CPU's value rounded up.
            MapType::PerCpuArray => self.value_size().next_multiple_of(8) * self.cpus()?,
            _ => self.value_size(),
        };
        Ok(Sizes { key: self.key_size(), value })
    }

    fn fail<'a>(&'a self, doing: &'static str) -> impl Fn(io::Error) -> UpgradeError + 'a {
        move |source| UpgradeError::Rows { doing, map: self.name.clone(), source }
    }

    /// The row of an array.
    pub fn at(&self, index: u32) -> Result<Vec<u8>, UpgradeError> {
        let fail = self.fail("reading");
        let row = rows::get(self.fd(), self.sizes().map_err(&fail)?, &index.to_ne_bytes()).map_err(fail)?;
        Ok(row.unwrap_or_else(|| vec![0; self.value_size()]))
    }

    pub fn set(&self, index: u32, value: &[u8]) -> Result<(), UpgradeError> {
        let fail = self.fail("writing");
        rows::put(self.fd(), self.sizes().map_err(&fail)?, &index.to_ne_bytes(), value).map_err(fail)
    }

    /// Every key.
    pub fn keys(&self) -> Result<Vec<Vec<u8>>, UpgradeError> {
        let fail = self.fail("walking through");
        let sizes = self.sizes().map_err(&fail)?;
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while let Some(key) = rows::next_key(self.fd(), sizes, keys.last().map(Vec::as_slice)).map_err(&fail)? {
            keys.push(key);
        }
        Ok(keys)
    }

    /// Carries this map's rows into another. A row that does not fit there any more ends it with an error.
    pub fn carry(&self, to: &Self, conversion: &Conversion, existing: Existing) -> Result<usize, UpgradeError> {
        let (reading, writing) = (self.fail("reading"), to.fail("writing"));
        let (from_sizes, to_sizes) = (self.sizes().map_err(&reading)?, to.sizes().map_err(&writing)?);
        let mut carried = 0;
        let mut write = |keys: &[u8], values: &[u8]| -> Result<(), UpgradeError> {
            let (mut out_keys, mut out_values) = (Vec::new(), Vec::new());
            for (key, value) in keys.chunks_exact(from_sizes.key).zip(values.chunks_exact(from_sizes.value)) {
                if self.is_array() && value.iter().all(|byte| *byte == 0) {
                    continue;
                }
                let (key, value) = (conversion.key(key), self.each_cpu(conversion, value, to_sizes.value));
                if existing == Existing::Keep {
                    carried += usize::from(rows::put_new(to.fd(), to_sizes, &key, &value).map_err(&writing)?);
                } else if matches!(to.kind, MapType::LpmTrie | MapType::PerCpuArray) {
                    rows::put(to.fd(), to_sizes, &key, &value).map_err(&writing)?;
                    carried += 1;
                } else {
                    out_keys.extend(key);
                    out_values.extend(value);
                }
            }
            carried += out_keys.len() / to_sizes.key;
            rows::put_all(to.fd(), to_sizes, &out_keys, &out_values).map_err(&writing)
        };
        match self.kind {
            // These have batches later than 5.10.
            MapType::LpmTrie => {
                for key in self.keys()? {
                    if let Some(value) = rows::get(self.fd(), from_sizes, &key).map_err(&reading)? {
                        write(&key, &value)?;
                    }
                }
            }
            MapType::PerCpuArray => {
                for index in 0..self.capacity().min(to.capacity()) {
                    let key = index.to_ne_bytes();
                    if let Some(value) = rows::get(self.fd(), from_sizes, &key).map_err(&reading)? {
                        write(&key, &value)?;
                    }
                }
            }
            _ => {
                let mut walk = Walk::new(STEP.min(self.capacity().max(1) as usize));
                while let Some((keys, values)) = rows::step(self.fd(), from_sizes, &mut walk).map_err(&reading)? {
                    write(&keys, &values)?;
                }
            }
        }
        Ok(carried)
    }

    fn each_cpu(&self, conversion: &Conversion, value: &[u8], room: usize) -> Vec<u8> {
        if !matches!(self.kind, MapType::PerCpuArray) {
            return conversion.value(value);
        }
        let mut out: Vec<u8> = Vec::with_capacity(room);
        for one in value.chunks_exact(self.value_size().next_multiple_of(8)) {
            let converted = conversion.value(one);
            let padded = converted.len().next_multiple_of(8);
            out.extend(converted);
            out.resize(out.len().next_multiple_of(8).max(padded), 0);
        }
        out.resize(room, 0);
        out
    }
}
