//! Connections to kubelets (and to Pods and Services, for proxies): one a request, HTTP/1.1, upgradable.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use strake_machinery::ApiError;
use strake_pki::Pki;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::target::{Scheme, Target};
use crate::http::body::Body;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens connections with the server's kubelet client certificate.
pub struct KubeletClient {
    verified: TlsConnector,
    unverified: TlsConnector,
}

/// Why the client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificate or its key.
    #[error("the kubelet client certificate: {0}")]
    Identity(#[from] strake_pki::Error),
    /// rustls refuses the configuration.
    #[error("the kubelet client's TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
}

impl KubeletClient {
    /// A client that trusts the cluster CA and shows the kubelet client certificate.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub fn new(pki: &Pki) -> Result<Self, ClientError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(pki.ca().certificate_der().clone())?;
        let identity = pki.kubelet_client();
        let verified = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(identity.chain()?, identity.key()?)?;
        // Pods and Services behind `https:NAME:PORT` have certificates of their own making; stock does not verify
        // them either. They never see the client certificate.
        let provider = Arc::clone(verified.crypto_provider());
        let unverified = rustls::ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Ok(Self { verified: Arc::new(verified).into(), unverified: Arc::new(unverified).into() })
    }

    /// Sends a request on a connection of its own. The connection lives as long as the answer's body, or longer if
    /// the answer is an upgrade.
    ///
    /// # Errors
    /// 500 naming the target when it cannot be reached or does not speak HTTP.
    pub async fn send(&self, target: &Target, request: Request<Body>) -> Result<Response<Incoming>, ApiError> {
        let path = request.uri().path().to_owned();
        let fail = |why: &dyn std::fmt::Display| {
            let (scheme, host, port) = (target.scheme.as_str(), &target.host, target.port);
            ApiError::internal(format!("error trying to reach {scheme}://{host}:{port}{path}: {why}"))
        };
        let connect = TcpStream::connect((target.host.as_str(), target.port));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| fail(&"connection timed out"))?
            .map_err(|error| fail(&error))?;
        stream.set_nodelay(true).map_err(|error| fail(&error))?;
        let connector = match target.scheme {
            Scheme::Http => return exchange(TokioIo::new(stream), request).await.map_err(|error| fail(&error)),
            Scheme::Kubelet => &self.verified,
            Scheme::Https => &self.unverified,
        };
        let name = ServerName::try_from(target.host.clone()).map_err(|error| fail(&error))?;
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(name, stream))
            .await
            .map_err(|_| fail(&"TLS handshake timed out"))?
            .map_err(|error| fail(&error))?;
        exchange(TokioIo::new(stream), request).await.map_err(|error| fail(&error))
    }
}

async fn exchange<S>(io: S, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new().handshake(io).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    sender.send_request(request).await
}

/// Accepts every certificate, checks the handshake's signatures.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
