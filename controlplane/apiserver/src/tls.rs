//! The TLS configuration of the listener: the serving certificate, client certificates welcome but not required.

use std::sync::Arc;

use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use strake_pki::Pki;

/// Why TLS cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificates or the key.
    #[error("{0}")]
    Pki(#[from] strake_pki::Error),
    /// rustls refuses them.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
    /// The client CA.
    #[error("the client CA: {0}")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
}

/// h2 and HTTP/1.1, TLS 1.2 and 1.3, clients verified against the cluster CA if they show a certificate.
///
/// # Errors
/// [`TlsError`] names what cannot be used.
pub fn server_config(pki: &Pki) -> Result<Arc<ServerConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca().certificate_der().clone())?;
    let clients = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build()?;
    let identity = pki.serving();
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(identity.chain()?, identity.key()?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
