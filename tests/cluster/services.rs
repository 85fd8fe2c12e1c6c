//! Services and names as Pods, nodes and the host see them; and what an engineer sees of it.

use std::process::Command;

use serde_json::Value;
use strake_tests::cluster::{Cluster, deploy_web};
use strake_tests::command::{eventually, run};

const OPTED_OUT: &str = r#"
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

/// Service `web-np`: port 30080 of every node.
pub const NODE_PORT: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web-np}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: http, nodePort: 30080}]
"#;

fn names(spread: &str) -> usize {
    spread.lines().count()
}

#[test]
fn a_service_is_one_name_for_pods_nodes_and_the_host() {
    let cluster = Cluster::start("svc", 2);
    deploy_web(&cluster);
    cluster.apply(OPTED_OUT).text();
    cluster.apply(NODE_PORT).text();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/opted-out", "--timeout=60s"]).text();

    // By name, through the socket hooks, spread over the Pods of both nodes.
    let spread = cluster.demo("client", &["call", "http://web", "-n", "60"]);
    assert_eq!(names(spread.text()), 3, "{spread}");
    let placed = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    assert!(placed.text().contains("node1") && placed.text().contains("node2"), "{placed}");

    // A Pod that opted out of the socket hooks sees the same Services.
    let spread = cluster.demo("opted-out", &["call", "http://web.default.svc.cluster.local", "-n", "60"]);
    assert_eq!(names(spread.text()), 3, "{spread}");

    // Other names: the agent's own server answers what the kernel does not.
    let api = cluster.demo("client", &["resolve", "kubernetes.default"]);
    assert_eq!(api.text(), "10.96.0.1");
    let none = cluster.demo("client", &["resolve", "nobody.default.svc.cluster.local"]);
    assert!(none.refusal().contains("cannot be resolved"), "{none}");

    // From the host's shell: the NodePort on either node, the API server.
    for room in cluster.rooms() {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "5", &format!("http://{}:30080/", room.ip)]);
        assert!(run(curl).text().starts_with("web-"));
    }
    // From a node itself: the VIP.
    let vip = cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).text().to_owned();
    let mut curl = cluster.rooms()[1].command("curl");
    curl.args(["-sS", "--max-time", "5", &format!("http://{vip}/")]);
    assert!(run(curl).text().starts_with("web-"));

    // Monitors find what kube-proxy has them expect, on every node.
    for room in cluster.rooms() {
        let mut healthz = Command::new("curl");
        healthz.args(["-sSf", "--max-time", "5", &format!("http://{}:10256/healthz", room.ip)]);
        assert!(run(healthz).text().contains("\"nodeEligible\":true"));
        let mut metrics = room.command("curl");
        metrics.args(["-sSf", "--max-time", "5", "http://127.0.0.1:10249/metrics"]);
        assert!(run(metrics).text().contains("kubeproxy_sync_proxy_rules_duration_seconds_count"));
    }

    // What an engineer sees.
    let flow = eventually("the connection is among the flows", || {
        let out = cluster.strake(&[
            "flows",
            "-o",
            "json",
            "--service",
            "default/web",
            "--pod",
            "default/client",
            "--last",
            "5",
        ]);
        let flow = out.text().lines().last().and_then(|l| serde_json::from_str::<Value>(l).ok());
        flow.ok_or_else(|| out.to_string())
    });
    assert_eq!(flow["source"]["pod"], "client", "{flow}");
    assert!(flow["destination"]["pod"].as_str().unwrap().starts_with("web-"), "{flow}");
    assert_eq!(flow["service"]["name"], "web", "{flow}");
    assert_eq!(flow["verdict"], "FORWARDED", "{flow}");
    let listed = cluster.strake(&["service", "list"]);
    assert!(listed.text().contains(&format!("{vip}:80")), "{listed}");
    let traced = cluster.strake(&["service", "trace", "default/web"]);
    assert!(traced.text().contains(&vip), "{traced}");
    assert!(cluster.strake(&["status"]).text().contains("running"));
}

#[test]
fn names_and_services_are_answered_while_the_agent_is_stopped() {
    let cluster = Cluster::start("stopped", 1);
    deploy_web(&cluster);
    // kubectl exec needs the agent, so the question is asked by a process of the host put into the Pod's namespaces.
    let pid = pod_pid(&cluster, "client");
    let conf = cluster.demo("client", &["read", "/etc/resolv.conf"]).text().to_owned();
    assert!(conf.contains("10.96.0.10"), "{conf}");
    let agent = cluster.pid(cluster.server());
    cluster.signal(agent, "STOP");
    let mut ask = Command::new("nsenter");
    ask.args(["--target", &pid.to_string(), "--net", "--mount", "--", "/demo", "call", "http://web", "-n", "20"]);
    let answered = run(ask);
    cluster.signal(agent, "CONT");
    assert!(names(answered.text()) >= 2, "{answered}");
}

/// The pid of a Pod's first container, by its runtime.
fn pod_pid(cluster: &Cluster, pod: &str) -> i32 {
    let uid = cluster.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]).text().to_owned();
    let groups = strake_rig::cgroup::Hierarchies::detect().unwrap();
    let parent = cluster.server().cgroup_parent.trim_start_matches('/').to_owned();
    groups
        .processes(&parent)
        .into_iter()
        .find(|pid| {
            let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            (group.contains(&uid) || group.contains(&uid.replace('-', "_"))) && name.trim() == "demo"
        })
        .unwrap_or_else(|| panic!("no process of Pod {pod} ({uid}) below {parent}"))
}
