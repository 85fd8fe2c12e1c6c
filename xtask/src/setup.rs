//! Prerequisites: what each is for, how to tell it is there, and which Debian package brings it.
//!
//! Nothing is installed that is there already. On a machine without apt the missing ones are named and the command
//! ends there.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::ui;

/// Something a command needs.
pub struct Need {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

pub const fn need(program: &'static str, package: &'static str, why: &'static str) -> Need {
    Need { program, package, why }
}

/// To compile.
pub const BUILD: [Need; 3] = [
    need("cc", "gcc", "links the binary and compiles its crypto library"),
    need("protoc", "protobuf-compiler", "compiles the CRI and agent API definitions"),
    need("make", "make", "is used by native parts of dependencies"),
];

/// To run a cluster.
pub const RUN: [Need; 6] = [
    need("containerd", "containerd", "runs the containers"),
    need("runc", "runc", "starts each container"),
    need("ip", "iproute2", "joins the rooms of the rig"),
    need("nsenter", "util-linux", "enters the rooms of the rig"),
    need("iptables", "iptables", "is the peer of `cargo xtask bench proxy`; a cluster does not use it"),
    need("python3", "python3", "unpacks the clients"),
];

const QEMU_PACKAGE: &str = "qemu-system-x86";

/// To test and measure.
pub const TEST: [Need; 7] = [
    need("nft", "nftables", "is the peer of `cargo xtask bench proxy`"),
    need("dnsmasq", "dnsmasq-base", "is the peer of `cargo xtask bench dns`"),
    need("busybox", "busybox-static", "gives test Pods a shell"),
    need("npm", "npm", "fetches kubectl 1.35.2"),
    need("strip", "binutils", "makes programs small enough for a virtual machine"),
    need("xz", "xz-utils", "unpacks the modules of other kernels"),
    need(strake_rig::vm::QEMU, QEMU_PACKAGE, "boots other kernels"),
];

/// Everything.
pub const ALL: [&[Need]; 3] = [&BUILD, &RUN, &TEST];

/// Installs what is missing of `needs`, and the BPF toolchain.
pub fn run(needs: &[&[Need]]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().flat_map(|n| n.iter()).filter(|n| !on_path(n.program)).collect();
    if !missing.is_empty() {
        ui::step("Installing what is missing");
        for need in &missing {
            println!("    {:16} {} {}", need.package, need.program, need.why);
        }
        let (qemu, packages): (Vec<&str>, Vec<&str>) =
            missing.iter().map(|n| n.package).partition(|package| *package == QEMU_PACKAGE);
        if !on_path("apt-get") {
            bail!("this machine has no apt-get; install the packages above with its own package manager and try again");
        }
        if !packages.is_empty() {
            apt(&packages)?;
        }
        // Other parts of QEMU may be here already, in a version of their own.
        for package in qemu {
            crate::debian::install_beside(package)?;
        }
    }
    match strake_bpf_toolchain::find() {
        Ok(_) => Ok(()),
        Err(missing) => bpf_toolchain(&missing),
    }
}

pub fn apt(packages: &[&str]) -> Result<()> {
    ui::spin("apt-get update", || ui::capture(Command::new("apt-get").arg("update")).map(drop))?;
    ui::spin("apt-get install", || {
        let mut install = Command::new("apt-get");
        install
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "--no-install-recommends"])
            .args(packages);
        ui::capture(&mut install).map(drop)
    })
}

fn bpf_toolchain(missing: &strake_bpf_toolchain::Missing) -> Result<()> {
    ui::step("Installing the BPF toolchain: the datapath is compiled from source");
    for step in missing.commands() {
        println!("    {} ({})", step.command, step.why);
        ui::spin("running it", || ui::capture(Command::new("sh").args(["-c", &step.command])).map(drop))?;
    }
    match strake_bpf_toolchain::find() {
        Ok(_) => Ok(()),
        Err(still) => bail!("the BPF toolchain is still incomplete: {still}"),
    }
}

/// Whether a program is on PATH or where Debian keeps system programs.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(program).is_file())
}
