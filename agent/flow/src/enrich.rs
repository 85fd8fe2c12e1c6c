//! An event's addresses -> names, by the snapshot of the moment it is read.
//!
//! May not know: the ring buffer, readers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use strake_abi::flow::{DropReason, EventKind, FlowEvent, Hook, Verdict as AbiVerdict};
use strake_state::{ObjectName, Service, ServicePort, World, changed};

use crate::proto::{End, Flow, Kind, Verdict};

/// Names things by one snapshot; refreshed when there is a newer one.
#[derive(Default)]
pub struct Enricher {
    world: Arc<World>,
    /// ClusterIPs, external and LoadBalancer IPs: address, port, IANA protocol.
    frontends: HashMap<(IpAddr, u16, u8), ObjectName>,
    node_ports: HashMap<(u16, u8), ObjectName>,
    nodes: HashMap<IpAddr, Arc<str>>,
    /// By the datapath's number of a Service: the frontend it was last seen to be used by. A flow that a socket hook
    /// translated ends with the backend's address on the wire, and with this number.
    used: HashMap<u32, (IpAddr, u16)>,
}

impl Enricher {
    /// Takes over a snapshot; nothing happens when it is the same.
    pub fn refresh(&mut self, world: &Arc<World>) {
        if Arc::ptr_eq(&self.world, world) {
            return;
        }
        let nodes_changed = !self.world.nodes.ptr_eq(&world.nodes);
        let before = std::mem::replace(&mut self.world, world.clone());
        self.index_services(&before);
        if nodes_changed {
            let nodes = world.nodes.values();
            let addresses = nodes.flat_map(|node| {
                let all = node.internal_ips.iter().chain(&node.external_ips);
                all.map(move |ip| (*ip, node.name.clone()))
            });
            self.nodes = addresses.collect();
        }
    }

    /// Follows the Services that changed; all of them if one gave up an address that it may have shared.
    fn index_services(&mut self, before: &World) {
        let world = self.world.clone();
        let shared = |service: &Service| {
            let outside = service.external_ips.is_empty() && service.load_balancer_ips.is_empty();
            !outside || service.ports.iter().any(|port| port.node_port != 0)
        };
        if changed(&before.services, &world.services).any(|(_, old, _)| old.is_some_and(|old| shared(old))) {
            self.frontends.clear();
            self.node_ports.clear();
            return world.services.values().for_each(|service| self.index_service(service));
        }
        for (_, old, _) in changed(&before.services, &world.services) {
            for (ip, port) in old.into_iter().flat_map(|old| frontends(old)) {
                self.frontends.remove(&(ip, port.port, port.protocol.number()));
            }
        }
        for (_, _, new) in changed(&before.services, &world.services) {
            new.into_iter().for_each(|service| self.index_service(service));
        }
    }

    fn index_service(&mut self, service: &Service) {
        for (ip, port) in frontends(service) {
            self.frontends.insert((ip, port.port, port.protocol.number()), service.name.clone());
        }
        for port in service.ports.iter().filter(|port| port.node_port != 0) {
            self.node_ports.insert((port.node_port, port.protocol.number()), service.name.clone());
        }
    }

    fn end(&self, ip: IpAddr, port: u16) -> End {
        let mut end = End { ip: ip.to_string(), port: port.into(), ..End::default() };
        if let Some(pod) = self.world.pods_by_ip.get(&ip) {
            end.namespace = pod.name.namespace.to_string();
            end.pod = pod.name.name.to_string();
            end.workload = pod.owner.as_deref().unwrap_or_default().to_owned();
            end.node = pod.node.as_deref().unwrap_or_default().to_owned();
        } else if let Some(node) = self.nodes.get(&ip) {
            end.node = node.to_string();
        }
        end
    }

    fn service(&self, ip: IpAddr, port: u16, proto: u8) -> Option<&ObjectName> {
        self.frontends.get(&(ip, port, proto)).or_else(|| {
            let on_node = self.nodes.contains_key(&ip) || ip.is_loopback();
            on_node.then(|| self.node_ports.get(&(port, proto))).flatten()
        })
    }

    /// The event with names. `offset_ns` turns its clock into the time of day; `pod_ip` is the address of the Pod whose
    /// socket it is about, when a socket hook reported it and the Pod is known.
    pub fn flow(&mut self, event: &FlowEvent, offset_ns: u64, pod_ip: Option<IpAddr>) -> Flow {
        let (src, backend) = (address(event.src), (address(event.backend), event.backend_port.get()));
        let mut asked = (address(event.dst), event.dst_port.get());
        let mut translated = backend != asked && !backend.0.is_unspecified();
        if event.service_id != 0 {
            if translated {
                self.used.insert(event.service_id, asked);
            } else if let Some(frontend) = self.used.get(&event.service_id) {
                (asked, translated) = (*frontend, true);
            }
        }
        let destination = if translated { backend } else { asked };
        let source = match (src.is_unspecified(), pod_ip) {
            (true, Some(ip)) => self.end(ip, event.src_port.get()),
            // A socket hook reported a process of the node itself.
            (true, None) => End { node: self.world.node_name.to_string(), ..End::default() },
            (false, _) => self.end(src, event.src_port.get()),
        };
        let kind = match EventKind::from_u8(event.kind) {
            Some(EventKind::Connect) => Kind::Connect,
            Some(EventKind::Open) => Kind::Open,
            Some(EventKind::Close) => Kind::Close,
            Some(EventKind::Drop) => Kind::Drop,
            None => Kind::Unspecified,
        };
        let verdict = match AbiVerdict::from_u8(event.verdict) {
            Some(AbiVerdict::Forwarded) => Verdict::Forwarded,
            Some(AbiVerdict::Rejected) => Verdict::Rejected,
            Some(AbiVerdict::Dropped) => Verdict::Dropped,
            None => Verdict::Unspecified,
        };
        // A refused event names its Service by the frontend too: it has no backend.
        let service = self.service(asked.0, asked.1, event.proto);
        Flow {
            time_ns: event.timestamp_ns.saturating_add(offset_ns),
            kind: kind.into(),
            verdict: verdict.into(),
            reason: DropReason::from_u8(event.reason).map_or("unknown", DropReason::as_str).into(),
            protocol: event.proto.into(),
            source: Some(source),
            destination: Some(self.end(destination.0, destination.1)),
            service_namespace: service.map_or_else(String::new, |name| name.namespace.to_string()),
            service_name: service.map_or_else(String::new, |name| name.name.to_string()),
            frontend_ip: if translated || service.is_some() { asked.0.to_string() } else { String::new() },
            frontend_port: if translated || service.is_some() { asked.1.into() } else { 0 },
            hook: Hook::from_u8(event.hook).map_or("unknown", Hook::as_str).into(),
            node: self.world.node_name.to_string(),
            socket_cookie: event.cookie,
            pid: event.pid,
            tcp_flags: event.tcp_flags.into(),
            packets: event.packets,
            bytes: event.bytes,
            reply_packets: event.reply_packets,
            reply_bytes: event.reply_bytes,
            duration_ns: event.duration_ns,
        }
    }
}

fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// Each address of a Service with each port.
fn frontends(service: &Service) -> impl Iterator<Item = (IpAddr, &ServicePort)> {
    let ips = service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips);
    ips.flat_map(|ip| service.ports.iter().map(|port| (*ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use strake_abi::addr::{Addr4, Port};
    use strake_state::{
        LbOwner, Node, Pod, Protocol, Service, ServicePort, ServiceType, SessionAffinity, TrafficPolicy,
    };

    fn world() -> Arc<World> {
        let service = Service {
            name: ObjectName::new("web", "front"),
            service_type: ServiceType::NodePort,
            cluster_ips: vec!["10.96.0.7".parse().unwrap()],
            headless: false,
            external_name: None,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            load_balancer_source_ranges: Vec::new(),
            lb_owner: LbOwner::Other,
            invalid_source_ranges: Vec::new(),
            lb_algorithm: None,
            ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: 30080 }],
            affinity: SessionAffinity::None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            publish_not_ready: false,
            health_check_node_port: 0,
            other_proxy: false,
        };
        let pod = Arc::new(Pod {
            name: ObjectName::new("web", "web-1"),
            uid: "u".into(),
            node: Some("n1".into()),
            ips: vec!["10.244.0.5".parse().unwrap()],
            host_network: false,
            finished: false,
            runtime_class: None,
            socket_lb_disabled: false,
            host_ports: Vec::new(),
            owner: Some("web-rs".into()),
        });
        let node = Node {
            name: "n1".into(),
            internal_ips: vec!["192.0.2.1".parse().unwrap()],
            external_ips: Vec::new(),
            pod_cidrs: Vec::new(),
            zone: None,
            ready: true,
            leaving: false,
            excluded_from_lb: false,
        };
        Arc::new(World {
            node_name: "n1".into(),
            services: [(service.name.clone(), Arc::new(service))].into_iter().collect(),
            pods_by_ip: [("10.244.0.5".parse().unwrap(), pod)].into_iter().collect(),
            nodes: [(Box::<str>::from("n1"), Arc::new(node))].into_iter().collect(),
            ..World::default()
        })
    }

    fn event(dst: [u8; 4], port: u16) -> FlowEvent {
        FlowEvent {
            dst: Addr4::new(dst).mapped(),
            dst_port: Port::new(port),
            backend: Addr4::new([10, 244, 0, 5]).mapped(),
            backend_port: Port::new(8080),
            src: Addr4::new([192, 0, 2, 1]).mapped(),
            src_port: Port::new(40000),
            proto: 6,
            kind: EventKind::Open as u8,
            hook: Hook::FromPod as u8,
            ..FlowEvent::default()
        }
    }

    fn enricher() -> Enricher {
        let mut enricher = Enricher::default();
        enricher.refresh(&world());
        enricher
    }

    #[test]
    fn both_ends_and_the_service_have_names() {
        let flow = enricher().flow(&event([10, 96, 0, 7], 80), 5, None);
        let destination = flow.destination.unwrap();
        assert_eq!((destination.namespace.as_str(), destination.pod.as_str()), ("web", "web-1"));
        assert_eq!(flow.source.unwrap().node, "n1");
        assert_eq!((flow.service_name.as_str(), flow.frontend_ip.as_str()), ("front", "10.96.0.7"));
        assert_eq!((flow.hook.as_str(), flow.time_ns), ("from_pod", 5));
    }

    #[test]
    fn a_node_port_names_its_service() {
        let flow = enricher().flow(&event([192, 0, 2, 1], 30080), 0, None);
        assert_eq!(flow.service_name, "front");
        let flow = enricher().flow(&event([192, 0, 2, 9], 30080), 0, None);
        assert_eq!(flow.service_name, "", "not an address of a node");
    }

    #[test]
    fn a_socket_event_takes_its_source_from_the_pod() {
        let mut event = event([10, 96, 0, 7], 80);
        event.src = [0; 16];
        let flow = enricher().flow(&event, 0, Some("10.244.0.5".parse().unwrap()));
        assert_eq!(flow.source.unwrap().pod, "web-1");
        let flow = enricher().flow(&event, 0, None);
        assert_eq!(flow.source.unwrap().node, "n1");
    }

    /// On the wire, the end of a flow that a socket hook translated shows the backend alone.
    #[test]
    fn the_end_of_a_flow_names_the_service_that_its_beginning_used() {
        let mut enricher = enricher();
        let end = || FlowEvent { service_id: 7, kind: EventKind::Close as u8, ..event([10, 244, 0, 5], 8080) };
        assert_eq!(enricher.flow(&end(), 0, None).service_name, "", "never seen to be used");
        enricher.flow(&FlowEvent { service_id: 7, ..event([10, 96, 0, 7], 80) }, 0, None);
        let flow = enricher.flow(&end(), 0, None);
        assert_eq!(
            (flow.service_name.as_str(), flow.frontend_ip.as_str(), flow.frontend_port),
            ("front", "10.96.0.7", 80)
        );
        assert_eq!(flow.destination.unwrap().pod, "web-1");
        let direct = FlowEvent { kind: EventKind::Close as u8, ..event([10, 244, 0, 5], 8080) };
        assert_eq!(enricher.flow(&direct, 0, None).service_name, "", "a flow of no Service");
    }
}
