//! `up` and `down`: a cluster in the rig, started in the background, and its complete removal.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use strake_rig::{Rig, Room, Spec, cgroup::Hierarchies, process};

use crate::{build, clients, demo, setup, ui};

/// Where the cluster is.
#[derive(Args)]
pub struct Place {
    /// Where the cluster keeps everything it has
    #[arg(long, default_value = strake_rig::DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
}

#[derive(Args)]
pub struct UpArgs {
    /// How many nodes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=100))]
    nodes: u8,
    #[command(flatten)]
    place: Place,
    /// Build without optimisation: quicker to build, slower to run
    #[arg(long)]
    debug: bool,
    /// Run this strake instead of building one
    #[arg(long, value_name = "FILE", conflicts_with = "debug")]
    binary: Option<PathBuf>,
    /// Do not deploy the demo
    #[arg(long)]
    no_demo: bool,
    /// Give nodes, Pods and Services addresses of IPv6 too
    #[arg(long)]
    dual_stack: bool,
}

pub fn up(args: &UpArgs) -> Result<()> {
    setup::run(&[&setup::BUILD, &setup::RUN])?;
    let kubectl = clients::kubectl()?;
    let strake = match &args.binary {
        Some(file) => fs::canonicalize(file).with_context(|| format!("finding {}", file.display()))?,
        None => build::strake(if args.debug { "dev" } else { "release" })?,
    };
    let image = if args.no_demo { None } else { Some(build::demo_image()?) };

    ui::step("Starting the cluster");
    let data_dir = std::path::absolute(&args.place.data_dir)?;
    let spec =
        Spec { name: strake_rig::name_of(&data_dir), data_dir: data_dir.clone(), nodes: usize::from(args.nodes) };
    let rig = Rig::up(spec)?;
    let start = Instant::now();
    let groups = Hierarchies::detect()?;
    let mut started = 0;
    for (n, room) in rig.rooms().iter().enumerate() {
        let process = match running(&groups, &rig.spec.name, &room.name) {
            Some(process) => process,
            None => {
                started += 1;
                spawn(&strake, &rig, room, n == 0, args.dual_stack)?
            }
        };
        if n == 0 {
            let token = data_dir.join("server/token");
            wait_for(&token, process, &data_dir.join("server.log"))?;
        }
    }
    let kubeconfig = data_dir.join("admin.kubeconfig");
    let count = rig.rooms().len();
    let first = rig.rooms().first().context("a rig has a first room")?;
    ui::spin(&format!("waiting for {count} node(s) to be Ready"), || {
        // In the room, so that it ends with the rig if this process is killed meanwhile.
        let mut wait = first.command(&strake.display().to_string());
        wait.args(["status", "--wait", "--timeout", "120", "--nodes", &count.to_string(), "--data-dir"]).arg(&data_dir);
        ui::capture(&mut wait).map(drop).with_context(|| last_lines(&data_dir.join("server.log")))
    })?;
    let ready = start.elapsed();

    if let Some(image) = &image {
        demo::show(&demo::Cluster { room: first, strake: &strake, kubectl: &kubectl, data_dir: &data_dir, image })?;
    }
    println!();
    if started > 0 {
        println!("  {:14} {:.2} s from start to Ready", "started", ready.as_secs_f64());
    } else {
        println!("  {:14} it was running already", "started");
    }
    println!("  {:14} {}", "kubeconfig", kubeconfig.display());
    println!("  {:14} {}", "logs", data_dir.join("server.log").display());
    let place = match data_dir.to_str() {
        Some(strake_rig::DEFAULT_DATA_DIR) => String::new(),
        _ => format!(" --data-dir {}", data_dir.display()),
    };
    println!("\nTry next:");
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  {} get pods -A -o wide", kubectl.display());
    println!("  {} flows -f{place}", strake.display());
    println!("  {} service trace default/web{place}", strake.display());
    println!("  cargo xtask down{place}");
    Ok(())
}

pub fn down(place: &Place) -> Result<()> {
    ui::step("Taking the cluster down");
    let data_dir = std::path::absolute(&place.data_dir)?;
    let removed = ui::spin("ending processes and removing what they made", || {
        Ok(strake_rig::down(&strake_rig::name_of(&data_dir), &data_dir)?)
    })?;
    for line in &removed {
        println!("    removed {line}");
    }
    if removed.is_empty() {
        println!("    there was nothing to remove");
    }
    Ok(())
}

/// A node's strake process, if it runs.
fn running(groups: &Hierarchies, rig: &str, node: &str) -> Option<process::Id> {
    groups
        .processes(&format!("{rig}/{node}/system"))
        .into_iter()
        .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "strake"))
        .and_then(process::Id::of)
}

fn spawn(strake: &Path, rig: &Rig, room: &Room, server: bool, dual_stack: bool) -> Result<process::Id> {
    let data_dir = &rig.spec.data_dir;
    let mut args: Vec<String> = vec![if server { "server" } else { "agent" }.into()];
    let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
    flag("data-dir", data_dir.display().to_string());
    flag("node-name", room.name.clone());
    flag("node-ip", room.ip.to_string());
    flag("uplink", "eth0".into());
    flag("cgroup-root", room.cgroup_root.display().to_string());
    flag("cgroup-parent", room.cgroup_parent.clone());
    flag("bpf-root", room.bpf_root.display().to_string());
    flag("resolv-conf", room.dir.join("resolv.conf").display().to_string());
    if dual_stack {
        flag("cluster-cidr", "10.244.0.0/16,fd00:10:244::/56".into());
        flag("service-cidr", "10.96.0.0/16,fd00:10:96::/112".into());
    }
    if !server {
        let first = rig.rooms().first().context("a rig has a first room")?;
        flag("server", format!("https://{}:6443", first.ip));
        flag("token-file", data_dir.join("server/token").display().to_string());
    }
    let log = if server { data_dir.join("server.log") } else { room.dir.join("agent.log") };
    Ok(room.spawn(&strake.display().to_string(), &args, &log)?)
}

/// Waits for a file while the process that should write it lives.
fn wait_for(file: &Path, process: process::Id, log: &Path) -> Result<()> {
    ui::spin("waiting for the server", || {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !file.exists() {
            if !process.alive() {
                bail!("strake ended\n{}", last_lines(log));
            }
            if Instant::now() > deadline {
                bail!("{} does not exist after 60 s\n{}", file.display(), last_lines(log));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    })
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_else(|e| format!("(no log: {e})"));
    let lines: Vec<&str> = text.lines().rev().take(15).collect();
    let mut out = format!("last lines of {}:", log.display());
    for line in lines.iter().rev() {
        out.push_str("\n  ");
        out.push_str(line);
    }
    out
}
