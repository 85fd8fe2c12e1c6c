//! What is wrong gets a precise error that names what and where.

use std::process::Command;

use strake_tests::cluster::{Cluster, deploy_web};
use strake_tests::command::{eventually, run, run_with};

#[test]
fn what_is_wrong_is_named() {
    let cluster = Cluster::start("refuse", 1);
    deploy_web(&cluster);

    let malformed = cluster.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: []}\n");
    assert!(malformed.refusal().contains("spec.containers: Required value"), "{malformed}");
    let bad_name = cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_A_Name}\n");
    assert!(bad_name.refusal().contains("metadata.name: Invalid value: \"Not_A_Name\""), "{bad_name}");
    let unknown = cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i, imagee: x}]}\n",
    );
    assert!(unknown.refusal().contains("unknown field \"spec.containers[0].imagee\""), "{unknown}");
    let missing = cluster.kubectl(&["get", "pod", "nobody"]);
    assert!(missing.refusal().contains("pods \"nobody\" not found"), "{missing}");

    // A wrong token: 401, and the words of a stock server.
    let server = format!("https://{}:6443", cluster.server().ip);
    let mut wrong = Command::new(strake_tests::cluster::kubectl("1.37.1"));
    wrong.args(["--server", &server, "--insecure-skip-tls-verify", "--token", "wrong", "--kubeconfig", "/dev/null"]);
    wrong.args(["get", "pods"]);
    let wrong = run(wrong);
    assert!(wrong.refusal().contains("Unauthorized") || wrong.stderr.contains("must be logged in"), "{wrong}");
    // Nobody at all: 403 that names user, verb and resource.
    let mut nobody = Command::new("curl");
    nobody.args(["-sSk", "--max-time", "5", &format!("{server}/api/v1/namespaces/default/pods")]);
    let nobody = run(nobody);
    assert!(nobody.text().contains("User \\\"system:anonymous\\\" cannot list resource \\\"pods\\\""), "{nobody}");

    // An image that does not exist.
    cluster.kubectl(&["run", "noimage", "--image=strake.invalid/none:1"]).text();
    eventually("the Pod says why it does not start", || {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting}";
        let waiting = cluster.kubectl(&["get", "pod", "noimage", "-o", path]);
        let said = waiting.text();
        let named = (said.contains("ErrImagePull") || said.contains("ImagePullBackOff"))
            && said.contains("strake.invalid/none:1");
        if named { Ok(()) } else { Err(waiting.to_string()) }
    });

    // A port that is taken: a second server in the same room.
    let mut second = cluster.server().command(strake_tests::cluster::strake().to_str().unwrap());
    let other = cluster.data_dir().join("second");
    second.args(["server", "--node-name", "second", "--node-ip", &cluster.server().ip.to_string(), "--uplink", "eth0"]);
    second.arg("--data-dir").arg(&other);
    let second = run_with(second, "");
    assert!(second.refusal().contains(":6443"), "it names the address: {second}");
    assert!(second.stderr.to_lowercase().contains("in use"), "and what is wrong with it: {second}");

    // Garbage on the API's port does not disturb anybody.
    let mut garbage = Command::new("bash");
    garbage.args(["-c", &format!("head -c 4096 /dev/urandom > /dev/tcp/{}/6443", cluster.server().ip)]);
    run(garbage);
    cluster.kubectl(&["get", "nodes"]).text();
}

#[test]
fn a_full_disk_is_named_and_loses_nothing_acknowledged() {
    // The data dir of the store on a file system of 48 MiB, made and seen in the server's room only.
    let cluster = Cluster::start("disk", 1);
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=1"]).text();
    let server = cluster.server();
    let store = cluster.data_dir().join("server");
    let process = strake_rig::process::Id::of(cluster.pid(server)).unwrap();
    cluster.signal(process.pid, "KILL");
    eventually("the server has ended", || if process.alive() { Err("still there".into()) } else { Ok(()) });
    let mut move_in = server.command("sh");
    let (dir, copy) = (store.display(), cluster.data_dir().join("copy"));
    move_in.args([
        "-c",
        &format!("cp -a {dir} {0} && mount -t tmpfs -o size=48m tmpfs {dir} && cp -a {0}/. {dir}/", copy.display()),
    ]);
    run(move_in).text();
    cluster.start_server();
    cluster.strake(&["status", "--wait"]).text();

    let big = "x".repeat(900_000);
    let manifest =
        |n: usize| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big{n}}}\ndata: {{v: {big}}}\n");
    let mut acknowledged = Vec::new();
    let refused = (0..80).find_map(|n| {
        let mut create = cluster.kubectl_command(&["create", "-f", "-"]);
        create.env("KUBECTL_APPLYSET", "false");
        let outcome = run_with(create, &manifest(n));
        if outcome.ok() {
            acknowledged.push(n);
            return None;
        }
        Some(outcome)
    });
    let refused = refused.expect("80 objects of 900 kB do not fit in 48 MiB");
    let said = refused.refusal().to_lowercase();
    assert!(said.contains("full") || said.contains("no space"), "{refused}");
    assert_eq!(cluster.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]).text(), "1");
    for n in acknowledged {
        cluster.kubectl(&["get", "configmap", &format!("big{n}"), "-o", "name"]).text();
    }
}
