//! `strake server`: a control plane, and the agent of this host's node.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use strake_agent::Join;
use strake_controlplane::{AddressPool, Component, ServerConfig};

use tokio_util::sync::CancellationToken;

use crate::node::NodeArgs;

#[derive(clap::Args)]
pub struct Args {
    /// Where the API listens [default: the node's address]
    #[arg(long)]
    bind_address: Option<IpAddr>,
    /// Port of the API
    #[arg(long, default_value_t = 6443)]
    https_listen_port: u16,
    /// Address under which nodes reach this server [default: the node's address]
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Further name or address of the API server, for its certificate (may be repeated)
    #[arg(long)]
    tls_san: Vec<String>,
    /// Control-plane parts not to run, so that a stock one can take their place: controllers, scheduler
    #[arg(long, value_delimiter = ',')]
    disable: Vec<Component>,
    /// Addresses for Services of type LoadBalancer: networks and ranges of the nodes' own network, separated by commas, e.g.
    /// 192.0.2.10-192.0.2.40,2001:db8::100/120 [default: none; such Services wait for somebody else]
    #[arg(long, value_name = "CIDR|FIRST-LAST,...")]
    load_balancer_pool: Option<AddressPool>,
    /// Run no node on this host
    #[arg(long)]
    disable_agent: bool,
    #[command(flatten)]
    node: NodeArgs,
}

pub async fn run(args: Args) -> Result<()> {
    crate::log();
    let node_ip = IpAddr::V4(args.node.ip()?);
    let advertise = args.advertise_address.unwrap_or(node_ip);
    let config = ServerConfig {
        bind: SocketAddr::new(args.bind_address.unwrap_or(node_ip), args.https_listen_port),
        names: args.tls_san,
        cluster_cidr: args.node.cluster_cidr.primary,
        secondary_cluster_cidr: args.node.cluster_cidr.secondary,
        service_cidr: args.node.service_cidr.primary,
        secondary_service_cidr: args.node.service_cidr.secondary,
        load_balancer_pool: args.load_balancer_pool,
        cluster_dns: args.node.cluster_dns,
        cluster_domain: args.node.cluster_domain.clone(),
        disabled: args.disable.into_iter().collect(),
        ..ServerConfig::new(std::path::absolute(&args.node.data.data_dir)?, advertise)
    };
    let token = crate::until_signalled()?;
    // Of its own: the agent is a client of the control plane and ends first, giving up what it holds.
    let stop = CancellationToken::new();
    let control_plane = tokio::select! {
        started = strake_controlplane::start(config, stop.clone()) => started?,
        () = token.cancelled() => return Ok(()),
    };
    tracing::info!(url = control_plane.url, took = ?control_plane.took, "the control plane is ready");
    let outcome = if args.disable_agent {
        token.cancelled().await;
        Ok(())
    } else {
        let join = Join {
            server: control_plane.url.clone(),
            token: control_plane.join.token.clone(),
            ca_pin: control_plane.join.ca_pin.clone(),
        };
        strake_agent::run(args.node.config(join)?, token.clone()).await.context("the agent of this host")
    };
    stop.cancel();
    control_plane.wait().await?;
    outcome
}
