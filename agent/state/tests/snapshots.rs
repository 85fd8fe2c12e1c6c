//! What a snapshot shows while lists and watches come in.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of a test may panic as the tests do")]

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde_json::json;
use strake_state::{
    Cache, Change, Extract, Kind, ObjectName, OptOut, Protocol, Sandboxes, ServiceType, SessionAffinity, SourceState,
    TrafficPolicy,
};

fn service(value: serde_json::Value) -> Option<strake_state::Service> {
    serde_json::from_value::<core::Service>(value).unwrap().extract()
}

fn slice(value: serde_json::Value) -> Option<strake_state::EndpointSlice> {
    serde_json::from_value::<discovery::EndpointSlice>(value).unwrap().extract()
}

fn plain(name: &str) -> Change {
    let kept = service(json!({
        "metadata": {"namespace": "a", "name": name},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
    }));
    Change::Service(ObjectName::new("a", name), kept.map(Arc::new))
}

fn complete(cache: &mut Cache, kinds: &[Kind]) {
    for kind in kinds {
        cache.apply(Change::Init(*kind));
        cache.apply(Change::InitDone(*kind));
    }
}

#[test]
fn a_service_keeps_every_field_the_datapath_needs() {
    let kept = service(json!({
        "metadata": {"namespace": "a", "name": "web"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4", "fd00::4"],
            "externalIPs": ["192.0.2.7"], "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "healthCheckNodePort": 31000,
            "ports": [{"name": "dns", "protocol": "UDP", "port": 53, "nodePort": 30053}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}]}},
    }))
    .unwrap();
    assert_eq!(kept.service_type, ServiceType::LoadBalancer);
    assert_eq!(kept.cluster_ips.len(), 2);
    assert_eq!(kept.load_balancer_ips, ["203.0.113.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(kept.load_balancer_source_ranges, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(kept.affinity, SessionAffinity::ClientIp { timeout: 60 });
    assert_eq!(kept.external_policy, TrafficPolicy::Local);
    assert_eq!((kept.ports[0].protocol, kept.ports[0].node_port), (Protocol::Udp, 30053));
}

#[test]
fn source_ranges_are_read_as_kube_proxy_reads_them() {
    let kept = service(json!({
        "metadata": {"namespace": "a", "name": "web"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.3.4", "loadBalancerSourceRanges": [
            " 192.0.2.0/24 ", "192.0.2.77/24", "010.000.0.0/08", "2001:db8::1/32", "", "  ",
            "192.0.2.1", "192.0.2.0/33", "192.0.2.0/+8", "192.0.2/24", "everybody", "192.0.2.0/",
        ]},
    }))
    .unwrap();
    let shown: Vec<String> = kept.load_balancer_source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["192.0.2.0/24", "192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32"]);
    let wrong = ["192.0.2.1", "192.0.2.0/33", "192.0.2.0/+8", "192.0.2/24", "everybody", "192.0.2.0/"];
    assert_eq!(kept.invalid_source_ranges, wrong.map(Arc::from));
}

#[test]
fn absent_endpoint_conditions_mean_ready_and_serving() {
    let kept = slice(json!({
        "metadata": {"namespace": "a", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080}],
        "endpoints": [
            {"addresses": ["10.0.0.1"]},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        ],
    }))
    .unwrap();
    let flags: Vec<_> = kept.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
    assert_eq!(flags, [(true, true, false), (false, false, false), (false, true, true)]);
}

#[test]
fn a_slice_of_no_service_or_of_names_is_left_out() {
    let bare = json!({"metadata": {"namespace": "a", "name": "x"}, "addressType": "IPv4", "endpoints": []});
    assert!(slice(bare).is_none());
    let names = json!({
        "metadata": {"namespace": "a", "name": "x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "FQDN", "endpoints": [],
    });
    assert!(slice(names).is_none());
}

#[test]
fn nothing_is_synced_before_every_required_kind_was_listed() {
    let mut cache = Cache::new("n1");
    complete(&mut cache, &[Kind::Service, Kind::EndpointSlice, Kind::Pod, Kind::Namespace, Kind::RuntimeClass]);
    assert!(!cache.snapshot().synced);
    complete(&mut cache, &[Kind::Node]);
    assert!(cache.snapshot().synced);
}

#[test]
fn a_denied_optional_kind_degrades_but_does_not_hold_up_the_sync() {
    let mut cache = Cache::new("n1");
    complete(&mut cache, &[Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::Namespace, Kind::RuntimeClass]);
    assert!(!cache.snapshot().synced);
    let denied = SourceState::Denied { message: "pods is forbidden".into() };
    cache.apply(Change::Trouble(Kind::Pod, denied.clone()));
    let world = cache.snapshot();
    assert!(world.synced);
    assert!(world.sources.iter().any(|source| source.kind == Kind::Pod && source.state == denied));
    // A required kind that is denied does hold it up.
    let mut cache = Cache::new("n1");
    complete(&mut cache, &[Kind::Service, Kind::Node, Kind::Namespace, Kind::Pod, Kind::RuntimeClass]);
    cache.apply(Change::Trouble(Kind::EndpointSlice, denied));
    assert!(!cache.snapshot().synced);
}

#[test]
fn a_relist_replaces_a_kind_in_one_step() {
    let mut cache = Cache::new("n1");
    cache.apply(Change::Init(Kind::Service));
    cache.apply(plain("old"));
    cache.apply(Change::InitDone(Kind::Service));
    cache.apply(Change::Init(Kind::Service));
    cache.apply(plain("new"));
    let halfway = cache.snapshot();
    assert!(halfway.services.keys().map(|name| &*name.name).eq(["old"]));
    cache.apply(Change::InitDone(Kind::Service));
    assert!(cache.snapshot().services.keys().map(|name| &*name.name).eq(["new"]));
    assert!(halfway.services.keys().map(|name| &*name.name).eq(["old"]), "a snapshot never changes");
}

#[test]
fn slices_follow_their_service_label() {
    let mut cache = Cache::new("n1");
    complete(&mut cache, &Kind::ALL);
    let of = |service: &str| {
        slice(json!({
            "metadata": {"namespace": "a", "name": "s1", "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [],
        }))
        .map(Arc::new)
    };
    let key = ObjectName::new("a", "s1");
    cache.apply(Change::Slice(key.clone(), of("one")));
    cache.apply(Change::Slice(key.clone(), of("two")));
    let world = cache.snapshot();
    assert_eq!(world.slices_of(&ObjectName::new("a", "one")).count(), 0);
    assert_eq!(world.slices_of(&ObjectName::new("a", "two")).count(), 1);
    cache.apply(Change::Slice(key, None));
    assert!(cache.snapshot().slices.is_empty());
}

#[test]
fn an_unchanged_object_makes_no_new_snapshot() {
    let mut cache = Cache::new("n1");
    complete(&mut cache, &Kind::ALL);
    assert!(cache.apply(plain("web")));
    assert!(!cache.apply(plain("web")));
}

#[test]
fn a_pod_of_a_sandboxed_runtime_is_opted_out_by_the_handler_of_its_class() {
    let mut cache = Cache::new("n1");
    complete(&mut cache, &Kind::ALL);
    let name = |name: &str| ObjectName::new("a", name);
    let pod = |of: &str, class: Option<&str>| {
        let object = json!({
            "metadata": {"namespace": "a", "name": of}, "spec": {"runtimeClassName": class, "containers": []},
        });
        Change::Pod(name(of), serde_json::from_value::<core::Pod>(object).unwrap().extract().map(Arc::new))
    };
    let class = |of: &str, handler: &str| {
        let object = json!({"metadata": {"name": of}, "handler": handler});
        let class: k8s_openapi::api::node::v1::RuntimeClass = serde_json::from_value(object).unwrap();
        Change::RuntimeClass(of.into(), class.extract().map(Arc::new))
    };
    for change in [pod("safe", Some("safe")), pod("fast", Some("fast")), pod("plain", None), pod("kata", Some("kata"))]
    {
        cache.apply(change);
    }
    let sandboxes = Sandboxes::default();
    let opted_out = |cache: &mut Cache, of: &str| cache.snapshot().socket_opt_out(&name(of), &sandboxes);
    assert_eq!(opted_out(&mut cache, "safe"), None, "its class is not known, and its name says nothing");
    cache.apply(class("safe", "runsc"));
    cache.apply(class("fast", "crun"));
    let runtime = |class: &str, handler: &str| Some(OptOut::Runtime { class: class.into(), handler: handler.into() });
    assert_eq!(opted_out(&mut cache, "safe"), runtime("safe", "runsc"));
    assert_eq!(opted_out(&mut cache, "fast"), None);
    assert_eq!(opted_out(&mut cache, "plain"), None);
    assert_eq!(opted_out(&mut cache, "kata"), runtime("kata", "kata"), "a class that may not be read");
    cache.apply(class("kata", "runc"));
    assert_eq!(opted_out(&mut cache, "kata"), None, "the handler counts, not the name");
    assert_eq!(cache.snapshot().socket_opt_out(&name("safe"), &Sandboxes::new([""])), None);
}
