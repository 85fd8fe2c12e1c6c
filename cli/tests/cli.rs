//! The command line as a person meets it. Building this also builds the binary that the cluster tests run.
#![expect(clippy::unwrap_used, reason = "a panic is a test's report")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn strake(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strake")).args(args).output().unwrap()
}

#[test]
fn help_names_every_command_and_fits_a_terminal() {
    let help = String::from_utf8(strake(&["--help"]).stdout).unwrap();
    for command in ["server", "agent", "status", "flows", "service", "backend", "conntrack", "images", "completion"] {
        assert!(help.lines().any(|l| l.trim_start().starts_with(command)), "{command} is missing:\n{help}");
    }
    assert!(help.lines().all(|l| l.len() <= 110), "{help}");
}

#[test]
fn completion_knows_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(strake(&["completion", shell]).stdout).unwrap();
        for word in ["flows", "conntrack", "flush", "backend", "from-outside", "established", "sandboxed-runtimes"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
}

#[test]
fn help_says_what_a_flush_does_where_reasons_are_explained_and_fits_a_terminal() {
    for (command, says) in [
        (&["conntrack", "flush", "--help"][..], "chooses a backend anew"),
        (&["flows", "--help"], "docs/drops.md"),
        (&["service", "trace", "--help"], "--from default/client --to"),
        (&["backend", "list", "--help"], "lingering"),
    ] {
        let help = String::from_utf8(strake(command).stdout).unwrap();
        assert!(help.contains(says), "{command:?}:\n{help}");
        assert!(help.lines().all(|line| line.len() <= 100), "{command:?}:\n{help}");
    }
}

#[test]
fn a_question_that_is_only_half_asked_is_refused() {
    for command in [
        &["service", "trace"][..],
        &["service", "trace", "--to", "10.96.0.1:443"],
        &["service", "trace", "default/web", "--from", "default/client", "--to", "10.96.0.1:443"],
        &["conntrack", "list", "--port", "0"],
        &["conntrack", "list", "--state", "open"],
    ] {
        let output = strake(command);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
    }
}

#[test]
fn a_host_without_a_cluster_is_told_what_to_do() {
    for command in [&["status"][..], &["flows"], &["service", "list"], &["backend", "list"], &["conntrack", "list"]] {
        let output = strake(&[command, &["--data-dir", "/nonexistent/strake"]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(said.contains("/nonexistent/strake") && said.contains("--data-dir"), "{command:?}: {said}");
    }
}

#[test]
fn the_binary_is_the_cni_plugin_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = dir.path().join("strake-cni");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_strake"), &plugin).unwrap();
    let mut child = Command::new(&plugin)
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"{\"cniVersion\":\"1.0.0\"}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("\"1.0.0\""));
}

#[test]
fn an_agent_with_a_token_that_pins_no_ca_is_refused() {
    let output = strake(&["agent", "--server", "https://192.0.2.1:6443", "--token", "abcdef.0123456789abcdef"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("sha256:"), "{said}");
}
