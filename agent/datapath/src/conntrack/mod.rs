//! Connections of the packet path as people ask for them: both rows of a flow as one, with names; listed and forgotten.
//!
//! Reads the map a thousand rows at a time and hands each connection on at once, so that a full map costs no more memory
//! than an empty one. Holds no lock. May not know: who asks.

pub(crate) mod room;
pub(crate) mod rows;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use strake_abi::addr::Addr6;
use strake_abi::config::Config as AbiConfig;
use strake_abi::conntrack::{
    BORDER_POD, CT_DSR, CT_FIN_ORIGINAL, CT_FIN_REPLY, CT_HAIRPIN, CT_QUIET, CT_REDIRECT, CT_SNAT, CT_SOCKET,
    CT_TRANSLATED, DIRECTION_REPLY, FlowState,
};
use strake_abi::proto;
use strake_abi::sock::{SOCK_FLOWS, SOCK_FLOWS_V6, SockFlow, SockFlow6};
use strake_logic::flow::is_live;
use strake_state::{ObjectName, SourceState};

use crate::maps::{MapsError, Rows};
use crate::names::{Names, Who};
use crate::sys::Cursor;
use rows::{Family, Side, Tuple, V4, V6};

/// Rows a step of the walk.
const STEP: usize = 1024;

/// Which connections. Each condition that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConntrackFilter {
    /// Of either end, of the frontend, or of a translated source.
    pub ip: Option<IpAddr>,
    /// Likewise.
    pub port: Option<u16>,
    /// At either end.
    pub pod: Option<ObjectName>,
    /// That was used.
    pub service: Option<ObjectName>,
    /// IANA number. That of ICMP stands for ICMPv6 too.
    pub protocol: Option<u8>,
    pub state: Option<FlowState>,
}

/// A filter that cannot be followed: nothing of that name is known, so that nothing and everything would be wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error(
        "no Pod {pod} with an address of its own is known{why}; name its address instead (--ip), also of one that is gone"
    )]
    Pod { pod: ObjectName, why: String },
    #[error("no Service {service} is programmed; name its address instead (--ip), also of one that is gone")]
    Service { service: ObjectName },
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    pub ip: IpAddr,
    /// Of ICMP the identifier, on the side that asks.
    pub port: u16,
    #[serde(flatten)]
    pub who: Who,
}

/// A connection: both of its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    pub protocol: String,
    pub state: &'static str,
    /// Where it is tracked: `pod`, at the interface of the Pod that opened it, or `network`, at the uplink.
    pub border: &'static str,
    pub source: End,
    /// What the source asked for, if that is a Service's.
    pub frontend: Option<SocketAddr>,
    /// `namespace/name`; none when there is none, or when its Service is gone.
    pub service: Option<String>,
    pub destination: End,
    /// What the destination sees as the source, when it is not the source.
    pub translated_source: Option<SocketAddr>,
    pub age_seconds: u64,
    /// Since the last packet of either direction.
    pub idle_seconds: u64,
    pub packets: u64,
    pub bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
    pub flags: Vec<&'static str>,
    pub service_id: u32,
    pub backend_id: u32,
    pub socket_cookie: u64,
    pub ifindex: u32,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flushed {
    pub connections: u64,
    /// Most connections have two.
    pub rows: u64,
}

/// Both rows of a flow, of which one may be missing: the map forgets the oldest rows when it is full.
struct Pair {
    original: Option<Side>,
    reply: Option<Side>,
}

impl Pair {
    fn any(&self) -> Option<&Side> {
        self.original.as_ref().or(self.reply.as_ref())
    }

    /// What the opener put on the wire, and what became of it.
    fn tuples(&self) -> Option<(Tuple, Tuple)> {
        match (&self.original, &self.reply) {
            (Some(original), _) => Some((original.key, original.to)),
            (None, Some(reply)) => Some((reply.to.mirror(), reply.key.mirror())),
            (None, None) => None,
        }
    }
}

/// The connections that are tracked, and who is who.
pub struct Connections {
    v4: Table<V4>,
    v6: Table<V6>,
    known: Known,
    /// Rows that were removed on request, of everybody who does.
    removed: Arc<AtomicU64>,
}

/// The rows of one family.
struct Table<F: Family>(Rows<F::Key, F::Row>);

/// What names a row.
struct Known {
    sockets: Rows<u64, SockFlow>,
    sockets_v6: Rows<u64, SockFlow6>,
    names: Names,
    config: AbiConfig,
}

/// A filter with names resolved.
struct Wanted<'a> {
    filter: &'a ConntrackFilter,
    pod: Option<Vec<IpAddr>>,
    service: Option<HashSet<u32>>,
}

impl Connections {
    /// Opens the maps pinned in the folder `pins`.
    pub(crate) fn open(
        pins: &Path,
        names: Names,
        config: AbiConfig,
        removed: Arc<AtomicU64>,
    ) -> Result<Self, MapsError> {
        let (sockets, sockets_v6) = (Rows::open(pins, SOCK_FLOWS)?, Rows::open(pins, SOCK_FLOWS_V6)?);
        Ok(Self {
            v4: Table::open(pins)?,
            v6: Table::open(pins)?,
            known: Known { sockets, sockets_v6, names, config },
            removed,
        })
    }

    /// Whether the filter's names are known; ask before anything is listed or forgotten.
    pub fn check(&self, filter: &ConntrackFilter) -> Result<(), FilterError> {
        self.known.wanted(filter).map(drop)
    }

    /// Hands each connection that the filter lets through to `each`, until that has enough.
    pub fn list(
        &self,
        filter: &ConntrackFilter,
        mut each: impl FnMut(Connection) -> ControlFlow<()>,
    ) -> Result<(), ListError> {
        if self.v4.list(&self.known, filter, &mut each)?.is_continue() {
            let _ = self.v6.list(&self.known, filter, &mut each)?;
        }
        Ok(())
    }

    /// Forgets each connection that the filter lets through; the next packet of one begins anew.
    pub fn flush(&mut self, filter: &ConntrackFilter) -> Result<Flushed, ListError> {
        let mut flushed = Flushed::default();
        self.v4.flush(&self.known, filter, &mut flushed)?;
        self.v6.flush(&self.known, filter, &mut flushed)?;
        self.removed.fetch_add(flushed.rows, Ordering::Relaxed);
        Ok(flushed)
    }
}

impl<F: Family> Table<F> {
    fn open(pins: &Path) -> Result<Self, MapsError> {
        Rows::open(pins, F::MAP).map(Self)
    }

    fn list(
        &self,
        known: &Known,
        filter: &ConntrackFilter,
        each: &mut impl FnMut(Connection) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ListError> {
        let wanted = known.wanted(filter)?;
        let mut cursor = Cursor::new(STEP);
        while let Some(rows) = self.0.step(&mut cursor)? {
            let now = now_ns();
            for (key, row) in rows {
                if let Some((pair, _)) = self.pair(key, row)?
                    && let Some(connection) = known.connection(&pair, now)?.filter(|c| wanted.admits(c, &pair))
                    && each(connection).is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The row of the answers goes first: a packet in between finds the other one as it was. The other way round it
    /// would begin a flow whose answers' row is then taken away.
    fn flush(&mut self, known: &Known, filter: &ConntrackFilter, flushed: &mut Flushed) -> Result<(), ListError> {
        let wanted = known.wanted(filter)?;
        let mut cursor = Cursor::new(STEP);
        while let Some(rows) = self.0.step(&mut cursor)? {
            let now = now_ns();
            let mut doomed = Vec::new();
            for (key, row) in rows {
                if let Some((pair, keys)) = self.pair(key, row)?
                    && known.connection(&pair, now)?.is_some_and(|c| wanted.admits(&c, &pair))
                {
                    flushed.connections += 1;
                    doomed.extend(keys.into_iter().flatten());
                }
            }
            flushed.rows += doomed.len() as u64;
            self.0.remove(&doomed)?;
        }
        Ok(())
    }

    /// A row with its other direction, and the keys of both, that of the answers first. None for the row of the answers
    /// of a flow whose first row is there, too: that one stands for both.
    #[expect(clippy::type_complexity, reason = "a pair and its keys")]
    fn pair(&self, key: F::Key, row: F::Row) -> Result<Option<(Pair, [Option<F::Key>; 2])>, MapsError> {
        let side = F::side(&key, &row);
        let peer_key = F::peer(&key, &row);
        let peer = self.0.get(&peer_key)?.map(|peer| F::side(&peer_key, &peer));
        let peer = peer.filter(|peer| peer.direction != side.direction);
        Ok(if side.direction == DIRECTION_REPLY {
            match peer {
                Some(_) => None,
                None => Some((Pair { original: None, reply: Some(side) }, [Some(key), None])),
            }
        } else {
            Some((Pair { original: Some(side), reply: peer }, [peer.map(|_| peer_key), Some(key)]))
        })
    }
}

impl Known {
    fn wanted<'a>(&self, filter: &'a ConntrackFilter) -> Result<Wanted<'a>, FilterError> {
        let world = &self.names.world;
        let pod = match &filter.pod {
            None => None,
            Some(name) => {
                let found = world.pods.get(name).filter(|pod| !pod.host_network && !pod.ips.is_empty());
                let Some(pod) = found else {
                    let denied = world.sources.iter().any(|source| {
                        source.kind == strake_state::Kind::Pod && matches!(source.state, SourceState::Denied { .. })
                    });
                    let why = if denied { " (this agent may not list Pods)" } else { "" };
                    return Err(FilterError::Pod { pod: name.clone(), why: why.into() });
                };
                Some(pod.ips.clone())
            }
        };
        let service = match &filter.service {
            None => None,
            Some(name) => {
                let ids: HashSet<u32> = self.names.ids_of(name).into_iter().collect();
                if ids.is_empty() {
                    return Err(FilterError::Service { service: name.clone() });
                }
                Some(ids)
            }
        };
        Ok(Wanted { filter, pod, service })
    }

    fn connection(&self, pair: &Pair, now_ns: u64) -> Result<Option<Connection>, MapsError> {
        let (Some((asked, reached)), Some(row)) = (pair.tuples(), pair.any()) else { return Ok(None) };
        let of = |side: &Option<Side>| side.map_or((0, 0, 0), |s| (s.packets, s.bytes, s.last_seen_s));
        let ((packets, bytes, seen), (reply_packets, reply_bytes, reply_seen)) = (of(&pair.original), of(&pair.reply));
        let now_s = (now_ns / 1_000_000_000) as u32;
        let last_seen = seen.max(reply_seen);
        // Of what a socket hook translated, the packets show the backend alone.
        let socket = if row.flags & CT_SOCKET != 0 { self.asked_by_socket(row.cookie)? } else { None };
        let owner = self.names.owner(row.service_id);
        let frontend = match socket {
            Some(vip) => Some(vip),
            None => (asked.dst != reached.dst).then_some(asked.dst),
        };
        let mut flags = flag_words(pair);
        if !is_live(&self.config, row.protocol, row.state, last_seen, now_s, 0) {
            flags.push("expired");
        }
        let end = |at: SocketAddr| End { ip: at.ip(), port: at.port(), who: self.names.who(at.ip()) };
        Ok(Some(Connection {
            protocol: protocol_name(row.protocol),
            state: FlowState::from_u8(row.state).map_or("unknown", FlowState::as_str),
            border: if row.border == BORDER_POD { "pod" } else { "network" },
            source: end(asked.src),
            frontend,
            service: owner.map(|owner| owner.name.to_string()),
            destination: end(reached.dst),
            translated_source: (asked.src != reached.src).then_some(reached.src),
            age_seconds: now_ns.saturating_sub(row.created_ns) / 1_000_000_000,
            idle_seconds: now_s.saturating_sub(last_seen).into(),
            packets,
            bytes,
            reply_packets,
            reply_bytes,
            flags,
            service_id: row.service_id,
            backend_id: row.backend_id,
            socket_cookie: row.cookie,
            ifindex: row.ifindex,
        }))
    }

    /// The VIP that a connected socket asked for; it is in one of the two maps.
    fn asked_by_socket(&self, cookie: u64) -> Result<Option<SocketAddr>, MapsError> {
        if let Some(socket) = self.sockets.get(&cookie)? {
            return Ok(Some(SocketAddr::new(Addr6::from(socket.vip).ip(), socket.vip_port.get())));
        }
        let socket = self.sockets_v6.get(&cookie)?;
        Ok(socket.map(|socket| SocketAddr::new(socket.vip.ip(), socket.vip_port.get())))
    }
}

impl Wanted<'_> {
    fn admits(&self, connection: &Connection, pair: &Pair) -> bool {
        let Connection { source, frontend, destination, translated_source, .. } = connection;
        let places = || {
            let ends = [source, destination].map(|end| SocketAddr::new(end.ip, end.port));
            ends.into_iter().chain(*frontend).chain(*translated_source)
        };
        let ConntrackFilter { ip, port, protocol, state, .. } = self.filter;
        protocol.is_none_or(|protocol| pair.any().is_some_and(|side| is_same(side.protocol, protocol)))
            && state.is_none_or(|state| state.as_str() == connection.state)
            && ip.is_none_or(|ip| places().any(|place| place.ip() == ip))
            && port.is_none_or(|port| places().any(|place| place.port() == port))
            && self.service.as_ref().is_none_or(|ids| ids.contains(&connection.service_id))
            && self.pod.as_ref().is_none_or(|ips| ips.contains(&source.ip) || ips.contains(&destination.ip))
    }
}

/// A list that broke off.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// Whether a protocol is the one that was asked for.
fn is_same(found: u8, asked: u8) -> bool {
    found == asked || (found, asked) == (proto::ICMPV6, proto::ICMP)
}

/// `TCP`, or the number of a protocol without a name here.
pub(crate) fn protocol_name(number: u8) -> String {
    match number {
        proto::ICMP => "ICMP".into(),
        proto::ICMPV6 => "ICMPv6".into(),
        proto::TCP => "TCP".into(),
        proto::UDP => "UDP".into(),
        proto::SCTP => "SCTP".into(),
        other => other.to_string(),
    }
}

fn flag_words(pair: &Pair) -> Vec<&'static str> {
    let flags = pair.any().map_or(0, |side| side.flags);
    let words = [
        (CT_TRANSLATED, "translated"),
        (CT_HAIRPIN, "hairpin"),
        (CT_REDIRECT, "redirected"),
        (CT_SOCKET, "socket-hook"),
        (CT_SNAT, "source-translated"),
        (CT_DSR, "answered-directly"),
        (CT_FIN_ORIGINAL, "fin-from-source"),
        (CT_FIN_REPLY, "fin-from-destination"),
        (CT_QUIET, "told-at-pod"),
    ];
    let mut words: Vec<_> = words.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, word)| word).collect();
    match (&pair.original, &pair.reply) {
        // With direct server return the answers have none.
        (Some(side), None) if side.flags & CT_DSR == 0 => words.push("no-reply-row"),
        (None, Some(_)) => words.push("no-original-row"),
        _ => {}
    }
    words
}

/// The clock that the programs write down.
pub(crate) fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
