//! Which slices a Service gets from its Pods, decided from snapshots.

use super::plan::{MAX_ENDPOINTS, Plan, plan};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Node, Pod, PodCondition, PodIP, PodSpec, PodStatus, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeSet;
use std::sync::Arc;

fn service() -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("default".into()),
            uid: Some("svc".into()),
            labels: Some([("tier".to_string(), "front".to_string())].into()),
            ..Default::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some("10.96.0.7".into()),
            selector: Some([("app".to_string(), "web".to_string())].into()),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port: 80,
                target_port: Some(IntOrString::String("www".into())),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn pod(i: usize, port: i32, ready: bool) -> Arc<Pod> {
    Arc::new(Pod {
        metadata: ObjectMeta {
            name: Some(format!("p{i}")),
            namespace: Some("default".into()),
            uid: Some(format!("u{i}")),
            ..Default::default()
        },
        spec: Some(PodSpec {
            node_name: Some("n1".into()),
            containers: vec![Container {
                ports: Some(vec![ContainerPort {
                    name: Some("www".into()),
                    container_port: port,
                    ..Default::default()
                }]),
                ..Default::default()
            }],
            ..Default::default()
        }),
        status: Some(PodStatus {
            phase: Some("Running".into()),
            pod_ip: Some(format!("10.244.{}.{}", i / 250, i % 250 + 1)),
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: if ready { "True" } else { "False" }.into(),
                ..Default::default()
            }]),
            ..Default::default()
        }),
    })
}

#[derive(Default)]
struct Slices(Vec<Arc<EndpointSlice>>, usize);

impl Slices {
    fn apply(&mut self, p: Plan) {
        for d in p.delete {
            self.0.retain(|s| s.metadata.name != d.metadata.name);
        }
        for u in p.update {
            let i = self.0.iter().position(|s| s.metadata.name == u.metadata.name).unwrap();
            self.0[i] = Arc::new(u);
        }
        for mut c in p.create {
            self.1 += 1;
            c.metadata.name = Some(format!("web-{:04}", self.1));
            self.0.push(Arc::new(c));
        }
    }

    fn addresses(&self) -> BTreeSet<String> {
        self.0.iter().flat_map(|s| s.endpoints.iter().flatten()).flat_map(|e| e.addresses.clone()).collect()
    }
}

fn node(_: &str) -> Option<Arc<Node>> {
    let labels = Some([("topology.kubernetes.io/zone".to_string(), "z1".to_string())].into());
    Some(Arc::new(Node { metadata: ObjectMeta { labels, ..Default::default() }, ..Default::default() }))
}

#[test]
fn an_empty_service_has_one_empty_slice_that_is_filled_later() {
    let mut s = Slices::default();
    s.apply(plan(&service(), &[], &s.0, node, None));
    assert_eq!(s.0.len(), 1);
    assert!(plan(&service(), &[], &s.0, node, None).is_empty(), "and it is left alone");
    let p = plan(&service(), &[pod(1, 8080, true)], &s.0, node, None);
    assert_eq!((p.create.len(), p.update.len(), p.delete.len()), (0, 1, 0));
    s.apply(p);
    let slice = &s.0[0];
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!((port.port, port.name.as_deref(), port.protocol.as_deref()), (Some(8080), Some("http"), Some("TCP")));
    let e = &slice.endpoints.as_ref().unwrap()[0];
    assert_eq!((e.zone.as_deref(), e.node_name.as_deref()), (Some("z1"), Some("n1")));
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert_eq!(labels["tier"], "front");
    s.apply(plan(&service(), &[], &s.0, node, None));
    assert_eq!((s.0.len(), s.addresses().len()), (1, 0));
}

#[test]
fn conditions_tell_ready_serving_and_terminating_apart() {
    let mut going = (*pod(1, 80, true)).clone();
    going.metadata.deletion_timestamp = Some(crate::runtime::now());
    let p = plan(&service(), &[Arc::new(going), pod(2, 80, false)], &[], node, None);
    let endpoints = p.create[0].endpoints.clone().unwrap();
    let c: Vec<_> = endpoints.iter().map(|e| e.conditions.clone().unwrap()).collect();
    assert_eq!((c[0].ready, c[0].serving, c[0].terminating), (Some(false), Some(true), Some(true)));
    assert_eq!((c[1].ready, c[1].serving, c[1].terminating), (Some(false), Some(false), Some(false)));
    let mut eager = service();
    eager.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    let p = plan(&eager, &[pod(2, 80, false)], &[], node, None);
    assert_eq!(p.create[0].endpoints.as_ref().unwrap()[0].conditions.as_ref().unwrap().ready, Some(true));
}

#[test]
fn named_target_ports_that_differ_make_slices_of_their_own() {
    let p = plan(&service(), &[pod(1, 8080, true), pod(2, 9090, true), pod(3, 8080, true)], &[], node, None);
    let mut sizes: Vec<_> = p
        .create
        .iter()
        .map(|s| (s.ports.as_ref().unwrap()[0].port.unwrap(), s.endpoints.as_ref().unwrap().len()))
        .collect();
    sizes.sort();
    assert_eq!(sizes, [(8080, 2), (9090, 1)]);
}

#[test]
fn one_change_rewrites_one_slice_and_nothing_is_ever_lost_or_doubled() {
    let mut s = Slices::default();
    let mut pods: Vec<_> = (0..250).map(|i| pod(i, 80, true)).collect();
    s.apply(plan(&service(), &pods, &s.0, node, None));
    assert_eq!(s.0.len(), 3);
    assert!(plan(&service(), &pods, &s.0, node, None).is_empty());
    pods[120] = pod(120, 80, false);
    let p = plan(&service(), &pods, &s.0, node, None);
    assert_eq!((p.create.len(), p.update.len(), p.delete.len()), (0, 1, 0));
    s.apply(p);

    let mut seed = 1u64;
    let mut random = move |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    let mut next = 250;
    for _ in 0..300 {
        for _ in 0..random(40) {
            if !pods.is_empty() {
                pods.swap_remove(random(pods.len()));
            }
        }
        for _ in 0..random(40) {
            pods.push(pod(next, 80, true));
            next += 1;
        }
        let p = plan(&service(), &pods, &s.0, node, None);
        s.apply(p);
        assert!(s.0.iter().all(|x| x.endpoints.as_ref().unwrap().len() <= MAX_ENDPOINTS));
        let total: usize = s.0.iter().map(|x| x.endpoints.as_ref().unwrap().len()).sum();
        assert_eq!((total, s.addresses().len()), (pods.len(), pods.len()));
        assert!(plan(&service(), &pods, &s.0, node, None).is_empty());
    }
}

/// A Pod with an address of each family, the IPv6 one first for odd ones.
fn dual_pod(i: usize) -> Arc<Pod> {
    let mut pod = (*pod(i, 8080, true)).clone();
    let status = pod.status.as_mut().unwrap();
    let mut ips = vec![status.pod_ip.clone().unwrap(), format!("fd00:10:244::{i:x}")];
    if i % 2 == 1 {
        ips.reverse();
    }
    status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    Arc::new(pod)
}

#[test]
fn a_dual_stack_service_has_slices_of_each_address_type() {
    let with = |families: &[&str]| {
        let mut service = service();
        service.spec.as_mut().unwrap().ip_families = Some(families.iter().map(|f| (*f).to_owned()).collect());
        service.spec.as_mut().unwrap().traffic_distribution = Some("PreferSameZone".into());
        service
    };
    // The third Pod has IPv4 only.
    let pods = [dual_pod(1), dual_pod(2), pod(3, 8080, true)];
    let mut s = Slices::default();
    s.apply(plan(&with(&["IPv4", "IPv6"]), &pods, &s.0, node, None));
    let of = |s: &Slices, kind: &str| {
        let slices: Vec<_> = s.0.iter().filter(|slice| slice.address_type == kind).cloned().collect();
        let endpoints: Vec<_> = slices.iter().flat_map(|slice| slice.endpoints.clone().unwrap_or_default()).collect();
        let addresses: BTreeSet<String> = endpoints.iter().flat_map(|e| e.addresses.clone()).collect();
        for e in &endpoints {
            assert_eq!((e.zone.as_deref(), e.node_name.as_deref()), (Some("z1"), Some("n1")));
            assert_eq!(e.hints.as_ref().unwrap().for_zones.as_ref().unwrap()[0].name, "z1");
        }
        addresses.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(of(&s, "IPv4"), ["10.244.0.2", "10.244.0.3", "10.244.0.4"]);
    assert_eq!(of(&s, "IPv6"), ["fd00:10:244::1", "fd00:10:244::2"]);
    let labels: Vec<_> = s.0.iter().map(|slice| slice.metadata.labels.clone().unwrap()).collect();
    assert_eq!((s.0.len(), &labels[0]), (2, &labels[1]));
    assert!(plan(&with(&["IPv4", "IPv6"]), &pods, &s.0, node, None).is_empty(), "and they are left alone");
    // A Service that gives its second family up loses that family's slices, and no other.
    let p = plan(&with(&["IPv4"]), &pods, &s.0, node, None);
    assert_eq!((p.create.len(), p.update.len(), p.delete.len()), (0, 0, 1));
    assert_eq!(p.delete[0].address_type, "IPv6");
}

#[test]
fn traffic_distribution_becomes_hints_of_ready_endpoints() {
    for (wanted, zones, nodes) in [
        (None, None, None),
        (Some("PreferClose"), Some("z1"), None),
        (Some("PreferSameZone"), Some("z1"), None),
        (Some("PreferSameNode"), Some("z1"), Some("n1")),
    ] {
        let mut service = service();
        service.spec.as_mut().unwrap().traffic_distribution = wanted.map(Into::into);
        let mut s = Slices::default();
        s.apply(plan(&service, &[pod(1, 8080, true), pod(2, 8080, false)], &s.0, node, None));
        for endpoint in s.0[0].endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().unwrap().ready == Some(true);
            let hints = endpoint.hints.clone().unwrap_or_default();
            let zone = hints.for_zones.map(|z| z[0].name.clone());
            let node = hints.for_nodes.map(|n| n[0].name.clone());
            let expected = if ready { (zones, nodes) } else { (None, None) };
            assert_eq!((zone.as_deref(), node.as_deref()), expected, "{wanted:?}, ready: {ready}");
        }
    }
}
