//! What the agent says on a host that lacks something it needs: the real agent, under an older kernel, in a virtual
//! machine of its own. Nothing of this machine is touched.
//!
//! `cargo xtask test` fetches the kernel and names it in the environment; `cargo xtask vm` runs the datapath's tests
//! under more of them.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a panic is a test's report")]

mod pods;

use std::collections::BTreeMap;
use std::time::Duration;

use strake_rig::vm::{Guest, Kernel, Outcome};
use strake_tests::cluster::{given, strake};

/// Below Linux 6.6 (no tcx): clsact must be there.
fn old_kernel() -> Kernel {
    let kernel = Kernel::open(&given("STRAKE_OLD_KERNEL")).unwrap();
    assert!(kernel.version() < (6, 6), "Linux {} is not old enough for what is tested here", kernel.release);
    kernel
}

/// What was printed after each `== NAME`.
fn sections(outcome: &Outcome) -> BTreeMap<&str, String> {
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    let mut name = "";
    for line in outcome.output.lines() {
        match line.strip_prefix("== ") {
            Some(next) => name = next,
            None => {
                let text = found.entry(name).or_default();
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    found
}

#[test]
fn an_agent_names_what_its_host_lacks_and_runs_once_it_is_there() {
    let kernel = old_kernel();
    let release = kernel.release.clone();
    let mut guest = Guest::new(kernel).unwrap();
    guest.program(&strake(), "/bin/strake").unwrap();
    guest.tool("ip").unwrap();
    for module in ["veth", "sch_ingress", "cls_bpf"] {
        guest.modules(module, &[module]).unwrap();
    }
    let token = format!("abcdef.0123456789abcdef::sha256:{}", "0".repeat(64));
    let node = "--data-dir /tmp/strake --node-name old --node-ip 192.0.2.1 --uplink up0";
    // Nobody serves at that address: what the host lacks must be said before joining is tried.
    let agent = format!("RUST_LOG=error strake agent --server https://192.0.2.1:6443 --token {token} {node}");
    let script = format!(
        "set -e
         sh /modules/veth
         ip=/usr/sbin/ip
         $ip link add up0 type veth peer name up1
         $ip address add 192.0.2.1/24 dev up0
         $ip link set up0 up
         $ip link set up1 up
         set +e
         refused() {{ echo \"== $1\"; shift; {agent} \"$@\"; echo \"status $?\"; }}
         refused no-cgroup2
         mount -t cgroup2 none /sys/fs/cgroup
         refused no-clsact
         sh /modules/sch_ingress
         refused no-classifier
         sh /modules/cls_bpf
         refused other-folder --cgroup-root /tmp
         refused no-bpffs
         mount -t bpf bpf /sys/fs/bpf
         echo == complete
         mkfifo /tmp/log
         strake server {node} --components proxy,network,dns > /tmp/log 2>&1 &
         sed '/datapath attached/q' < /tmp/log"
    );
    let folder = tempfile::tempdir().unwrap();
    let outcome = guest.run(&script, folder.path(), Duration::from_secs(120), |line| println!("{line}")).unwrap();
    let said = sections(&outcome);

    let refused = |section: &str, error: &str| {
        assert_eq!(said[section], format!("strake: {error}\nstatus 1\n"), "{section}");
    };
    refused(
        "no-cgroup2",
        "no cgroup2 file system is mounted; the socket hooks need one (mount -t cgroup2 none /sys/fs/cgroup)",
    );
    refused(
        "no-clsact",
        &format!(
            "the datapath: setting up the datapath: this kernel ({release}) lacks the clsact qdisc, which the packet \
             path below Linux 6.6 needs: load its module (modprobe sch_ingress), boot a kernel with \
             CONFIG_NET_SCH_INGRESS, or boot Linux 6.6 or newer"
        ),
    );
    refused(
        "no-classifier",
        &format!(
            "the datapath: setting up the datapath: this kernel ({release}) lacks the BPF classifier, which the packet \
             path below Linux 6.6 needs: load its module (modprobe cls_bpf), boot a kernel with CONFIG_NET_CLS_BPF, or \
             boot Linux 6.6 or newer"
        ),
    );
    refused(
        "other-folder",
        "the datapath: setting up the datapath: /tmp is not a folder of a cgroup2 file system, where the socket hooks \
         are attached: mount one (mount -t cgroup2 none /sys/fs/cgroup) or name one that is",
    );
    refused(
        "no-bpffs",
        "the datapath: setting up the datapath: /sys/fs/bpf/strake is not on a bpf file system, where maps outlive the \
         agent: mount one (mount -t bpf bpf /sys/fs/bpf) or name a folder on one that is mounted",
    );
    // The same host with all of it.
    assert!(said["complete"].contains("datapath attached"), "{}", said["complete"]);
    assert_eq!(outcome.status, 0);
}
