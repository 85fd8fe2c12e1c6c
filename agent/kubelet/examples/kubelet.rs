//! Runs one kubelet with a containerd of its own against an API server, by hand:
//! `kubelet KUBECONFIG DIR NODE NODE_IP CERT KEY CLIENT_CA`. Ends at SIGINT; containers stay.

use std::net::IpAddr;
use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};
use strake_kubelet::{Config, containerd};
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, dir, node, ip, cert, key, ca] = args.as_slice() else {
        return Err("usage: kubelet KUBECONFIG DIR NODE NODE_IP CERT KEY CLIENT_CA".into());
    };
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Err("another TLS provider is installed".into());
    }
    let dir = PathBuf::from(dir);
    let ip: IpAddr = ip.parse()?;
    let mut options = containerd::Options::under(&dir.join("containerd"));
    options.cgroup = Some(format!("/strake/{node}/runtime"));
    let runtime = containerd::ensure(options).await?;
    let client_config =
        kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(client_config)?;
    let mut config = Config::under(&dir, node, ip, runtime.options.socket.clone());
    (config.serving_cert, config.serving_key, config.client_ca) = (cert.into(), key.into(), ca.into());
    let stop = CancellationToken::new();
    let ctrl_c = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        ctrl_c.cancel();
    });
    strake_kubelet::run(config, client, stop).await?;
    Ok(())
}
