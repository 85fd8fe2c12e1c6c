//! Health check node ports: on the `healthCheckNodePort` of each Service with `externalTrafficPolicy: Local`, a cloud's
//! load balancer asks every node whether it has endpoints of that Service, and sends traffic to those that have.
//!
//! Knows Services and endpoints; not the datapath.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;
use strake_state::{ObjectName, Service, ServiceType, TrafficPolicy, World};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Error;
use crate::health::Health;
use crate::http::{Answer, answer, everywhere, serve};

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// A port that is answered; dropping it ends the listener.
struct Port {
    service: ObjectName,
    endpoints: Arc<AtomicUsize>,
    _stop: DropGuard,
}

/// Serves the ports that the snapshots name until `token` is cancelled.
pub async fn run(
    mut worlds: watch::Receiver<Arc<World>>,
    health: Arc<Health>,
    token: CancellationToken,
) -> Result<(), Error> {
    let mut open: BTreeMap<u16, Port> = BTreeMap::new();
    loop {
        let world = worlds.borrow_and_update().clone();
        if world.synced {
            let wanted = wanted(&world);
            open.retain(|number, port| wanted.get(number).is_some_and(|(service, _)| *service == port.service));
            for (number, (service, count)) in wanted {
                let port = open.entry(number).or_insert_with(|| listen(number, service, &health, &token));
                port.endpoints.store(count, Ordering::Relaxed);
            }
        }
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            changed = worlds.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

fn needs_check(service: &Service) -> bool {
    service.service_type == ServiceType::LoadBalancer
        && service.external_policy == TrafficPolicy::Local
        && service.health_check_node_port != 0
        && !service.other_proxy
}

/// By port: the Service and how many ready endpoints of it this node has.
fn wanted(world: &World) -> BTreeMap<u16, (ObjectName, usize)> {
    let services = world.services.values().filter(|service| needs_check(service));
    let row = |service: &Arc<Service>| {
        (service.health_check_node_port, (service.name.clone(), local_endpoints(world, &service.name)))
    };
    services.map(row).collect()
}

/// An endpoint in two slices is one. Of a Service of both families every endpoint has an address of each, and one that has
/// only one of them yet is there as well.
fn local_endpoints(world: &World, service: &ObjectName) -> usize {
    let endpoints = world.slices_of(service).flat_map(|slice| &slice.endpoints);
    let local = endpoints.filter(|e| e.ready && !e.terminating && e.node.as_deref() == Some(&*world.node_name));
    let (v4, v6): (BTreeSet<_>, BTreeSet<_>) = local.map(|e| e.address).partition(IpAddr::is_ipv4);
    v4.len().max(v6.len())
}

fn listen(number: u16, service: ObjectName, health: &Arc<Health>, token: &CancellationToken) -> Port {
    let stop = token.child_token();
    let endpoints = Arc::new(AtomicUsize::new(0));
    let (count, asked, health, until) = (endpoints.clone(), service.clone(), health.clone(), stop.clone());
    tokio::spawn(async move {
        let what = format!("health check node port of {asked}");
        let handler = move |_| std::future::ready(tell(&asked, count.load(Ordering::Relaxed), health.is_healthy()));
        serve(&what, everywhere(number), handler, until).await;
    });
    Port { service, endpoints, _stop: stop.drop_guard() }
}

fn tell(service: &ObjectName, endpoints: usize, healthy: bool) -> Answer {
    let body = json!({
        "service": {"namespace": &*service.namespace, "name": &*service.name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": healthy,
    });
    let status = if endpoints > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = answer(status, "application/json", body.to_string());
    answer.headers_mut().insert(WEIGHT, HeaderValue::from(endpoints));
    answer
}

#[cfg(test)]
mod tests {
    use strake_state::{Cache, Change, Extract, Kind};

    use super::*;

    /// A world of one Service with two endpoints, on the nodes named.
    fn world(policy: &str, nodes: [&str; 2]) -> World {
        let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(json!({
            "metadata": {"namespace": "d", "name": "web"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.7", "externalTrafficPolicy": policy,
                     "healthCheckNodePort": 32_001, "ports": [{"port": 80}]},
        }))
        .unwrap();
        let endpoint = |node: &str, n: u8| json!({"addresses": [format!("10.244.0.{n}")], "nodeName": node});
        let slice: k8s_openapi::api::discovery::v1::EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "d", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 8080}],
            "endpoints": [endpoint(nodes[0], 1), endpoint(nodes[1], 2)],
        }))
        .unwrap();
        let mut cache = Cache::new("n1");
        for kind in Kind::ALL {
            cache.apply(Change::Init(kind));
            cache.apply(Change::InitDone(kind));
        }
        cache.apply(Change::Service(ObjectName::new("d", "web"), service.extract().map(Arc::new)));
        cache.apply(Change::Slice(ObjectName::new("d", "web-x"), slice.extract().map(Arc::new)));
        cache.snapshot()
    }

    #[test]
    fn this_nodes_endpoints_are_counted_for_policy_local_only() {
        let name = ObjectName::new("d", "web");
        assert_eq!(wanted(&world("Local", ["n1", "n2"])), BTreeMap::from([(32_001, (name.clone(), 1))]));
        assert_eq!(wanted(&world("Local", ["n2", "n2"])), BTreeMap::from([(32_001, (name, 0))]));
        assert_eq!(wanted(&world("Cluster", ["n1", "n1"])), BTreeMap::new());
    }

    #[test]
    fn the_answer_is_kube_proxys() {
        let name = ObjectName::new("d", "web");
        let full = tell(&name, 2, true);
        assert_eq!((full.status(), &full.headers()[WEIGHT]), (StatusCode::OK, &HeaderValue::from(2)));
        assert_eq!(tell(&name, 0, true).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(tell(&name, 2, false).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
