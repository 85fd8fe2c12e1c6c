//! Controllers and scheduler against an API server that is already there: `controlplane URL DATA_DIR`.
//!
//! DATA_DIR is the API server's: its CA issues the identities here. Runs until Ctrl-C.

use std::path::PathBuf;
use std::sync::Arc;
use strake_pki::{Credential, LEAF_VALIDITY, Names, Pki};
use tokio_util::sync::CancellationToken;

fn identity(name: &str) -> (String, Vec<&'static str>) {
    if name.starts_with("system:") {
        (name.to_string(), vec![])
    } else {
        let groups = vec!["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        (format!("system:serviceaccount:kube-system:{name}"), groups)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("usage: controlplane URL DATA_DIR")?;
    let dir = PathBuf::from(arguments.next().ok_or("usage: controlplane URL DATA_DIR")?);
    let pki = Arc::new(Pki::ensure(&dir.join("server/pki"), &Names::api_server("cluster.local", &[], []))?);

    let mut clients = std::collections::HashMap::new();
    for name in strake_controllers::IDENTITIES.iter().chain(&["system:kube-scheduler"]) {
        let (user, groups) = identity(name);
        let id = pki.issue_client(&user, &groups, LEAF_VALIDITY)?;
        let yaml = strake_pki::Kubeconfig {
            server: &url,
            ca_pem: pki.ca_pem(),
            cluster: "strake",
            user: &user,
            credential: Credential::Certificate(id),
        }
        .to_yaml();
        let kubeconfig = kube::config::Kubeconfig::from_yaml(&yaml)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        clients.insert(name.to_string(), kube::Client::try_from(config)?);
    }
    let cancel = CancellationToken::new();
    let scheduler = tokio::spawn(strake_scheduler::run(
        strake_scheduler::Config::default(),
        clients["system:kube-scheduler"].clone(),
        cancel.clone(),
    ));
    let c = cancel.clone();
    let controllers = tokio::spawn(async move {
        let client = move |name: &str| clients[name].clone();
        strake_controllers::run(strake_controllers::Config::new(pki), client, c).await;
    });
    tokio::signal::ctrl_c().await?;
    cancel.cancel();
    let _ = tokio::join!(scheduler, controllers);
    Ok(())
}
