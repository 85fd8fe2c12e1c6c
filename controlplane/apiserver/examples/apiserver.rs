//! An API server and nothing else, to test clients against: `apiserver PORT DATA_DIR [ADVERTISED_ADDRESS]`.
//!
//! Writes DATA_DIR/admin.kubeconfig and runs until Ctrl-C.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use strake_apiserver::{Config, serve};
use strake_pki::{Credential, Kubeconfig, LEAF_VALIDITY, Names, Pki};
use strake_store::embedded::{Embedded, Options};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().ok_or("usage: apiserver PORT DATA_DIR [ADVERTISED_ADDRESS]")?.parse()?;
    let dir = PathBuf::from(arguments.next().ok_or("usage: apiserver PORT DATA_DIR [ADVERTISED_ADDRESS]")?);
    let advertise: IpAddr = arguments.next().map_or(Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)), |text| text.parse())?;
    let config = Config::new(SocketAddr::from(([0, 0, 0, 0], port)), advertise);
    let names =
        Names::api_server(&config.cluster_domain, &[config.kubernetes_ip().into()], [advertise.to_string().as_str()]);
    let pki = Arc::new(Pki::ensure(&dir.join("server/pki"), &names)?);
    let store = Arc::new(Embedded::open(&dir.join("server/store"), Options::default())?);
    let shutdown = CancellationToken::new();
    let started = std::time::Instant::now();
    let server = serve(config, store, Arc::clone(&pki), shutdown.clone()).await?;
    let url = format!("https://{}", SocketAddr::new(advertise, server.local_addr().port()));
    let admin = pki.issue_client("kubernetes-admin", &["system:masters"], LEAF_VALIDITY)?;
    let kubeconfig = dir.join("admin.kubeconfig");
    Kubeconfig {
        server: &url,
        ca_pem: pki.ca_pem(),
        cluster: "strake",
        user: "kubernetes-admin",
        credential: Credential::Certificate(admin),
    }
    .write(&kubeconfig)?;
    println!("ready at {url} after {:?}; kubeconfig: {}", started.elapsed(), kubeconfig.display());
    tokio::signal::ctrl_c().await?;
    shutdown.cancel();
    server.wait().await;
    Ok(())
}
