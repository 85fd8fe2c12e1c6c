//! `cargo xtask test`: everything the tests need is made first, then the runner says the last word.

use std::process::Command;

use anyhow::Result;

use crate::{build, clients, kernels, setup, ui};

#[derive(clap::Args)]
pub struct Args {
    /// Passed on to the runner, e.g. a filter
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    setup::run(&setup::ALL)?;
    clients::fetch()?;
    let kernel = kernels::oldest()?;
    let demo = build::demo_image()?;
    let busybox = build::busybox_image()?;
    let words: &[&str] = if ui::capture(Command::new("cargo").args(["nextest", "--version"])).is_ok() {
        &["nextest", "run", "--workspace"]
    } else {
        &["test", "--workspace"]
    };
    ui::step("Building the tests and the binary they run");
    ui::show(build::cargo().args(words).arg("--no-run"))?;
    // The command line's own tests need the binary, so it is there now, built once with what the tests are built with.
    let strake = build::built("debug")?;
    ui::step("Testing");
    let mut runner = build::cargo();
    runner
        .args(words)
        .arg("--no-fail-fast")
        .env("STRAKE_BIN", strake)
        .env("STRAKE_DEMO_IMAGE", demo)
        .env("STRAKE_BUSYBOX_IMAGE", busybox)
        .env("STRAKE_OLD_KERNEL", kernel)
        .env("STRAKE_CLIENTS", std::path::absolute("target/clients")?)
        .args(&args.rest);
    ui::show(&mut runner)
}
