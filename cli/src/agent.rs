//! `strake agent`: a node that joins a cluster, or the Service proxy alone in somebody else's.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use strake_agent::{Component, Join, leftovers};
use strake_controlplane::JoinToken;

use crate::node::NodeArgs;

const EXAMPLES: &str = "Examples:
  A node of a Strake cluster:
    strake agent --server https://192.0.2.1:6443 --token-file token
  In place of kube-proxy, on a node of any cluster:
    strake agent --components proxy --kubeconfig /var/lib/strake/proxy.kubeconfig
  Leaving:
    strake agent cleanup";

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// URL of an API server to join, e.g. https://192.0.2.1:6443
    #[arg(long, required_unless_present = "kubeconfig")]
    server: Option<String>,
    /// Join token: what <data dir>/server/token on a server says
    #[arg(long, env = "STRAKE_TOKEN", hide_env_values = true, required_unless_present_any = ["token_file", "kubeconfig"])]
    token: Option<String>,
    /// File with the join token
    #[arg(long, conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Do not join: follow the cluster of this kubeconfig, with kube-proxy's rights. Needs --components=proxy
    #[arg(long, conflicts_with_all = ["server", "token_file"])]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Remove what a stopped agent left in the kernel, or what kube-proxy left
    Cleanup(Cleanup),
}

#[derive(clap::Args)]
struct Cleanup {
    /// Remove kube-proxy's iptables chains, nftables tables and IPVS device instead, while our agent runs on; stop
    /// kube-proxy first, or it makes them anew
    #[arg(long)]
    kube_proxy: bool,
    /// Directory on a bpffs that the agent pins in
    #[arg(long, default_value = "/sys/fs/bpf/strake")]
    bpf_root: PathBuf,
    /// Link whose filters are removed, on kernels below 6.6 [default: the one with the default route]
    #[arg(long)]
    uplink: Option<String>,
}

pub async fn run(args: Args) -> Result<()> {
    if let Some(Command::Cleanup(cleanup)) = args.command {
        return clean_up(cleanup).await;
    }
    crate::log();
    let proxy_alone = args.node.components() == [Component::Proxy].into();
    match (args.kubeconfig, args.server) {
        (Some(kubeconfig), _) if proxy_alone => {
            let config = args.node.standalone(kubeconfig)?;
            strake_agent::run_standalone(config, crate::until_signalled()?).await?;
        }
        (Some(_), _) => bail!(
            "with --kubeconfig only the proxy runs: add --components=proxy (kubelet, network and dns need a node that \
             joins, with --server and --token)"
        ),
        (None, Some(server)) => {
            let join = join(server, args.token, args.token_file)?;
            strake_agent::run(args.node.config(join)?, crate::until_signalled()?).await?;
        }
        (None, None) => bail!("--server and a token, or --kubeconfig, is needed"),
    }
    Ok(())
}

fn join(server: String, token: Option<String>, file: Option<PathBuf>) -> Result<Join> {
    let text = match (token, &file) {
        (Some(token), _) => token,
        (None, Some(file)) => {
            std::fs::read_to_string(file).with_context(|| format!("reading the token from {}", file.display()))?
        }
        (None, None) => bail!("--token or --token-file is needed"),
    };
    let join: JoinToken = text.parse().context("take the whole line of <data dir>/server/token on a server")?;
    Ok(Join { server, token: join.token, ca_pin: join.ca_pin })
}

async fn clean_up(args: Cleanup) -> Result<()> {
    let removed = if args.kube_proxy {
        leftovers::remove_kube_proxys().await?
    } else {
        let uplink = args.uplink.or_else(|| crate::node::default_uplink().ok());
        tokio::task::spawn_blocking(move || leftovers::remove_ours(&args.bpf_root, uplink.as_deref())).await??
    };
    if removed.is_empty() {
        println!("nothing to remove");
    }
    for line in removed {
        println!("{line}");
    }
    Ok(())
}
