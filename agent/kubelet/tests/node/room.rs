//! A room for one node: namespaces of its own, a containerd, images, a trivial network, a running kubelet.
//! Leaving it takes everything down, also when the test failed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use strake_kubelet::{Config, containerd};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::image;

pub struct Room {
    pub api: Api,
    pub config: Config,
    pub runtime: containerd::Containerd,
    pub stop: CancellationToken,
    pub kubelet: Option<tokio::task::JoinHandle<strake_kubelet::Result<()>>>,
    pub admin: (String, String),
    pub ca: String,
    dir: tempfile::TempDir,
}

/// Runs a test in a thread with its own mount and network namespace.
pub fn enter<F>(test: impl FnOnce(Room) -> F + Send + 'static)
where
    F: Future<Output = Room> + 'static,
{
    let outcome = std::thread::Builder::new()
        .stack_size(16 << 20)
        .spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("this test needs root (unshare)");
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            run("ip", &["link", "set", "lo", "up"]);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
                let _ = tracing_subscriber::fmt()
                    .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
                    .with_test_writer()
                    .try_init();
                let room = Room::open().await;
                let cleanup = (room.config.clone(), room.runtime.clone(), room.stop.clone());
                let local = tokio::task::LocalSet::new();
                let outcome = local.run_until(async { tokio::task::spawn_local(test(room)).await }).await;
                let (config, containerd, stop) = cleanup;
                stop.cancel();
                // A kubelet of a failed test ends at its next await.
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                let down = strake_kubelet::teardown(
                    &config.cri_socket,
                    &config.pods_dir,
                    &config.pod_logs_dir,
                    &config.cgroup_parent,
                )
                .await;
                containerd.stop().await.unwrap();
                let cgroups = strake_kubelet::cgroup::Hierarchies::discover().unwrap();
                let root = config.cgroup_parent.trim_end_matches("/kubepods").to_owned();
                cgroups.remove(&root).await.unwrap();
                down.unwrap();
                if let Err(e) = outcome
                    && e.is_panic()
                {
                    std::panic::resume_unwind(e.into_panic());
                }
            });
        })
        .unwrap()
        .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A CNI plugin that gives every Pod an address of nobody's, and does nothing else.
const PLUGIN: &str = "#!/bin/sh\nif [ \"$CNI_COMMAND\" = ADD ]; then\n  echo '{\"cniVersion\":\"0.4.0\",\"interfaces\":[{\"name\":\"eth0\",\"sandbox\":\"'$CNI_NETNS'\"}],\"ips\":[{\"version\":\"4\",\"address\":\"198.51.100.7/32\",\"interface\":0}]}'\nfi\n";

impl Room {
    async fn open() -> Self {
        let dir = tempfile::Builder::new().prefix("strake-kubelet-").tempdir().unwrap();
        let name = format!("kt{}", std::process::id());
        let mut options = containerd::Options::under(&dir.path().join("c"));
        options.cgroup = Some(format!("/strake-test-{name}/runtime"));
        for plugin in ["loopback", "strake-test"] {
            std::fs::create_dir_all(&options.cni_bin_dir).unwrap();
            let file = options.cni_bin_dir.join(plugin);
            std::fs::write(&file, PLUGIN).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let conf = json!({"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "strake-test"}]});
        std::fs::create_dir_all(&options.cni_conf_dir).unwrap();
        std::fs::write(options.cni_conf_dir.join("10-test.conflist"), conf.to_string()).unwrap();
        let runtime = containerd::ensure(options).await.unwrap();
        assert!(!runtime.adopted);
        let archive = dir.path().join("image.tar");
        image::write(&archive);
        let socket = runtime.options.socket.to_str().unwrap();
        run("ctr", &["-a", socket, "-n", "k8s.io", "images", "import", archive.to_str().unwrap()]);

        let mut config =
            Config::under(&dir.path().join("n"), &name, [127, 0, 0, 1].into(), runtime.options.socket.clone());
        config.cgroup_parent = format!("/strake-test-{name}/kubepods");
        config.sandbox_image = image::PAUSE.into();
        let (ca, admin) = certificates(&config);
        let api = Api::new();
        api.put(
            "/api/v1/namespaces/default/services/kubernetes",
            json!({"metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}}),
        );
        let mut room = Self { api, config, runtime, stop: CancellationToken::new(), kubelet: None, admin, ca, dir };
        room.start();
        room.until("the node is Ready", |api| {
            let node = api.list("/api/v1/nodes/");
            node.first()
                .and_then(|n| n["status"]["conditions"].as_array().cloned())
                .is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
        })
        .await;
        room
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a kubelet (again).
    pub fn start(&mut self) {
        self.stop = CancellationToken::new();
        let (name, stop) = (&self.config.node_name, self.stop.clone());
        let worlds = strake_state::watch(self.api.client(), name, strake_state::Scope::Cluster, stop.clone());
        let run = strake_kubelet::run(self.config.clone(), self.api.client(), worlds, stop);
        self.kubelet = Some(tokio::spawn(run));
    }

    /// Ends the kubelet; containers stay.
    pub async fn end(&mut self) {
        self.stop.cancel();
        self.kubelet.take().unwrap().await.unwrap().unwrap();
    }

    /// Waits for a condition of the API server's objects.
    pub async fn until(&self, what: &str, done: impl Fn(&Api) -> bool) {
        let begun = Instant::now();
        while !done(&self.api) {
            if begun.elapsed() > Duration::from_secs(90) {
                let pods = self.api.list("/api/v1/namespaces/default/pods/");
                let events: Vec<Value> = self
                    .api
                    .list("/api/v1/namespaces/default/events/")
                    .iter()
                    .map(|e| json!([e["reason"], e["message"]]))
                    .collect();
                panic!(
                    "{what}: not within 90 s; pods: {}; events: {}",
                    serde_json::to_string_pretty(&pods).unwrap(),
                    serde_json::to_string_pretty(&events).unwrap()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Creates a Pod in `default` on this node.
    pub fn pod(&self, name: &str, mut spec: Value) -> String {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        spec["nodeName"] = json!(self.config.node_name);
        for list in ["containers", "initContainers"] {
            for c in spec[list].as_array_mut().into_iter().flatten() {
                if c["image"].is_null() {
                    c["image"] = json!(image::NAME);
                }
            }
        }
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = json!(1);
        }
        self.api.put(&path, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "generation": 1, "labels": {"app": name}},
            "spec": spec, "status": {"phase": "Pending", "qosClass": "BestEffort"}}));
        path
    }

    pub async fn phase(&self, path: &str, phase: &str) -> Value {
        self.until(&format!("{path} is {phase}"), |api| api.get(path).is_some_and(|p| p["status"]["phase"] == phase))
            .await;
        self.api.get(path).unwrap()
    }

    pub async fn condition(&self, path: &str, condition: &str, status: &str) -> Value {
        self.until(&format!("{condition} of {path} is {status}"), |api| {
            let pod = api.get(path).unwrap_or_default();
            pod["status"]["conditions"]
                .as_array()
                .is_some_and(|c| c.iter().any(|c| c["type"] == condition && c["status"] == status))
        })
        .await;
        self.api.get(path).unwrap()
    }

    pub async fn gone(&self, path: &str) {
        self.until(&format!("{path} is gone"), |api| api.get(path).is_none()).await;
    }

    pub fn log(&self, pod: &Value, container: &str, n: u32) -> PathBuf {
        let m = &pod["metadata"];
        let dir = format!(
            "{}_{}_{}",
            m["namespace"].as_str().unwrap(),
            m["name"].as_str().unwrap(),
            m["uid"].as_str().unwrap()
        );
        self.config.pod_logs_dir.join(dir).join(container).join(format!("{n}.log"))
    }

    pub fn log_text(&self, pod: &Value, container: &str, n: u32) -> String {
        let raw = std::fs::read_to_string(self.log(pod, container, n)).unwrap_or_default();
        raw.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }
}

/// A CA, the server's certificate and an admin's: returns the CA and the admin's certificate and key, PEM.
fn certificates(c: &Config) -> (String, (String, String)) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test-ca");
    let ca = params.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(params, ca_key);
    let leaf = |cn: &str, names: Vec<String>, usage| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, cn);
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let (cert, key) = leaf("node", vec!["127.0.0.1".into()], ExtendedKeyUsagePurpose::ServerAuth);
    std::fs::create_dir_all(&c.root_dir).unwrap();
    std::fs::write(&c.serving_cert, cert).unwrap();
    std::fs::write(&c.serving_key, key).unwrap();
    std::fs::write(&c.client_ca, &ca).unwrap();
    (ca, leaf("admin", Vec::new(), ExtendedKeyUsagePurpose::ClientAuth))
}
