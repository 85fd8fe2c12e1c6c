//! What an agent that starts finds pinned, which of it it uses, and what it makes anew beside it.
//!
//! May not know: how programs are exchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use strake_abi::config::{CHAINED, CONFIG, HANDOVER};
use strake_abi::layout::Role;
use tracing::{info, warn};

use super::book::{Book, Entry};
use super::hooks::{clear, pins, remove_file};
use super::layout::{Conversion, Layout};
use super::raw::{Existing, RawMap, Shape};
use super::{Object, UpgradeError, at, maps_folder, next, staging};
use crate::sys;

/// The last version that pinned no book: its layouts.
const UNWRITTEN: u32 = 6;
const UNWRITTEN_LAYOUTS: &str = include_str!("abi6.txt");

/// A map as an object has it.
struct Wanted {
    shape: Shape,
    capacity: u32,
    layout: Layout,
}

/// A map that has to be made anew.
struct Remade {
    /// None: its rows cannot be carried over.
    conversion: Option<Conversion>,
    role: Role,
    why: &'static str,
}

/// Where the maps of the programs that are about to be loaded are pinned.
pub struct Stage {
    root: PathBuf,
    /// The folder for [`aya::EbpfLoader::map_pin_path`].
    pub folder: PathBuf,
    /// Entries that a map is to have at least, where that is not what the object or the configuration says.
    pub capacities: BTreeMap<String, u32>,
    remade: BTreeMap<String, Remade>,
    waits: bool,
}

/// Looks at what is pinned and decides. Removes what an agent left that died before it used it. `capacities` are those
/// asked for.
pub fn plan(root: &Path, object: &Object, capacities: &BTreeMap<String, u32>) -> Result<Stage, UpgradeError> {
    clear(&staging(root))?;
    let folder = maps_folder(root);
    let fresh = |folder: PathBuf| {
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let capacities = capacities.clone();
        Ok(Stage { root: root.into(), folder, capacities, remade: BTreeMap::new(), waits: false })
    };
    let Some(pinned) = understand(root)? else {
        // Nobody has ever used what is there.
        clear(&folder)?;
        return fresh(folder);
    };
    let pinned = match pinned {
        Ok(pinned) => pinned,
        Err(found) => return Err(UpgradeError::AbiVersion { path: root.into(), found }),
    };
    let wanted = wanted(object)?;
    let hands_over = pinned.get(CONFIG).is_some_and(|(_, entry)| entry.hands_over);
    let mut remade = BTreeMap::new();
    let mut capacities = capacities.clone();
    for (name, want) in &wanted {
        let Some((map, entry)) = pinned.get(name) else { continue };
        let room = capacities.get(name).copied().unwrap_or(want.capacity);
        // Rows never lose their room, and a map that programs fill grows only where they can be handed over.
        let grows = room > map.capacity() && (hands_over || want.layout.role != Role::State);
        if room <= map.capacity() || !grows {
            capacities.insert(name.clone(), map.capacity());
        }
        let why = if map.shape() != want.shape {
            "it has another shape"
        } else if entry.layout != want.layout {
            "its rows look different"
        } else if grows {
            "it is to have more room"
        } else {
            continue;
        };
        remade.insert(name.clone(), make_anew(want, &entry.layout, why));
    }
    let waits = remade.values().any(|map| map.role == Role::Node && map.conversion.is_none());
    let changes_state = remade.values().any(|map| map.role == Role::State);
    for (name, want) in &wanted {
        let Some((_, entry)) = pinned.get(name) else { continue };
        let why = match () {
            // What is written for the new programs must not be seen by those that run on beside them.
            () if waits && want.layout.role == Role::Node => "others beside it are filled anew",
            () if changes_state && name == CONFIG => "two versions' programs are there for a moment",
            () => continue,
        };
        remade.entry(name.clone()).or_insert_with(|| make_anew(want, &entry.layout, why));
    }
    if remade.is_empty() {
        return Ok(Stage { root: root.into(), folder, capacities, remade, waits });
    }
    let folder = staging(root).join("maps");
    for inner in [&folder, &staging(root).join("programs")] {
        fs::create_dir_all(inner).map_err(at(inner))?;
    }
    for name in wanted.keys().filter(|name| pinned.contains_key(*name) && !remade.contains_key(*name)) {
        let map = sys::open_pin(&maps_folder(root).join(name)).map_err(at(&maps_folder(root).join(name)))?;
        sys::pin(map.as_fd(), &folder.join(name)).map_err(at(&folder.join(name)))?;
    }
    Ok(Stage { root: root.into(), folder, capacities, remade, waits })
}

fn make_anew(want: &Wanted, old: &Layout, why: &'static str) -> Remade {
    let (key, value) = (want.shape.key_size as usize, want.shape.value_size as usize);
    let conversion = Conversion::new(old, &want.layout, key, value);
    Remade { conversion, role: want.layout.role, why }
}

/// The maps of an object.
fn wanted(object: &Object) -> Result<BTreeMap<String, Wanted>, UpgradeError> {
    let parsed = aya_obj::Object::parse(object.bytes).map_err(UpgradeError::Object)?;
    let mut wanted = BTreeMap::new();
    for (name, layout) in &object.layouts {
        let map = parsed.maps.get(name).ok_or_else(|| UpgradeError::NoMap { map: name.clone() })?;
        let (kind, key_size, value_size, flags) = (map.map_type(), map.key_size(), map.value_size(), map.map_flags());
        let shape = Shape { kind, key_size, value_size, flags };
        wanted.insert(name.clone(), Wanted { shape, capacity: map.max_entries(), layout: layout.clone() });
    }
    Ok(wanted)
}

type Pinned = BTreeMap<String, (RawMap, Entry)>;

/// The pinned maps and what is known of them. None: nothing was ever attached to them. Err: the version that nobody here
/// understands.
fn understand(root: &Path) -> Result<Option<Result<Pinned, u32>>, UpgradeError> {
    let folder = maps_folder(root);
    let names = pins(&folder)?;
    if !names.iter().any(|name| name == CONFIG) {
        return Ok(None);
    }
    let book = Book::open(root)?;
    let config = RawMap::open(&folder, CONFIG)?;
    let written = book.as_ref().and_then(|book| book.read(config.id()));
    let row = config.at(0)?;
    let word = |offset: usize| row.get(offset..offset + 4).and_then(|word| word.first_chunk().copied());
    // The version has been the first word since the first.
    let place = written.as_ref().and_then(|entry| entry.layout.field("abi_version")).map_or(0, |leaf| leaf.offset);
    let version = word(place).map_or(u32::MAX, u32::from_ne_bytes);
    if version == 0 {
        // An agent died between making the maps and writing CONFIG; nothing is attached to them.
        return Ok(None);
    }
    let unwritten: BTreeMap<&str, Layout> = match (&written, version) {
        (Some(_), _) => BTreeMap::new(),
        (None, UNWRITTEN) => {
            let lines = UNWRITTEN_LAYOUTS.lines().filter_map(|line| line.split_once(' '));
            lines.filter_map(|(name, layout)| Some((name, layout.parse().ok()?))).collect()
        }
        (None, other) => return Ok(Some(Err(other))),
    };
    let (mut pinned, mut entries) = (BTreeMap::new(), Vec::new());
    for name in names {
        let map = RawMap::open(&folder, &name)?;
        let known = book.as_ref().and_then(|book| book.read(map.id()));
        let unwritten =
            || unwritten.get(name.as_str()).map(|layout| Entry { layout: layout.clone(), hands_over: false });
        match known.or_else(unwritten) {
            Some(entry) => {
                entries.push((map.id(), entry.clone()));
                pinned.insert(name, (map, entry));
            }
            // Its agent died before it wrote down what it had made, and before anything used it.
            None => remove_file(&folder.join(name))?,
        }
    }
    if written.is_none() {
        // From here on as if it had been written.
        let mut book = Book::open_or_begin(root)?;
        entries.iter().try_for_each(|(id, entry)| book.write(*id, entry))?;
    }
    Ok(Some(Ok(pinned)))
}

impl Stage {
    /// Whether maps were made anew, and the programs have to be exchanged for those that use them.
    pub fn is_beside(&self) -> bool {
        !self.remade.is_empty()
    }

    /// Whether the maps are to be filled from a whole view of the cluster before the programs are exchanged.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// The maps are there: writes down how they look, and carries over what can be.
    pub fn fill(&self, object: &Object) -> Result<(), UpgradeError> {
        let mut book = Book::open_or_begin(&self.root)?;
        for (name, layout) in &object.layouts {
            let map = RawMap::open(&self.folder, name)?;
            book.write(map.id(), &Entry { layout: layout.clone(), hands_over: name == CONFIG })?;
        }
        if !self.is_beside() {
            return Ok(());
        }
        for (name, Remade { conversion, role, why }) in &self.remade {
            let (from, to) = (RawMap::open(&maps_folder(&self.root), name)?, RawMap::open(&self.folder, name)?);
            match (conversion, role) {
                (_, Role::Passing) => info!(map = name, why, "map made anew"),
                (Some(conversion), _) => {
                    let rows = from.carry(&to, conversion, Existing::Replace)?;
                    info!(map = name, why, rows, capacity = to.capacity(), "map made anew, rows carried over");
                }
                (None, Role::Node) => {
                    info!(map = name, why, "map made anew, to be filled when the whole cluster is known");
                }
                (None, Role::State | Role::Counter) => warn!(
                    map = name,
                    why,
                    "map made anew, and its rows mean nothing to this version: what they say of open flows is lost"
                ),
            }
        }
        if self.remade.get(CONFIG).is_some_and(|config| config.conversion.is_some()) {
            let config = RawMap::open(&self.folder, CONFIG)?;
            let layout = object.layouts.iter().find(|(name, _)| name == CONFIG).map(|(_, layout)| layout);
            let mut row = config.at(0)?;
            let mut edit = |field: &str, change: &dyn Fn(u32) -> u32| {
                let place = layout.and_then(|layout| layout.field(field)).map(|leaf| leaf.offset..leaf.offset + 4);
                if let Some(word) = place.and_then(|place| row.get_mut(place)).and_then(|row| row.first_chunk_mut()) {
                    *word = change(u32::from_ne_bytes(*word)).to_ne_bytes();
                }
            };
            edit("abi_version", &|_| object.abi_version);
            edit("flags", &|flags| flags & !(CHAINED | HANDOVER));
            config.set(0, &row)?;
        }
        Ok(())
    }

    /// The folder for pins of the programs.
    pub fn programs(&self) -> PathBuf {
        staging(&self.root).join("programs")
    }

    /// Everything is ready: from here on it is not thrown away, but put in place, whoever does it.
    pub fn go(&self) -> Result<(), UpgradeError> {
        fs::rename(staging(&self.root), next(&self.root)).map_err(at(&next(&self.root)))
    }
}

/// Forgets what is written of maps that are gone.
pub(super) fn tidy(root: &Path) -> Result<(), UpgradeError> {
    let Some(mut book) = Book::open(root)? else { return Ok(()) };
    let mut ids = BTreeSet::new();
    for folder in [maps_folder(root), next(root).join("maps"), staging(root).join("maps")] {
        for name in pins(&folder)? {
            ids.insert(RawMap::open(&folder, &name)?.id());
        }
    }
    book.keep(&ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use strake_abi::program;

    #[test]
    fn the_layouts_of_the_version_without_a_book_can_be_read() {
        let names: Vec<&str> = UNWRITTEN_LAYOUTS.lines().map(|line| line.split_once(' ').unwrap().0).collect();
        assert_eq!(names, program::MAPS[..names.len()]);
        for line in UNWRITTEN_LAYOUTS.lines() {
            let (_, layout) = line.split_once(' ').unwrap();
            assert_eq!(layout.parse::<Layout>().unwrap().to_string(), layout);
        }
    }
}
