//! Compiles the sandbox ("pause") program to a static ELF of a few kilobytes, so that no node needs a registry to
//! start a Pod.
use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=pause/main.rs");
    let out = env::var("OUT_DIR").unwrap_or_default();
    let elf = Path::new(&out).join("pause");
    let target = env::var("TARGET").unwrap_or_default();
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-name=pause", "--crate-type=bin", "-Cpanic=abort", "-Copt-level=s"])
        .args(["-Cstrip=symbols", "-Crelocation-model=static"])
        .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static", "-Clink-arg=-no-pie"])
        .args(["--target", &target, "-o"])
        .arg(&elf)
        .arg("pause/main.rs")
        .status();
    match status {
        Ok(s) if s.success() => {}
        Ok(s) => panic!("compiling the pause program for {target}: rustc ended with {s}"),
        Err(e) => panic!("compiling the pause program for {target}: {e}"),
    }
}
