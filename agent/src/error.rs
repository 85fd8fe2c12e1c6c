//! What can end an agent, each naming the part and the thing.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("joining through {server}: {message}")]
    Join { server: String, message: String },
    #[error(
        "the server at {server} shows a CA with the key hash {found}, not {expected}: either the pin is of another \
         cluster or someone answers in the server's place"
    )]
    Pin { server: String, found: String, expected: String },
    #[error("asking for a certificate for {subject}: {message}")]
    Certificate { subject: String, message: String },
    #[error(transparent)]
    Pki(#[from] strake_pki::Error),
    #[error("using {path}: {source}")]
    Kubeconfig { path: PathBuf, source: kube::config::KubeconfigError },
    #[error("{what}: {source}")]
    Api { what: String, source: Box<kube::Error> },
    #[error(transparent)]
    Network(#[from] strake_network::Error),
    #[error("the container runtime: {0}")]
    Runtime(String),
    #[error("the datapath: {0}")]
    Datapath(String),
    #[error("the kubelet: {0}")]
    Kubelet(String),
    #[error("the DNS server: {0}")]
    Dns(String),
    #[error("{0}")]
    Part(String),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source: Box::new(source) }
    }
}
