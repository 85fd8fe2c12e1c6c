//! `cargo xtask bench NAME`: us and the peer in one run. Figures are printed and written to `target/bench/NAME.json`.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{build, setup, ui};

pub fn run(name: &str, rest: &[String]) -> Result<()> {
    setup::run(&setup::ALL)?;
    match name {
        "proxy" | "dns" | "scale" => {
            ui::show(build::cargo().args(["build", "--release", "--workspace", "--bin", "strake-bench"]))?;
            ui::show(Command::new(build::release("strake-bench")?).arg(name).args(rest))
        }
        "store" => ui::show(build::cargo().args(["bench", "--package", "strake-store"]).args(rest)),
        other => bail!("no bench is named {other}; there are proxy, scale, dns and store"),
    }
}
