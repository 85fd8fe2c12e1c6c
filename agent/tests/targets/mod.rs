//! What must hold for any bytes from outside of the agent: no panic, and what each parser promises. Run on the corpus by
//! `corpus.rs`, and on whatever libFuzzer thinks of by `cargo xtask fuzz`.
//!
//! HTTP, gRPC, X.509, netlink routes, kubeconfigs and upstream's DNS answers are read by libraries, which have fuzzers of
//! their own; here is what this repository reads itself.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::node::v1 as node;
use serde::de::DeserializeOwned;
use serde_json::Value;
use strake_abi::flow::FlowEvent;
use strake_datapath::{Config, Installed, MapSizes, Runtime, Violation, check, compile, diff};
use strake_flow::Enricher;
use strake_state::{Cache, Change, Extract, Kind, ObjectName, World};

/// By name, which is that of the corpus's folder too.
pub const TARGETS: [(&str, fn(&[u8])); 13] = [
    ("objects", objects),
    ("dns", dns),
    ("event", event),
    ("cni", strake_network::fuzz::cni),
    ("record", strake_network::fuzz::record),
    ("netlink", strake_datapath::fuzz::netlink),
    ("groups", strake_datapath::fuzz::groups),
    ("layout", strake_datapath::fuzz::layout),
    ("log", strake_kubelet::fuzz::log),
    ("text", strake_kubelet::fuzz::text),
    ("node", strake_kubelet::fuzz::node),
    ("request", strake_kubelet::fuzz::request),
    ("rules", strake_agent::fuzz::rules),
];

/// One object of the API as a change of the snapshot; None if it is of no kind that is followed, or not of its form.
fn change(object: &Value) -> Option<Change> {
    fn kept<K: DeserializeOwned + Extract>(object: &Value) -> Option<Option<Arc<K::Kept>>> {
        Some(serde_json::from_value::<K>(object.clone()).ok()?.extract().map(Arc::new))
    }
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or("default").to_owned();
    let name = ObjectName::new(text("namespace"), text("name"));
    Some(match object["kind"].as_str()? {
        "Service" => Change::Service(name, kept::<core::Service>(object)?),
        "EndpointSlice" => Change::Slice(name, kept::<discovery::EndpointSlice>(object)?),
        "Node" => Change::Node(name.name, kept::<core::Node>(object)?),
        "Pod" => Change::Pod(name, kept::<core::Pod>(object)?),
        "Namespace" => Change::Namespace(name.name, kept::<core::Namespace>(object)?),
        "RuntimeClass" => Change::RuntimeClass(name.name, kept::<node::RuntimeClass>(object)?),
        _ => return None,
    })
}

fn world(changes: impl IntoIterator<Item = Change>) -> World {
    let mut cache = Cache::new("n1");
    let changes = Kind::ALL.map(Change::Init).into_iter().chain(changes).chain(Kind::ALL.map(Change::InitDone));
    for change in changes {
        cache.apply(change);
    }
    cache.snapshot()
}

/// Whatever anybody may write to the API leads to a state that keeps the invariants (but for room), or one Service could
/// keep all others from being programmed; and from any of them there is a way to any other.
fn objects(bytes: &[u8]) {
    let Ok(Value::Array(list)) = serde_json::from_slice(bytes) else { return };
    let changes: Vec<Change> = list.iter().take(64).filter_map(change).collect();
    let (all, half) = (world(changes.clone()), world(changes.iter().step_by(2).cloned()));
    let (config, sizes) = (Config::new("n1", "/cgroup", "/pins"), MapSizes::default());
    let mut installed = Installed::empty(&sizes);
    for world in [&half, &all, &half] {
        let desired = compile(world, &config, Runtime::default());
        if let Err(violations) = check(&desired, &sizes) {
            assert!(violations.iter().all(|v| matches!(v, Violation::TooMany { .. })), "{violations:?}");
            continue;
        }
        let (plan, after) = diff(&installed, &desired).expect("a plan");
        installed = after;
        installed.retire(&plan, Instant::now());
        installed.reclaim_all();
        let (again, _) = diff(&installed, &desired).expect("a plan");
        assert_eq!(again.writes(), 0, "the same again is nothing");
    }
    let mut enricher = Enricher::default();
    [half, all].into_iter().for_each(|world| enricher.refresh(&Arc::new(world)));
}

/// A small cluster whose names are asked for.
static CLUSTER: LazyLock<World> = LazyLock::new(|| {
    let objects = serde_json::json!([
        {"kind": "Namespace", "metadata": {"name": "default"}},
        {"kind": "Service", "metadata": {"name": "web", "namespace": "default"},
         "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]}},
        {"kind": "Service", "metadata": {"name": "db", "namespace": "default"},
         "spec": {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}},
        {"kind": "Service", "metadata": {"name": "out", "namespace": "default"},
         "spec": {"type": "ExternalName", "externalName": "example.com"}},
        {"kind": "EndpointSlice", "metadata": {"name": "db-1", "namespace": "default",
         "labels": {"kubernetes.io/service-name": "db"}}, "addressType": "IPv4",
         "ports": [{"name": "sql", "port": 5432}], "endpoints": [{"addresses": ["10.244.0.5"], "hostname": "a"}]},
    ]);
    world(objects.as_array().into_iter().flatten().filter_map(change))
});

/// What a Pod may send to the cluster's DNS.
fn dns(bytes: &[u8]) {
    strake_dns::fuzz::message(bytes, &CLUSTER);
}

/// Records of the ring buffer.
fn event(bytes: &[u8]) {
    let mut enricher = Enricher::default();
    enricher.refresh(&Arc::new(CLUSTER.clone()));
    let size = size_of::<FlowEvent>();
    assert!(bytes.len() == size || FlowEvent::from_bytes(bytes).is_none());
    let mut padded = bytes.to_vec();
    padded.resize(size.max(bytes.len().next_multiple_of(size)), 0);
    for record in padded.chunks_exact(size).take(8) {
        let event = FlowEvent::from_bytes(record).expect("a whole one");
        let flow = enricher.flow(&event, u64::MAX, None);
        assert!(!flow.hook.is_empty() && flow.source.is_some() && flow.destination.is_some());
    }
}
