//! What the maps hold, as an engineer lists it.

use std::ops::ControlFlow;

use serde_json::json;
use strake_datapath::{BackendRow, Condition, Datapath, FrontendRow};
use strake_state::ObjectName;

use crate::{VIP, alone, lab};

fn backends(datapath: &Datapath, service: Option<&str>) -> Vec<BackendRow> {
    let service = service.map(|name| ObjectName::new("default", name));
    datapath.view().unwrap().backends(service.as_ref()).unwrap()
}

fn frontends(datapath: &Datapath) -> Vec<FrontendRow> {
    let mut rows = Vec::new();
    let each = |row| {
        rows.push(row);
        ControlFlow::Continue(())
    };
    datapath.view().unwrap().frontends(each).unwrap();
    rows
}

#[test]
fn a_backend_is_listed_once_with_its_condition_and_the_services_that_lead_to_it() {
    let _alone = alone();
    let mut lab = lab();
    let (web, leaving) = (lab.pod("web"), lab.pod("leaving"));
    let far = std::net::Ipv4Addr::new(10, 244, 7, 9);
    lab.service("web", VIP, "TCP", 80, json!({}), &[(web.ip, 8080), (far, 8080)]);
    lab.service("also", "10.96.0.8", "TCP", 81, json!({}), &[(web.ip, 8080)]);
    lab.service("log", "10.96.0.9", "UDP", 514, json!({}), &[]);
    let slice = |name: &str, protocol: &str, endpoints: serde_json::Value| {
        json!({
            "kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "", "protocol": protocol, "port": 5514}], "endpoints": endpoints,
        })
    };
    let going = json!({"ready": false, "serving": true, "terminating": true});
    let terminating = json!({"addresses": [leaving.ip], "nodeName": "n1", "conditions": going});
    lab.put(slice("log", "UDP", json!([{"addresses": [web.ip], "nodeName": "n1"}, terminating])));
    lab.service("last", "10.96.0.11", "TCP", 90, json!({}), &[]);
    lab.put(slice("last", "TCP", json!([terminating])));
    lab.host_port(&web, 9090, 9999);
    let datapath = lab.start();

    let all = backends(&datapath, None);
    let row = |address: String, protocol: &str| {
        let mut found = all.iter().filter(|row| row.address.to_string() == address && row.protocol == protocol);
        let row = found.next().unwrap_or_else(|| panic!("no {address}/{protocol} among {all:#?}"));
        assert!(found.next().is_none(), "{address} is listed twice: {all:#?}");
        row
    };
    let services = |row: &BackendRow| row.services.iter().cloned().collect::<Vec<_>>();
    let shared = row(format!("{}:8080", web.ip), "TCP");
    assert_eq!(services(shared), ["default/also:81", "default/web:80"]);
    assert_eq!((shared.condition, shared.local, shared.host), (Condition::Ready, true, false));
    assert_eq!((shared.who.pod.as_deref(), shared.who.node.as_deref()), (Some("default/web"), Some("n1")));
    assert_eq!(row(format!("{}:5514", leaving.ip), "UDP").condition, Condition::Lingering);
    assert_eq!(row(format!("{}:5514", leaving.ip), "TCP").condition, Condition::Terminating);
    assert_eq!(row(format!("{}:5514", web.ip), "UDP").condition, Condition::Ready);
    assert_eq!(services(row(format!("{}:9090", web.ip), "TCP")), ["default/web:9090 (hostPort)"]);
    let of_web = backends(&datapath, Some("web"));
    assert_eq!(of_web.len(), 2);
    assert!(of_web.iter().any(|row| services(row) == ["default/also:81", "default/web:80"]), "{of_web:#?}");

    // The maps say so, not the snapshot: a row that somebody took away is missing, and said to be.
    let path = strake_datapath::maps_folder(&lab.config().bpf_root).join(strake_abi::service::SERVICES);
    let map = aya::maps::Map::from_map_data(aya::maps::MapData::from_pin(path).unwrap()).unwrap();
    let mut map: aya::maps::HashMap<_, strake_abi::service::ServiceKey, strake_abi::service::Service> =
        map.try_into().unwrap();
    let vip: std::net::Ipv4Addr = VIP.parse().unwrap();
    let key = strake_abi::service::ServiceKey {
        addr: vip.into(),
        port: strake_abi::Port::new(80),
        proto: 6,
        scope: strake_abi::service::SCOPE_INTERNAL,
    };
    map.remove(&key).unwrap();
    assert_eq!(backends(&datapath, Some("web")), []);
    assert!(backends(&datapath, None).iter().all(|row| !services(row).contains(&"default/web:80".to_owned())));
    let rows = frontends(&datapath);
    let missing = rows.iter().find(|row| row.name == "web" && row.kind == "ClusterIP").unwrap();
    assert!(missing.outcome.contains("not programmed") && missing.id == 0, "{missing:?}");
}

#[test]
fn a_frontend_tells_its_kind_policy_affinity_and_how_many_of_its_endpoints_are_ready() {
    let _alone = alone();
    let mut lab = lab();
    let web = lab.pod("web");
    let far = std::net::Ipv4Addr::new(10, 244, 7, 9);
    let extra = json!({
        "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}], "externalIPs": ["192.0.2.77"],
        "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
    });
    lab.service("web", VIP, "TCP", 80, extra, &[]);
    lab.put(json!({
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": [
            {"addresses": [web.ip], "nodeName": "n1"}, {"addresses": [far], "nodeName": "n2"},
            {"addresses": ["10.244.7.10"], "nodeName": "n2", "conditions": {"ready": false}},
        ],
    }));
    let datapath = lab.start();
    let rows = frontends(&datapath);
    let row = |frontend: &str| {
        rows.iter().find(|row| row.frontend == frontend).unwrap_or_else(|| panic!("no {frontend} among {rows:#?}"))
    };
    let cluster = row("10.96.0.7:80/TCP internal");
    assert_eq!((cluster.kind, cluster.policy, cluster.ready, cluster.total), ("ClusterIP", "Cluster", 2, 3));
    assert_eq!((cluster.affinity_seconds, cluster.service_type.as_deref()), (600, Some("NodePort")));
    let outside = row("0.0.0.0:30080/TCP external");
    assert_eq!((outside.kind, outside.policy, outside.ready, outside.total), ("NodePort", "Local", 1, 3));
    assert_ne!(outside.id, cluster.id, "another set of backends");
    let inside = row("0.0.0.0:30080/TCP internal");
    assert_eq!((inside.kind, inside.policy, inside.id), ("NodePort", "Cluster", cluster.id));
    assert_eq!(row("192.0.2.77:80/TCP external").kind, "ExternalIP");
    assert_eq!(cluster.addresses.node_ports, [30080]);
}
