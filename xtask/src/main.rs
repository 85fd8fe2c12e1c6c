//! The project's own commands: `cargo xtask up`, `down`, `test`, `vm`, `fuzz`, `bench` and what they are made of.
//!
//! Each module is one command. They start programs and wait for them; what the programs do is not known here.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod clients;
mod cluster;
mod codegen;
mod debian;
mod demo;
mod fuzz;
mod kernels;
mod setup;
mod test;
mod ui;
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Build, run, test and measure Strake.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing, build, start a cluster in the background and show a demo
    Up(cluster::UpArgs),
    /// End the cluster and remove everything it made
    Down(cluster::Place),
    /// Run every test
    Test(test::Args),
    /// Run the datapath's tests on other kernels, in virtual machines
    Vm(vm::Args),
    /// Look for bytes that break the parsers of the datapath, beginning with the kept corpus
    Fuzz(fuzz::Args),
    /// Measure beside a peer: proxy, scale, api, dns, store
    Bench {
        /// Which bench
        name: String,
        /// Passed on to the bench
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Install what building, running and testing need, saying what and why
    Setup,
    /// Compile the BPF programs and say where the object is
    BuildEbpf,
    /// Build the demo image as an OCI archive and say where it is
    Images,
    /// Write the table of the built-in kinds anew, from a Kubernetes release's OpenAPI document and Go sources
    Codegen {
        /// The OpenAPI v2 document
        openapi: PathBuf,
        /// The release's staging/src/k8s.io
        sources: PathBuf,
    },
    /// Fetch the unmodified clients the tests use (kubectl 1.35.2 and 1.37.1) into target/clients
    Clients,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default();
    std::env::set_current_dir(&root)?;
    match Cli::parse().command {
        Command::Up(args) => cluster::up(&args),
        Command::Down(place) => cluster::down(&place),
        Command::Test(args) => test::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Bench { name, args } => bench::run(&name, &args),
        Command::Setup => setup::run(&setup::ALL),
        Command::BuildEbpf => build::ebpf(),
        Command::Images => build::demo_image().map(|path| println!("{}", path.display())),
        Command::Codegen { openapi, sources } => {
            let table = Path::new("controlplane/machinery/src/schema/kinds.txt");
            let (lines, disagreements) = codegen::run(&openapi, &sources, table)?;
            disagreements.iter().for_each(|d| println!("    the inputs disagree: {d}"));
            println!("{}: {lines} lines", table.display());
            Ok(())
        }
        Command::Clients => clients::fetch().map(|all| all.iter().for_each(|c| println!("{}", c.display()))),
    }
}
