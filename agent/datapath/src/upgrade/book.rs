//! The book of layouts: how the rows of each pinned map look, by the map's id in the kernel, in a map of its own.
//!
//! By id and not by name, so that while two versions' maps lie side by side each is described, and no order of steps can
//! leave a description at the wrong map. May not know: which maps there are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, MapError};

use super::UpgradeError;
use super::layout::Layout;

/// The pin, beside the folders.
const NAME: &str = "layouts";
/// Bytes of a description.
const ROOM: usize = 4096;
const ENTRIES: u32 = 512;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_F_NO_PREALLOC: u32 = 1;

/// What is said of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub layout: Layout,
    /// Of `CONFIG`: the programs that read it know what `HANDOVER` and `CHAINED` mean.
    pub hands_over: bool,
}

pub struct Book {
    map: HashMap<MapData, u32, [u8; ROOM]>,
    path: PathBuf,
}

pub fn path(root: &Path) -> PathBuf {
    root.join(NAME)
}

impl Book {
    /// The book of this state; none if nobody has begun one.
    pub fn open(root: &Path) -> Result<Option<Self>, UpgradeError> {
        let path = path(root);
        if !path.exists() {
            return Ok(None);
        }
        let fail = |source| UpgradeError::Book { path: path.clone(), source };
        let map = Map::from_map_data(MapData::from_pin(&path).map_err(fail)?).map_err(fail)?;
        let map = HashMap::try_from(map).map_err(fail)?;
        Ok(Some(Self { map, path }))
    }

    pub fn open_or_begin(root: &Path) -> Result<Self, UpgradeError> {
        if let Some(book) = Self::open(root)? {
            return Ok(book);
        }
        let path = path(root);
        let fail = |source| UpgradeError::Book { path: path.clone(), source };
        let shape = aya_obj::Map::new_from_params(BPF_MAP_TYPE_HASH, 4, ROOM as u32, ENTRIES, BPF_F_NO_PREALLOC);
        let data = MapData::create(shape, "LAYOUTS", None).map_err(fail)?;
        data.pin(&path).map_err(|error| fail(MapError::PinError { name: Some(NAME.into()), error }))?;
        let map = HashMap::try_from(Map::from_map_data(data).map_err(fail)?).map_err(fail)?;
        Ok(Self { map, path })
    }

    /// What is written about a map. What cannot be read is as good as nothing.
    pub fn read(&self, id: u32) -> Option<Entry> {
        let bytes = self.map.get(&id, 0).ok()?;
        let text = std::str::from_utf8(&bytes).ok()?.trim_end_matches('\0');
        let (notes, layout) = text.split_once(';')?;
        Some(Entry { layout: layout.parse().ok()?, hands_over: notes.split(',').any(|note| note == "hands-over") })
    }

    pub fn write(&mut self, id: u32, entry: &Entry) -> Result<(), UpgradeError> {
        let text = format!("{};{}", if entry.hands_over { "hands-over" } else { "" }, entry.layout);
        let mut bytes = [0; ROOM];
        let room = bytes.get_mut(..text.len()).ok_or_else(|| UpgradeError::Long { text: text.clone(), room: ROOM })?;
        room.copy_from_slice(text.as_bytes());
        self.map.insert(id, bytes, 0).map_err(|source| UpgradeError::Book { path: self.path.clone(), source })
    }

    /// Forgets every map but these.
    pub fn keep(&mut self, ids: &BTreeSet<u32>) -> Result<(), UpgradeError> {
        let gone: Vec<u32> = self.map.keys().filter_map(Result::ok).filter(|id| !ids.contains(id)).collect();
        for id in gone {
            match self.map.remove(&id) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(UpgradeError::Book { path: self.path.clone(), source }),
            }
        }
        Ok(())
    }
}
