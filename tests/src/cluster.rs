//! A cluster in a rig of its own.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use strake_rig::{Rig, Room, Spec, cgroup::Hierarchies, process};
use tempfile::TempDir;

use crate::command::{Outcome, eventually, run, run_with};

/// A running cluster, ended when dropped.
pub struct Cluster {
    rig: Rig,
    strake: PathBuf,
    kubectl: PathBuf,
    extra: Vec<String>,
    node_extra: Vec<String>,
    // Last: removed after everything in it has ended.
    _dir: TempDir,
}

/// A file that `cargo xtask test` makes and names in the environment.
pub fn given(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).unwrap_or_else(|| {
        panic!("{variable} is not set: run this through `cargo xtask test`, which builds what it names")
    });
    PathBuf::from(path)
}

/// The `strake` binary under test.
pub fn strake() -> PathBuf {
    given("STRAKE_BIN")
}

/// The kubectl of a version, e.g. `1.35.2`.
pub fn kubectl(version: &str) -> PathBuf {
    given("STRAKE_CLIENTS").join(format!("kubectl-{version}/kubectl"))
}

impl Cluster {
    /// Starts a cluster of `nodes` and waits until all are Ready.
    pub fn start(test: &str, nodes: usize) -> Self {
        Self::start_with(test, nodes, &[])
    }

    /// As [`Cluster::start`], with flags for the server.
    pub fn start_with(test: &str, nodes: usize, extra: &[&str]) -> Self {
        Self::start_nodes(test, nodes, extra, &[])
    }

    /// As [`Cluster::start_with`], with flags for every node too. `{net}` in a flag is the front of the nodes' addresses, three
    /// numbers.
    pub fn start_nodes(test: &str, nodes: usize, extra: &[&str], node_extra: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("strake-").tempdir().unwrap();
        let name = format!("strake-t{}-{test}", std::process::id());
        let spec = Spec { name, data_dir: dir.path().join("d"), nodes };
        let rig = Rig::up(spec).unwrap();
        let [a, b, c, _] = rig.host_address().octets();
        let flags = |all: &[&str]| all.iter().map(|e| e.replace("{net}", &format!("{a}.{b}.{c}"))).collect();
        let cluster = Self {
            extra: flags(extra),
            node_extra: flags(node_extra),
            rig,
            strake: strake(),
            kubectl: kubectl("1.37.1"),
            _dir: dir,
        };
        cluster.start_server();
        let token = cluster.data_dir().join("server/token");
        eventually("the server writes its token", || token.exists().then_some(()).ok_or_else(|| cluster.log_tail()));
        for room in &cluster.rooms()[1..] {
            cluster.start_agent(room);
        }
        cluster.strake(&["status", "--wait", "--timeout", "90", "--nodes", &nodes.to_string()]).text();
        cluster
    }

    pub fn data_dir(&self) -> &Path {
        &self.rig.spec.data_dir
    }

    /// The host's own address on the nodes' network.
    pub fn host_address(&self) -> Ipv4Addr {
        self.rig.host_address()
    }

    /// The host's link to the nodes' network.
    pub fn host_link(&self) -> String {
        self.rig.spec.host_link()
    }

    pub fn rooms(&self) -> &[Room] {
        self.rig.rooms()
    }

    /// The first node, where the server runs.
    pub fn server(&self) -> &Room {
        &self.rooms()[0]
    }

    fn node_args(&self, room: &Room) -> Vec<String> {
        let mut args = Vec::new();
        for (flag, value) in [
            ("data-dir", self.data_dir().display().to_string()),
            ("node-name", room.name.clone()),
            ("node-ip", room.ip.to_string()),
            ("uplink", "eth0".into()),
            ("cgroup-root", room.cgroup_root.display().to_string()),
            ("cgroup-parent", room.cgroup_parent.clone()),
            ("bpf-root", room.bpf_root.display().to_string()),
            ("resolv-conf", room.dir.join("resolv.conf").display().to_string()),
        ] {
            args.extend([format!("--{flag}"), value]);
        }
        args.extend(self.node_extra.iter().cloned());
        args
    }

    /// Flags for every node that is started from now on.
    pub fn use_node_flags(&mut self, flags: &[&str]) {
        self.node_extra = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Ends the strake process of a room, and waits until it has.
    pub fn stop(&self, room: &Room) {
        let pid = self.pid(room);
        self.signal(pid, "TERM");
        let gone = || if Path::new(&format!("/proc/{pid}/exe")).exists() { Err(self.log_tail()) } else { Ok(()) };
        eventually("strake ends when it is told to", gone);
    }

    /// Starts the server's process; does not wait.
    pub fn start_server(&self) -> process::Id {
        let mut args = vec!["server".to_owned()];
        args.extend(self.node_args(self.server()));
        args.extend(self.extra.iter().cloned());
        let log = self.data_dir().join("server.log");
        self.server().spawn(&self.strake.display().to_string(), &args, &log).unwrap()
    }

    /// Starts a node's agent; does not wait.
    pub fn start_agent(&self, room: &Room) -> process::Id {
        let mut args = vec!["agent".to_owned()];
        args.extend(self.node_args(room));
        args.extend(["--server".into(), format!("https://{}:6443", self.server().ip)]);
        args.extend(["--token-file".into(), self.data_dir().join("server/token").display().to_string()]);
        room.spawn(&self.strake.display().to_string(), &args, &room.dir.join("agent.log")).unwrap()
    }

    /// One more room in which nothing of ours runs.
    pub fn spare_room(&self) -> Room {
        let spec = Spec { nodes: self.rooms().len() + 1, ..self.rig.spec.clone() };
        Rig::up(spec).unwrap().rooms().last().unwrap().clone()
    }

    /// The pid of the strake process in a room.
    pub fn pid(&self, room: &Room) -> i32 {
        let groups = Hierarchies::detect().unwrap();
        groups
            .processes(&format!("{}/{}/system", self.rig.spec.name, room.name))
            .into_iter()
            .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "strake"))
            .unwrap_or_else(|| panic!("no strake process on {}\n{}", room.name, self.log_tail()))
    }

    /// Sends a signal to a process, e.g. `KILL`.
    pub fn signal(&self, pid: i32, signal: &str) {
        let mut kill = Command::new("kill");
        kill.args([&format!("-{signal}"), &pid.to_string()]);
        run(kill).text();
    }

    /// Uses another kubectl from now on.
    pub fn use_kubectl(&mut self, version: &str) {
        self.kubectl = kubectl(version);
    }

    /// A kubectl command against this cluster.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.data_dir().join("admin.kubeconfig"));
        // Discovery is cached by server address, and rigs reuse addresses. Before the words: a `--` ends kubectl's own.
        command.arg("--cache-dir").arg(self.data_dir().join("kubectl-cache")).args(args);
        command
    }

    /// Runs kubectl against this cluster.
    pub fn kubectl(&self, args: &[&str]) -> Outcome {
        run(self.kubectl_command(args))
    }

    /// `kubectl apply -f -`.
    pub fn apply(&self, manifest: &str) -> Outcome {
        run_with(self.kubectl_command(&["apply", "-f", "-"]), manifest)
    }

    /// Runs the binary under test on the host, as an operator would.
    pub fn strake(&self, args: &[&str]) -> Outcome {
        let mut command = Command::new(&self.strake);
        command.args(args).arg("--data-dir").arg(self.data_dir());
        run(command)
    }

    /// Loads the demo image (`strake.io/demo:1`) into every node.
    pub fn load_demo(&self) {
        self.strake(&["images", "import", &given("STRAKE_DEMO_IMAGE").display().to_string()]).text();
    }

    /// Loads the test image with a shell (`strake.io/busybox:1`) into every node.
    pub fn load_busybox(&self) {
        self.strake(&["images", "import", &given("STRAKE_BUSYBOX_IMAGE").display().to_string()]).text();
    }

    /// `/demo ARGS` in a Pod.
    pub fn demo(&self, pod: &str, args: &[&str]) -> Outcome {
        self.kubectl(&[&["exec", pod, "--", "/demo"], args].concat())
    }

    /// The end of every log, for a failure's report.
    pub fn log_tail(&self) -> String {
        let mut out = String::new();
        let mut logs = vec![self.data_dir().join("server.log")];
        logs.extend(self.rooms().iter().map(|room| room.dir.join("agent.log")));
        for log in logs {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            out += &format!("--- {}\n{}\n", log.display(), lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        out
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if let Err(error) = strake_rig::down(&self.rig.spec.name, &self.rig.spec.data_dir) {
            eprintln!("taking the cluster down: {error}");
        }
    }
}

/// Three web Pods behind Service `web`, and a Pod `client`; waits until all are ready.
pub fn deploy_web(cluster: &Cluster) {
    cluster.load_demo();
    cluster.apply(include_str!("../../xtask/src/demo.yaml")).text();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).text();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"]).text();
}
