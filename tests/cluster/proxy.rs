//! The Service proxy alone, with kube-proxy's rights, on nodes whose Services nobody else of ours answers.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use strake_rig::{Room, process};
use strake_tests::cluster::{Cluster, deploy_web, kubectl, strake};
use strake_tests::command::{Outcome, eventually, run, run_with};
use strake_tests::peers::{self, PeerService};

use crate::services::NODE_PORT;
use crate::trouble::{nothing_failed, start_load};

/// One long connection through the NodePort and short ones beside it, from outside, for some seconds; counts the short
/// ones that were answered. Panics when one was not, or when the long one paused or ended.
fn outside(node: Ipv4Addr, seconds: u64, answered: Arc<AtomicUsize>) -> JoinHandle<()> {
    let ask = move |path: &str| {
        let mut stream = TcpStream::connect_timeout(&(node, 30080).into(), Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
        Ok::<_, std::io::Error>(stream)
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut long = ask("/stream").unwrap();
    std::thread::spawn(move || {
        let watch = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while Instant::now() < until {
                let read = long.read(&mut buffer).expect("the long connection from outside");
                assert!(read > 0, "the long connection from outside was closed");
            }
        });
        while Instant::now() < until {
            let mut answer = String::new();
            ask("/").and_then(|mut stream| stream.read_to_string(&mut answer)).expect("a connection from outside");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            answered.fetch_add(1, Relaxed);
            std::thread::sleep(Duration::from_millis(20));
        }
        watch.join().unwrap();
    })
}

/// Connections stream through the rules of kube-proxy in a mode, ours takes over, the rules are removed.
fn take_over(cluster: &Cluster, load: &[&str], rules: impl Fn(&PeerService, Ipv4Addr) -> String) -> Outcome {
    let room = cluster.server();
    deploy_web(cluster);
    cluster.apply(NODE_PORT).text();
    cluster.apply(SERVICES).text();
    nobody_answers(cluster);
    let pods = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}"]);
    let backends = pods.text().split(' ').map(|ip| (ip.parse().unwrap(), 8080)).collect();
    let vip = vip(cluster, "web").parse().unwrap();
    let service = PeerService { name: "web".into(), vip, port: 80, node_port: Some(30080), backends };
    let mut feed = room.command(load[0]);
    feed.args(&load[1..]);
    run_with(feed, &rules(&service, room.ip)).text();

    start_load(cluster, &vip.to_string(), 20);
    let answered = Arc::new(AtomicUsize::new(0));
    let outside = outside(room.ip, 15, Arc::clone(&answered));
    let some_more = |when: &str| {
        let enough = answered.load(Relaxed) + 40;
        eventually(&format!("connections from outside {when}"), || match answered.load(Relaxed) {
            now if now < enough => Err(format!("{now} answered")),
            _ => Ok(()),
        });
    };
    some_more("by kube-proxy's rules alone");
    let proxy = Proxy::start(cluster, room);
    proxy.healthy();
    some_more("with both in place");
    let mut cleanup = room.command(&strake().display().to_string());
    cleanup.args(["agent", "cleanup", "--kube-proxy"]);
    let removed = run(cleanup);
    removed.text();
    some_more("without the rules");
    outside.join().unwrap();
    nothing_failed(cluster);
    // Again: there is nothing.
    let mut cleanup = room.command(&strake().display().to_string());
    cleanup.args(["agent", "cleanup", "--kube-proxy"]);
    assert_eq!(run(cleanup).text(), "nothing to remove");
    removed
}

/// A command's output in the node's room.
fn in_room(cluster: &Cluster, words: &[&str]) -> Outcome {
    let mut command = cluster.server().command(words[0]);
    command.args(&words[1..]);
    run(command)
}

#[test]
fn connections_live_through_taking_over_from_kube_proxys_nftables() {
    let cluster = Cluster::start_nodes("overnft", 1, &[], &["--components", "kubelet,network,dns"]);
    let removed =
        take_over(&cluster, &["nft", "-f", "-"], |service, node| peers::nftables(std::slice::from_ref(service), node));
    assert!(removed.text().contains("removed nftables table ip kube-proxy"), "{removed}");
    let tables = in_room(&cluster, &["nft", "list", "tables"]);
    assert!(!tables.text().contains("kube-proxy") && tables.text().contains("strake-keep-nat"), "{tables}");
    let root = bpf_root(cluster.server());
    let strake = strake().display().to_string();
    let ours = in_room(&cluster, &[&strake, "agent", "cleanup", "--uplink", "eth0", "--bpf-root", &root]);
    assert!(ours.text().contains("strake-keep-nat"), "{ours}");
    assert!(!in_room(&cluster, &["nft", "list", "tables"]).text().contains("strake"), "the NAT chain is left");
}

#[test]
fn connections_live_through_taking_over_from_kube_proxys_iptables() {
    let cluster = Cluster::start_nodes("oveript", 1, &[], &["--components", "kubelet,network,dns"]);
    let removed =
        take_over(&cluster, &["iptables-restore"], |service, _| peers::iptables(std::slice::from_ref(service)));
    assert!(removed.text().contains("chains"), "{removed}");
    let left = in_room(&cluster, &["iptables-save"]);
    assert!(left.text().contains("-A INPUT -j KUBE-FIREWALL"), "the kubelet's own rule is gone: {left}");
    for gone in ["KUBE-SERVICES", "KUBE-SVC", "KUBE-SEP", "KUBE-EXT", "KUBE-NODEPORTS"] {
        assert!(!left.text().contains(gone), "{gone} is left: {left}");
    }
}

/// What kube-proxy's manifests give it.
const RIGHTS: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: proxy, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: proxy}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:node-proxier'}
subjects: [{kind: ServiceAccount, name: proxy, namespace: kube-system}]
";

/// Beside [`NODE_PORT`].
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web-other, labels: {service.kubernetes.io/service-proxy-name: somebody-else}}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: web-lb}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
";

/// A proxy on its own in a node's room.
struct Proxy<'a> {
    cluster: &'a Cluster,
    room: &'a Room,
    process: process::Id,
}

impl<'a> Proxy<'a> {
    fn start(cluster: &'a Cluster, room: &'a Room) -> Self {
        Self::start_with(cluster, room, &kubeconfig(cluster), room.ip.into())
    }

    fn start_with(cluster: &'a Cluster, room: &'a Room, kubeconfig: &Path, node_ip: IpAddr) -> Self {
        Self::start_and(cluster, room, kubeconfig, node_ip, &[])
    }

    fn start_and(
        cluster: &'a Cluster,
        room: &'a Room,
        kubeconfig: &Path,
        node_ip: IpAddr,
        more: &[(&'static str, &str)],
    ) -> Self {
        let args = [
            ("components", "proxy".to_owned()),
            ("kubeconfig", kubeconfig.display().to_string()),
            ("node-name", room.name.clone()),
            ("node-ip", node_ip.to_string()),
            ("uplink", "eth0".into()),
            ("cgroup-root", room.cgroup_root.display().to_string()),
            ("bpf-root", bpf_root(room)),
            ("data-dir", data_dir(room).display().to_string()),
        ];
        let more = more.iter().map(|(flag, value)| (*flag, (*value).to_owned()));
        let mut words = vec!["agent".to_owned()];
        words.extend(args.into_iter().chain(more).map(|(flag, value)| format!("--{flag}={value}")));
        let process = room.spawn(&strake().display().to_string(), &words, &log(room)).unwrap();
        Self { cluster, room, process }
    }

    /// Waits until it answers that it is healthy; returns the answer.
    fn healthy(&self) -> Value {
        let url = format!("http://{}:10256/healthz", self.room.ip);
        let answer = eventually("the proxy is healthy", || {
            let (code, body) = get(Command::new("curl"), &url);
            if code == "200" { Ok(body) } else { Err(format!("{code} {body}\n{}", self.log())) }
        });
        serde_json::from_str(&answer).unwrap()
    }

    fn metrics(&self) -> String {
        let (code, body) = get(self.room.command("curl"), "http://127.0.0.1:10249/metrics");
        assert_eq!(code, "200", "{body}");
        body
    }

    fn stop(&self) {
        self.cluster.signal(self.process.pid, "TERM");
        eventually("the proxy has ended", || if self.process.alive() { Err(self.log()) } else { Ok(()) });
    }

    fn log(&self) -> String {
        fs::read_to_string(log(self.room)).unwrap_or_default()
    }
}

fn bpf_root(room: &Room) -> String {
    room.bpf_root.join("proxy").display().to_string()
}

fn data_dir(room: &Room) -> PathBuf {
    room.dir.join("proxy-data")
}

fn log(room: &Room) -> PathBuf {
    room.dir.join("proxy.log")
}

/// The admin's kubeconfig, with the token of an account that has kube-proxy's rights alone.
fn kubeconfig(cluster: &Cluster) -> PathBuf {
    kubeconfig_with(cluster, |_| {})
}

fn kubeconfig_with(cluster: &Cluster, edit: impl FnOnce(&mut Value)) -> PathBuf {
    cluster.apply(RIGHTS).text();
    let token = cluster.kubectl(&["create", "token", "proxy", "--namespace", "kube-system"]).text().to_owned();
    let admin = cluster.kubectl(&["config", "view", "--raw", "--flatten", "-o", "json"]);
    let mut config: Value = serde_json::from_str(admin.text()).unwrap();
    config["users"][0]["user"] = json!({"token": token});
    edit(&mut config["clusters"][0]["cluster"]);
    let path = cluster.data_dir().join("proxy.kubeconfig");
    fs::write(&path, config.to_string()).unwrap();
    path
}

/// Status code and body. Connections that cannot be made have code 000.
fn get(mut curl: Command, url: &str) -> (String, String) {
    curl.args(["-sS", "--max-time", "5", "-w", "\n%{http_code}", url]);
    let said = run(curl);
    let (body, code) = said.stdout.rsplit_once('\n').unwrap_or_default();
    (code.to_owned(), format!("{body}{}", said.stderr))
}

fn vip(cluster: &Cluster, service: &str) -> String {
    cluster.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"]).text().to_owned()
}

fn call(cluster: &Cluster, service: &str, times: &str) -> Outcome {
    cluster.demo("client", &["call", &format!("http://{}", vip(cluster, service)), "-n", times])
}

fn nobody_answers(cluster: &Cluster) {
    let refused = call(cluster, "web", "1");
    assert!(!refused.ok(), "somebody answers the Service already: {refused}");
}

#[test]
fn a_proxy_with_kube_proxys_rights_serves_somebody_elses_cluster() {
    let cluster = Cluster::start_nodes("alone", 2, &[], &["--components", "kubelet,network,dns"]);
    let room = cluster.server();
    deploy_web(&cluster);
    cluster.apply(NODE_PORT).text();
    cluster.apply(SERVICES).text();
    nobody_answers(&cluster);

    let proxy = Proxy::start(&cluster, room);
    let health = proxy.healthy();
    assert_eq!(health["nodeEligible"], true, "{health}");
    assert!(health["lastUpdated"].is_string() && health["currentTime"].is_string(), "{health}");
    assert_eq!(get(Command::new("curl"), &format!("http://{}:10256/livez", room.ip)).0, "200");

    // From a Pod and from the node, to the Pods of both nodes.
    let home = cluster.kubectl(&["get", "pod", "client", "-o", "jsonpath={.spec.nodeName}"]).text().to_owned();
    if home == room.name {
        let spread = call(&cluster, "web", "60");
        assert_eq!(spread.text().lines().count(), 3, "{spread}");
    } else {
        // The proxy is a node's own: the other has none.
        nobody_answers(&cluster);
    }
    let placed = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    assert!(placed.text().contains("node1") && placed.text().contains("node2"), "{placed}");
    let from_node = |service: &str| get(room.command("curl"), &format!("http://{}/", vip(&cluster, service)));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let (code, body) = from_node("web");
        assert_eq!(code, "200", "{body}\n{}", proxy.log());
        seen.insert(body);
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    // From outside, to a Pod here and to one of the other node.
    seen.clear();
    for _ in 0..40 {
        let (code, body) = get(Command::new("curl"), &format!("http://{}:30080/", room.ip));
        assert_eq!(code, "200", "{body}\n{}", proxy.log());
        seen.insert(body);
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    // A Service of another proxy is not ours.
    assert_eq!(from_node("web-other").0, "000");
    let listed = run(local(room, &["service", "list"]));
    assert!(listed.text().contains("web-np") && !listed.text().contains("web-other"), "{listed}");

    let metrics = proxy.metrics();
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds_count",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_network_programming_duration_seconds_count",
        "kubeproxy_proxy_healthz_total{code=\"200\"}",
        "strake_drops_total{reason=\"",
        "strake_datapath_events_total{event=\"",
        "strake_datapath_map_entries{map=\"SERVICES\"}",
        "strake_datapath_flow_events_lost_total{kind=\"",
        "strake_flow_events_total{",
    ] {
        assert!(metrics.contains(name), "{name} is not among\n{metrics}");
    }

    health_check_node_port(&cluster, room);

    // Nothing was asked that kube-proxy may not have, but for the three kinds that may be missing, once each.
    let denied = proxy.log().lines().filter(|l| l.contains("denies list or watch")).count();
    assert_eq!((denied, proxy.log().matches("forbidden").count()), (3, 3), "{}", proxy.log());
    assert!(proxy.log().contains("told by the name of its runtime class"), "{}", proxy.log());

    proxy.stop();
    assert_eq!(from_node("web").0, "200", "a stopped proxy's Services are answered");
    // The next has a program in the uplink's driver, which stays with the rest of it until all is removed.
    let uplink = || {
        let mut shown = room.command("ip");
        shown.args(["-d", "link", "show", "dev", "eth0"]);
        run(shown)
    };
    assert!(!uplink().text().contains("prog/xdp"), "{}", uplink());
    let proxy = Proxy::start_and(&cluster, room, &kubeconfig(&cluster), room.ip.into(), &[("xdp", "native")]);
    proxy.healthy();
    eventually("the driver has a program", || {
        if uplink().text().contains("prog/xdp") { Ok(()) } else { Err(format!("{}\n{}", uplink(), proxy.log())) }
    });
    proxy.stop();
    assert!(uplink().text().contains("prog/xdp"), "{}", uplink());
    let mut cleanup = room.command(&strake().display().to_string());
    cleanup.args(["agent", "cleanup", "--uplink", "eth0", "--bpf-root", &bpf_root(room)]);
    let removed = run(cleanup);
    for pin in ["links: from_net", " sock_connect4", " xdp_lb-native", "maps: AFFINITY", " SERVICES"] {
        assert!(removed.text().contains(pin), "{removed}");
    }
    assert!(!uplink().text().contains("prog/xdp"), "{}", uplink());
    let mut look = room.command("find");
    look.arg(bpf_root(room));
    assert!(run(look).refusal().contains("No such file"), "pins are left");
    assert_eq!(from_node("web").0, "000", "a program is left");
    assert_eq!(get(Command::new("curl"), &format!("http://{}:30080/", room.ip)).0, "000", "a program is left");
    // The node's own agent is as it was.
    assert!(cluster.strake(&["status"]).text().contains("running"));
}

/// Of a cluster whose first family is IPv6 this is all that a Service has.
const WEB6: &str = "
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
      containers:
      - name: web
        image: strake.io/demo:1
        args: [web, --six]
        ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web6}
spec:
  type: LoadBalancer
  ipFamilies: [IPv6]
  selector: {app: web}
  ports: [{port: 80, targetPort: http, nodePort: 30086}]
---
apiVersion: v1
kind: Service
metadata: {name: local6}
spec:
  type: LoadBalancer
  ipFamilies: [IPv6]
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
";

#[test]
fn a_proxy_serves_a_node_that_has_ipv6_alone() {
    let pods = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56";
    let flags = ["--components=kubelet,network,dns", pods, "--service-cidr=10.96.0.0/16,fd00:10:96::/112"];
    let cluster = Cluster::start_nodes("alone6", 1, &["--bind-address=::"], &flags);
    cluster.load_demo();
    cluster.apply(WEB6).text();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).text();
    let (server, room) = (cluster.server(), cluster.spare_room());
    let in_room = |words: &[&str]| {
        let mut command = room.command(words[0]);
        command.args(&words[1..]);
        run(command)
    };
    in_room(&["ip", "-4", "address", "flush", "dev", "eth0"]).text();
    // What its CNI plugin would have done.
    let cidrs = cluster.kubectl(&["get", "node", &server.name, "-o", "jsonpath={.spec.podCIDRs[1]}"]);
    in_room(&["ip", "-6", "route", "add", cidrs.text(), "via", &server.ip6.to_string()]).text();
    in_room(&["ip", "-6", "route", "add", "default", "via", &server.ip6.to_string()]).text();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": room.name}});
    cluster.apply(&node.to_string()).text();
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": room.ip6}]}}).to_string();
    cluster.kubectl(&["patch", "node", &room.name, "--subresource=status", "-p", &status]).text();

    let kubeconfig = kubeconfig_with(&cluster, |server_config| {
        server_config["server"] = json!(format!("https://[{}]:6443", server.ip6));
        server_config["tls-server-name"] = json!("kubernetes.default.svc");
    });
    let proxy = Proxy::start_with(&cluster, &room, &kubeconfig, room.ip6.into());
    let outside = |url: &str| get(server.command("curl"), url);
    eventually("the proxy is healthy at its IPv6 address", || {
        let (code, body) = outside(&format!("http://[{}]:10256/healthz", room.ip6));
        if code == "200" { Ok(()) } else { Err(format!("{code} {body}\n{}", proxy.log())) }
    });
    let vip: std::net::Ipv6Addr = vip(&cluster, "web6").parse().unwrap();
    // As kube-proxy, it is healthy before it has seen the cluster.
    eventually("it has seen the cluster", || {
        let listed = run(local(&room, &["service", "list"]));
        if listed.ok() && listed.text().contains("web6") { Ok(()) } else { Err(listed.to_string()) }
    });
    for (whence, url) in
        [("the node", format!("http://[{vip}]/")), ("outside", format!("http://[{}]:30086/", room.ip6))]
    {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let curl = if whence == "outside" { server.command("curl") } else { room.command("curl") };
            let (code, body) = get(curl, &url);
            assert_eq!(
                code,
                "200",
                "from {whence}: {body}\n{}\n{}",
                run(local(&room, &["service", "trace", "default/web6"])),
                proxy.log()
            );
            seen.insert(body);
        }
        assert_eq!(seen.len(), 3, "from {whence}: {seen:?}");
    }
    // None of its Pods are here.
    let port = cluster.kubectl(&["get", "service", "local6", "-o", "jsonpath={.spec.healthCheckNodePort}"]);
    let (code, body) = outside(&format!("http://[{}]:{}/", room.ip6, port.text()));
    assert!(code == "503" && body.contains("\"localEndpoints\":0"), "{code} {body}");
    proxy.stop();
}

/// The binary in a room, talking to the room's proxy.
fn local(room: &Room, args: &[&str]) -> Command {
    let mut command = Command::new(strake());
    command.args(args).arg("--data-dir").arg(data_dir(room));
    command
}

/// Load balancers ask each node whether it has endpoints of a Service.
fn health_check_node_port(cluster: &Cluster, room: &Room) {
    let port = cluster.kubectl(&["get", "service", "web-lb", "-o", "jsonpath={.spec.healthCheckNodePort}"]);
    let url = format!("http://{}:{}/", room.ip, port.text());
    let slices = ["get", "pods", "-l", "app=web", "-o"];
    let on_node = |cluster: &Cluster| {
        let nodes = cluster.kubectl(&[&slices[..], &["jsonpath={.items[*].spec.nodeName}"]].concat());
        nodes.text().split(' ').filter(|n| **n == room.name).count()
    };
    let expected = on_node(cluster);
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-i", "--max-time", "5", &url]);
    let answer = run(curl);
    let (head, body) = answer.text().split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(head.contains(&format!("x-load-balancing-endpoint-weight: {expected}")), "{answer}");
    let body: Value = serde_json::from_str(body).unwrap();
    let want = json!({"service": {"namespace": "default", "name": "web-lb"}, "localEndpoints": expected,
                      "serviceProxyHealthy": true});
    assert_eq!(body, want);
    // Without endpoints here the load balancer is to look elsewhere; and with them again, to come back.
    cluster.kubectl(&["scale", "deployment/web", "--replicas=0"]).text();
    eventually("the node says that it has none", || {
        let (code, body) = get(Command::new("curl"), &url);
        if code == "503" && body.contains("\"localEndpoints\":0") { Ok(()) } else { Err(format!("{code} {body}")) }
    });
    cluster.kubectl(&["scale", "deployment/web", "--replicas=3"]).text();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).text();
    eventually("the node has endpoints again", || {
        let (code, body) = get(Command::new("curl"), &url);
        if code == "200" { Ok(()) } else { Err(format!("{code} {body}")) }
    });
    // The port goes with its Service.
    cluster.kubectl(&["delete", "service", "web-lb"]).text();
    eventually("the port is closed", || {
        let (code, body) = get(Command::new("curl"), &url);
        if code == "000" { Ok(()) } else { Err(format!("{code} {body}")) }
    });
}

/// Where the manifest and the chart are.
fn deploy() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

#[test]
fn the_manifest_and_the_chart_are_accepted_and_their_flags_are_known() {
    let cluster = Cluster::start("deploy", 1);
    let manifest = fs::read_to_string(deploy().join("proxy/daemonset.yaml")).unwrap();
    let chart = deploy().join("charts/strake-proxy").display().to_string();
    let helm = |args: &[&str]| {
        let mut command = Command::new(kubectl("1.35.2").with_file_name("helm"));
        command.args(args).env("HOME", cluster.data_dir());
        run(command)
    };
    let server = "apiServer=https://192.0.2.1:6443";
    helm(&["lint", "--strict", &chart, "--set", server]).text();
    let without = helm(&["template", "strake-proxy", &chart]);
    assert!(without.refusal().contains("apiServer is needed"), "{without}");
    let set = ["--set", "uplink=eth0", "--set", "metricsBindAddress=0.0.0.0:10249"];
    let template = ["template", "strake-proxy", &chart, "--namespace", "kube-system", "--set", server];
    let rendered = helm(&[&template[..], &set].concat());

    for yaml in [manifest.as_str(), rendered.text()] {
        let dry = cluster.kubectl_command(&["apply", "--dry-run=server", "-o", "json", "-f", "-"]);
        let accepted: Value = serde_json::from_str(run_with(dry, yaml).text()).unwrap();
        let items = accepted["items"].as_array().unwrap();
        let kinds: Vec<&str> = items.iter().map(|item| item["kind"].as_str().unwrap()).collect();
        for kind in ["ServiceAccount", "ClusterRoleBinding", "ConfigMap", "DaemonSet"] {
            assert!(kinds.contains(&kind), "{kinds:?}");
        }
        let daemonset = items.iter().find(|item| item["kind"] == "DaemonSet").unwrap();
        let container = &daemonset["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["strake", "agent"]));
        // Every flag is one of the binary's: it gets as far as the kubeconfig, which is not there.
        let mut start = cluster.server().command(&strake().display().to_string());
        start.arg("agent").arg("--data-dir").arg(data_dir(cluster.server()));
        let flags = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
        start.args(flags.filter(|flag| !flag.starts_with("--uplink"))).arg("--uplink=eth0");
        assert!(run(start).refusal().contains("/etc/strake/kubeconfig"), "{container}");
    }
}
