//! `cargo xtask bench NAME`: us and the peer in one run. Figures are printed and written to `target/bench/NAME.json`.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{build, clients, setup, ui};

pub fn run(name: &str, rest: &[String]) -> Result<()> {
    setup::run(&setup::ALL)?;
    match name {
        "proxy" | "hooks" | "dns" | "scale" | "api" => {
            // One build of both, so that dependencies have the same features; `api` runs a whole cluster.
            let bins = ["--bin", "strake", "--bin", "strake-bench"];
            ui::show(build::cargo().args(["build", "--release", "--workspace"]).args(bins))?;
            clients::fetch()?;
            let mut bench = Command::new(build::release("strake-bench")?);
            bench.env("STRAKE_BIN", build::release("strake")?);
            bench.env("STRAKE_CLIENTS", std::path::absolute("target/clients")?);
            ui::show(bench.arg(name).args(rest))
        }
        "store" => ui::show(build::cargo().args(["bench", "--package", "strake-store"]).args(rest)),
        other => bail!("no bench is named {other}; there are proxy, hooks, scale, api, dns and store"),
    }
}
