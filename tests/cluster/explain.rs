//! What an engineer asks of a node with the command line: who is connected, to what, and why.

use serde_json::Value;
use strake_tests::cluster::{Cluster, deploy_web};

const OPTED_OUT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: long, annotations: {strake.io/socket-lb: disabled}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "strake.io/demo:1", args: [stream, "http://web/stream", "--seconds", "120"]}
"#;

fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn an_engineer_sees_connections_backends_and_services_by_name_and_forgets_connections() {
    let cluster = Cluster::start("explain", 1);
    deploy_web(&cluster);
    cluster.apply(OPTED_OUT).text();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/long", "--timeout=60s"]).text();
    let vip = cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).text().to_owned();

    // One line a connection, by name, in each form.
    let of_long = ["conntrack", "list", "--pod", "default/long", "--service", "default/web"];
    let found = strake_tests::command::eventually("the stream is tracked", || {
        let listed = cluster.strake(&[&of_long[..], &["--state", "established", "-o", "json"]].concat());
        let rows = json(listed.text());
        if rows.len() == 1 { Ok(rows) } else { Err(listed.to_string()) }
    });
    assert_eq!(found[0]["source"]["pod"], "default/long", "{found:?}");
    assert_eq!(found[0]["frontend"], format!("{vip}:80"), "{found:?}");
    assert!(found[0]["destination"]["pod"].as_str().unwrap().starts_with("default/web-"), "{found:?}");
    let table = cluster.strake(&of_long);
    assert!(table.text().starts_with("PROTO") && table.text().contains("default/web:80"), "{table}");
    let wide = cluster.strake(&[&of_long[..], &["-o", "wide"]].concat());
    assert!(wide.text().contains("translated") && wide.text().contains(&format!("{vip}:80")), "{wide}");
    let yaml = cluster.strake(&[&of_long[..], &["-o", "yaml"]].concat());
    assert!(yaml.text().starts_with("---") && yaml.text().contains("service: default/web"), "{yaml}");
    assert_eq!(cluster.strake(&["conntrack", "list", "--ip", "192.0.2.200", "-o", "json"]).text(), "");

    // Flush says what it did, and never takes everything by accident.
    let refused = cluster.strake(&["conntrack", "flush"]);
    assert!(refused.refusal().contains("--yes"), "{refused}");
    let nobody = cluster.strake(&["conntrack", "flush", "--pod", "default/nobody"]);
    assert!(nobody.refusal().contains("no Pod default/nobody"), "{nobody}");
    let flushed = cluster.strake(&["conntrack", "flush", "--pod", "default/long", "--service", "default/web"]);
    assert!(flushed.text().starts_with("1 connection removed"), "{flushed}");
    let none = cluster.strake(&["conntrack", "flush", "--ip", "192.0.2.200"]);
    assert!(none.text().contains("nothing was removed"), "{none}");
    assert!(cluster.strake(&["conntrack", "flush", "--yes"]).text().contains("removed"));

    // Every backend once, and what each frontend is.
    let listed = cluster.strake(&["backend", "list", "--service", "default/web", "-o", "json"]);
    let backends: Value = serde_json::from_str(listed.text()).unwrap();
    assert_eq!(backends.as_array().unwrap().len(), 3, "{listed}");
    for backend in backends.as_array().unwrap() {
        assert!(backend["pod"].as_str().unwrap().starts_with("default/web-"), "{listed}");
        assert_eq!((&backend["condition"], &backend["node"]), (&"ready".into(), &"node1".into()), "{listed}");
        assert_eq!(backend["services"], serde_json::json!(["default/web:80"]), "{listed}");
    }
    assert!(cluster.strake(&["backend", "list"]).text().contains("default/kubernetes:443"));
    let wide = cluster.strake(&["service", "list", "-o", "wide"]);
    let web = wide.text().lines().find(|line| line.contains(&format!("{vip}:80"))).unwrap_or_else(|| panic!("{wide}"));
    let words: Vec<&str> = web.split_whitespace().collect();
    assert_eq!(words[..3], ["default", "web", "ClusterIP"], "{wide}");
    assert!(web.contains("3/3") && web.contains("Cluster"), "{wide}");

    // One connection, hook by hook; by name, in both forms, and a question without an answer.
    let ask = ["service", "trace", "--from", "default/client", "--to", &format!("{vip}:80")];
    let told = cluster.strake(&ask);
    for part in ["1. sock_connect4", &format!("SERVICES[{vip}:80/TCP internal]"), "FORWARDED", "default/web-"] {
        assert!(told.text().contains(part), "{part} is not in {told}");
    }
    let told: Value = serde_json::from_str(cluster.strake(&[&ask[..], &["-o", "json"]].concat()).text()).unwrap();
    assert_eq!((&told["verdict"], &told["service"]), (&"FORWARDED".into(), &"default/web:80".into()), "{told}");
    assert_eq!(told["backends"].as_array().unwrap().len(), 3, "{told}");
    let nobody = ["service", "trace", "--from", "default/nobody", "--to", "10.96.0.1:443"];
    assert!(cluster.strake(&nobody).refusal().contains("no Pod default/nobody"));
    assert!(!cluster.strake(&["service", "trace"]).ok());
}

const SANDBOXED: &str = r#"
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: sandboxed}
handler: runc
---
apiVersion: v1
kind: Pod
metadata: {name: sandboxed}
spec:
  runtimeClassName: sandboxed
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "strake.io/demo:1", args: [sleep]}
"#;

/// The handler is the one that every containerd has, and the agent is told that it has sockets of its own.
#[test]
fn a_pod_of_a_sandboxed_runtime_is_served_by_its_packets_without_being_told_to() {
    let cluster = Cluster::start_nodes("sandbox", 1, &[], &["--sandboxed-runtimes", "kata*,run*"]);
    deploy_web(&cluster);
    cluster.apply(SANDBOXED).text();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/sandboxed", "--timeout=60s"]).text();
    let spread = cluster.demo("sandboxed", &["call", "http://web", "-n", "60"]);
    assert_eq!(spread.text().lines().count(), 3, "{spread}");
    let why = "runtime class sandboxed, whose handler runc has sockets of its own";
    let status = cluster.strake(&["status"]);
    let line = status.text().lines().find(|line| line.contains("pod=default/sandboxed"));
    let line = line.unwrap_or_else(|| panic!("{status}"));
    assert!(line.contains("socket_hooks=false") && line.contains(why), "{line}");
    let other = status.text().lines().find(|line| line.contains("pod=default/client")).unwrap();
    assert!(other.contains("socket_hooks=true"), "{other}");
    let vip = cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).text().to_owned();
    let told = cluster.strake(&["service", "trace", "--from", "default/sandboxed", "--to", &format!("{vip}:80")]);
    assert!(told.text().contains(why) && told.text().contains("2. from_pod"), "{told}");
}
