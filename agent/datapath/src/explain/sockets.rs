//! The socket hooks: connect() and sendto() of Pods and of the node. As in `ebpf/programs/src/sock.rs`.

use std::net::{IpAddr, SocketAddr};

use strake_abi::addr::Addr6;
use strake_abi::conntrack::BORDER_POD;
use strake_abi::endpoint::{ENDPOINT_NO_SOCKET, PODS_BY_NETNS};
use strake_abi::flow::DropReason;
use strake_abi::proto;
use strake_abi::service::{
    SCOPE_INTERNAL, SERVICE_ADMITS_NODE, SERVICE_ADMITS_PODS, SERVICE_DROP_IF_EMPTY, SERVICE_NO_SOCKET, Service,
};

use super::lookup::Choice;
use super::{Client, End, Fate, Lookup, Walk};
use crate::maps::MapsError;

/// What a hook made of it.
enum Hooked {
    /// No packet carries what was asked for.
    Translated(Choice),
    /// The packets carry what was asked for.
    Left,
    Refused(End),
}

impl Walk<'_> {
    /// What a Pod or the node opens: the socket's part, then the packets'.
    pub fn from_here(&mut self) -> Result<End, MapsError> {
        match self.hook()? {
            Hooked::Refused(end) => Ok(end),
            Hooked::Left => self.packets(),
            Hooked::Translated(choice) => self.translated(choice),
        }
    }

    fn hook(&mut self) -> Result<Hooked, MapsError> {
        let (to, protocol) = (self.question.to, self.question.protocol);
        if !matches!(protocol, proto::TCP | proto::UDP) {
            if protocol == proto::SCTP {
                let sees = format!("connect() to {to} by a process below {}", self.host.sockets);
                self.step(
                    "sock",
                    sees,
                    Vec::new(),
                    "the kernel calls no hook for SCTP: its packets are looked at instead",
                );
            }
            return Ok(Hooked::Left);
        }
        let family = if to.is_ipv4() { 4 } else { 6 };
        let (hook, call) = if protocol == proto::TCP {
            (format!("sock_connect{family}"), "connect()")
        } else {
            (format!("sock_connect{family}, sock_sendmsg{family}"), "connect() or sendto()")
        };
        let place = &self.host.sockets;
        let sees = format!("{call} to {to} by a process below {place}");
        let mut told = Vec::new();
        let Some(row) = self.lookups.find(to, protocol, SCOPE_INTERNAL, &mut told)? else {
            self.step(&hook, sees, told, "no Service there: the socket is left alone");
            return Ok(Hooked::Left);
        };
        if row.flags & SERVICE_NO_SOCKET != 0 {
            self.step(&hook, sees, told, "this frontend is left to the packet path");
            return Ok(Hooked::Left);
        }
        let client = match self.whose_socket(&mut told)? {
            Whose::OptedOut(why) => {
                self.step(&hook, sees, told, format!("the Pod opted out ({why}): its packets are served instead"));
                return Ok(Hooked::Left);
            }
            Whose::Client(client) => client,
        };
        let has_packets = matches!(self.client, Client::Pod { .. });
        if row.source_list != 0 && !self.admits(&row, &mut told)? {
            if has_packets {
                self.step(&hook, sees, told, "not within the source ranges: left to from_pod, which drops it");
                return Ok(Hooked::Left);
            }
            let error = match (self.host.set_retval, protocol) {
                (true, proto::TCP) => "ETIMEDOUT",
                _ => "EPERM",
            };
            let outcome = format!("not within the Service's loadBalancerSourceRanges: {call} fails with {error}");
            self.step(&hook, sees, told, outcome.clone());
            return Ok(Hooked::Refused(End::refused(Fate::Rejected, DropReason::SourceNotInRanges, outcome)));
        }
        if let Some(choice) = self.lookups.choose(row, client, None, &mut told)? {
            let memory = if protocol == proto::UDP {
                "; an unconnected socket that sent there before keeps its backend while that is a member"
            } else {
                ""
            };
            let result = match &choice.backends[..] {
                [one] => format!("the socket is given {}, {}{memory}", one.address, choice.how),
                many => format!("the socket is given one of {} backends, {}{memory}", many.len(), choice.how),
            };
            self.step(&hook, sees, told, result);
            return Ok(Hooked::Translated(choice));
        }
        let silent = row.flags & SERVICE_DROP_IF_EMPTY != 0;
        if has_packets && (silent || !self.host.set_retval) {
            self.step(&hook, sees, told, "no backend: left to from_pod, which can answer as it should");
            return Ok(Hooked::Left);
        }
        let error = if self.host.set_retval { "ECONNREFUSED" } else { "EPERM (the kernel is older than 5.18)" };
        self.step(&hook, sees, told, format!("no backend: {call} fails with {error}"));
        Ok(Hooked::Refused(End::refused(Fate::Rejected, DropReason::NoEndpoints, format!("{call} fails with {error}"))))
    }

    /// Whether a Service with source ranges admits the socket.
    fn admits(&self, row: &Service, told: &mut Vec<Lookup>) -> Result<bool, MapsError> {
        let flag = match self.client {
            Client::Pod { ip, .. } if self.question.to.is_ipv4() => {
                return self.lookups.is_on_list(row, IpAddr::V4(ip), told);
            }
            Client::Node { .. } => SERVICE_ADMITS_NODE,
            _ => SERVICE_ADMITS_PODS,
        };
        Ok(row.flags & flag != 0)
    }

    fn whose_socket(&self, told: &mut Vec<Lookup>) -> Result<Whose, MapsError> {
        let Client::Pod { row, name, .. } = &self.client else {
            return Ok(Whose::Client(match self.client {
                Client::Node { .. } => Some(IpAddr::V4(self.lookups.config.node_ip.into())),
                // Its namespace's number stands for its address, and is not known here.
                _ => None,
            }));
        };
        if !self.host.netns_cookie {
            // The hooks cannot tell whose socket it is (below 5.14), and take it for the node's.
            return Ok(Whose::Client(None));
        }
        let pod = self.lookups.view.maps.pods_by_netns.get(&row.netns_cookie)?;
        let opted_out = pod.is_some_and(|pod| pod.flags & u32::from(ENDPOINT_NO_SOCKET) != 0);
        let value = pod.map(|pod| {
            let hooks = if opted_out { "opted out of the socket hooks" } else { "served by the socket hooks" };
            format!("{} {}, {hooks}", name.as_deref().unwrap_or("a Pod"), pod.ip)
        });
        told.push(Lookup { entry: format!("{PODS_BY_NETNS}[{}]", row.netns_cookie), value });
        if opted_out {
            return Ok(Whose::OptedOut(self.why_opted_out(name.as_deref())));
        }
        Ok(Whose::Client(pod.map(|pod| IpAddr::V4(pod.ip.into()))))
    }

    fn why_opted_out(&self, name: Option<&str>) -> String {
        let pod = name.and_then(|name| name.split_once('/')).map(|(ns, n)| strake_state::ObjectName::new(ns, n));
        let why = pod.and_then(|pod| self.lookups.view.names.world.socket_opt_out(&pod, &self.host.sandboxes));
        why.map_or_else(|| "as an earlier snapshot of the cluster had it".into(), |why| why.to_string())
    }

    /// The packets of a socket that was given a backend carry that backend.
    fn translated(&mut self, choice: Choice) -> Result<End, MapsError> {
        let to = self.question.to;
        if let Some(end) = self.tracked(&choice)? {
            return Ok(end);
        }
        let end = self.deliver(&choice.backends)?;
        let outcome = match &choice.backends[..] {
            [one] => format!("{to} is {}: {}", one.address, choice.how),
            many => format!("{to} is one of {} backends: {}", many.len(), choice.how),
        };
        Ok(End { outcome, service: Some(choice.service), backends: choice.backends, ..end })
    }

    /// The connection with the source port that was given, if from_pod tracks it with one of the backends.
    fn tracked(&mut self, choice: &Choice) -> Result<Option<End>, MapsError> {
        let (Client::Pod { .. }, Some(port)) = (&self.client, self.question.source_port) else { return Ok(None) };
        let source = SocketAddr::new(self.source(), port);
        for backend in &choice.backends {
            let mut told = Vec::new();
            let ends = (source, backend.address);
            if let Some(row) = self.lookups.connection(BORDER_POD, self.question.protocol, ends, &mut told)? {
                let sees = format!("{source} -> {}", backend.address);
                return self.goes_on("from_pod", sees, told, &row).map(Some);
            }
        }
        Ok(None)
    }

    /// The address that the packets start with.
    pub fn source(&self) -> IpAddr {
        match &self.client {
            // A Pod is known by its IPv4 address, and sends from that of the family asked for.
            Client::Pod { row, .. } if self.question.to.is_ipv6() && row.ip6 != Addr6::ANY => row.ip6.ip(),
            client => client.ip(),
        }
    }

    /// The client of ClientIP affinity, for packets.
    pub fn affinity_client(&self) -> Option<IpAddr> {
        match self.client {
            Client::Foreign { ip: IpAddr::V6(_), .. } => None,
            ref client => Some(client.ip()),
        }
    }
}

enum Whose {
    OptedOut(String),
    /// The client of ClientIP affinity, if it can be known.
    Client(Option<IpAddr>),
}
