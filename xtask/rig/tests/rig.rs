//! A rig of two nodes on this machine: rooms reach each other and the host, nothing else, and leave nothing behind.
#![expect(clippy::unwrap_used, reason = "a panic is the test's report")]

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use strake_rig::{Rig, Spec, cgroup::Hierarchies, down};

/// Takes the rig down when the test ends, whichever way it ends.
struct Cleanup(Spec);

impl Drop for Cleanup {
    fn drop(&mut self) {
        if let Err(error) = down(&self.0.name, &self.0.data_dir) {
            eprintln!("taking the rig down: {error}");
        }
    }
}

fn spec(test: &str, dir: &Path) -> Spec {
    Spec { name: format!("strake-t{}-{test}", std::process::id()), data_dir: dir.join("data"), nodes: 2 }
}

fn output(mut command: Command) -> (bool, String) {
    let out = command.output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

#[test]
fn rooms_reach_each_other_and_the_host_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let cleanup = Cleanup(spec("reach", dir.path()));
    let rig = Rig::up(cleanup.0.clone()).unwrap();
    let [one, two] = rig.rooms() else { panic!("two rooms") };

    let listener = TcpListener::bind((rig.host_address(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut dial = one.command("bash");
    dial.args(["-c", &format!("exec 3<>/dev/tcp/{}/{port}", rig.host_address())]);
    let (ok, text) = output(dial);
    assert!(ok, "node1 reaches the host: {text}");

    let mut routes = two.command("ip");
    routes.args(["-4", "route"]);
    let (_, text) = output(routes);
    assert!(!text.contains("default"), "a room has no way out: {text}");
    assert!(text.contains(&two.ip.to_string()), "{text}");

    let mut mounts = one.command("cat");
    mounts.arg("/proc/self/mounts");
    let (_, text) = output(mounts);
    assert!(text.contains(&format!("{} bpf", one.bpf_root.display())), "the room has a bpffs of its own: {text}");
    assert!(!std::fs::read_to_string("/proc/self/mounts").unwrap().contains(one.bpf_root.to_str().unwrap()));

    let mut group = one.command("cat");
    group.arg("/proc/self/cgroup");
    let (_, text) = output(group);
    assert!(text.contains(&format!("0::/{}/node1/system", cleanup.0.name)), "{text}");
}

#[test]
fn up_twice_keeps_the_rooms_and_mends_the_one_that_died() {
    let dir = tempfile::tempdir().unwrap();
    let cleanup = Cleanup(spec("twice", dir.path()));
    let first: Vec<_> = Rig::up(cleanup.0.clone()).unwrap().rooms().iter().map(|r| r.holder).collect();
    let again: Vec<_> = Rig::up(cleanup.0.clone()).unwrap().rooms().iter().map(|r| r.holder).collect();
    assert_eq!(first, again);
    let (ok, _) = output({
        let mut kill = Command::new("kill");
        kill.args(["-KILL", &first[0].pid.to_string()]);
        kill
    });
    assert!(ok);
    while first[0].alive() {
        std::thread::yield_now();
    }
    let mended = Rig::up(cleanup.0.clone()).unwrap();
    assert_ne!(mended.rooms()[0].holder, first[0]);
    assert_eq!(mended.rooms()[1].holder, first[1]);
}

#[test]
fn a_room_comes_back_while_the_kernel_still_has_its_old_network() {
    let dir = tempfile::tempdir().unwrap();
    let cleanup = Cleanup(spec("lingers", dir.path()));
    let rig = Rig::up(cleanup.0.clone()).unwrap();
    // A namespace lives for as long as somebody has it open, here in place of a kernel that is slow to take it apart.
    let died = rig.rooms()[0].holder;
    let lingering = std::fs::File::open(format!("/proc/{}/ns/net", died.pid)).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(died.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    while died.alive() {
        std::thread::yield_now();
    }
    let mended = Rig::up(cleanup.0.clone()).unwrap();
    assert_ne!(mended.rooms()[0].holder, died);
    let mut dial = mended.rooms()[1].command("bash");
    dial.args(["-c", &format!("exec 3<>/dev/tcp/{}/9", mended.rooms()[0].ip)]);
    let (_, text) = output(dial);
    assert!(text.contains("Connection refused"), "node2 reaches the new node1: {text}");
    drop(lingering);
}

#[test]
fn down_leaves_no_process_group_link_or_file() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec("down", dir.path());
    let cleanup = Cleanup(spec.clone());
    let rig = Rig::up(spec.clone()).unwrap();
    rig.rooms()[0].spawn("sleep", &["infinity".into()], &dir.path().join("log")).unwrap();
    assert!(!down(&spec.name, &spec.data_dir).unwrap().is_empty());
    let groups = Hierarchies::detect().unwrap();
    assert!(groups.processes(&spec.name).is_empty());
    assert!(!groups.v2.join(&spec.name).exists());
    assert!(!Path::new("/sys/class/net").join(spec.host_link()).exists());
    assert!(!spec.data_dir.exists());
    assert!(down(&spec.name, &spec.data_dir).unwrap().is_empty(), "a second down has nothing to do");
    drop(cleanup);
}
