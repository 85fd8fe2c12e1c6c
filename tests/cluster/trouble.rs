//! Under load, with things dying: what lives on, and that nothing fails.

use std::process::{Child, Stdio};

use serde_json::Value;
use strake_tests::cluster::{Cluster, deploy_web};
use strake_tests::command::eventually;

/// One long and fifty short connections a second, from inside the client Pod. `kubectl exec` would die with the
/// agent, so the load is a Pod of its own whose log is read afterwards.
pub fn load_pods(host: &str, seconds: u64) -> String {
    let pod = |name: &str, args: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
             - {{name: c, image: 'strake.io/demo:1', args: [{args}]}}\n---\n"
        )
    };
    pod("long", &format!("stream, 'http://{host}/stream', '--seconds', '{seconds}'"))
        + &pod("short", &format!("load, 'http://{host}', '--rate', '50', '--seconds', '{seconds}'"))
}

/// What a load Pod counted; it ends as Failed when anything failed, so both ends are waited for.
fn result(cluster: &Cluster, pod: &str) -> Value {
    eventually(&format!("{pod} has ended"), || {
        let phase = cluster.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.phase}"]);
        match phase.text() {
            "Succeeded" | "Failed" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let log = cluster.kubectl(&["logs", pod]);
    let last = log.text().lines().last().unwrap_or_default().to_owned();
    serde_json::from_str(&last).unwrap_or_else(|e| panic!("{pod} said no JSON ({e}): {log}"))
}

/// Pods `long` and `short` that connect to `host` for some seconds; returns when both run.
pub fn start_load(cluster: &Cluster, host: &str, seconds: u64) {
    cluster.apply(&load_pods(host, seconds)).text();
    for pod in ["long", "short"] {
        cluster
            .kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", &format!("pod/{pod}"), "--timeout=60s"])
            .text();
    }
}

pub fn nothing_failed(cluster: &Cluster) {
    let long = result(cluster, "long");
    assert_eq!(long["alive"], true, "{long}");
    let short = result(cluster, "short");
    assert_eq!(short["failed"], 0, "{short}\n{}", cluster.kubectl(&["logs", "short"]));
    assert!(short["ok"].as_u64().unwrap() > 0, "{short}");
}

#[test]
fn connections_live_through_a_killed_and_returning_agent() {
    let cluster = Cluster::start("killed", 1);
    deploy_web(&cluster);
    let before =
        cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[0].containerID}"]);
    start_load(&cluster, "web", 20);
    cluster.signal(cluster.pid(cluster.server()), "KILL");
    // Away for as long as a few hundred connections.
    std::thread::sleep(std::time::Duration::from_secs(4));
    cluster.start_server();
    cluster.strake(&["status", "--wait"]).text();
    nothing_failed(&cluster);
    // The restart touched no running container.
    let after = cluster.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=web",
        "-o",
        "jsonpath={.items[*].status.containerStatuses[0].containerID}",
    ]);
    for id in after.text().split(' ') {
        assert!(before.text().contains(id), "{id} was not running before: {before}");
    }
}

#[test]
fn no_new_connection_fails_when_a_backend_is_deleted() {
    let cluster = Cluster::start("backend", 1);
    deploy_web(&cluster);
    cluster.apply(&load_pods("web", 15)).text();
    cluster.kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", "pod/short", "--timeout=60s"]).text();
    let victim = cluster
        .kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"])
        .text()
        .to_owned();
    cluster.kubectl(&["delete", "pod", &victim, "--wait=false"]).text();
    let short = result(&cluster, "short");
    assert_eq!(short["failed"], 0, "{short}");
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).text();
}

/// A rollout under load replaces every backend and no connection notices.
#[test]
fn a_rollout_under_load_fails_no_connection() {
    let cluster = Cluster::start("rollout", 1);
    deploy_web(&cluster);
    let mut load: Child = cluster
        .kubectl_command(&["exec", "client", "--", "/demo", "load", "http://web", "--rate", "50", "--seconds", "15"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    cluster.kubectl(&["rollout", "restart", "deployment/web"]).text();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).text();
    eventually("the load has ended", || match load.try_wait().unwrap() {
        Some(_) => Ok(()),
        None => Err("still running".into()),
    });
    let output = load.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
