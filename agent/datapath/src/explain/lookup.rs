//! Looks into maps, each told as it is made; and the two questions that both paths ask: which Service, which backend.

use std::net::{IpAddr, SocketAddr};

use strake_abi::addr::{Addr4, Addr6, Port};
use strake_abi::config::Config;
use strake_abi::conntrack::FlowState;
use strake_abi::endpoint::{NODE_LOCAL, NODES, NODES_V6};
use strake_abi::service::{
    AFFINITY, AFFINITY_V6, Affinity, AffinityKey, AffinityKey6, BACKEND_LOCAL, BACKENDS, Backend, MAGLEV, MAGLEV_ROW,
    MEMBERS, MemberKey, SERVICE_DROP_IF_EMPTY, SERVICE_NO_SOCKET, SOURCE_RANGES, Service, ServiceKey6,
};
use strake_logic::choose::is_fresh;
use strake_logic::flow::is_live;
use strake_logic::maglev::{self, Flow};

use super::{Candidate, Lookup};
use crate::View;
use crate::conntrack::rows::{Family, Side, Tuple, V4, V6};
use crate::conntrack::{now_ns, protocol_name};
use crate::desired::{ShowKey, table};
use crate::maps::MapsError;

/// More backends than these are counted, not named, in a line.
const NAMED: usize = 8;

/// The maps.
pub struct Lookups<'a> {
    pub view: &'a View,
    pub config: Config,
    pub now_s: u32,
}

/// What a Service gives a new connection.
pub struct Choice {
    pub service: String,
    pub backends: Vec<Candidate>,
    /// How one of them is chosen.
    pub how: String,
}

impl<'a> Lookups<'a> {
    pub fn open(view: &'a View) -> Result<Self, MapsError> {
        Ok(Self { view, config: view.maps.config()?, now_s: (now_ns() / 1_000_000_000) as u32 })
    }

    /// `NODE_*` flags of an address.
    pub fn node(&self, ip: IpAddr) -> Result<Option<u32>, MapsError> {
        match ip {
            IpAddr::V4(ip) => self.view.maps.nodes.get(&ip.into()),
            IpAddr::V6(ip) => self.view.maps.nodes_v6.get(&ip.into()),
        }
    }

    /// The same, told.
    pub fn node_told(&self, ip: IpAddr, told: &mut Vec<Lookup>) -> Result<Option<u32>, MapsError> {
        let flags = self.node(ip)?;
        let map = if ip.is_ipv4() { NODES } else { NODES_V6 };
        let say =
            |flags| if flags & NODE_LOCAL != 0 { "an address of this node" } else { "an address of another node" };
        told.push(Lookup { entry: format!("{map}[{ip}]"), value: flags.map(|flags| say(flags).into()) });
        Ok(flags)
    }

    /// One row of `SERVICES` or `SERVICES_V6`.
    pub fn service(&self, key: &ServiceKey6, told: &mut Vec<Lookup>) -> Result<Option<Service>, MapsError> {
        let row = self.view.maps.service(key)?;
        let value = row.map(|row| match row.id {
            0 => "the address is a Service's".into(),
            _ => self.describe(&row),
        });
        told.push(Lookup { entry: format!("{}[{}]", table(key), ShowKey(key)), value });
        Ok(row)
    }

    fn describe(&self, row: &Service) -> String {
        let mut text = format!("{}, id {}, {} backends", self.owner(row.id), row.id, row.backend_count);
        if row.backend_count > 0 {
            text += &format!(" from {BACKENDS}[{}]", row.backend_base);
        }
        if row.affinity_timeout_s > 0 {
            text += &format!(", ClientIP affinity for {} s", row.affinity_timeout_s);
        }
        if row.source_list != 0 {
            text += &format!(", for clients on source list {}", row.source_list);
        }
        if row.maglev_size > 0 {
            text += &format!(", {} entries from {MAGLEV}[{}]", row.maglev_size, row.maglev_base);
        }
        if row.flags & SERVICE_DROP_IF_EMPTY != 0 {
            text += ", traffic policy Local";
        }
        if row.flags & SERVICE_NO_SOCKET != 0 {
            text += ", not for socket hooks";
        }
        text
    }

    fn owner(&self, id: u32) -> String {
        self.view.names.owner(id).map_or_else(|| "a Service unknown here".into(), |o| format!("{}:{}", o.name, o.port))
    }

    /// The Service at an address, NodePorts included: what both paths ask first.
    pub fn find(
        &self,
        to: SocketAddr,
        proto: u8,
        scope: u8,
        told: &mut Vec<Lookup>,
    ) -> Result<Option<Service>, MapsError> {
        let key = ServiceKey6 { addr: to.ip().into(), port: Port::new(to.port()), proto, scope };
        if let Some(row) = self.service(&key, told)? {
            return Ok(Some(row));
        }
        if to.port() < self.config.node_port_min || to.port() > self.config.node_port_max {
            return Ok(None);
        }
        if self.node_told(to.ip(), told)?.is_none_or(|flags| flags & NODE_LOCAL == 0) {
            return Ok(None);
        }
        let addr = if to.is_ipv4() { Addr6::mapped(Addr4::ANY) } else { Addr6::ANY };
        self.service(&ServiceKey6 { addr, ..key }, told)
    }

    /// Whether the Service's source ranges hold a client.
    pub fn is_on_list(&self, row: &Service, client: IpAddr, told: &mut Vec<Lookup>) -> Result<bool, MapsError> {
        let on_list = self.view.maps.sources.all()?.into_iter().filter(|range| range.key.list == row.source_list);
        let mut ranges = on_list.filter_map(|range| range.network());
        let held_by = ranges.find(|range| range.contains(client));
        let entry = format!("{SOURCE_RANGES}[list {}, {client}]", row.source_list);
        told.push(Lookup { entry, value: held_by.map(|range| format!("within {range}")) });
        Ok(held_by.is_some())
    }

    /// The backend of a new connection; `client` is none when its address cannot be known here, and the client's port 0 in
    /// what comes `from_outside` when that is not known. No backend: none.
    pub fn choose(
        &self,
        row: Service,
        client: Option<IpAddr>,
        from_outside: Option<Flow>,
        told: &mut Vec<Lookup>,
    ) -> Result<Option<Choice>, MapsError> {
        if row.backend_count == 0 {
            return Ok(None);
        }
        let service = self.owner(row.id);
        if let Some(client) = client.filter(|_| row.affinity_timeout_s > 0)
            && let Some(backend) = self.remembered(&row, client, told)?
        {
            let how = format!("ClientIP affinity of {client} leads there");
            return Ok(Some(Choice { service, backends: vec![self.candidate(&backend)], how }));
        }
        let slice = self.view.slice(&row)?;
        if let Some(flow) = from_outside.filter(|flow| flow.sport.get() != 0 || row.affinity_timeout_s > 0)
            && row.maglev_size > 0
            && let Some(backend) = self.by_table(&row, &flow.at(&row), &slice, told)?
        {
            let how = "the one that every node's Maglev table has for this client".to_owned();
            return Ok(Some(Choice { service, backends: vec![self.candidate(&backend)], how }));
        }
        let backends: Vec<Candidate> = slice.iter().map(|backend| self.candidate(backend)).collect();
        let end = row.backend_base.saturating_add(row.backend_count);
        let mut named: Vec<String> = backends.iter().take(NAMED).map(name).collect();
        if backends.len() > NAMED {
            named.push(format!("and {} more", backends.len() - NAMED));
        }
        told.push(Lookup { entry: format!("{BACKENDS}[{}..{end}]", row.backend_base), value: Some(named.join(", ")) });
        let how = match (backends.len(), row.affinity_timeout_s) {
            (1, _) => "there is no other".to_owned(),
            _ if row.maglev_size > 0 => "by Maglev, the same on every node for each port of the client".to_owned(),
            (_, 0) => "drawn by lot, each as likely".to_owned(),
            (_, seconds) => format!("drawn by lot, and kept for this client until unused for {seconds} s"),
        };
        Ok(Some(Choice { service, backends, how }))
    }

    fn by_table(
        &self,
        row: &Service,
        flow: &Flow,
        slice: &[Backend],
        told: &mut Vec<Lookup>,
    ) -> Result<Option<Backend>, MapsError> {
        let entry = maglev::entry(flow, row.maglev_size);
        let (index, lane) = (row.maglev_base.saturating_add(entry / MAGLEV_ROW), (entry % MAGLEV_ROW) as usize);
        let position = self.view.maps.table_row(index)?.entries[lane];
        let backend = slice.get(usize::from(position)).copied();
        let value = backend.map(|b| format!("entry {entry} of {}: {}", row.maglev_size, name(&self.candidate(&b))));
        told.push(Lookup { entry: format!("{MAGLEV}[{index}]"), value });
        Ok(backend)
    }

    fn remembered(&self, row: &Service, client: IpAddr, told: &mut Vec<Lookup>) -> Result<Option<Backend>, MapsError> {
        let service_id = row.id;
        let (map, found) = match client {
            IpAddr::V4(ip) => (AFFINITY, self.view.maps.affinity.get(&AffinityKey { client: ip.into(), service_id })?),
            IpAddr::V6(ip) => {
                (AFFINITY_V6, self.view.maps.affinity_v6.get(&AffinityKey6 { client: ip.into(), service_id })?)
            }
        };
        let entry = format!("{map}[{client}, service {service_id}]");
        let Some(Affinity { backend_id, last_used_s }) = found else {
            told.push(Lookup { entry, value: None });
            return Ok(None);
        };
        let ago = self.now_s.saturating_sub(last_used_s);
        let fresh = is_fresh(self.now_s, last_used_s, row.affinity_timeout_s);
        let of = if fresh { "of" } else { "too long for" };
        let value = format!("backend {backend_id}, last used {ago} s ago {of} {} s", row.affinity_timeout_s);
        told.push(Lookup { entry, value: Some(value) });
        if fresh { self.member(row.id, backend_id, told) } else { Ok(None) }
    }

    /// Whether a remembered backend may still be used.
    pub fn member(
        &self,
        service_id: u32,
        backend_id: u32,
        told: &mut Vec<Lookup>,
    ) -> Result<Option<Backend>, MapsError> {
        let found = self.view.maps.members.get(&MemberKey { service_id, backend_id })?;
        let value = found.map(|backend| name(&self.candidate(&backend)));
        told.push(Lookup { entry: format!("{MEMBERS}[service {service_id}, backend {backend_id}]"), value });
        Ok(found)
    }

    fn candidate(&self, backend: &Backend) -> Candidate {
        let address = SocketAddr::new(backend.addr.ip(), backend.port.get());
        let who = self.view.names.who(address.ip());
        Candidate { address, id: backend.id, who, local: backend.flags & BACKEND_LOCAL != 0 }
    }

    /// The row of a packet of either direction, if it still speaks for one.
    pub fn connection(
        &self,
        border: u8,
        proto: u8,
        (src, dst): (SocketAddr, SocketAddr),
        told: &mut Vec<Lookup>,
    ) -> Result<Option<Side>, MapsError> {
        let packet = Tuple { src, dst };
        let (map, row) = match (V4::key(packet, proto, border), V6::key(packet, proto, border)) {
            (Some(key), _) => (V4::MAP, self.view.maps.conntrack.get(&key)?.map(|row| V4::side(&key, &row))),
            (None, Some(key)) => (V6::MAP, self.view.maps.conntrack_v6.get(&key)?.map(|row| V6::side(&key, &row))),
            (None, None) => return Ok(None),
        };
        let at = if border == strake_abi::conntrack::BORDER_POD { "pod" } else { "network" };
        let live = |row: &Side| is_live(&self.config, proto, row.state, row.last_seen_s, self.now_s, 0);
        let value = row.map(|row| {
            let state = FlowState::from_u8(row.state).map_or("unknown", FlowState::as_str);
            let expired = if live(&row) { "" } else { ", expired" };
            format!("{state}{expired}, to {} -> {}, {} packets", row.to.src, row.to.dst, row.packets)
        });
        told.push(Lookup { entry: format!("{map}[{src} -> {dst}/{}, {at}]", protocol_name(proto)), value });
        Ok(row.filter(live))
    }
}

/// `10.244.0.6:8080 default/web-1`.
fn name(candidate: &Candidate) -> String {
    match candidate.who.pod.as_deref().or(candidate.who.node.as_deref()) {
        Some(who) => format!("{} {who}", candidate.address),
        None => candidate.address.to_string(),
    }
}
