//! The demo: a web Deployment of three, its Service, a client Pod that calls it by name, and what was seen of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use strake_rig::Room;

use crate::ui;

const MANIFEST: &str = include_str!("demo.yaml");
const CALLS: &str = "30";

/// What the demo runs on.
pub struct Cluster<'a> {
    /// Where the commands run: what is still under way ends with the rig.
    pub room: &'a Room,
    pub strake: &'a Path,
    pub kubectl: &'a Path,
    pub data_dir: &'a Path,
    /// The demo image's archive.
    pub image: &'a Path,
}

impl Cluster<'_> {
    fn kubectl(&self, args: &[&str]) -> Command {
        let mut command = self.room.command(&self.kubectl.display().to_string());
        command.arg("--kubeconfig").arg(self.data_dir.join("admin.kubeconfig")).args(args);
        command
    }

    fn strake(&self, args: &[&str]) -> Command {
        let mut command = self.room.command(&self.strake.display().to_string());
        command.args(args).arg("--data-dir").arg(self.data_dir);
        command
    }
}

/// Deploys the demo and prints what a person wants to see of it.
pub fn show(cluster: &Cluster<'_>) -> Result<()> {
    ui::step("Deploying the demo");
    let image = cluster.image.display().to_string();
    ui::spin("loading its image into every node", || {
        ui::capture(&mut cluster.strake(&["images", "import", &image])).map(drop)
    })?;
    let manifest = cluster.data_dir.join("demo.yaml");
    fs::write(&manifest, MANIFEST).with_context(|| format!("writing {}", manifest.display()))?;
    ui::capture(&mut cluster.kubectl(&["apply", "-f", &manifest.display().to_string()]))?;
    ui::spin("waiting for its Pods", || {
        ui::capture(&mut cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]))?;
        ui::capture(&mut cluster.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=120s"])).map(drop)
    })
    .map_err(|error| error.context(why(cluster)))?;
    let vip = ui::capture(&mut cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]))?;
    let spread = ui::spin(&format!("calling http://web {CALLS} times from inside a Pod"), || {
        ui::capture(&mut cluster.kubectl(&["exec", "client", "--", "/demo", "call", "http://web", "-n", CALLS]))
    })?;

    println!("\n  {:14} {vip}:80 (Service default/web, answered in the kernel)", "VIP");
    println!("  {:14} {CALLS} requests by name, answered by", "spread");
    for line in spread.lines() {
        println!("  {:14} {line}", "");
    }
    println!("  {:14} the last of them", "flows");
    let flows = ui::capture(&mut cluster.strake(&["flows", "--last", "6", "--service", "default/web"]))?;
    for line in flows.lines() {
        println!("    {line}");
    }
    Ok(())
}

/// What the cluster itself complains of: the reason why something does not start is an event.
fn why(cluster: &Cluster<'_>) -> String {
    let columns = "-o=custom-columns=OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message";
    match ui::capture(&mut cluster.kubectl(&["get", "events", "--field-selector", "type=Warning", columns])) {
        Ok(events) => format!("the demo's Pods do not start; warnings of the cluster:\n{events}"),
        Err(error) => format!("the demo's Pods do not start, and the cluster's events cannot be read ({error:#})"),
    }
}
