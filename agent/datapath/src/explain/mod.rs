//! `strake service trace --from .. --to ..`: what one connection would meet, hook by hook: which map is looked up with
//! which key, what it holds, and what follows from it.
//!
//! Reads the kernel's maps, in the order of the programs (`ebpf/programs`), and writes none: asking makes no affinity and
//! no connection. What is drawn by lot there is told here as the set it is drawn from. Holds no lock.
//!
//! May not know: who asks.

mod lookup;
mod packets;
mod sockets;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Serialize;
use strake_abi::endpoint::{Endpoint, NODE_LOCAL};
use strake_abi::flow::DropReason;
use strake_abi::proto;
use strake_state::{Kind, ObjectName, Sandboxes, SourceState};

use crate::conntrack::protocol_name;
use crate::maps::MapsError;
use crate::names::Who;
use crate::xdp::XdpAttached;
use lookup::Lookups;

/// Where a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Pod(ObjectName),
    /// A Pod's address or one of this node's.
    Ip(IpAddr),
    /// A process of the node itself.
    Node,
    /// Through the uplink.
    Outside(IpAddr),
}

/// A connection to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub origin: Origin,
    /// Of a connection that exists; none: a new one.
    pub source_port: Option<u16>,
    pub to: SocketAddr,
    /// IANA number.
    pub protocol: u8,
}

/// A question that has no answer here.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error(
        "no Pod {pod} with an address of its own is known{why}; give its address, or --from node if it uses the node's network"
    )]
    NoPod { pod: ObjectName, why: &'static str },
    #[error("Pod {pod} runs on node {node}: ask the agent there (--node {node} on that host)")]
    OtherNode { pod: ObjectName, node: String },
    #[error("{ip} is neither a Pod's address nor this node's; if it comes in from the network, say --from-outside")]
    UnknownSource { ip: IpAddr },
    #[error("{from} and {to} are of different families")]
    Families { from: IpAddr, to: IpAddr },
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// One look into a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lookup {
    /// `SERVICES[10.96.0.1:443/TCP internal]`.
    pub entry: String,
    /// What it holds, in words; none: there is no such row.
    pub value: Option<String>,
}

/// One hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `from_pod`; the node's own routing is `routing`.
    pub hook: String,
    /// What comes to it.
    pub sees: String,
    pub lookups: Vec<Lookup>,
    /// What it does, a sentence.
    pub result: String,
}

/// A backend that the connection may get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    pub address: SocketAddr,
    pub id: u32,
    #[serde(flatten)]
    pub who: Who,
    /// A Pod of this node, or this node itself.
    pub local: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Fate {
    /// To a backend, or where it was going.
    Forwarded,
    /// Refused with an answer.
    Rejected,
    /// Discarded without an answer.
    Dropped,
}

impl Fate {
    fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "FORWARDED",
            Self::Rejected => "REJECTED",
            Self::Dropped => "DROPPED",
        }
    }
}

/// The answer; `Display` is for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `default/client 10.244.0.5 -> 10.96.0.7:80/TCP, a new connection`.
    pub question: String,
    pub steps: Vec<Step>,
    pub verdict: Fate,
    /// The name that flows and counters have for a refusal; docs/drops.md explains it.
    pub reason: Option<&'static str>,
    /// A sentence.
    pub outcome: String,
    /// `namespace/name:port`.
    pub service: Option<String>,
    /// Those one of which it gets; empty where no Service is used.
    pub backends: Vec<Candidate>,
    /// The source that the other side sees.
    pub source: Option<String>,
    /// Why that one.
    pub source_why: Option<String>,
}

/// What the explanation needs to know beside the maps.
#[derive(Clone, Debug)]
pub struct Host {
    /// See [`crate::Features`].
    pub set_retval: bool,
    pub netns_cookie: bool,
    /// Name of the uplink, if there is one.
    pub uplink: Option<String>,
    /// Whether `xdp_lb` is there, in front of `from_net`.
    pub xdp: XdpAttached,
    /// What the socket hooks are attached to.
    pub sockets: String,
    pub sandboxes: Sandboxes,
}

/// Who opens the connection, as the maps have it.
enum Client {
    /// A Pod whose interface is ours.
    Pod {
        name: Option<String>,
        ip: Ipv4Addr,
        ifindex: u32,
        row: Endpoint,
    },
    /// A Pod of this node whose interface is another CNI plugin's.
    Foreign {
        name: String,
        ip: IpAddr,
    },
    Node {
        ip: IpAddr,
    },
    Outside {
        ip: IpAddr,
    },
}

impl Client {
    fn ip(&self) -> IpAddr {
        match self {
            Self::Pod { ip, .. } => IpAddr::V4(*ip),
            Self::Foreign { ip, .. } | Self::Node { ip } | Self::Outside { ip } => *ip,
        }
    }
}

/// Being walked: the steps so far.
struct Walk<'a> {
    lookups: &'a Lookups<'a>,
    host: &'a Host,
    client: Client,
    question: &'a Question,
    steps: Vec<Step>,
}

/// How it ends.
struct End {
    verdict: Fate,
    reason: Option<DropReason>,
    outcome: String,
    service: Option<String>,
    backends: Vec<Candidate>,
    source: Option<(String, String)>,
}

impl End {
    fn refused(verdict: Fate, reason: DropReason, outcome: impl Into<String>) -> Self {
        let outcome = outcome.into();
        Self { verdict, reason: Some(reason), outcome, service: None, backends: Vec::new(), source: None }
    }

    fn forwarded(outcome: impl Into<String>, source: Option<(String, String)>) -> Self {
        let outcome = outcome.into();
        Self { verdict: Fate::Forwarded, reason: None, outcome, service: None, backends: Vec::new(), source }
    }
}

/// Explains a connection by the maps of `view`.
pub(crate) fn explain(view: &crate::View, host: &Host, question: &Question) -> Result<Explanation, ExplainError> {
    let lookups = Lookups::open(view)?;
    // Whoever asks about a ping asks about either family's.
    let six = question.to.is_ipv6() && question.protocol == proto::ICMP;
    let question = &Question { protocol: if six { proto::ICMPV6 } else { question.protocol }, ..question.clone() };
    let client = client(&lookups, question)?;
    let (from, to) = (client.ip(), question.to.ip());
    if from.is_ipv4() != to.is_ipv4() && matches!(client, Client::Outside { .. }) {
        return Err(ExplainError::Families { from, to });
    }
    let name = match &client {
        Client::Pod { name: Some(name), .. } | Client::Foreign { name, .. } => format!("{name} "),
        Client::Node { .. } => format!("node {} ", view.names.world.node_name),
        Client::Pod { name: None, .. } => String::new(),
        Client::Outside { .. } => "outside ".into(),
    };
    let (port, what) = match question.source_port {
        Some(port) => (format!(":{port}"), "a connection that may exist"),
        None => (String::new(), "a new connection"),
    };
    let protocol = protocol_name(question.protocol);
    let shown = format!("{name}{from}{port} -> {}/{protocol}, {what}", question.to);
    let mut walk = Walk { lookups: &lookups, host, client, question, steps: Vec::new() };
    let end = walk.run()?;
    let (source, source_why) = end.source.unzip();
    Ok(Explanation {
        question: shown,
        steps: walk.steps,
        verdict: end.verdict,
        reason: end.reason.map(DropReason::as_str),
        outcome: end.outcome,
        service: end.service,
        backends: end.backends,
        source,
        source_why,
    })
}

fn client(lookups: &Lookups<'_>, question: &Question) -> Result<Client, ExplainError> {
    let world = &lookups.view.names.world;
    let node_ip = |to: SocketAddr| -> IpAddr {
        let own = Ipv4Addr::from(lookups.config.node_ip);
        let six = world.this_node().and_then(|node| node.internal_ips.iter().find(|ip| ip.is_ipv6()).copied());
        if to.is_ipv6() { six.unwrap_or(IpAddr::V4(own)) } else { IpAddr::V4(own) }
    };
    let ip = match &question.origin {
        Origin::Outside(ip) => return Ok(Client::Outside { ip: *ip }),
        Origin::Node => return Ok(Client::Node { ip: node_ip(question.to) }),
        Origin::Ip(ip) => *ip,
        Origin::Pod(name) => {
            let denied = world
                .sources
                .iter()
                .any(|source| source.kind == Kind::Pod && matches!(source.state, SourceState::Denied { .. }));
            let why = if denied { " (this agent may not list Pods)" } else { "" };
            let no_pod = || ExplainError::NoPod { pod: name.clone(), why };
            let pod = world.pods.get(name).filter(|pod| !pod.host_network).ok_or_else(no_pod)?;
            if let Some(node) = pod.node.as_deref().filter(|node| *node != &*world.node_name) {
                return Err(ExplainError::OtherNode { pod: name.clone(), node: node.into() });
            }
            pod.ips.iter().find(|ip| ip.is_ipv4()).or(pod.ips.first()).copied().ok_or_else(no_pod)?
        }
    };
    let who = lookups.view.names.who(ip);
    let ifindex = match ip {
        IpAddr::V4(ip) => lookups.view.maps.endpoints_by_ip.get(&ip.into())?,
        IpAddr::V6(ip) => lookups.view.maps.endpoints_ip_v6.get(&ip.into())?,
    };
    if let Some(ifindex) = ifindex
        && let Some(row) = lookups.view.maps.endpoints.get(&ifindex)?
    {
        return Ok(Client::Pod { name: who.pod, ip: row.ip.into(), ifindex, row });
    }
    if lookups.node(ip)?.is_some_and(|flags| flags & NODE_LOCAL != 0) {
        return Ok(Client::Node { ip });
    }
    match (who.pod, who.node) {
        (Some(name), Some(node)) if *node != *world.node_name => {
            let pod = name
                .split_once('/')
                .map_or_else(|| ObjectName::new("", name.as_str()), |(ns, n)| ObjectName::new(ns, n));
            Err(ExplainError::OtherNode { pod, node })
        }
        (Some(name), _) => Ok(Client::Foreign { name, ip }),
        (None, _) => Err(ExplainError::UnknownSource { ip }),
    }
}

impl Walk<'_> {
    fn run(&mut self) -> Result<End, MapsError> {
        match self.client {
            Client::Outside { .. } => self.from_net(),
            _ => self.from_here(),
        }
    }

    fn step(&mut self, hook: &str, sees: String, lookups: Vec<Lookup>, result: impl Into<String>) {
        self.steps.push(Step { hook: hook.into(), sees, lookups, result: result.into() });
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.question)?;
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "{number}. {}: {}", step.hook, step.sees)?;
            for Lookup { entry, value } in &step.lookups {
                match value {
                    Some(value) => writeln!(f, "     {entry}\n       {value}")?,
                    None => writeln!(f, "     {entry}\n       no such row")?,
                }
            }
            writeln!(f, "   => {}", step.result)?;
        }
        let reason = self.reason.map(|reason| format!(" ({reason}, see docs/drops.md)")).unwrap_or_default();
        writeln!(f, "\n{:9}  {}{reason}", self.verdict.as_str(), self.outcome)?;
        for backend in &self.backends {
            let who = backend.who.pod.as_deref().unwrap_or("no Pod that is known");
            let node = backend.who.node.as_deref().map(|node| format!(" on {node}")).unwrap_or_default();
            writeln!(f, "             {} {who}{node}", backend.address)?;
        }
        if let (Some(source), Some(why)) = (&self.source, &self.source_why) {
            writeln!(f, "source     {source} ({why})")?;
        }
        Ok(())
    }
}
