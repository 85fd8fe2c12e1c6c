//! `cargo xtask test`: everything the tests need is made first, then the runner says the last word.

use std::process::Command;

use anyhow::Result;

use crate::{build, clients, setup, ui};

#[derive(clap::Args)]
pub struct Args {
    /// Passed on to the runner, e.g. a filter
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    setup::run(&setup::ALL)?;
    clients::fetch()?;
    let strake = build::strake("dev")?;
    let demo = build::demo_image()?;
    let busybox = build::busybox_image()?;
    ui::step("Testing");
    let mut runner = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    let nextest = ui::capture(Command::new("cargo").args(["nextest", "--version"])).is_ok();
    if nextest {
        runner.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        runner.args(["test", "--workspace", "--no-fail-fast"]);
    }
    runner
        .env("STRAKE_BIN", strake)
        .env("STRAKE_DEMO_IMAGE", demo)
        .env("STRAKE_BUSYBOX_IMAGE", busybox)
        .env("STRAKE_CLIENTS", std::path::absolute("target/clients")?)
        .args(&args.rest);
    ui::show(&mut runner)
}
