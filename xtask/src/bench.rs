//! `cargo xtask bench NAME`: us and the peer in one run. Figures are printed and written to `target/bench/NAME.json`.

use anyhow::{Result, bail};

use crate::{build, setup, ui};

pub fn run(name: &str, rest: &[String]) -> Result<()> {
    setup::run(&setup::ALL)?;
    let mut cargo = build::cargo();
    match name {
        "proxy" | "dns" => {
            cargo.args(["run", "--release", "--package", "strake-tests", "--bin", "strake-bench", "--", name])
        }
        "store" => cargo.args(["bench", "--package", "strake-store"]),
        other => bail!("no bench is named {other}; there are proxy, dns and store"),
    };
    ui::show(cargo.args(rest))
}
