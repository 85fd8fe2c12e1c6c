//! Every verb an unmodified kubectl of two versions must have, against one cluster each.

use std::process::Command;

use strake_tests::cluster::{Cluster, deploy_web};
use strake_tests::command::{eventually, run, run_with};

/// Several connections through one port-forward, one after another and two at once; it ends with kubectl.
fn port_forward(cluster: &Cluster) {
    use std::io::{BufRead, BufReader, Read, Write};
    let mut child = cluster
        .kubectl_command(&["port-forward", "service/web", ":80", "--address=127.0.0.1"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    // Kept open: kubectl writes a line for each connection, and ends when nobody reads them.
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let local = line.split(" -> ").next().and_then(|text| text.rsplit(' ').next()).unwrap_or_default().to_owned();
    let open = || {
        let mut stream = std::net::TcpStream::connect(&local).unwrap_or_else(|e| panic!("{local} of {line}: {e}"));
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").unwrap();
        stream
    };
    let answer = |mut stream: std::net::TcpStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("web-"), "{text}");
    };
    answer(open());
    let (one, two) = (open(), open());
    answer(two);
    answer(one);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn every_verb(version: &str) {
    let mut cluster = Cluster::start(&format!("kubectl-{}", version.replace('.', "")), 1);
    cluster.use_kubectl(version);
    let kubectl = |words: &str| cluster.kubectl(&words.split(' ').collect::<Vec<_>>());

    // Discovery.
    assert!(kubectl("version").text().contains("Server Version: v1.36"));
    let resources = kubectl("api-resources").text().to_owned();
    for kind in ["Deployment", "EndpointSlice", "Lease", "ClusterRole", "CustomResourceDefinition"] {
        assert!(resources.contains(kind), "{kind} is not among\n{resources}");
    }

    // create, get in every form, describe.
    deploy_web(&cluster);
    kubectl("create deployment extra --image=strake.io/demo:1 --replicas=2 -- /demo web").text();
    kubectl("rollout status deployment/extra --timeout=60s").text();
    let wide = kubectl("get pods -o wide").text().to_owned();
    assert!(wide.starts_with("NAME") && wide.contains("NOMINATED NODE") && wide.contains("Running"), "{wide}");
    assert!(kubectl("get deployment extra -o yaml").text().contains("kind: Deployment"));
    let json: serde_json::Value = serde_json::from_str(kubectl("get deployment extra -o json").text()).unwrap();
    assert_eq!(json["status"]["readyReplicas"], 2);
    assert_eq!(kubectl("get deployment extra -o jsonpath={.spec.replicas}").text(), "2");
    let table = kubectl("get deployment extra").text().to_owned();
    assert!(table.contains("READY") && table.contains("UP-TO-DATE") && table.contains("2/2"), "{table}");
    let described = kubectl("describe deployment extra").text().to_owned();
    assert!(described.contains("ScalingReplicaSet") && described.contains("2 available"), "{described}");
    assert!(kubectl("describe pod client").text().contains("Successfully assigned default/client"));
    assert!(kubectl("describe service web").text().contains("Endpoints:"));
    assert!(kubectl("describe node node1").text().contains("cpu"));

    // get -w shows a change.
    let mut watch = cluster
        .kubectl_command(&["get", "configmap", "-w", "--field-selector=metadata.name=watched", "-o", "name"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    kubectl("create configmap watched --from-literal=a=1").text();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(watch.stdout.take().unwrap()), &mut line).unwrap();
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(line.trim(), "configmap/watched");

    // run, wait, logs, exec.
    kubectl("run shot --image=strake.io/demo:1 --restart=Never -- echo hello from a pod").text();
    kubectl("wait --for=jsonpath={.status.phase}=Succeeded pod/shot --timeout=60s").text();
    assert_eq!(kubectl("logs shot").text(), "hello from a pod");
    assert_eq!(cluster.demo("client", &["exit", "7"]).code, Some(7));
    let stdin = run_with(cluster.kubectl_command(&["exec", "-i", "client", "--", "/demo", "cat"]), "through the pipe");
    assert_eq!(stdin.text(), "through the pipe");
    // `script` gives kubectl a terminal to pass on.
    let exec =
        format!("{:?}", cluster.kubectl_command(&["exec", "-it", "client", "--", "/demo", "tty"])).replace('"', "");
    let mut script = Command::new("script");
    script.args(["-qec", &exec, "/dev/null"]);
    let told = run(script);
    assert!(told.stdout.contains("stdin true stdout true"), "{told}");

    // logs -f follows, --previous shows the life before.
    kubectl("run flaky --image=strake.io/demo:1 -- fail-after 1").text();
    eventually("the Pod has been restarted", || {
        let count = kubectl("get pod flaky -o jsonpath={.status.containerStatuses[0].restartCount}");
        if count.stdout.trim().parse::<u32>().unwrap_or(0) > 0 { Ok(()) } else { Err(count.to_string()) }
    });
    assert!(kubectl("logs flaky --previous").text().contains("failing in 1 s"));
    let followed = kubectl("logs -f shot");
    assert_eq!(followed.text(), "hello from a pod");

    // Changing: scale, set, edit, patch, label, annotate, diff, apply.
    kubectl("scale deployment extra --replicas=3").text();
    kubectl("rollout status deployment/extra --timeout=60s").text();
    kubectl("set env deployment/extra COLOUR=blue").text();
    kubectl("rollout status deployment/extra --timeout=60s").text();
    kubectl("rollout restart deployment/extra").text();
    kubectl("rollout status deployment/extra --timeout=60s").text();
    kubectl("rollout undo deployment/extra --to-revision=1").text();
    kubectl("rollout status deployment/extra --timeout=60s").text();
    assert_eq!(kubectl("get deployment extra -o jsonpath={.spec.template.spec.containers[0].env}").text(), "");
    kubectl("label deployment extra tier=back").text();
    kubectl("annotate deployment extra note=kept").text();
    assert!(kubectl("get deployment -l tier=back -o name").text().contains("extra"));
    kubectl(r#"patch deployment extra -p {"metadata":{"labels":{"tier":"front"}}}"#).text();
    kubectl(r#"patch deployment extra --type=merge -p {"metadata":{"annotations":{"note":null}}}"#).text();
    kubectl(r#"patch deployment extra --type=json -p [{"op":"add","path":"/metadata/labels/json","value":"yes"}]"#)
        .text();
    assert_eq!(
        kubectl("get deployment extra -o jsonpath={.metadata.labels.tier}{.metadata.labels.json}").text(),
        "frontyes"
    );
    assert_eq!(kubectl("get deployment extra -o jsonpath={.metadata.annotations.note}").text(), "");
    let mut edit = cluster.kubectl_command(&["edit", "configmap", "watched"]);
    edit.env("KUBE_EDITOR", r#"sed -i s/a:.*1.*/a:\ edited/"#);
    run(edit).text();
    assert_eq!(kubectl("get configmap watched -o jsonpath={.data.a}").text(), "edited");

    let manifest = |value: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: applied}}\ndata: {{k: {value}, gone: {value}}}\n")
    };
    assert!(cluster.apply(&manifest("one")).text().contains("created"));
    assert!(cluster.apply(&manifest("one")).text().contains("unchanged"));
    let changed = manifest("two").replace(", gone: two", "");
    let diff = run_with(cluster.kubectl_command(&["diff", "-f", "-"]), &changed);
    assert_eq!(diff.code, Some(1), "{diff}");
    assert!(diff.stdout.contains("-  gone: one") && diff.stdout.contains("+  k: two"), "{diff}");
    assert!(cluster.apply(&changed).text().contains("configured"));
    assert_eq!(kubectl("get configmap applied -o jsonpath={.data}").text(), r#"{"k":"two"}"#);

    port_forward(&cluster);

    // expose, explain, delete.
    kubectl("expose deployment extra --port=81 --target-port=8080 --name=exposed").text();
    let called = cluster.demo("client", &["call", "http://exposed:81", "-n", "5"]);
    assert!(called.text().contains("extra-"), "{called}");
    let explained = kubectl("explain deployment.spec.strategy.rollingUpdate");
    assert!(explained.text().contains("maxSurge"), "{explained}");
    assert!(explained.text().contains("maximum number of pods that can be scheduled above"), "{explained}");
    kubectl("delete deployment extra --timeout=60s").text();
    kubectl("delete pod shot flaky --grace-period=1 --timeout=60s").text();
    eventually("the Pods of a deleted Deployment are collected", || {
        let left = kubectl("get pods -l app=extra -o name");
        if left.text().is_empty() { Ok(()) } else { Err(left.to_string()) }
    });
}

#[test]
fn kubectl_1_35_finds_every_verb_working() {
    every_verb("1.35.2");
}

#[test]
fn kubectl_1_37_finds_every_verb_working() {
    every_verb("1.37.1");
}
