//! From a bootstrap token to certificates, as kubeadm and the stock kubelet do it.
//!
//! ```text
//!   GET  kube-public/cluster-info  (TLS not yet believed)  -> CA; its key hash must equal the pin
//!   POST CertificateSigningRequest (bearer: the token)     -> kubelet client certificate, agent client certificate
//!   POST CertificateSigningRequest (the new certificate)   -> kubelet serving certificate, once the Node is there
//! ```
//!
//! Certificates are kept in `<node dir>/pki`; with them in place nothing is asked, until one nears its end.
//!
//! Knows certificates and the certificates.k8s.io API; not who may have one (that is the cluster's to say).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::config::{AuthInfo, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};
use strake_pki::{Credential, Identity, Names, Signer, files};
use tokio_util::sync::CancellationToken;

use crate::{Config, Error};

const SIGNING_TIMEOUT: Duration = Duration::from_secs(60);
const SIGNING_RETRY: Duration = Duration::from_secs(5);
/// How often a certificate of a year is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(12 * 3600);

/// Who this node is, as kubeconfigs and certificate files.
#[derive(Debug)]
pub struct Credentials {
    /// Of the kubelet, `system:node:NAME`.
    pub kubelet: PathBuf,
    /// Of the datapath, `system:strake-agent:NAME`.
    pub agent: PathBuf,
    /// Stem of `serving.crt` and `serving.key`.
    pub serving: PathBuf,
    pub ca: PathBuf,
}

/// What one certificate is for.
struct Want<'a> {
    stem: PathBuf,
    common_name: String,
    organization: &'static str,
    signer: Signer,
    usages: &'static [&'static str],
    names: Option<Names>,
    /// Asks in whose name: the token at first, the certificate itself when it is renewed.
    client: &'a Client,
}

const CLIENT_USAGES: &[&str] = &["digital signature", "client auth"];
const SERVER_USAGES: &[&str] = &["digital signature", "server auth"];

/// Reads the node's credentials, asking the cluster for those that are missing or near their end.
pub async fn ensure(config: &Config) -> Result<Credentials, Error> {
    let dir = config.node_dir();
    files::create_private_dir(&dir.join("pki"))?;
    let ca = dir.join("pki/ca.crt");
    let ca_pem = ensure_ca(config, &ca).await?;
    let node_user = format!("system:node:{}", config.node_name);
    let agent_user = format!("system:strake-agent:{}", config.node_name);
    let credentials = Credentials {
        kubelet: dir.join("kubelet.kubeconfig"),
        agent: dir.join("agent.kubeconfig"),
        serving: dir.join("pki/kubelet-serving"),
        ca,
    };

    let stem = dir.join("pki/kubelet-client");
    let bootstrap = token_client(&config.join.server, &ca_pem, &config.join.token)?;
    let mut want = Want {
        stem: stem.clone(),
        common_name: node_user.clone(),
        organization: "system:nodes",
        signer: Signer::KubeApiserverClientKubelet,
        usages: CLIENT_USAGES,
        names: None,
        client: &bootstrap,
    };
    ensure_certificate(&want).await?;
    write_kubeconfig(config, &ca_pem, &node_user, &stem, &credentials.kubelet)?;

    let stem = dir.join("pki/agent-client");
    want = Want {
        stem: stem.clone(),
        common_name: agent_user.clone(),
        organization: "system:strake-agents",
        signer: Signer::StrakeAgent,
        ..want
    };
    ensure_certificate(&want).await?;
    write_kubeconfig(config, &ca_pem, &agent_user, &stem, &credentials.agent)?;

    Ok(credentials)
}

/// Keeps the kubelet's serving certificate: asks for it, and again before it ends, until `token` is cancelled.
///
/// It comes after the start, because it is approved only for addresses that the Node object has, and the Node is
/// registered by the kubelet; the kubelet takes it up when the file appears or changes.
pub async fn keep_serving(
    config: Arc<Config>,
    client: Client,
    stem: PathBuf,
    token: CancellationToken,
) -> Result<(), Error> {
    let want = Want {
        stem,
        common_name: format!("system:node:{}", config.node_name),
        organization: "system:nodes",
        signer: Signer::KubeletServing,
        usages: SERVER_USAGES,
        names: Some(Names { dns: vec![config.node_name.clone()], ips: vec![config.node_ip.into()] }),
        client: &client,
    };
    loop {
        let pause = match ensure_certificate(&want).await {
            Ok(()) => RENEWAL_CHECK,
            Err(error) => {
                tracing::warn!(%error, "trying again");
                SIGNING_RETRY
            }
        };
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// A client for a kubeconfig file.
pub async fn client(kubeconfig: &Path) -> Result<Client, Error> {
    let wrap = |source| Error::Kubeconfig { path: kubeconfig.into(), source };
    let parsed = Kubeconfig::read_from(kubeconfig).map_err(wrap)?;
    let config = kube::Config::from_custom_kubeconfig(parsed, &Default::default()).await.map_err(wrap)?;
    Client::try_from(config).map_err(Error::api(format!("making a client from {}", kubeconfig.display())))
}

async fn ensure_ca(config: &Config, path: &Path) -> Result<String, Error> {
    if let Some(pem) = files::read_optional(path)? {
        return Ok(pem);
    }
    let server = &config.join.server;
    let failed = |message: String| Error::Join { server: server.clone(), message };
    // The one request whose answer is not believed for who sent it, only for what it says: the pin decides.
    let mut insecure = kube::Config::new(server.parse().map_err(|e| failed(format!("not an URL: {e}")))?);
    insecure.accept_invalid_certs = true;
    // None of the host's own authorities either: a host without any can join.
    insecure.root_cert = Some(Vec::new());
    let client = Client::try_from(insecure).map_err(|e| failed(e.to_string()))?;
    let info: ConfigMap = Api::namespaced(client, "kube-public")
        .get("cluster-info")
        .await
        .map_err(|e| failed(format!("reading ConfigMap kube-public/cluster-info: {e}")))?;
    let text = info.data.unwrap_or_default().remove("kubeconfig").unwrap_or_default();
    let parsed = Kubeconfig::from_yaml(&text).map_err(|e| failed(format!("cluster-info holds no kubeconfig: {e}")))?;
    let data = parsed
        .clusters
        .first()
        .and_then(|c| c.cluster.as_ref()?.certificate_authority_data.clone())
        .ok_or_else(|| failed("cluster-info names no CA".into()))?;
    let pem = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| failed("the CA in cluster-info is not base64 of PEM".into()))?;
    let der = Identity { certificate_pem: pem.clone(), key_pem: String::new() }.chain()?;
    let der = der.first().ok_or_else(|| failed("the CA in cluster-info is empty".into()))?;
    let found = strake_pki::CertificateAuthority::pin_of(der)?;
    if found != config.join.ca_pin {
        return Err(Error::Pin { server: server.clone(), found, expected: config.join.ca_pin.clone() });
    }
    files::write_atomic(path, pem.as_bytes(), 0o644)?;
    Ok(pem)
}

fn token_client(server: &str, ca_pem: &str, token: &str) -> Result<Client, Error> {
    let failed = |message: String| Error::Join { server: server.into(), message };
    let ca = Identity { certificate_pem: ca_pem.into(), key_pem: String::new() }.chain()?;
    let mut config = kube::Config::new(server.parse().map_err(|e| failed(format!("not an URL: {e}")))?);
    config.root_cert = Some(ca.into_iter().map(|der| der.to_vec()).collect());
    config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
    Client::try_from(config).map_err(|e| failed(e.to_string()))
}

fn write_kubeconfig(config: &Config, ca_pem: &str, user: &str, stem: &Path, path: &Path) -> Result<(), Error> {
    let (certificate, key) = (stem.with_extension("crt"), stem.with_extension("key"));
    strake_pki::Kubeconfig {
        server: &config.join.server,
        ca_pem,
        cluster: "strake",
        user,
        credential: Credential::CertificateFiles { certificate, key },
    }
    .write(path)?;
    Ok(())
}

async fn ensure_certificate(want: &Want<'_>) -> Result<(), Error> {
    if let Some(have) = Identity::read(&want.stem)?
        && !have.near_its_end(SystemTime::now())?
        && want.names.as_ref().is_none_or(|names| have.names().is_ok_and(|h| h == *names))
    {
        return Ok(());
    }
    let failed = |message: String| Error::Certificate { subject: want.common_name.clone(), message };
    let key = KeyPair::generate().map_err(|e| failed(e.to_string()))?;
    let request = certificate_request(want, &key).map_err(|e| failed(e.to_string()))?;

    let api: Api<CertificateSigningRequest> = Api::all(want.client.clone());
    let object = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("node-csr-".into()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: want.signer.name().into(),
            usages: Some(want.usages.iter().map(|u| (*u).to_owned()).collect()),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    let created = api.create(&PostParams::default(), &object).await.map_err(|e| failed(e.to_string()))?;
    let name = created.metadata.name.unwrap_or_default();
    tracing::info!(csr = name, subject = want.common_name, "asked for a certificate");
    let decided = |csr: Option<&CertificateSigningRequest>| {
        csr.and_then(|c| c.status.as_ref()).is_some_and(|s| {
            s.certificate.is_some() || s.conditions.iter().flatten().any(|c| c.type_ == "Denied" || c.type_ == "Failed")
        })
    };
    let signed = tokio::time::timeout(SIGNING_TIMEOUT, await_condition(api, &name, decided))
        .await
        .map_err(|_| failed(format!("CertificateSigningRequest {name} was not signed within 60 s; is it approved?")))?
        .map_err(|e| failed(format!("watching CertificateSigningRequest {name}: {e}")))?;
    let status = signed.and_then(|csr| csr.status).unwrap_or_default();
    let Some(certificate) = status.certificate else {
        let why = status.conditions.into_iter().flatten().find_map(|c| c.message).unwrap_or_default();
        return Err(failed(format!("CertificateSigningRequest {name} was refused: {why}")));
    };
    let certificate_pem =
        String::from_utf8(certificate.0).map_err(|e| failed(format!("the signed certificate is not PEM: {e}")))?;
    Identity { certificate_pem, key_pem: key.serialize_pem() }.write(&want.stem)?;
    Ok(())
}

fn certificate_request(want: &Want<'_>, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, want.common_name.as_str());
    params.distinguished_name.push(DnType::OrganizationName, want.organization);
    if let Some(names) = &want.names {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for dns in &names.dns {
            params.subject_alt_names.push(SanType::DnsName(dns.as_str().try_into()?));
        }
        params.subject_alt_names.extend(names.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    }
    params.serialize_request(key)?.pem()
}
