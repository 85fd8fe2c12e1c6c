//! The datapath: a snapshot of the cluster becomes map entries, and programs answer from them.
//!
//! ```text
//!   World ──compile──► Desired ──check──► Desired ──diff──► Plan ──apply──► pinned maps ◄── programs
//!          (pure)               (pure)      ▲      (pure)                      │
//!                                           └────── Installed ◄── read back ───┘  at the start
//! ```
//!
//! Knows BPF and, in `compile` only, the snapshot's types. It does not know the Kubernetes API, the CNI plugin or gRPC.

mod announce;
mod backends;
mod check;
mod cidrs;
mod clsact;
mod compile;
mod config;
mod conntrack;
mod datapath;
mod desired;
mod diff;
mod endpoint;
mod explain;
mod features;
mod frontends;
#[doc(hidden)]
pub mod fuzz;
mod hash;
mod installed;
mod loader;
mod maps;
mod memory;
mod names;
mod part;
mod plan;
mod planner;
mod sizes;
mod slices;
mod sockdiag;
mod stale;
mod status;
mod sys;
mod tables;
mod trace;
mod upgrade;
mod view;
mod xdp;

pub use announce::{Announcer, boot_ns};
pub use backends::{BackendRow, Condition};
pub use check::{Needs, Violation, check};
pub use cidrs::Cidrs;
pub use compile::{Runtime, compile};
pub use config::{Config, LbAlgorithm, LbMode};
pub use conntrack::room::{Holder, Room};
pub use conntrack::{Connection, Connections, ConntrackFilter, End, FilterError, Flushed, ListError};
pub use datapath::{ApplyOutcome, Datapath, Error};
pub use desired::{Desired, Frontend, Name, Set, ShowKey, Target, Warning, exists_key, key_order, table};
pub use diff::{DiffError, diff};
pub use endpoint::{EndpointError, EndpointSpec};
pub use explain::{Candidate, ExplainError, Explanation, Fate, Host, Lookup, Origin, Question, Step};
pub use features::{FeatureError, Features, probe_kernel};
pub use frontends::{Addresses, FrontendRow};
pub use installed::{Contents, Installed, SourceRange};
pub use loader::{Attachment, LoadError, Loaded, cleanup, load};
pub use maps::{MapsError, Occupancy};
pub use memory::{Memory, memory};
pub use names::{Names, Owner, Who};
pub use plan::{Maps, Plan, apply};
pub use planner::{PlanError, Planner, Proposal};
pub use sizes::{MAX_ROWS, MEMORY_RATIO, MapSizes};
pub use slices::{Extent, GRACE, NoRoom, Slices};
pub use sockdiag::SockDiagError;
pub use stale::Swept;
pub use status::LbStatus;
pub use status::{Applied, Attached, EndpointStatus, Notice, Status, Totals};
pub use strake_abi::conntrack::FlowState;
pub use trace::{Trace, TracedBackend, TracedFrontend, TracedName};
pub use upgrade::layout::{Layout, Leaf};
pub use upgrade::{Object, Step as UpgradeStep, UpgradeError, cleanup_clsact, maps_folder};
pub use view::View;
pub use xdp::{XdpAttached, XdpMode, XdpStatus};
