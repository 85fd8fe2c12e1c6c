//! `strake agent`: a node that joins a cluster.

use std::path::PathBuf;

use anyhow::{Context, Result};
use strake_agent::Join;
use strake_controlplane::JoinToken;

use crate::node::NodeArgs;

#[derive(clap::Args)]
pub struct Args {
    /// URL of an API server, e.g. https://192.0.2.1:6443
    #[arg(long)]
    server: String,
    /// Join token: what <data dir>/server/token on a server says
    #[arg(long, env = "STRAKE_TOKEN", hide_env_values = true, required_unless_present = "token_file")]
    token: Option<String>,
    /// File with the join token
    #[arg(long, conflicts_with = "token")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
}

pub async fn run(args: Args) -> Result<()> {
    crate::log();
    let text = match (args.token, &args.token_file) {
        (Some(token), _) => token,
        (None, Some(file)) => {
            std::fs::read_to_string(file).with_context(|| format!("reading the token from {}", file.display()))?
        }
        (None, None) => anyhow::bail!("--token or --token-file is needed"),
    };
    let join: JoinToken = text.parse().context("take the whole line of <data dir>/server/token on a server")?;
    let config = args.node.config(Join { server: args.server, token: join.token, ca_pin: join.ca_pin })?;
    strake_agent::run(config, crate::until_signalled()?).await?;
    Ok(())
}
