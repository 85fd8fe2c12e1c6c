//! HTTP(S) GET of probes and lifecycle hooks: no certificate is checked (the target is the Pod itself), no redirect
//! followed (3xx passes, as 2xx does).

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::Attempt;

/// Most of an answer's body that is kept for the event.
const BODY_MAX: usize = 10 * 1024;

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

static TLS: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    #[expect(clippy::expect_used, reason = "the provider's own default versions are always consistent")]
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("default TLS versions");
    Arc::new(builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate)).with_no_client_auth())
});

/// GETs and says whether the status is in 200..400. The caller limits the time.
pub async fn get(action: &HTTPGetAction, host: &str, port: u16) -> Attempt {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let shown = format!("Get \"{scheme}://{authority}{path}\"");
    let tcp = TcpStream::connect((host, port)).await.map_err(|e| format!("{shown}: dial tcp {authority}: {e}"))?;
    let mut request = http::Request::builder().method("GET").uri(path.as_str());
    let mut headers = http::HeaderMap::new();
    for h in action.http_headers.iter().flatten() {
        let (Ok(name), Ok(value)) = (h.name.parse::<http::HeaderName>(), h.value.parse::<http::HeaderValue>()) else {
            return Err(format!("{shown}: invalid header {:?}", h.name));
        };
        headers.append(name, value);
    }
    let mut or_default = |name: http::HeaderName, value: &str| {
        if !headers.contains_key(&name)
            && let Ok(value) = value.parse()
        {
            headers.insert(name, value);
        }
    };
    or_default(http::header::HOST, &authority);
    or_default(http::header::USER_AGENT, "kube-probe/1.36");
    or_default(http::header::ACCEPT, "*/*");
    or_default(http::header::CONNECTION, "close");
    if let Some(h) = request.headers_mut() {
        *h = headers;
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| format!("{shown}: {e}"))?;
    if scheme == "https" {
        let name = ServerName::try_from(host.to_owned()).map_err(|e| format!("{shown}: {e}"))?;
        let tls = tokio_rustls::TlsConnector::from(TLS.clone()).connect(name, tcp).await;
        exchange(tls.map_err(|e| format!("{shown}: {e}"))?, request, &shown).await
    } else {
        exchange(tcp, request, &shown).await
    }
}

async fn exchange<S>(stream: S, request: http::Request<Empty<Bytes>>, shown: &str) -> Attempt
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("{shown}: {e}"))?;
    let connection = tokio::spawn(connection);
    let outcome = async {
        let mut answer = sender.send_request(request).await.map_err(|e| format!("{shown}: {e}"))?;
        let status = answer.status();
        if (200..400).contains(&status.as_u16()) {
            return Ok(());
        }
        let mut body = Vec::new();
        while let Some(Ok(frame)) = answer.body_mut().frame().await {
            if let Some(data) = frame.data_ref() {
                body.extend_from_slice(data);
            }
            if body.len() >= BODY_MAX {
                break;
            }
        }
        tracing::trace!(body = %String::from_utf8_lossy(&body), "probe answer");
        Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
    }
    .await;
    connection.abort();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn answer_once(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = l.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let (mut s, _) = l.accept().await.unwrap();
            let mut buf = vec![0; 4096];
            let n = s.read(&mut buf).await.unwrap();
            s.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&buf[..n]).into_owned()
        });
        (port, task)
    }

    fn action(headers: serde_json::Value) -> HTTPGetAction {
        HTTPGetAction {
            port: IntOrString::Int(0),
            path: Some("/x?y=1".into()),
            http_headers: serde_json::from_value(headers).unwrap(),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn status_decides_and_headers_are_sent() {
        let (port, task) = answer_once("HTTP/1.1 204 No Content\r\n\r\n").await;
        let a = action(serde_json::json!([{"name": "Host", "value": "shop"}, {"name": "X-A", "value": "1"}]));
        assert_eq!(get(&a, "127.0.0.1", port).await, Ok(()));
        let sent = task.await.unwrap().to_ascii_lowercase();
        assert!(sent.starts_with("get /x?y=1 http/1.1\r\n") && sent.contains("host: shop") && sent.contains("x-a: 1"));
        assert!(sent.contains("user-agent: kube-probe/"));
        let (port, _task) = answer_once("HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno").await;
        let e = get(&action(serde_json::json!([])), "127.0.0.1", port).await.unwrap_err();
        assert_eq!(e, "HTTP probe failed with statuscode: 503");
    }
}
