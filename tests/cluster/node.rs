//! What a node does for its Pods: volumes, probes, init containers, identity, isolation; and nodes for each other.

use std::process::Command;

use strake_tests::cluster::Cluster;
use strake_tests::command::{eventually, run};

const KITCHEN_SINK: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, file.txt: from a config map}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Pod
metadata: {name: sink, labels: {app: sink}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: first
    image: strake.io/busybox:1
    command: [sh, -c, "echo written by init > /shared/init"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: main
    image: strake.io/busybox:1
    command: [sh, -c, "trap 'exit 0' TERM; touch /shared/ready; while true; do sleep 0.1; done"]
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: PLAIN, value: "plain-$(POD)"}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    envFrom: [{prefix: CM_, configMapRef: {name: settings}}]
    resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 1, memory: 64Mi}}
    readinessProbe: {exec: {command: [cat, /shared/ready]}, periodSeconds: 1}
    livenessProbe: {exec: {command: ["true"]}, periodSeconds: 5}
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: config, mountPath: /config}
    - {name: secret, mountPath: /secret}
    - {name: info, mountPath: /info}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: config, configMap: {name: settings}}
  - {name: secret, secret: {secretName: keys, defaultMode: 256}}
  - name: info
    downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
"#;

fn shell(cluster: &Cluster, pod: &str, script: &str) -> String {
    cluster.kubectl(&["exec", pod, "--", "sh", "-c", script]).text().to_owned()
}

#[test]
fn a_pod_gets_its_volumes_environment_identity_and_limits() {
    let cluster = Cluster::start("sink", 1);
    cluster.load_busybox();
    cluster.apply(KITCHEN_SINK).text();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/sink", "--timeout=60s"]).text();
    let sh = |script: &str| shell(&cluster, "sink", script);

    assert_eq!(sh("cat /shared/init"), "written by init");
    assert_eq!(sh("cat /config/file.txt"), "from a config map");
    assert_eq!(sh("cat /secret/password"), "hunter2");
    assert_eq!(sh("stat -L -c %a /secret/password"), "400");
    assert_eq!(sh("cat /info/labels"), "app=\"sink\"");
    assert_eq!(sh("echo $PLAIN $COLOUR $PASSWORD $CPU $CM_colour"), "plain-sink blue hunter2 1 blue");
    assert!(sh("cat /etc/hosts").contains("sink"));
    assert_eq!(sh("hostname"), "sink");

    // Its identity: a bound token that the API server believes, from inside the Pod, by name.
    let token = sh("cat /var/run/secrets/kubernetes.io/serviceaccount/token");
    assert_eq!(token.split('.').count(), 3);
    assert_eq!(sh("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace"), "default");
    let review = format!("apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nspec: {{token: {token}}}\n");
    let mut create = cluster.kubectl_command(&["create", "-o", "jsonpath={.status.user.username}", "-f", "-"]);
    create.env("LC_ALL", "C");
    let who = strake_tests::command::run_with(create, &review);
    assert_eq!(who.text(), "system:serviceaccount:default:default");

    // QoS: a Burstable Pod, its limits in the cgroup.
    let qos = cluster.kubectl(&["get", "pod", "sink", "-o", "jsonpath={.status.qosClass}"]);
    assert_eq!(qos.text(), "Burstable");
    let limit = sh("cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes");
    assert_eq!(limit, (64 << 20).to_string());

    // A changed ConfigMap arrives in the volume.
    cluster.kubectl(&["patch", "configmap", "settings", "-p", r#"{"data":{"file.txt":"changed"}}"#]).text();
    eventually("the changed file is seen", || match sh("cat /config/file.txt").as_str() {
        "changed" => Ok(()),
        other => Err(other.to_owned()),
    });

    // Deleting leaves no directory and no cgroup of the Pod.
    let uid = cluster.kubectl(&["get", "pod", "sink", "-o", "jsonpath={.metadata.uid}"]).text().to_owned();
    cluster.kubectl(&["delete", "pod", "sink", "--timeout=30s"]).text();
    eventually("nothing of the Pod is left on the node", || {
        let dir = cluster.server().dir.join("pods").join(&uid);
        let groups = run({
            let mut find = Command::new("find");
            find.args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{uid}*")]);
            find
        });
        if dir.exists() || !groups.stdout.trim().is_empty() {
            return Err(format!("{} {}", dir.display(), groups.stdout));
        }
        Ok(())
    });
}

#[test]
fn pods_reach_pods_nodes_and_masqueraded_what_the_node_reaches_and_cannot_spoof() {
    let cluster = Cluster::start("net", 2);
    cluster.load_busybox();
    for node in ["node1", "node2"] {
        cluster
            .apply(&format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: on-{node}}}\nspec:\n  nodeName: {node}\n  \
                 terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: c, image: 'strake.io/busybox:1', \
                 command: [sh, -c, 'httpd -p 8080 -h /etc; sleep 1000000']}}\n"
            ))
            .text();
    }
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/on-node1", "pod/on-node2", "--timeout=60s"]).text();
    let ip = |pod: &str| cluster.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]).text().to_owned();
    let there = ip("on-node2");

    // Pod to Pod across nodes, Pod to node.
    let get = format!("printf 'GET /passwd HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {there} 8080");
    assert!(shell(&cluster, "on-node1", &get).contains("root"));
    shell(&cluster, "on-node1", &format!("nc -w 5 {} 10250 < /dev/null", cluster.rooms()[1].ip));

    // Out of the cluster, masqueraded: the host's end of the bridge sees the node's address.
    let host = std::net::TcpListener::bind((host_address(&cluster), 0)).unwrap();
    let port = host.local_addr().unwrap().port();
    let accepted = std::thread::spawn(move || host.accept().unwrap().1.ip());
    shell(&cluster, "on-node1", &format!("nc -w 5 {} {port} < /dev/null", host_address(&cluster)));
    assert_eq!(accepted.join().unwrap(), std::net::IpAddr::V4(cluster.rooms()[0].ip));

    // A Pod that takes another's address is not heard, and the drop has a reason.
    let stolen = ip("on-node1").rsplit_once('.').map(|(net, _)| format!("{net}.250")).unwrap();
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: thief}}\nspec:\n  nodeName: node1\n  terminationGracePeriodSeconds: 1\n  \
             containers:\n  - name: c\n    image: strake.io/busybox:1\n    securityContext: {{capabilities: {{add: [NET_ADMIN]}}}}\n    \
             command: [sh, -c, 'ip addr add {stolen}/32 dev eth0; sleep 1000000']\n"
        ))
        .text();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/thief", "--timeout=60s"]).text();
    let spoofed = cluster.kubectl(&["exec", "thief", "--", "ping", "-c", "1", "-W", "1", "-I", &stolen, &there]);
    assert!(!spoofed.ok(), "{spoofed}");
    eventually("the drop is among the flows, with its reason", || {
        let out = cluster.strake(&["flows", "--verdict", "dropped", "-o", "json", "--last", "50"]);
        if out.text().contains(&stolen) && out.text().to_lowercase().contains("spoof") {
            Ok(())
        } else {
            Err(out.to_string())
        }
    });
}

/// The host's own address on the bridge of the cluster's rig.
fn host_address(cluster: &Cluster) -> std::net::Ipv4Addr {
    let [a, b, c, _] = cluster.server().ip.octets();
    std::net::Ipv4Addr::new(a, b, c, 1)
}
