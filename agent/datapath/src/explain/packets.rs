//! The packets: from_pod and to_net of what a Pod or the node sends, from_net of what comes in from the network. As in
//! `ebpf/programs/src/from_pod.rs`, `to_net.rs` and `from_net.rs`.

use std::net::{IpAddr, SocketAddr};

use strake_abi::addr::Port;
use strake_abi::config::{DIRECT, DNS, MASQUERADE};
use strake_abi::conntrack::{
    BORDER_NET, BORDER_POD, CONNTRACK, CONNTRACK_V6, CT_DSR, CT_HAIRPIN, CT_REDIRECT, DIRECTION_REPLY,
};
use strake_abi::dns::DNS_NAMES;
use strake_abi::endpoint::{ENDPOINTS, ENDPOINTS_BY_IP, ENDPOINTS_IP_V6};
use strake_abi::flow::DropReason;
use strake_abi::program::XDP_LB;
use strake_abi::proto;
use strake_abi::service::{SCOPE_EXTERNAL, SCOPE_INTERNAL, SERVICE_DROP_IF_EMPTY, SERVICE_DSR, Service, ServiceKey6};
use strake_logic::maglev::Flow;

use super::lookup::Choice;
use super::{Candidate, Client, End, Fate, Lookup, Walk};
use crate::conntrack::rows::Side;
use crate::maps::MapsError;
use crate::names::Who;
use crate::xdp::XdpAttached;

/// What the driver's hook does with a flow for another node.
const NEXT_HOP: &str = "; sent on before the stack, or by from_net while the next hop's address is not known or the packet \
                        is not plain";

/// How a packet goes with direct server return.
const INSIDE: &str = ", as it came, inside an IP packet to its Pod";

fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, proto::ICMP | proto::ICMPV6)
}

impl Walk<'_> {
    /// What carries the address that was asked for.
    pub fn packets(&mut self) -> Result<End, MapsError> {
        match &self.client {
            Client::Pod { ifindex, row, .. } => {
                let (ifindex, mac) = (*ifindex, row.mac);
                self.from_pod(ifindex, mac)
            }
            _ => self.deliver(&[self.asked()]),
        }
    }

    /// What was asked for, as if it were a backend.
    fn asked(&self) -> Candidate {
        let address = self.question.to;
        Candidate { address, id: 0, who: self.lookups.view.names.who(address.ip()), local: false }
    }

    fn sees(&self) -> String {
        let port = self.question.source_port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}{port} -> {}", self.source(), self.question.to)
    }

    fn from_pod(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<End, MapsError> {
        const HOOK: &str = "from_pod";
        let (to, protocol, config) = (self.question.to, self.question.protocol, self.lookups.config);
        let sees = self.sees();
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let known = format!("source {}, hardware address {mac}; anything else is dropped as spoofed", self.source());
        let mut told = vec![Lookup { entry: format!("{ENDPOINTS}[{ifindex}]"), value: Some(known) }];
        if to.is_ipv6() && self.source().is_ipv4() {
            self.step(HOOK, sees, told, "dropped: the Pod has no IPv6 address to send from");
            let outcome = "the Pod has no IPv6 address, and nothing of IPv6 is taken from it";
            return Ok(End::refused(Fate::Dropped, DropReason::UnsupportedProtocol, outcome));
        }
        if to.ip() == IpAddr::V4(config.cluster_dns.into()) {
            return Ok(self.dns(sees, told));
        }
        if let Some(row) = self.existing(BORDER_POD, &mut told)? {
            let orphan = protocol == proto::UDP
                && row.service_id != 0
                && self.lookups.member(row.service_id, row.backend_id, &mut told)?.is_none();
            let answer = row.direction == DIRECTION_REPLY && row.flags & CT_HAIRPIN == 0;
            if !orphan || answer {
                return self.goes_on(HOOK, sees, told, &row);
            }
        }
        if !is_icmp(protocol)
            && let Some(row) = self.lookups.find(to, protocol, SCOPE_INTERNAL, &mut told)?
        {
            if row.source_list != 0 && !self.lookups.is_on_list(&row, self.source(), &mut told)? {
                return Ok(self.not_in_ranges(HOOK, sees, told));
            }
            let Some(choice) = self.lookups.choose(row, self.affinity_client(), None, &mut told)? else {
                return Ok(self.nobody(HOOK, sees, told, &row));
            };
            return self.from_pod_chosen(sees, told, choice);
        }
        if self.is_cluster_ip(to.ip()) {
            return self.no_service(HOOK, sees, told);
        }
        self.step(HOOK, sees, told, "no Service there: it goes on as it is");
        self.deliver(&[self.asked()])
    }

    fn is_cluster_ip(&self, ip: IpAddr) -> bool {
        let config = self.lookups.config;
        match ip {
            IpAddr::V4(ip) => config.service_cidr.contains(ip.into()),
            IpAddr::V6(ip) => config.service_cidr6.contains(ip.into()),
        }
    }

    /// The node's address of the family that the question is about, if it has one.
    fn own_address(&self) -> Option<IpAddr> {
        let config = self.lookups.config;
        let own = if self.question.to.is_ipv4() {
            IpAddr::V4(config.node_ip.into())
        } else {
            IpAddr::V6(config.node_ip6.octets().into())
        };
        Some(own).filter(|own| !own.is_unspecified())
    }

    fn from_pod_chosen(&mut self, sees: String, told: Vec<Lookup>, choice: Choice) -> Result<End, MapsError> {
        let config = self.lookups.config;
        let to = self.question.to;
        let gateway = if to.is_ipv4() { IpAddr::V4(config.pod_gateway.into()) } else { config.pod_gateway6.ip() };
        let hairpin = choice.backends.iter().any(|backend| backend.address.ip() == self.source());
        let itself = hairpin.then(|| format!("; where that is itself, from {gateway} (hairpin)"));
        let result = match &choice.backends[..] {
            [one] => format!("sent to {}, {}{}", one.address, choice.how, itself.unwrap_or_default()),
            many => format!("sent to one of {} backends, {}{}", many.len(), choice.how, itself.unwrap_or_default()),
        };
        self.step("from_pod", sees, told, result);
        let end = self.deliver(&choice.backends)?;
        let source = if hairpin && choice.backends.len() == 1 {
            let why = "the Pod reaches itself: with its own address as the source it would not answer through here";
            Some((gateway.to_string(), why.to_owned()))
        } else {
            end.source
        };
        let outcome = match &choice.backends[..] {
            [one] => format!("{to} is {}: {}", one.address, choice.how),
            many => format!("{to} is one of {} backends: {}", many.len(), choice.how),
        };
        Ok(End { outcome, service: Some(choice.service), backends: choice.backends, source, ..end })
    }

    /// The cluster DNS address is no Service's here.
    fn dns(&mut self, sees: String, told: Vec<Lookup>) -> End {
        let question = self.question.protocol == proto::UDP && self.question.to.port() == 53;
        let result = if question && self.lookups.config.flags & DNS != 0 {
            format!("a question: answered here from {DNS_NAMES} if the name is there, else by the agent's DNS server")
        } else {
            "left to the agent's DNS server, on this node".to_owned()
        };
        self.step("from_pod", sees, told, result.clone());
        End::forwarded(result, None)
    }

    /// The row of the connection asked about, when its source port was given.
    fn existing(&self, border: u8, told: &mut Vec<Lookup>) -> Result<Option<Side>, MapsError> {
        let Some(port) = self.question.source_port else { return Ok(None) };
        let ends = (SocketAddr::new(self.source(), port), self.question.to);
        self.lookups.connection(border, self.question.protocol, ends, told)
    }

    /// A connection that is known keeps what was decided when it began.
    pub fn goes_on(&mut self, hook: &str, sees: String, told: Vec<Lookup>, row: &Side) -> Result<End, MapsError> {
        let (source, destination) = (row.to.src, row.to.dst);
        let inside = if row.flags & CT_DSR == 0 { "" } else { INSIDE };
        self.step(
            hook,
            sees,
            told,
            format!("the connection exists: it goes on to {destination}, from {source}{inside}"),
        );
        let names = &self.lookups.view.names;
        let service = names.owner(row.service_id).map(|owner| format!("{}:{}", owner.name, owner.port));
        let who = names.who(destination.ip());
        let candidate =
            Candidate { address: destination, id: row.backend_id, local: self.is_here(destination.ip())?, who };
        let why = if source.ip() == self.source() { "as it began" } else { "translated when the connection began" };
        let own = source.ip() == self.source();
        let delivered = if matches!(self.client, Client::Outside { .. }) {
            None
        } else {
            self.deliver(std::slice::from_ref(&candidate))?.source
        };
        let source = delivered.filter(|_| own).unwrap_or_else(|| (source.to_string(), why.into()));
        let outcome = format!("the connection exists and goes on to {destination}");
        let backends = if row.backend_id == 0 { Vec::new() } else { vec![candidate] };
        Ok(End { service, backends, ..End::forwarded(outcome, Some(source)) })
    }

    fn not_in_ranges(&mut self, hook: &str, sees: String, told: Vec<Lookup>) -> End {
        let outcome = format!("loadBalancerSourceRanges of the Service do not hold {}", self.source());
        self.step(hook, sees, told, format!("dropped: {outcome}"));
        End::refused(Fate::Dropped, DropReason::SourceNotInRanges, outcome)
    }

    fn nobody(&mut self, hook: &str, sees: String, told: Vec<Lookup>, row: &Service) -> End {
        if row.flags & SERVICE_DROP_IF_EMPTY != 0 {
            self.step(hook, sees, told, "dropped: the traffic policy is Local and no endpoint is on this node");
            let outcome = "the traffic policy is Local and no endpoint is on this node";
            return End::refused(Fate::Dropped, DropReason::NoEndpoints, outcome);
        }
        self.step(hook, sees, told, format!("refused with {}: no endpoint is ready", self.refusal()));
        End::refused(Fate::Rejected, DropReason::NoEndpoints, "the Service has no endpoint that is ready")
    }

    fn refusal(&self) -> &'static str {
        if self.question.protocol == proto::TCP { "a TCP reset" } else { "ICMP port unreachable" }
    }

    /// An address of the Service range without a Service, or without that port.
    fn no_service(&mut self, hook: &str, sees: String, mut told: Vec<Lookup>) -> Result<End, MapsError> {
        let ip = self.question.to.ip();
        let key = ServiceKey6 { addr: ip.into(), ..ServiceKey6::default() };
        if self.lookups.service(&key, &mut told)?.is_none() {
            self.step(hook, sees, told, "dropped: no Service has this address of the Service range");
            let outcome = format!("{ip} is in the Service range, and no Service has it");
            return Ok(End::refused(Fate::Dropped, DropReason::NoService, outcome));
        }
        let outcome = format!("{ip} is a Service's, which has no such port");
        // An echo request finds nobody either, and there is no refusal for it.
        let (fate, how) = if is_icmp(self.question.protocol) {
            (Fate::Dropped, "dropped".to_owned())
        } else {
            (Fate::Rejected, format!("refused with {}", self.refusal()))
        };
        self.step(hook, sees, told, format!("{how}: the Service has no such port"));
        Ok(End::refused(fate, DropReason::NoServicePort, outcome))
    }

    fn is_here(&self, ip: IpAddr) -> Result<bool, MapsError> {
        let pod = self.interface_of(ip)?.is_some();
        Ok(pod || self.lookups.node(ip)?.is_some_and(|flags| flags & strake_abi::endpoint::NODE_LOCAL != 0))
    }

    /// Where the Pod of this node with that address is.
    fn interface_of(&self, ip: IpAddr) -> Result<Option<u32>, MapsError> {
        match ip {
            IpAddr::V4(ip) => self.lookups.view.maps.endpoints_by_ip.get(&ip.into()),
            IpAddr::V6(ip) => self.lookups.view.maps.endpoints_ip_v6.get(&ip.into()),
        }
    }

    /// From here to one of the places: straight into a Pod of this node, or by its routing, and then past the uplink.
    pub fn deliver(&mut self, places: &[Candidate]) -> Result<End, MapsError> {
        let (mut here, mut away) = (Vec::new(), Vec::new());
        for place in places {
            // Another CNI plugin's Pods are known by the flag alone.
            if place.local || self.is_here(place.address.ip())? { here.push(place) } else { away.push(place) }
        }
        let kept = |why: &str| Some((self.source().to_string(), why.to_owned()));
        let mut source = kept("both ends are on this node");
        if !here.is_empty() {
            let direct = self.lookups.config.flags & DIRECT != 0 && matches!(self.client, Client::Pod { .. });
            let mut told = Vec::new();
            for place in here.iter().take(4) {
                let ip = place.address.ip();
                if let Some(ifindex) = self.interface_of(ip)? {
                    let map = if ip.is_ipv4() { ENDPOINTS_BY_IP } else { ENDPOINTS_IP_V6 };
                    let value = format!("interface {ifindex} of {}", place.who.pod.as_deref().unwrap_or("a Pod"));
                    told.push(Lookup { entry: format!("{map}[{ip}]"), value: Some(value) });
                }
            }
            let pods = !told.is_empty();
            let (hook, result) = match (direct, pods) {
                (true, true) => ("from_pod", "handed straight into the Pod, past the node's routing"),
                (_, false) => ("routing", "stays on this node, as its own routes say"),
                (false, true) => ("routing", "routed into the Pod by the node"),
            };
            self.step(hook, format!("{} -> {}", self.source(), list(&here)), told, result);
        }
        if let Some(place) = away.first() {
            let which = away.iter().find(|place| place.who != Who::default()).copied().unwrap_or(place).clone();
            match self.to_net(&away, which.address.ip())? {
                Ok(seen) => source = Some(seen),
                Err(end) => return Ok(end),
            }
        }
        let to = list(&places.iter().collect::<Vec<_>>());
        Ok(End::forwarded(format!("goes on to {to}"), source))
    }

    /// The uplink's egress: the source that the network sees, and why; or the end.
    fn to_net(&mut self, places: &[&Candidate], dst: IpAddr) -> Result<Result<(String, String), End>, MapsError> {
        let sees = format!("{} -> {}", self.source(), list(places));
        let source = self.source().to_string();
        let kept = |why: &str| (source.clone(), why.to_owned());
        let Some(uplink) = self.host.uplink.clone() else {
            let source = kept("this node's agent has no uplink to translate at");
            self.step("routing", sees, Vec::new(), "leaves as the node's routes say");
            return Ok(Ok(source));
        };
        let hook = format!("to_net ({uplink}, if the node's routes lead there)");
        let config = self.lookups.config;
        let mut told = Vec::new();
        if self.is_cluster_ip(dst) {
            self.step(&hook, sees, told, "dropped: a ClusterIP means nothing outside");
            let outcome = if self.question.protocol == proto::SCTP {
                format!("{dst} is in the Service range, and SCTP of the node itself is not translated")
            } else {
                format!("{dst} is in the Service range, and no Service has it")
            };
            return Ok(Err(End::refused(Fate::Dropped, DropReason::NoService, outcome)));
        }
        if self.question.source_port.is_some()
            && let Some(row) = self.existing(BORDER_NET, &mut told)?
        {
            let source = row.to.src;
            self.step(&hook, sees, told, format!("the connection exists: it leaves from {source}"));
            return Ok(Ok((source.to_string(), "as when the connection began".into())));
        }
        let from_pod = match self.source() {
            IpAddr::V4(ip) => config.pod_cidr.contains(ip.into()),
            IpAddr::V6(ip) => config.pod_cidr6.contains(ip.into()),
        };
        let in_cluster = self.is_in_cluster(dst);
        let why = if config.flags & MASQUERADE == 0 {
            Some("masquerading is not this agent's business here")
        } else if !from_pod {
            Some("it is not the address of a Pod of this node")
        } else if in_cluster {
            Some("the destination is a Pod of the cluster, which knows the way back")
        } else if self.lookups.node_told(dst, &mut told)?.is_some() {
            Some("the destination is a node of the cluster, which knows the way back")
        } else {
            None
        };
        let own = self.own_address();
        let why = why.or(own.is_none().then_some("this node has no address of that family to stand in for it"));
        let (None, Some(own)) = (why, own) else {
            let why = why.unwrap_or_default();
            self.step(&hook, sees, told, format!("leaves as it is: {why}"));
            return Ok(Ok(kept(why)));
        };
        let (first, last) = (config.snat_port_min, config.snat_port_max);
        let source = format!("{own}, a free port of {first}-{last}");
        self.step(&hook, sees, told, format!("masqueraded: leaves from {source}"));
        Ok(Ok((source, "masqueraded: outside of the cluster nobody knows the way to a Pod".into())))
    }

    /// What comes in by the uplink.
    pub fn from_net(&mut self) -> Result<End, MapsError> {
        let (hook, driver) = match &self.host.uplink {
            Some(uplink) => (format!("from_net ({uplink})"), format!("{XDP_LB} ({uplink}, {})", self.host.xdp)),
            None => {
                self.step(
                    "routing",
                    self.sees(),
                    Vec::new(),
                    "this node's agent has no uplink: nothing is answered there",
                );
                return Ok(End::forwarded("left to the node's own stack", Some(self.as_it_came())));
            }
        };
        let (to, protocol, config) = (self.question.to, self.question.protocol, self.lookups.config);
        let sees = self.sees();
        let mut told = Vec::new();
        if let Some(row) = self.existing(BORDER_NET, &mut told)? {
            // Rows of either hook are the other's too.
            let hook = if self.passes_driver(&row) { driver } else { hook };
            return self.goes_on(&hook, sees, told, &row);
        }
        let found =
            if is_icmp(protocol) { None } else { self.lookups.find(to, protocol, SCOPE_EXTERNAL, &mut told)? };
        let Some(row) = found else {
            self.step(&hook, sees, told, "no Service is reached from outside there: left to the node's own stack");
            return Ok(End::forwarded("left to the node's own stack", Some(self.as_it_came())));
        };
        if row.source_list != 0 && !self.lookups.is_on_list(&row, self.source(), &mut told)? {
            return Ok(self.not_in_ranges(&hook, sees, told));
        }
        let flow = Flow {
            client: self.source().into(),
            vip: to.ip().into(),
            sport: Port::new(self.question.source_port.unwrap_or(0)),
            dport: Port::new(to.port()),
            proto: protocol,
        };
        let Some(choice) = self.lookups.choose(row, self.affinity_client(), Some(flow), &mut told)? else {
            return Ok(self.nobody(&hook, sees, told, &row));
        };
        let (first, last) = (config.snat_port_min, config.snat_port_max);
        let node = self.own_address().map_or_else(|| "no address of that family".to_owned(), |own| own.to_string());
        let direct = self.goes_directly(&row, &choice, &mut told)?;
        let all_local = choice.backends.iter().all(|backend| backend.local);
        let none_local = choice.backends.iter().all(|backend| !backend.local);
        let (source, why) = if all_local {
            (self.source().to_string(), "kept: the backend is on this node, which its answers pass anyway".to_owned())
        } else if direct {
            let why = "kept: the backend's node gets the packet inside another, and answers the client itself";
            (self.source().to_string(), why.to_owned())
        } else if none_local {
            let why = "translated: the backend is on another node, and its answers must come back through this one";
            (format!("{node}, a free port of {first}-{last}"), why.to_owned())
        } else {
            let why = "kept for a backend of this node; translated for one of another, whose answers must come back \
                       through this one";
            (format!("{} or {node}", self.source()), why.to_owned())
        };
        let result = match &choice.backends[..] {
            [one] => format!("sent to {}, {}; source {source}", one.address, choice.how),
            many => format!("sent to one of {} backends, {}; source {source}", many.len(), choice.how),
        };
        if self.host.xdp == XdpAttached::Off {
            self.step(&hook, sees, told, result);
        } else {
            // The driver chooses for all; what it chose for this node is in the flow's row when the stack comes to it.
            let goes = if none_local && !direct { NEXT_HOP } else { "" };
            self.step(&driver, sees, told, format!("{result}{goes}"));
            if !none_local || direct {
                let place = if all_local || direct {
                    ""
                } else {
                    "a backend of another node: sent on before the stack; one of this: "
                };
                let entry = format!("{}[the flow]", if to.is_ipv4() { CONNTRACK } else { CONNTRACK_V6 });
                let row = Lookup { entry, value: Some(format!("what {XDP_LB} chose")) };
                let sees = self.sees();
                self.step(&hook, sees, vec![row], format!("{place}handed on to it, as its row says"));
            }
        }
        let outcome = match &choice.backends[..] {
            [one] => format!("{to} is {}: {}", one.address, choice.how),
            many => format!("{to} is one of {} backends: {}", many.len(), choice.how),
        };
        let end = End::forwarded(outcome, Some((source, why)));
        Ok(End { service: Some(choice.service), backends: choice.backends, ..end })
    }

    /// Whether the chosen of other nodes get the packet as it came. As `ebpf/programs/src/dsr.rs`.
    fn goes_directly(&self, row: &Service, choice: &Choice, told: &mut Vec<Lookup>) -> Result<bool, MapsError> {
        let mut others = choice.backends.iter().filter(|backend| !backend.local).peekable();
        if row.flags & SERVICE_DSR == 0 || others.peek().is_none() || self.is_in_cluster(self.source()) {
            return Ok(false);
        }
        Ok(others.all(|backend| self.is_in_cluster(backend.address.ip()))
            && self.lookups.node_told(self.source(), told)?.is_none())
    }

    fn is_in_cluster(&self, ip: IpAddr) -> bool {
        let config = self.lookups.config;
        match ip {
            IpAddr::V4(ip) => config.cluster_cidr.contains(ip.into()),
            IpAddr::V6(ip) => config.cluster_cidr6.contains(ip.into()),
        }
    }

    /// Whether a packet of that flow is sent on before the stack.
    fn passes_driver(&self, row: &Side) -> bool {
        self.host.xdp != XdpAttached::Off && row.flags & CT_REDIRECT != 0
    }

    fn as_it_came(&self) -> (String, String) {
        (self.source().to_string(), "nothing is translated".into())
    }
}

/// `10.244.0.6:8080`, or `one of 3 backends`.
fn list(places: &[&Candidate]) -> String {
    match places {
        [one] => one.address.to_string(),
        many => format!("one of {} backends", many.len()),
    }
}
