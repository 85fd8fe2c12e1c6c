//! What the datapath says about itself; serialises to JSON for `strake status`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use crate::conntrack::room::Room;
use crate::features::Features;
use crate::loader::Attachment;
use crate::maps::Occupancy;
use crate::stale::Swept;
use crate::xdp::XdpStatus;

/// One program's place.
#[derive(Clone, Debug, Serialize)]
pub struct Attached {
    pub program: String,
    pub target: String,
    pub how: Attachment,
}

/// The last successful or refused apply.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Applied {
    /// Generation of the snapshot.
    pub generation: u64,
    pub writes: usize,
    /// Only the changed Services were compiled and compared.
    pub partial: bool,
    /// Microseconds of compile, check and diff.
    pub plan_us: u64,
    /// Microseconds of map writes.
    pub write_us: u64,
    pub swept: Swept,
    /// Seconds since the epoch.
    pub time: u64,
}

/// Counts since the agent's start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Totals {
    pub applied: u64,
    pub unchanged: u64,
    pub refused: u64,
    pub failed: u64,
}

/// A Service (or none) with something that is not done for it.
#[derive(Clone, Debug, Serialize)]
pub struct Notice {
    pub object: String,
    pub message: String,
}

/// A Pod's interface.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointStatus {
    pub pod: String,
    pub ip: std::net::Ipv4Addr,
    pub interface: String,
    /// False when the Pod opted out: the packet path serves it.
    pub socket_hooks: bool,
    /// Why, in words.
    pub opted_out: Option<String>,
}

/// How flows from outside reach Pods on other nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LbStatus {
    /// `snat` or `dsr`.
    pub mode: &'static str,
    /// Longest IP packet that the uplink takes, where that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink_mtu: Option<u32>,
    /// Why it is not what was asked for.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub why: &'static str,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub abi_version: u32,
    pub features: Features,
    pub attached: Vec<Attached>,
    /// How what comes from outside reaches Pods on other nodes.
    pub load_balancer: LbStatus,
    /// Where packets for backends on other nodes are sent on before the stack.
    pub xdp: XdpStatus,
    pub endpoints: Vec<EndpointStatus>,
    pub services: usize,
    pub frontends: usize,
    pub names: usize,
    pub maps: Vec<Occupancy>,
    /// How full the maps of connections are of flows that live, and whose those are.
    pub connections: [Room; 2],
    /// Rows of these that gave way to newer ones since the agent's start, whether their flow lived or not.
    pub connections_evicted: u64,
    pub last_apply: Option<Applied>,
    pub totals: Totals,
    /// Why the last snapshot was not applied, if it was not.
    pub last_error: Option<String>,
    pub warnings: Vec<Notice>,
    /// Refused packets and connections by reason, since the maps were made.
    pub drops: BTreeMap<&'static str, u64>,
    /// By name, since the maps were made.
    pub counters: BTreeMap<&'static str, u64>,
    /// Flow events that had no room, by kind, since the maps were made.
    pub events_lost: BTreeMap<&'static str, u64>,
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
