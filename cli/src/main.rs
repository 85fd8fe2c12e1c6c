//! The `strake` binary: every part of a cluster, and the commands that look into one.
//!
//! Knows arguments and output. What a part does is its crate's business.
#![forbid(unsafe_code)]

mod agent;
mod backend;
mod conntrack;
mod flows;
mod images;
mod node;
mod output;
mod server;
mod service;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use strake_network::cni::Plugin;

/// A Kubernetes-compatible cluster whose Services, names and Pod network are answered in the kernel.
#[derive(Parser)]
#[command(name = "strake", version, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a control plane, and the agent of this host's node
    Server(Box<server::Args>),
    /// Run the agent of a node: kubelet, datapath, Pod network, DNS
    Agent(Box<agent::Args>),
    /// The CNI plugin; started by the container runtime
    #[command(hide = true)]
    Cni,
    /// Show how the cluster and the nodes on this host are doing
    Status(status::Args),
    /// Show connections and drops, both ends by name
    Flows(flows::Args),
    /// Look into Services as the datapath has them
    #[command(subcommand)]
    Service(service::Command),
    /// Look into the backends that Services lead to
    #[command(subcommand)]
    Backend(backend::Command),
    /// Look into the connections that are tracked, and forget them
    #[command(subcommand)]
    Conntrack(conntrack::Command),
    /// Manage images of the nodes on this host
    #[command(subcommand)]
    Images(images::Command),
    /// Print a completion script for a shell
    Completion {
        /// The shell, e.g. bash
        shell: clap_complete::Shell,
    },
}

/// Where the cluster on this host keeps its files.
#[derive(clap::Args, Clone)]
pub struct DataDir {
    /// Where the cluster keeps everything it has
    #[arg(long, default_value = "/var/lib/strake", env = "STRAKE_DATA_DIR")]
    pub data_dir: PathBuf,
}

fn main() -> ExitCode {
    // containerd starts the plugins by their file names.
    let name = std::env::args_os().next().map(PathBuf::from);
    if let Some(plugin) = name.as_ref().and_then(|n| n.file_name()?.to_str()).and_then(Plugin::named) {
        return exit_code(strake_network::cni::main(plugin));
    }
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("strake: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Cni => return Ok(exit_code(strake_network::cni::main(Plugin::Strake))),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "strake", &mut std::io::stdout());
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok().context("choosing the TLS provider")?;
    // Four threads serve a thousand idle watches as well as forty do, and cost a tenth of the memory.
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Server(args) => server::run(*args).await,
            Command::Agent(args) => agent::run(*args).await,
            Command::Status(args) => status::run(args).await,
            Command::Flows(args) => flows::run(args).await,
            Command::Service(command) => service::run(command).await,
            Command::Backend(command) => backend::run(command).await,
            Command::Conntrack(command) => conntrack::run(command).await,
            Command::Images(command) => images::run(command).await,
            Command::Cni | Command::Completion { .. } => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Logs to standard error, `info` and up unless `RUST_LOG` says otherwise. kube's watcher tells every failed attempt;
/// who watches tells the first.
fn log() {
    use tracing_subscriber::EnvFilter;
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_runtime::watcher=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
}

/// Cancelled by SIGTERM or SIGINT.
fn until_signalled() -> Result<tokio_util::sync::CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = tokio_util::sync::CancellationToken::new();
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        cancel.cancel();
    });
    Ok(token)
}
