//! A control plane without nodes, to try clients against: `controlplane PORT DATA_DIR ADVERTISED_ADDRESS`.

use std::{net::SocketAddr, path::PathBuf};

use strake_controlplane::{ServerConfig, start};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    const USAGE: &str = "usage: controlplane PORT DATA_DIR ADVERTISED_ADDRESS";
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().ok_or(USAGE)?.parse()?;
    let dir = PathBuf::from(arguments.next().ok_or(USAGE)?);
    let mut config = ServerConfig::new(dir, arguments.next().ok_or(USAGE)?.parse()?);
    config.bind = SocketAddr::from(([0, 0, 0, 0], port));
    let shutdown = CancellationToken::new();
    let plane = start(config, shutdown.clone()).await?;
    println!("ready at {} after {:?}; kubeconfig: {}", plane.url, plane.took, plane.kubeconfig.display());
    tokio::signal::ctrl_c().await?;
    shutdown.cancel();
    plane.wait().await?;
    Ok(())
}
