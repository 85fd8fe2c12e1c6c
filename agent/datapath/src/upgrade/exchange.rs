//! Programs that use one set of maps put in the place of those that use another, from pins alone: so whoever starts after a
//! crash can go on with it, also a version that knows neither of the two.
//!
//! Maps that the agent fills hold the same on both sides, so it would do to exchange program after program. Not so those that
//! programs fill: a flow that the old ones open the moment after its map was copied is unknown to the new ones. Therefore:
//!
//! | step | what a packet meets |
//! |---|---|
//! | both are told that they are two (`CHAINED`) | the old ones, which mark what they have seen to |
//! | the new ones are attached behind the old ones | the same: the new ones leave alone what is marked |
//! | the old ones are told to open nothing more (`HANDOVER`) | the old ones, if they know the flow; else the new ones |
//! | rows that came since the copy are carried over | the same; from here on the new ones know every flow |
//! | each old one is detached, or exchanged for the new one | the new ones (filters: and once more behind them, idle) |
//! | filters behind are detached, the mark is no longer asked for | the new ones |
//! | the folders change names, what is old is unpinned | |
//!
//! Each step may be done twice. May not know: what the programs do, how rows look but for the flags in `CONFIG`.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::programs::SchedClassifier;
use strake_abi::config::{CHAINED, CONFIG, HANDOVER};
use strake_abi::endpoint::ENDPOINTS;
use strake_abi::layout::Role;
use strake_abi::program;
use tracing::{info, warn};

use super::book::{Book, Entry};
use super::hooks::{CLSACT_BEHIND, Hook, attach_with_clsact, classifier, clear, detach, detach_behind, hooks, pins};
use super::layout::Conversion;
use super::raw::{Existing, RawMap};
use super::stage::tidy;
use super::{UpgradeError, at, maps_folder, next, old};
use crate::features::open_cgroup;
use crate::sys::{self, Link, LinkTarget};

/// Where programs are attached.
#[derive(Clone, Debug)]
pub struct Ground {
    pub root: PathBuf,
    pub cgroup: PathBuf,
    /// 0: none.
    pub uplink_ifindex: u32,
    /// Filters instead of links on interfaces.
    pub clsact: bool,
}

/// What has been done last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Marked,
    Behind,
    HandedOver,
    Carried,
    Exchanged,
    Alone,
    Renamed,
}

impl Step {
    pub const ALL: [Self; 7] =
        [Self::Marked, Self::Behind, Self::HandedOver, Self::Carried, Self::Exchanged, Self::Alone, Self::Renamed];
}

/// Puts what is in `next` in place, wherever whoever began it has stopped. Returns whether there was anything. Stops after
/// `until`, as a crash would, for tests.
pub fn finish(ground: &Ground, until: Option<Step>) -> Result<bool, UpgradeError> {
    let (root, next) = (&ground.root, next(&ground.root));
    let (maps, next_maps) = (maps_folder(root), next.join("maps"));
    let found = next.exists();
    if maps.exists() && next_maps.exists() {
        let exchange = Exchange::open(ground)?;
        if exchange.run(until)? {
            return Ok(true);
        }
    }
    if next_maps.exists() {
        if maps.exists() {
            clear(&old(root))?;
            fs::rename(&maps, old(root)).map_err(at(&maps))?;
        }
        if until == Some(Step::Renamed) {
            return Ok(true);
        }
        fs::rename(&next_maps, &maps).map_err(at(&next_maps))?;
    }
    if found {
        clear(&next)?;
    }
    clear(&old(root))?;
    if found {
        tidy(root)?;
    }
    Ok(found)
}

/// The interfaces that the programs in place serve.
pub fn served(ground: &Ground) -> Result<BTreeSet<String>, UpgradeError> {
    let mut served = BTreeSet::from_iter(pods(&ground.root)?);
    served.extend(name_of(ground.uplink_ifindex));
    Ok(served)
}

/// Interfaces of Pods, by the rows that the programs in place go by: they begin with the interface in every version.
fn pods(root: &Path) -> Result<Vec<String>, UpgradeError> {
    let keys = RawMap::open(&maps_folder(root), ENDPOINTS)?.keys()?;
    let indexes = keys.iter().filter_map(|key| key.first_chunk().map(|word| u32::from_ne_bytes(*word)));
    Ok(indexes.filter_map(name_of).collect())
}

/// The row of `CONFIG` of one of the two.
struct Flags {
    map: RawMap,
    /// Where the flags are.
    offset: usize,
}

impl Flags {
    fn open(folder: &Path, book: &Book, needs_handover: bool) -> Result<Option<Self>, UpgradeError> {
        let map = RawMap::open(folder, CONFIG)?;
        let entry = book.read(map.id()).filter(|entry| entry.hands_over || !needs_handover);
        let place = entry.and_then(|entry| entry.layout.field("flags").cloned()).filter(|leaf| leaf.size == 4);
        Ok(place.map(|leaf| Self { map, offset: leaf.offset }))
    }

    fn change(&self, change: impl Fn(u32) -> u32) -> Result<(), UpgradeError> {
        let mut row = self.map.at(0)?;
        if let Some(word) = row.get_mut(self.offset..).and_then(|rest| rest.first_chunk_mut()) {
            *word = change(u32::from_ne_bytes(*word)).to_ne_bytes();
        }
        self.map.set(0, &row)
    }
}

struct Exchange<'a> {
    ground: &'a Ground,
    programs: Vec<String>,
    /// Maps that programs fill and that are not the same any more, old and new.
    state: Vec<(RawMap, RawMap, Option<Conversion>)>,
    /// If both can be told.
    flags: Option<(Flags, Flags)>,
}

impl<'a> Exchange<'a> {
    fn open(ground: &'a Ground) -> Result<Self, UpgradeError> {
        let root = &ground.root;
        let (old_maps, new_maps) = (maps_folder(root), next(root).join("maps"));
        let book = Book::open_or_begin(root)?;
        let mut state = Vec::new();
        let old_names = pins(&old_maps)?;
        for name in pins(&new_maps)?.into_iter().filter(|name| old_names.contains(name)) {
            let (from, to) = (RawMap::open(&old_maps, &name)?, RawMap::open(&new_maps, &name)?);
            let (Some(from_entry), Some(to_entry)) = (book.read(from.id()), book.read(to.id())) else { continue };
            let (Entry { layout: from_layout, .. }, Entry { layout: to_layout, .. }) = (from_entry, to_entry);
            if from.id() != to.id() && to_layout.role == Role::State {
                let conversion = Conversion::new(&from_layout, &to_layout, to.key_size(), to.value_size());
                state.push((from, to, conversion));
            }
        }
        let flags = match (Flags::open(&old_maps, &book, true)?, Flags::open(&new_maps, &book, true)?) {
            (Some(old), Some(new)) if old.map.id() != new.map.id() => Some((old, new)),
            _ => None,
        };
        Ok(Self { ground, programs: pins(&next(root).join("programs"))?, state, flags })
    }

    /// Returns whether it stopped on the way.
    fn run(&self, until: Option<Step>) -> Result<bool, UpgradeError> {
        let hooks = hooks(&self.ground.root, &self.programs)?;
        let flags = self.flags.as_ref().filter(|_| !self.state.is_empty());
        if let Some((old, new)) = flags {
            new.change(|flags| (flags | CHAINED) & !HANDOVER)?;
            old.change(|flags| flags | CHAINED)?;
            settle();
            if until == Some(Step::Marked) {
                return Ok(true);
            }
            self.each(&hooks, Place::Behind)?;
            if until == Some(Step::Behind) {
                return Ok(true);
            }
            old.change(|flags| flags | CHAINED | HANDOVER)?;
            settle();
            if until == Some(Step::HandedOver) {
                return Ok(true);
            }
        } else if !self.state.is_empty() {
            warn!(
                maps = self.state.len(),
                "the programs in place cannot hand over: a flow that opens in this moment may be unknown to the next ones"
            );
        }
        self.carry()?;
        if until == Some(Step::Carried) {
            return Ok(true);
        }
        self.each(&hooks, Place::Own)?;
        if until == Some(Step::Exchanged) {
            return Ok(true);
        }
        match flags {
            Some((_, new)) => {
                self.each(&hooks, Place::Alone)?;
                new.change(|flags| flags & !CHAINED)?;
            }
            None => self.carry()?,
        }
        // What the next version has no program for.
        for hook in hooks.iter().filter(|hook| hook.program.is_none()) {
            detach(&hook.pin)?;
        }
        Ok(until == Some(Step::Alone))
    }

    fn carry(&self) -> Result<(), UpgradeError> {
        for (from, to, conversion) in &self.state {
            if let Some(conversion) = conversion {
                from.carry(to, conversion, Existing::Keep)?;
            }
        }
        Ok(())
    }

    fn each(&self, hooks: &[Hook], place: Place) -> Result<(), UpgradeError> {
        for hook in hooks {
            if let Some(program) = &hook.program {
                self.put(hook, program, place)?;
            }
        }
        if !self.ground.clsact {
            return Ok(());
        }
        for interface in pods(&self.ground.root)? {
            for program in [program::TO_POD, program::FROM_POD] {
                self.put_filter(program, &interface, place)?;
            }
        }
        if let Some(interface) = name_of(self.ground.uplink_ifindex) {
            for program in [program::TO_NET, program::FROM_NET] {
                self.put_filter(program, &interface, place)?;
            }
        }
        Ok(())
    }

    fn program(&self, name: &str) -> PathBuf {
        next(&self.ground.root).join("programs").join(name)
    }

    fn put(&self, hook: &Hook, program: &str, place: Place) -> Result<(), UpgradeError> {
        let fail = |source| UpgradeError::Put {
            program: program.to_owned(),
            target: hook.name.clone(),
            source: Box::new(source),
        };
        let behind = next(&self.ground.root).join("links").join(&hook.name);
        let link = sys::open_pin(&hook.pin).map_err(fail)?;
        let info = sys::link_info(link.as_fd()).map_err(fail)?;
        let fd = sys::open_pin(&self.program(program)).map_err(fail)?;
        let is_gone = matches!(info.target, LinkTarget::Cgroup(0) | LinkTarget::Tcx(0) | LinkTarget::Xdp(0));
        if is_gone || info.program == sys::program_id(fd.as_fd()).map_err(fail)? {
            return Ok(());
        }
        match place {
            Place::Behind if behind.exists() => Ok(()),
            Place::Behind => {
                fs::create_dir_all(next(&self.ground.root).join("links")).map_err(fail)?;
                self.attach_behind(link.as_fd(), fd.as_fd(), info, &behind).map_err(fail)
            }
            // The one behind moves up: no hook has the same program twice.
            Place::Own if behind.exists() => {
                fs::rename(&behind, &hook.pin).map_err(fail)?;
                // Without its pin it would go a little later by itself.
                match sys::link_detach(link.as_fd()) {
                    Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => Err(fail(error)),
                    _ => Ok(()),
                }
            }
            Place::Own => match sys::link_update(link.as_fd(), fd.as_fd()) {
                Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => Err(fail(error)),
                _ => Ok(()),
            },
            Place::Alone => Ok(()),
        }
    }

    fn attach_behind(
        &self,
        link: BorrowedFd<'_>,
        program: BorrowedFd<'_>,
        info: Link,
        pin: &Path,
    ) -> std::io::Result<()> {
        let second = match info.target {
            LinkTarget::Tcx(ifindex) => sys::link_create(program, ifindex, info.attach_type, Some(link))?,
            LinkTarget::Cgroup(_) => {
                let folder = open_cgroup(&self.ground.cgroup).map_err(std::io::Error::other)?;
                sys::link_create(program, folder.as_raw_fd() as u32, info.attach_type, None)?
            }
            // A hook with room for one: its programs are exchanged at once, below.
            LinkTarget::Xdp(_) | LinkTarget::Other(_) => return Ok(()),
        };
        sys::pin(second.as_fd(), pin)
    }

    fn put_filter(&self, program: &str, interface: &str, place: Place) -> Result<(), UpgradeError> {
        if place == Place::Alone {
            detach_behind(interface, program);
            return Ok(());
        }
        let put = || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            let mut loaded = SchedClassifier::from_pin(self.program(program))?;
            if place == Place::Own {
                classifier(&mut loaded, program, interface)
            } else {
                attach_with_clsact(&mut loaded, program, interface, CLSACT_BEHIND)
            }
        };
        put().map_err(|source| UpgradeError::Put { program: program.into(), target: interface.into(), source })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind the programs that are there.
    Behind,
    /// In their place.
    Own,
    /// There, and nowhere else.
    Alone,
}

fn name_of(ifindex: u32) -> Option<String> {
    if ifindex == 0 {
        return None;
    }
    let interfaces = nix::net::if_::if_nameindex().ok()?;
    let found = interfaces.iter().find(|interface| interface.index() == ifindex);
    found.and_then(|interface| interface.name().to_str().ok().map(str::to_owned))
}

/// Returns when no program runs any more that has seen the flags of before.
fn settle() {
    if let Err(error) = sys::wait_for_running_programs() {
        info!(%error, "waiting a moment instead of for running programs");
        // Programs do not sleep; a virtual CPU may.
        std::thread::sleep(Duration::from_millis(200));
    }
}
