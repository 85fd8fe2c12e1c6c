//! A cluster of both families: what nodes, Pods and Services are given, and that packets of IPv6 go where IPv4's do.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use serde_json::Value;
use strake_tests::cluster::Cluster;
use strake_tests::command::eventually;

const PODS: &str = "10.244.0.0/16,fd00:10:244::/56";
const SERVICES: &str = "10.96.0.0/16,fd00:10:96::/112";

/// Three servers of both families on two nodes, a client that the socket hooks serve and one that packets serve.
const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: strake.io/demo:1
        args: [web, --six]
        ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec:
  clusterIP: None
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: client
    image: strake.io/demo:1
    args: [sleep]
    env:
    - {name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: HOST_IPS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: opted-out
  annotations: {strake.io/socket-lb: disabled}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: client, image: "strake.io/demo:1", args: [sleep]}
"#;

fn words(cluster: &Cluster, args: &[&str], path: &str) -> Vec<String> {
    let path = format!("jsonpath={path}");
    let out = cluster.kubectl(&[&["get"], args, &["-o", path.as_str()]].concat());
    out.text().split_whitespace().map(str::to_owned).collect()
}

fn six(addresses: &[String]) -> Ipv6Addr {
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    assert!(addresses[0].parse::<IpAddr>().unwrap().is_ipv4(), "{addresses:?}");
    addresses[1].parse().unwrap()
}

/// Who answered, and how many there were.
fn answered_by(cluster: &Cluster, pod: &str, url: &str) -> Vec<String> {
    let out = cluster.demo(pod, &["call", url, "-n", "30"]);
    let counts = out.text().lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect::<Vec<_>>();
    let sum: u64 = counts.iter().map(|words| words[0].parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 30, "{pod} calling {url}: {out}");
    counts.into_iter().map(|words| words[1].to_owned()).collect()
}

#[test]
fn pods_and_services_have_an_address_of_each_family_and_packets_reach_both() {
    let flags = ["--cluster-cidr", PODS, "--service-cidr", SERVICES];
    let cluster = Cluster::start_nodes("dual", 2, &[], &flags);
    cluster.load_demo();

    // Nodes: an address and a Pod CIDR of each family.
    for room in cluster.rooms() {
        let of = |path: &str| words(&cluster, &["node", &room.name], path);
        let internal = of(r#"{.status.addresses[?(@.type=="InternalIP")].address}"#);
        assert_eq!(internal, [room.ip.to_string(), room.ip6.to_string()]);
        let cidrs = of("{.spec.podCIDRs[*]}");
        assert!(cidrs[0].starts_with("10.244.") && cidrs[0].ends_with(".0/24"), "{cidrs:?}");
        assert!(cidrs[1].starts_with("fd00:10:244:") && cidrs[1].ends_with("::/64"), "{cidrs:?}");
    }

    cluster.apply(WEB).text();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).text();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/client", "pod/opted-out", "--timeout=60s"]).text();

    // Pods: an address of each, from their node's ranges, told to themselves too.
    let client = words(&cluster, &["pod", "client"], "{.status.podIPs[*].ip}");
    six(&client);
    let env = cluster.demo("client", &["env"]);
    let told = |line: String| assert!(env.text().lines().any(|told| told == line), "{line} is not in {env}");
    told(format!("POD_IPS={}", client.join(",")));
    let node = words(&cluster, &["pod", "client"], "{.spec.nodeName}")[0].clone();
    let room = cluster.rooms().iter().find(|room| room.name == node).unwrap();
    told(format!("HOST_IPS={},{}", room.ip, room.ip6));
    let hosts = cluster.demo("client", &["read", "/etc/hosts"]);
    assert!(client.iter().all(|ip| hosts.text().contains(&format!("{ip}\tclient"))), "{hosts}");

    // Pod to Pod: on the client's own node and on the other, by sockets' and by packets' path, and the server sees whom.
    let list = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "json"]);
    let list: Value = serde_json::from_str(list.text()).unwrap();
    let mut nodes = BTreeSet::new();
    let (mut all4, mut all6) = (BTreeSet::new(), BTreeSet::new());
    for pod in list["items"].as_array().unwrap() {
        let ips: Vec<String> = pod["status"]["podIPs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| ip["ip"].as_str().unwrap().to_owned())
            .collect();
        nodes.insert(pod["spec"]["nodeName"].as_str().unwrap().to_owned());
        let name = pod["metadata"]["name"].as_str().unwrap();
        let url = format!("http://[{}]:8080/", six(&ips));
        all4.insert(ips[0].clone());
        all6.insert(ips[1].clone());
        for from in ["client", "opted-out"] {
            assert_eq!(answered_by(&cluster, from, &url), [name]);
        }
        let seen = answered_by(&cluster, "client", &format!("{url}client-ip"));
        assert_eq!(seen, [client[1].clone()], "the server sees the Pod's own address");
    }
    assert_eq!(nodes.len(), 2, "one node would show half of it");

    // The Service: both VIPs, by both paths, and by name.
    let vips = words(&cluster, &["service", "web"], "{.spec.clusterIPs[*]}");
    let vip6 = six(&vips);
    assert!(vip6.to_string().starts_with("fd00:10:96::"), "{vip6}");
    eventually("there is a slice of each address type", || {
        let mut types =
            words(&cluster, &["endpointslices", "-l", "kubernetes.io/service-name=web"], "{.items[*].addressType}");
        types.sort();
        if types == ["IPv4", "IPv6"] { Ok(()) } else { Err(format!("{types:?}")) }
    });
    for from in ["client", "opted-out"] {
        for url in [format!("http://{}/", vips[0]), format!("http://[{vip6}]/"), "http://web/".to_owned()] {
            assert_eq!(answered_by(&cluster, from, &url).len(), 3, "{from} calling {url}");
        }
        let named = cluster.demo(from, &["resolve6", "web.default.svc.cluster.local"]);
        assert_eq!(named.text(), vip6.to_string(), "{named}");
    }

    // A name without an address of its own is its Pods', of each family.
    let resolved = |command: &str| {
        let out = cluster.demo("client", &[command, "each.default.svc.cluster.local"]);
        out.text().lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    assert_eq!((resolved("resolve"), resolved("resolve6")), (all4, all6));

    // One family given up: its VIP is nobody's any more, the other goes on.
    cluster.kubectl(&["patch", "service", "web", "-p", r#"{"spec":{"ipFamilyPolicy":"SingleStack"}}"#]).text();
    assert_eq!(words(&cluster, &["service", "web"], "{.spec.clusterIPs[*]}"), [vips[0].clone()]);
    eventually("the second VIP is refused", || {
        let out = cluster.demo("client", &["call", &format!("http://[{vip6}]/"), "-n", "1"]);
        if out.to_string().contains("connecting to") { Ok(()) } else { Err(out.to_string()) }
    });
    assert_eq!(answered_by(&cluster, "client", "http://web/").len(), 3);
}

#[test]
fn a_running_cluster_gains_a_family() {
    let mut cluster = Cluster::start("grow", 2);
    cluster.load_demo();
    let preferred = WEB.replace("RequireDualStack", "PreferDualStack");
    cluster.apply(&preferred).text();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).text();
    let vip = words(&cluster, &["service", "web"], "{.spec.clusterIPs[*]}");
    assert_eq!(vip.len(), 1, "{vip:?}");

    // The server first; then a node at a time, whose Pod CIDRs would never change, by deleting it.
    let rooms = cluster.rooms().to_vec();
    cluster.use_node_flags(&["--cluster-cidr", PODS, "--service-cidr", SERVICES]);
    cluster.stop(&rooms[0]);
    cluster.start_server();
    cluster.strake(&["status", "--wait", "--timeout", "90", "--nodes", "2"]).text();
    cluster.stop(&rooms[1]);
    cluster.kubectl(&["delete", "node", "node2"]).text();
    cluster.start_agent(&rooms[1]);
    cluster.strake(&["status", "--wait", "--timeout", "90", "--nodes", "2"]).text();
    let cidrs = |node: &str| words(&cluster, &["node", node], "{.spec.podCIDRs[*]}").len();
    assert_eq!((cidrs("node1"), cidrs("node2")), (1, 2));

    // A Service that has not been told to stays as it was.
    let spec = r#"{"spec":{"ipFamilyPolicy":"RequireDualStack"}}"#;
    assert_eq!(words(&cluster, &["service", "web"], "{.spec.clusterIPs[*]}"), vip);
    cluster.kubectl(&["patch", "service", "web", "-p", spec]).text();
    let both = words(&cluster, &["service", "web"], "{.spec.clusterIPs[*]}");
    let (vip6, first) = (six(&both), &both[0]);
    assert_eq!(*first, vip[0]);

    // Of its Pods, those of the node that joined anew have both, and answer the new address; all answer the old one.
    cluster.kubectl(&["rollout", "restart", "deployment/web"]).text();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).text();
    let client = WEB.split("---").find(|part| part.contains("name: client}")).unwrap();
    cluster.kubectl(&["delete", "pod", "client", "--ignore-not-found"]).text();
    cluster.apply(&client.replace("spec:\n", "spec:\n  nodeName: node2\n")).text();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"]).text();
    eventually("only the Pods of both families answer at the second address", || {
        let out = cluster.demo("client", &["call", &format!("http://[{vip6}]/"), "-n", "30"]);
        let names: BTreeSet<&str> = out.stdout.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        let list = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "json"]);
        let list: Value = serde_json::from_str(list.text()).unwrap();
        let living =
            list["items"].as_array().unwrap().iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let both = living.filter(|pod| pod["status"]["podIPs"].as_array().is_some_and(|ips| ips.len() == 2));
        let both: BTreeSet<(&str, &str)> = both
            .map(|pod| (pod["metadata"]["name"].as_str().unwrap(), pod["spec"]["nodeName"].as_str().unwrap()))
            .collect();
        let right = out.ok() && !both.is_empty() && both.iter().all(|(_, node)| *node == "node2");
        if right && both.iter().map(|(name, _)| *name).eq(names.iter().copied()) {
            return Ok(());
        }
        Err(format!("{names:?}, not {both:?}\n{out}"))
    });
    assert_eq!(answered_by(&cluster, "client", "http://web/").len(), 3);
}
