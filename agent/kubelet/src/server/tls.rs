//! TLS of the server: its certificate, read again when the file changes, and the clients' CA.
//!
//! The certificate may come after the start: a cluster signs it only once the Node says which addresses it has, and
//! the Node is registered by this kubelet. Until then connections are closed.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::error::{Error, Result};

/// The acceptor in force.
pub struct Acceptor {
    tls: Option<TlsAcceptor>,
    read_at: [Option<SystemTime>; 2],
}

fn modified(c: &Config) -> [Option<SystemTime>; 2] {
    [&c.serving_cert, &c.client_ca].map(|p| std::fs::metadata(p).and_then(|m| m.modified()).ok())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let fail = |e: String| Error::Tls(format!("{}: {e}", path.display()));
    let list: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| fail(e.to_string()))?.collect();
    let list = list.map_err(|e| fail(e.to_string()))?;
    if list.is_empty() { Err(fail("no certificate in it".into())) } else { Ok(list) }
}

fn config(c: &Config) -> Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in certificates(&c.client_ca)? {
        roots.add(ca).map_err(|e| Error::Tls(format!("{}: {e}", c.client_ca.display())))?;
    }
    // Without a certificate a caller may still show a bearer token.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| Error::Tls(e.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&c.serving_key)
        .map_err(|e| Error::Tls(format!("{}: {e}", c.serving_key.display())))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Tls(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&c.serving_cert)?, key)
        .map_err(|e| Error::Tls(format!("{}: {e}", c.serving_cert.display())))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

impl Acceptor {
    /// Reads the files. A certificate that is not there yet is waited for; one that cannot be used is an error.
    pub fn load(c: &Config) -> Result<Self> {
        let read_at = modified(c);
        let tls = if c.serving_cert.exists() { Some(TlsAcceptor::from(Arc::new(config(c)?))) } else { None };
        Ok(Self { read_at, tls })
    }

    /// The acceptor for the next connection; a rotated certificate is taken up, a broken one is not.
    pub fn current(&mut self, c: &Config) -> Option<TlsAcceptor> {
        let now = modified(c);
        if now != self.read_at {
            match config(c) {
                Ok(tls) => self.tls = Some(TlsAcceptor::from(Arc::new(tls))),
                Err(error) => tracing::warn!(%error, "the changed certificate is not used"),
            }
            self.read_at = now;
        }
        self.tls.clone()
    }
}
