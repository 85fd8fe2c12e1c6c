//! Pods' cgroups on a machine that has cgroup v2 and nothing else: a whole node, containerd included, in a guest.
//!
//! The machine that runs the tests may be hybrid; tests/cluster/node.rs looks at the same limits there.

use std::time::Duration;

use strake_rig::vm::Guest;
use strake_tests::cluster::{given, kubectl, strake};

use super::{old_kernel, sections};

/// One Pod of each QoS class, and one that takes more memory than it may.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: guaranteed}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: strake.io/busybox:1
    command: [sleep, '3600']
    resources: {limits: {cpu: 500m, memory: 48Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: burstable}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: strake.io/busybox:1
    command: [sleep, '3600']
    resources: {requests: {cpu: 250m, memory: 16Mi}, limits: {cpu: 1, memory: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: besteffort}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: 'strake.io/busybox:1', command: [sleep, '3600']}]
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: strake.io/busybox:1
    command: [tail, /dev/zero]
    resources: {limits: {memory: 32Mi}}
";

/// The guest's root is its initramfs, which `pivot_root` refuses, and runc with it: the script goes on in a mount of its
/// own.
const OUTSIDE: &str = "
    mkdir /root/new
    mount --bind / /root/new
    for place in proc sys dev tmp run; do mount --rbind /$place /root/new/$place; done
    exec chroot /root/new sh /node";

/// Prints a section for each question the test has.
const NODE: &str = "
    export KUBECONFIG=/var/strake/admin.kubeconfig
    limits() {
        for file in cpu.weight cpu.max memory.max; do echo $file $(cat $1/$file); done
    }
    sh /modules/all || exit 1
    mount -t cgroup2 none /sys/fs/cgroup
    mount -t bpf bpf /sys/fs/bpf
    mount -t tmpfs var /var
    echo == mounts
    grep cgroup /proc/mounts
    echo == starting
    ip=/usr/sbin/ip
    $ip link add up0 type veth peer name up1
    $ip address add 192.0.2.1/24 dev up0
    $ip link set up0 up
    $ip link set up1 up
    strake server --data-dir /var/strake --node-name v2 --node-ip 192.0.2.1 --uplink up0 > /tmp/log 2>&1 &
    server=$!
    trap 'code=$?; [ $code = 0 ] || tail -n 20 /tmp/log; exit $code' EXIT
    set -e
    until [ -e $KUBECONFIG ]; do sleep 0.2; done
    strake status --wait --timeout 180 --data-dir /var/strake
    strake images import /images/busybox.tar --data-dir /var/strake
    kubectl apply -f /pods.yaml
    kubectl wait --for=condition=Ready pod/guaranteed pod/burstable pod/besteffort --timeout=180s
    pods=/sys/fs/cgroup/strake/kubepods
    for name in guaranteed burstable besteffort; do
        class=$name/
        [ $name = guaranteed ] && class=
        group=$pods/${class}pod$(kubectl get pod $name -o 'jsonpath={.metadata.uid}')
        container=$(kubectl get pod $name -o 'jsonpath={.status.containerStatuses[0].containerID}')
        echo == $name
        limits $group
        echo == $name container
        limits $group/${container#containerd://}
        echo == $name inside
        kubectl exec $name -- cat /proc/self/cgroup
        echo == $name processes
        grep -c . $group/${container#containerd://}/cgroup.procs
    done
    echo == classes
    for class in burstable besteffort; do echo $class $(cat $pods/$class/cpu.weight); done
    echo == greedy
    kubectl wait --for=jsonpath='{.status.phase}'=Failed pod/greedy --timeout=180s > /dev/null
    state=.status.containerStatuses[0].state.terminated
    kubectl get pod greedy -o \"jsonpath={$state.reason} {$state.exitCode}{\\\"\\n\\\"}\"
    echo == gone
    kubectl delete pod --all --timeout=180s > /dev/null
    until [ -z \"$(find $pods -name 'pod*' 2>/dev/null)\" ]; do sleep 0.2; done
    (cd $pods/.. && find kubepods -type d | sort)
    echo == leaving
    kill $server
    wait $server
";

#[test]
fn pods_are_limited_where_cgroup_v2_is_all_there_is() {
    let mut guest = Guest::new(old_kernel()).unwrap();
    guest.memory_mib(2560);
    guest.program(&strake(), "/bin/strake").unwrap();
    guest.program(&kubectl("1.37.1"), "/bin/kubectl").unwrap();
    for tool in ["ip", "containerd", "containerd-shim-runc-v2", "ctr", "runc"] {
        guest.tool(tool).unwrap();
    }
    guest.modules("all", &["veth", "sch_ingress", "cls_bpf"]).unwrap();
    guest.file("/images/busybox.tar", std::fs::read(given("STRAKE_BUSYBOX_IMAGE")).unwrap());
    guest.file("/etc/hosts", "127.0.0.1 localhost\n");
    guest.file("/pods.yaml", PODS);
    guest.file("/node", NODE);
    let folder = tempfile::tempdir().unwrap();
    let outcome = guest.run(OUTSIDE, folder.path(), Duration::from_secs(420), |line| println!("{line}")).unwrap();
    assert_eq!(outcome.status, 0);
    let said = sections(&outcome);
    let is = |section: &str, expected: &str| assert_eq!(said[section], format!("{expected}\n"), "{section}");

    // It is what it claims to be.
    assert!(said["mounts"].lines().all(|line| line.split(' ').nth(2) == Some("cgroup2")), "{}", said["mounts"]);

    // Weights are the shares of the requests (1,024 a core) on cgroup v2's scale; a period is 100 ms.
    for (pod, weight, cpu, memory) in [
        ("guaranteed", 20, "50000", "50331648"),
        ("burstable", 10, "100000", "67108864"),
        ("besteffort", 1, "max", "max"),
    ] {
        let limits = format!("cpu.weight {weight}\ncpu.max {cpu} 100000\nmemory.max {memory}");
        is(pod, &limits);
        is(&format!("{pod} container"), &limits);
        is(&format!("{pod} processes"), "1");
        // A container sees a cgroup namespace of its own: its group is the root.
        is(&format!("{pod} inside"), "0::/");
    }
    // Of a class: what its Pods ask for together (250m), and the least there is.
    is("classes", "burstable 10\nbesteffort 1");
    is("greedy", "OOMKilled 137");
    is("gone", "kubepods\nkubepods/besteffort\nkubepods/burstable");
}
