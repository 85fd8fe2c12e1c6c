//! Taking over from an agent of any version, older or newer, without a packet that sees a half.
//!
//! ```text
//!   bpf_root/layouts             how the rows of each map look, by the map's id (the book)
//!   bpf_root/maps/NAME           the maps of the programs that are attached
//!   bpf_root/links/...           what attaches them
//!   bpf_root/staging/            the maps and programs of an agent that takes over, as long as nothing uses them
//!   bpf_root/next/               the same from the moment on that they are being put in place
//!   bpf_root/old/                the maps of before, as long as it takes to unpin them
//! ```
//!
//! A map that is as this version would make it is used as it is: its rows live on. Any other is made anew beside it, and
//! its rows are carried over, field by field by name ([`layout`]); where that cannot be, a map that the agent fills is filled
//! from the first whole view of the cluster, and until then the programs that are there stay. Then the programs are
//! exchanged ([`exchange`]).
//!
//! ```text
//!   staging ──(complete)──► next ──(exchanged)──► maps
//!      │ start anew           │ go on where it stopped       after a crash, by the next start, of whichever version
//! ```
//!
//! May not know: Services, what the maps hold together.

mod book;
mod exchange;
mod hooks;
pub mod layout;
mod raw;
mod stage;

use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use strake_abi::layout::{MAPS, MapLayout};

pub use exchange::{Ground, Step, finish, served};
pub use hooks::cleanup_clsact;
pub(crate) use hooks::{attach_type, classifier, detach, detach_clsact, links_folder, remove_file};
use layout::Layout;
pub use stage::{Stage, plan};

/// Why an agent cannot take over.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error(
        "the state pinned under {path} is of ABI version {found}, from before versions described their maps, and this binary speaks {}: finish with the binary that wrote it, or remove that state with `strake agent cleanup` (flows of the packet path are cut)",
        strake_abi::ABI_VERSION
    )]
    AbiVersion { path: PathBuf, found: u32 },
    #[error("reading {path}")]
    Pinned { path: PathBuf, source: MapError },
    #[error("reading or writing the layouts of maps pinned at {path}")]
    Book { path: PathBuf, source: MapError },
    #[error("a description of a map takes more than {room} bytes: {text}")]
    Long { text: String, room: usize },
    #[error("{doing} map {map}")]
    Rows { doing: &'static str, map: String, source: io::Error },
    #[error("the BPF object cannot be read")]
    Object(#[source] aya_obj::ParseError),
    #[error("the BPF object has no map {map}")]
    NoMap { map: String },
    #[error("at {path}")]
    Path { path: PathBuf, source: io::Error },
    #[error("putting program {program} in place at {target}")]
    Put { program: String, target: String, source: Box<dyn std::error::Error + Send + Sync> },
}

pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> UpgradeError + '_ {
    move |source| UpgradeError::Path { path: path.into(), source }
}

/// Compiled programs, and how the rows of their maps look.
#[derive(Clone, Debug)]
pub struct Object {
    pub bytes: &'static [u8],
    pub abi_version: u32,
    /// By name.
    pub layouts: Vec<(String, Layout)>,
}

impl Object {
    /// Those of this binary.
    pub fn own() -> Self {
        Self {
            bytes: strake_bpf_object::OBJECT,
            abi_version: strake_abi::ABI_VERSION,
            layouts: MAPS.iter().map(|map: &MapLayout| (map.name.to_owned(), map.into())).collect(),
        }
    }
}

/// The folder with the pinned maps.
pub fn maps_folder(bpf_root: &Path) -> PathBuf {
    bpf_root.join("maps")
}

fn staging(root: &Path) -> PathBuf {
    root.join("staging")
}

fn next(root: &Path) -> PathBuf {
    root.join("next")
}

fn old(root: &Path) -> PathBuf {
    root.join("old")
}

/// Every folder that may hold pins, inner ones first, and the pin beside them.
pub(crate) fn everything(root: &Path) -> (Vec<PathBuf>, PathBuf) {
    let mut folders = Vec::new();
    for stage in [staging(root), next(root)] {
        folders.extend(["links", "maps", "programs"].map(|folder| stage.join(folder)));
        folders.push(stage);
    }
    folders.push(old(root));
    (folders, book::path(root))
}
