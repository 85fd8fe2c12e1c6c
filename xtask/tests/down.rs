//! `cargo xtask down` after an `up` that was killed on its way, and after one that was not.
//!
//! Runs the real xtask with the binary under test, in a rig of its own. `cargo xtask test` says where that binary is.
#![expect(clippy::unwrap_used, reason = "a panic is the test's report")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use strake_rig::cgroup::Hierarchies;

fn xtask(verb: &str, data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg(verb).arg("--data-dir").arg(data_dir).stdin(Stdio::null());
    command
}

fn up(data_dir: &Path) -> Command {
    let strake = std::env::var_os("STRAKE_BIN")
        .expect("STRAKE_BIN is not set: run this through `cargo xtask test`, which builds what it names");
    let mut command = xtask("up", data_dir);
    command.arg("--no-demo").arg("--binary").arg(strake);
    command
}

fn succeed(mut command: Command) -> String {
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
    text
}

/// What there is of the rig.
fn traces(data_dir: &Path) -> Vec<String> {
    let name = strake_rig::name_of(data_dir);
    let groups = Hierarchies::detect().unwrap();
    let spec = strake_rig::Spec { name: name.clone(), data_dir: data_dir.into(), nodes: 1 };
    let mut found: Vec<String> = groups.processes(&name).iter().map(|pid| format!("process {pid}")).collect();
    let mut add = |path: PathBuf| {
        if path.exists() {
            found.push(path.display().to_string());
        }
    };
    add(groups.v2.join(&name));
    add(Path::new("/sys/class/net").join(spec.host_link()));
    add(data_dir.into());
    let text = data_dir.display().to_string();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(&text)).map(str::to_owned));
    // Whoever left the cgroup still names the data dir in its arguments.
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let own = process.file_name().to_string_lossy() == std::process::id().to_string();
        if !own && String::from_utf8_lossy(&arguments).contains(&text) {
            found.push(String::from_utf8_lossy(&arguments).replace('\0', " "));
        }
    }
    found
}

/// Whatever happens, nothing stays.
struct Cleanup<'a>(&'a Path);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        let _ = strake_rig::down(&strake_rig::name_of(self.0), self.0);
    }
}

#[test]
fn down_leaves_nothing_of_an_up_that_was_killed_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let _cleanup = Cleanup(&data_dir);
    // From "has hardly begun" to "waits for the node": wherever the kill falls, the same must hold.
    for milliseconds in [20, 100, 250, 600, 1500] {
        let mut child = up(&data_dir).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        succeed(xtask("down", &data_dir));
        assert_eq!(traces(&data_dir), [""; 0], "killed after {milliseconds} ms");
    }
}

#[test]
fn up_twice_then_down_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let _cleanup = Cleanup(&data_dir);
    succeed(up(&data_dir));
    assert!(succeed(up(&data_dir)).contains("it was running already"));
    assert!(!traces(&data_dir).is_empty());
    succeed(xtask("down", &data_dir));
    assert_eq!(traces(&data_dir), [""; 0]);
    assert!(succeed(xtask("down", &data_dir)).contains("nothing to remove"));
}

#[test]
fn down_leaves_a_directory_alone_that_is_no_rigs() {
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    fs::write(&precious, "text").unwrap();
    let out = xtask("down", dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && text.contains("no rig was built there"), "{text}");
    assert_eq!(fs::read_to_string(precious).unwrap(), "text");
}
