//! What must hold on a node. Each scenario is a Pod or two in one room: containerd's start is paid once.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::room::{Room, enter};

#[test]
fn a_node_runs_pods_as_the_stock_kubelet_does() {
    enter(|mut room| async move {
        environment_volumes_and_resources(&room).await;
        init_containers_and_sidecars(&room).await;
        restarts_with_backoff(&room).await;
        probes(&room).await;
        what_cannot_start_says_why(&room).await;
        server(&room).await;
        large_logs(&room).await;
        restart_of_the_kubelet(&mut room).await;
        death_of_the_runtime(&room).await;
        deletion_leaves_nothing(&room).await;
        room
    });
}

fn waiting(pod: &Value, n: usize) -> &Value {
    &pod["status"]["containerStatuses"][n]["state"]["waiting"]
}

async fn environment_volumes_and_resources(room: &Room) {
    room.api.put(
        "/api/v1/namespaces/default/configmaps/cm",
        json!({"metadata": {"name": "cm", "namespace": "default"}, "data": {"k": "one"}}),
    );
    room.api.put(
        "/api/v1/namespaces/default/secrets/sec",
        json!({"metadata": {"name": "sec", "namespace": "default"}, "data": {"s": "aHVzaA=="}}),
    );
    let script = "echo $GREETING; cat /cm/k /sec/s; echo; cat /api/token; echo; cat /down/labels; echo; hostname; \
        echo sub > /sub/file; cat /etc/hosts | busybox grep -c extra; busybox grep -c ndots:5 /etc/resolv.conf; id -u; sleep 1000";
    let path = room.pod("full", json!({
        "containers": [{"name": "c", "command": ["sh", "-c"], "args": [script],
            "env": [{"name": "GREETING", "value": "$(S) $(KUBERNETES_SERVICE_HOST) $(N)"}],
            "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}},
            "volumeMounts": [{"name": "cm", "mountPath": "/cm"}, {"name": "sec", "mountPath": "/sec"}, {"name": "api", "mountPath": "/api"},
                {"name": "down", "mountPath": "/down"}, {"name": "e", "mountPath": "/sub", "subPath": "a/b"}]}],
        "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["extra"]}],
        "securityContext": {"runAsUser": 1000, "fsGroup": 2000},
        "volumes": [{"name": "cm", "configMap": {"name": "cm"}}, {"name": "sec", "secret": {"secretName": "sec", "defaultMode": 288}},
            {"name": "api", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "e", "emptyDir": {}}]}));
    // `$(S)` and `$(N)` are no variables of this container.
    let pod = room.condition(&path, "Ready", "True").await;
    let want = "$(S) 10.96.0.1 $(N)\nonehush\na-token\napp=\"full\"\nfull\n1\n1\n1000\n";
    room.until("the container's output", |_| {
        room.log_text(&pod, "c", 0) == want || { room.log_text(&pod, "c", 0).lines().count() >= 9 }
    })
    .await;
    assert_eq!(room.log_text(&pod, "c", 0), want);
    assert_eq!(pod["status"]["podIP"], "198.51.100.7");
    assert_eq!(pod["status"]["hostIP"], "127.0.0.1");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let volumes = room.config.pods_dir.join(uid).join("volumes");
    assert_eq!(std::fs::read_to_string(volumes.join("kubernetes.io~empty-dir/e/a/b/file")).unwrap(), "sub\n");
    // A changed ConfigMap reaches the file without a restart.
    room.api.put(
        "/api/v1/namespaces/default/configmaps/cm",
        json!({"metadata": {"name": "cm", "namespace": "default"}, "data": {"k": "two"}}),
    );
    let file = volumes.join("kubernetes.io~configmap/cm/k");
    room.until("the changed ConfigMap", |_| std::fs::read_to_string(&file).is_ok_and(|s| s == "two")).await;
    let cgroup = format!("{}/burstable/pod{uid}", room.config.cgroup_parent);
    let dirs = strake_kubelet::cgroup::Hierarchies::discover().unwrap().directories(&cgroup);
    let read = |names: [&str; 2]| {
        dirs.iter().flat_map(|d| names.map(|n| std::fs::read_to_string(d.join(n)))).find_map(Result::ok)
    };
    if let Some(memory) = read(["memory.limit_in_bytes", "memory.max"]) {
        assert_eq!(memory.trim(), (64 << 20).to_string());
    }
    room.api.delete_pod(&path, 1);
    room.gone(&path).await;
    assert!(!room.config.pods_dir.join(uid).exists());
}

async fn init_containers_and_sidecars(room: &Room) {
    let path = room.pod("init", json!({"restartPolicy": "Never",
        "initContainers": [
            {"name": "first", "command": ["sh", "-c", "echo a > /v/a"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            {"name": "side", "restartPolicy": "Always", "command": ["sleep", "1000"]}],
        "containers": [{"name": "main", "command": ["sh", "-c", "cat /v/a; echo bye > /dev/termination-log; exit 3"],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]}));
    let pod = room.phase(&path, "Failed").await;
    assert_eq!(room.log_text(&pod, "main", 0), "a\n");
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"], &ended["message"]),
        (&json!(3), &json!("Error"), &json!("bye\n"))
    );
    let side = &pod["status"]["initContainerStatuses"][1]["state"]["terminated"];
    assert!(!side.is_null(), "the sidecar ends with the Pod: {pod:#}");
    room.api.delete_pod(&path, 1);
    room.gone(&path).await;
}

async fn restarts_with_backoff(room: &Room) {
    let path = room.pod("crash", json!({"containers": [{"name": "c", "command": ["sh", "-c", "echo run; exit 1"]}]}));
    room.until("the Pod is in CrashLoopBackOff", |api| {
        api.get(&path).is_some_and(|p| waiting(&p, 0)["reason"] == "CrashLoopBackOff")
    })
    .await;
    let pod = room.api.get(&path).unwrap();
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["restartCount"], 1, "the first restart is at once, the second waits");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 1);
    let message = waiting(&pod, 0)["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("back-off 10s restarting failed container=c pod=crash_default("), "{message}");
    assert_eq!(pod["status"]["phase"], "Running");
    room.api.delete_pod(&path, 1);
    room.gone(&path).await;
}

async fn probes(room: &Room) {
    let path = room.pod(
        "probed",
        json!({"hostNetwork": true, "containers": [{"name": "c",
        "command": ["sh", "-c", "touch /tmp/alive; busybox httpd -p 127.0.0.1:8081 -h /tmp; sleep 1000"],
        "startupProbe": {"exec": {"command": ["cat", "/tmp/alive"]}, "periodSeconds": 1},
        "readinessProbe": {"httpGet": {"port": 8081, "path": "/alive"}, "periodSeconds": 1},
        "livenessProbe": {"exec": {"command": ["cat", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 1}}]}),
    );
    let pod = room.condition(&path, "Ready", "True").await;
    let id = pod["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .unwrap()
        .trim_start_matches("containerd://")
        .to_owned();
    let cri = strake_kubelet::cri::Cri::connect(&room.config.cri_socket);
    let out = cri
        .exec_sync(&id, ["sh", "-c", "rm() { busybox rm \"$@\"; }; rm /tmp/alive"].map(str::to_owned).to_vec(), 5)
        .await
        .unwrap();
    assert_eq!(out.exit_code, 0);
    room.until("the container is restarted", |api| {
        api.get(&path).is_some_and(|p| p["status"]["containerStatuses"][0]["restartCount"] == 1)
    })
    .await;
    let events = room.api.list("/api/v1/namespaces/default/events/");
    assert!(events.iter().any(|e| e["reason"] == "Unhealthy"), "{events:#?}");
    room.condition(&path, "Ready", "True").await;
    room.api.delete_pod(&path, 1);
    room.gone(&path).await;
}

async fn what_cannot_start_says_why(room: &Room) {
    let reason = |p: &Value| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    let cases = [
        ("bad-name", json!({"image": "UPPER//case"}), "InvalidImageName"),
        ("never", json!({"image": "strake.local/none:1", "imagePullPolicy": "Never"}), "ErrImageNeverPull"),
        ("no-pull", json!({"image": "127.0.0.1:9/none:1"}), "ImagePullBackOff"),
        ("no-map", json!({"envFrom": [{"configMapRef": {"name": "absent"}}]}), "CreateContainerConfigError"),
        ("root", json!({"securityContext": {"runAsNonRoot": true}}), "CreateContainerConfigError"),
        ("no-command", json!({"command": ["/no/such/thing"]}), "RunContainerError"),
    ];
    let mut paths = Vec::new();
    for (name, mut c, want) in cases {
        c["name"] = json!("c");
        paths.push((room.pod(name, json!({"containers": [c]})), want));
    }
    for (path, want) in &paths {
        let fits = |got: &Value| got == *want || (*want == "RunContainerError" && got == "CrashLoopBackOff");
        room.until(&format!("{path} waits for {want}"), |api| api.get(path).is_some_and(|p| fits(&reason(&p)))).await;
    }
    // What was missing appears: the container starts.
    room.api.put(
        "/api/v1/namespaces/default/configmaps/absent",
        json!({"metadata": {"name": "absent", "namespace": "default"}, "data": {}}),
    );
    room.condition(&paths[3].0, "Ready", "True").await;
    let big = room.pod("big", json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "10000"}}}]}));
    let pod = room.phase(&big, "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    for (path, _) in &paths {
        room.api.delete_pod(path, 1);
    }
    room.api.delete_pod(&big, 1);
    for (path, _) in &paths {
        room.gone(path).await;
    }
    room.gone(&big).await;
}

/// curl speaks for the API server here, from a thread of its own: the kubelet runs on this one.
async fn curl_async(room: &Room, args: &[&str], path: &str) -> (u16, String) {
    let (sent, received) = tokio::sync::oneshot::channel();
    let ns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    let ca = room.ca.clone();
    let dir = room.dir().to_owned();
    let (args, path): (Vec<String>, String) = (args.iter().map(|s| (*s).to_owned()).collect(), path.to_owned());
    std::thread::spawn(move || {
        nix::sched::setns(ns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let file = dir.join("ca.pem");
        std::fs::write(&file, ca).unwrap();
        let out = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--cacert", file.to_str().unwrap(), "-w", "\n%{http_code}"])
            .args(args)
            .arg(format!("https://127.0.0.1:10250{path}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').unwrap_or(("", "0"));
        let _ = sent.send((code.parse().unwrap_or(0), body.to_owned() + &String::from_utf8_lossy(&out.stderr)));
    });
    received.await.unwrap()
}

async fn server(room: &Room) {
    let path = room.pod(
        "served",
        json!({"containers": [{"name": "c", "command": ["sh", "-c", "echo one; echo two; sleep 1000"]}]}),
    );
    let pod = room.condition(&path, "Ready", "True").await;
    room.until("its output", |_| room.log_text(&pod, "c", 0) == "one\ntwo\n").await;
    assert_eq!(curl_async(room, &[], "/pods").await.0, 401, "nobody is anonymous");
    assert_eq!(curl_async(room, &["-H", "Authorization: Bearer bad"], "/pods").await.0, 401);
    let token = ["-H", "Authorization: Bearer good"];
    assert_eq!(curl_async(room, &token, "/stats/summary").await.0, 403, "nodes/stats was not granted");
    let (code, body) = curl_async(room, &token, "/containerLogs/default/served/c?tailLines=1").await;
    assert_eq!((code, body.as_str()), (200, "two\n"));
    let (cert, key) = (room.dir().join("admin.crt"), room.dir().join("admin.key"));
    std::fs::write(&cert, &room.admin.0).unwrap();
    std::fs::write(&key, &room.admin.1).unwrap();
    let admin = ["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let (code, body) = curl_async(room, &admin, "/stats/summary").await;
    assert_eq!(code, 200, "{body}");
    assert!(body.contains("\"served\""));
    let (code, body) = curl_async(room, &admin, "/containerLogs/default/served/c?previous=true").await;
    assert_eq!(code, 400);
    assert!(body.contains("previous terminated container \"c\" in pod \"served\" not found"), "{body}");
    assert_eq!(curl_async(room, &admin, "/containerLogs/default/absent/c").await.0, 404);
    let mut run = admin.to_vec();
    run.extend(["-X", "POST"]);
    let (code, body) = curl_async(room, &run, "/run/default/served/c?cmd=echo%20hello").await;
    assert_eq!((code, body.as_str()), (200, "hello\n"));
    // An upgrade reaches the runtime's streaming server and its answer comes back.
    let mut exec = run.clone();
    exec.extend([
        "--http1.1",
        "-H",
        "Connection: Upgrade",
        "-H",
        "Upgrade: SPDY/3.1",
        "-H",
        "X-Stream-Protocol-Version: v4.channel.k8s.io",
        "-i",
        "--max-time",
        "2",
    ]);
    let (code, body) = curl_async(room, &exec, "/exec/default/served/c?command=true&output=1").await;
    assert_eq!(code, 101, "{body}");
    assert!(body.to_lowercase().contains("x-stream-protocol-version: v4.channel.k8s.io"), "{body}");
    room.api.delete_pod(&path, 1);
    room.gone(&path).await;
}

async fn large_logs(room: &Room) {
    let path = room.pod("chatty", json!({"containers": [{"name": "c",
        "command": ["sh", "-c", "busybox yes 0123456789012345678901234567890123456789 | busybox head -c 11000000; sleep 12; echo last; sleep 1000"]}]}));
    let pod = room.condition(&path, "Ready", "True").await;
    let log = room.log(&pod, "c", 0);
    let rotated = || std::fs::read_dir(log.parent().unwrap()).map_or(0, Iterator::count) == 2;
    room.until("the log is rotated", |_| rotated()).await;
    // The runtime goes on in the new file.
    room.until("the new file", |_| room.log_text(&pod, "c", 0).ends_with("last\n")).await;
    assert!(std::fs::metadata(&log).unwrap().len() < 10 << 20);
    room.api.delete_pod(&path, 1);
    room.gone(&path).await;
}

async fn restart_of_the_kubelet(room: &mut Room) {
    let spec = json!({"containers": [{"name": "c", "command": ["sleep", "1000"], "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}]});
    let path = room.pod("kept", spec.clone());
    let before = room.condition(&path, "Ready", "True").await;
    let orphan = room.pod("orphan", spec);
    let left = room.condition(&orphan, "Ready", "True").await;
    room.end().await;
    room.api.remove(&orphan);
    room.start();
    let orphan_dir = room.config.pods_dir.join(left["metadata"]["uid"].as_str().unwrap());
    room.until("what is left of the orphan is gone", |_| !orphan_dir.exists()).await;
    tokio::time::timeout(Duration::from_secs(2), std::future::pending::<()>()).await.unwrap_err();
    let after = room.api.get(&path).unwrap();
    let id = |p: &Value| p["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(id(&before), id(&after), "a running container is left alone");
    assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(before["status"]["conditions"], after["status"]["conditions"], "it stays Ready all the time");
    room.api.delete_pod(&path, 1);
    room.gone(&path).await;
}

async fn death_of_the_runtime(room: &Room) {
    let path = room.pod("survivor", json!({"containers": [{"name": "c", "command": ["sleep", "1000"]}]}));
    let before = room.condition(&path, "Ready", "True").await;
    let kept = room.runtime.clone();
    let keeper = tokio::spawn(async move { kept.keep(tokio_util::sync::CancellationToken::new()).await });
    let pid = strake_kubelet::containerd::running_pid(&room.runtime.options).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let running = || strake_kubelet::containerd::running_pid(&room.runtime.options);
    room.until("another containerd", |_| running().is_some_and(|p| p != pid)).await;
    // It answers, and knows the container it did not start.
    let next = room.pod("next", json!({"containers": [{"name": "c", "command": ["sleep", "1000"]}]}));
    room.condition(&next, "Ready", "True").await;
    let after = room.condition(&path, "Ready", "True").await;
    let id = |p: &Value| p["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!((id(&before), &after["status"]["containerStatuses"][0]["restartCount"]), (id(&after), &json!(0)));
    keeper.abort();
    for p in [&path, &next] {
        room.api.delete_pod(p, 1);
        room.gone(p).await;
    }
}

async fn deletion_leaves_nothing(room: &Room) {
    let path = room.pod(
        "graceful",
        json!({"terminationGracePeriodSeconds": 20, "containers": [{"name": "c",
        "command": ["sh", "-c", "trap 'echo term; exit 0' TERM; while true; do sleep 0.1; done"],
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo pre > /proc/1/fd/1"]}}}}]}),
    );
    let pod = room.condition(&path, "Ready", "True").await;
    let log = room.log(&pod, "c", 0);
    let follow = std::fs::File::open(&log).unwrap();
    room.api.delete_pod(&path, 20);
    room.gone(&path).await;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut &follow, &mut text).unwrap();
    assert!(text.contains("pre\n") && text.contains("term\n"), "{text}");
    room.until("no log directory is left", |_| {
        std::fs::read_dir(&room.config.pod_logs_dir).is_ok_and(|d| d.count() == 0)
    })
    .await;
    let cri = strake_kubelet::cri::Cri::connect(&room.config.cri_socket);
    assert!(cri.sandboxes(None).await.unwrap().is_empty());
    let cgroups = strake_kubelet::cgroup::Hierarchies::discover().unwrap();
    assert!(
        !cgroups.children(&format!("{}/besteffort", room.config.cgroup_parent)).iter().any(|c| c.starts_with("pod"))
    );
}
