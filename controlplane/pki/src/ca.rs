//! The certificate authority and what it issues.

use crate::{
    CA_VALIDITY, Error, LEAF_VALIDITY, Result,
    csr::{CertificateRequest, Signer},
    files,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// Certificates begin to be valid that long before they are issued: clocks differ.
const BACKDATE: u64 = 300;

/// What a serving certificate is valid for. Order does not matter when two are compared.
#[derive(Clone, Debug, Default, Eq)]
pub struct Names {
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
}

impl Names {
    /// The names of an API server: the `kubernetes` Service in all its spellings, localhost, and `extra` names or
    /// addresses (the host's name, its addresses, a load balancer's).
    pub fn api_server<'a>(
        cluster_domain: &str,
        service_ips: &[IpAddr],
        extra: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut names = Self {
            dns: ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(String::from).to_vec(),
            ips: service_ips.to_vec(),
        };
        names.dns.push(format!("kubernetes.default.svc.{cluster_domain}"));
        names.dns.push("localhost".into());
        names.ips.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)]);
        for name in extra {
            match name.parse::<IpAddr>() {
                Ok(ip) => names.ips.push(ip),
                Err(_) => names.dns.push(name.to_owned()),
            }
        }
        names.normalised()
    }

    fn normalised(mut self) -> Self {
        self.dns.sort();
        self.dns.dedup();
        self.ips.sort();
        self.ips.dedup();
        self
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.clone().normalised(), other.clone().normalised());
        a.dns == b.dns && a.ips == b.ips
    }
}

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificate_pem: String,
    /// PKCS#8.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("subject", &self.subject().ok()).finish_non_exhaustive()
    }
}

impl Identity {
    /// The chain, leaf first, for a TLS configuration.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_slice_iter(self.certificate_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Error::Certificate(e.to_string()))
    }

    pub fn key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| Error::Certificate(e.to_string()))
    }

    /// Writes `STEM.crt` (0644) and `STEM.key` (0600). The key goes first: a certificate is never without its key.
    pub fn write(&self, stem: &Path) -> Result<()> {
        files::write_atomic(&suffixed(stem, "key"), self.key_pem.as_bytes(), 0o600)?;
        files::write_atomic(&suffixed(stem, "crt"), self.certificate_pem.as_bytes(), 0o644)
    }

    /// Reads what [`Identity::write`] wrote; `None` if either file is missing.
    pub fn read(stem: &Path) -> Result<Option<Self>> {
        let certificate_pem = files::read_optional(&suffixed(stem, "crt"))?;
        let key_pem = files::read_optional(&suffixed(stem, "key"))?;
        Ok(certificate_pem.zip(key_pem).map(|(certificate_pem, key_pem)| Self { certificate_pem, key_pem }))
    }

    /// Common name and organizations.
    pub fn subject(&self) -> Result<(String, Vec<String>)> {
        subject_of(&self.leaf()?)
    }

    /// The subject alternative names.
    pub fn names(&self) -> Result<Names> {
        let der = self.leaf()?;
        let certificate = parse(&der)?;
        Ok(names_in(certificate.extensions().iter().map(|e| e.parsed_extension())))
    }

    /// The first and the last moment of validity, in seconds since the Unix epoch.
    pub fn validity(&self) -> Result<(i64, i64)> {
        let der = self.leaf()?;
        let certificate = parse(&der)?;
        Ok((certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp()))
    }

    fn leaf(&self) -> Result<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(|e| Error::Certificate(e.to_string()))
    }

    /// Less than a fifth of its time, or less than 30 days of a longer one, is left.
    pub fn near_its_end(&self, now: SystemTime) -> Result<bool> {
        let (begin, end) = self.validity()?;
        let now = i64::try_from(unix(now)).unwrap_or(i64::MAX);
        Ok(end - now < ((end - begin) / 5).max(30 * 86_400))
    }
}

fn suffixed(stem: &Path, suffix: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>> {
    X509Certificate::from_der(der).map(|(_, c)| c).map_err(|e| Error::Certificate(e.to_string()))
}

/// Common name (the user) and organizations (the groups) of a certificate in DER.
pub fn subject_of(der: &[u8]) -> Result<(String, Vec<String>)> {
    let certificate = parse(der)?;
    Ok(subject_strings(certificate.subject()))
}

pub(crate) fn subject_strings(name: &x509_parser::x509::X509Name<'_>) -> (String, Vec<String>) {
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().map(str::to_owned).ok();
    let common_name = name.iter_common_name().last().and_then(text).unwrap_or_default();
    (common_name, name.iter_organization().filter_map(text).collect())
}

pub(crate) fn names_in<'a>(extensions: impl Iterator<Item = &'a ParsedExtension<'a>>) -> Names {
    let mut names = Names::default();
    for extension in extensions {
        let ParsedExtension::SubjectAlternativeName(san) = extension else { continue };
        for name in &san.general_names {
            match name {
                GeneralName::DNSName(dns) => names.dns.push((*dns).to_owned()),
                GeneralName::IPAddress(bytes) => names.ips.extend(ip(bytes)),
                _ => {}
            }
        }
    }
    names
}

pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The cluster CA.
pub struct CertificateAuthority {
    certificate_pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    /// Seconds since the Unix epoch: nothing issued outlives the CA.
    not_after: u64,
}

impl CertificateAuthority {
    /// Loads `ca.{crt,key}` or makes a new CA if neither file is there.
    pub fn ensure(dir: &Path) -> Result<Self> {
        let (crt, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        match (files::read_optional(&crt)?, files::read_optional(&key)?) {
            (Some(certificate_pem), Some(key_pem)) => Self::load(certificate_pem, &key_pem, &crt, &key),
            (None, None) => {
                let key_pair = generate()?;
                let certificate_pem = new_ca(&key_pair)?;
                files::write_atomic(&key, key_pair.serialize_pem().as_bytes(), 0o600)?;
                files::write_atomic(&crt, certificate_pem.as_bytes(), 0o644)?;
                Self::load(certificate_pem, &key_pair.serialize_pem(), &crt, &key)
            }
            // The key is written first: this is a first start that ended in between.
            (None, Some(key_pem)) if std::fs::read_dir(dir).is_ok_and(|d| d.count() == 1) => {
                let key_pair = load_key(&key_pem, &key)?;
                let certificate_pem = new_ca(&key_pair)?;
                files::write_atomic(&crt, certificate_pem.as_bytes(), 0o644)?;
                Self::load(certificate_pem, &key_pem, &crt, &key)
            }
            (certificate, _) => {
                let path = if certificate.is_some() { key } else { crt };
                let detail = "it is missing while its other half is there; restore it".into();
                Err(Error::Damaged { path, expected: "half of the cluster CA", detail })
            }
        }
    }

    fn load(certificate_pem: String, key_pem: &str, crt: &Path, key: &Path) -> Result<Self> {
        let damaged = |detail: String| Error::Damaged { path: crt.to_owned(), expected: "a CA certificate", detail };
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|e| damaged(e.to_string()))?;
        let key_pair = load_key(key_pem, key)?;
        let parsed = parse(&der).map_err(|e| damaged(e.to_string()))?;
        if !parsed.is_ca() {
            return Err(damaged("it is not a CA's".into()));
        }
        if parsed.public_key().subject_public_key.data.as_ref() != key_pair.public_key_raw() {
            return Err(damaged("it does not belong to ca.key".into()));
        }
        let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let issuer = Issuer::from_ca_cert_der(&der, key_pair).map_err(|e| damaged(e.to_string()))?;
        Ok(Self { certificate_pem, der, issuer, not_after })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// `sha256:` and the hex digest of the CA's SubjectPublicKeyInfo: what a joining node compares, as kubeadm's
    /// `--discovery-token-ca-cert-hash`.
    pub fn pin(&self) -> Result<String> {
        Self::pin_of(&self.der)
    }

    /// The pin of any certificate in DER.
    pub fn pin_of(der: &[u8]) -> Result<String> {
        use std::fmt::Write;
        let digest = Sha256::digest(parse(der)?.tbs_certificate.subject_pki.raw);
        Ok(digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }

    pub fn issue_client(&self, common_name: &str, organizations: &[&str], validity: Duration) -> Result<Identity> {
        self.issue(common_name, organizations, None, validity)
    }

    pub fn issue_server(
        &self,
        common_name: &str,
        organizations: &[&str],
        names: &Names,
        validity: Duration,
    ) -> Result<Identity> {
        self.issue(common_name, organizations, Some(names), validity)
    }

    fn issue(&self, cn: &str, organizations: &[&str], names: Option<&Names>, validity: Duration) -> Result<Identity> {
        let key = generate()?;
        let usage =
            if names.is_some() { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth };
        let params = self.params(cn, organizations, names, vec![usage], validity)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|e| issue_error(cn, &e))?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// The identity kept at `STEM.{crt,key}`: issued if it is missing, unreadable, of another CA, subject or names, or
    /// near its end. `names` make it a serving certificate, their absence a client's.
    pub fn ensure_identity(
        &self,
        stem: &Path,
        common_name: &str,
        organizations: &[&str],
        names: Option<&Names>,
    ) -> Result<Identity> {
        if let Some(identity) = Identity::read(stem)?
            && self.still_good(&identity, common_name, organizations, names).unwrap_or(false)
        {
            return Ok(identity);
        }
        let identity = self.issue(common_name, organizations, names, LEAF_VALIDITY)?;
        identity.write(stem)?;
        Ok(identity)
    }

    fn still_good(&self, identity: &Identity, cn: &str, organizations: &[&str], names: Option<&Names>) -> Result<bool> {
        let leaf = identity.leaf()?;
        let certificate = parse(&leaf)?;
        let ca = parse(&self.der)?;
        let key = KeyPair::from_pem(&identity.key_pem).map_err(|e| Error::Certificate(e.to_string()))?;
        let (subject, groups) = subject_strings(certificate.subject());
        Ok(certificate.verify_signature(Some(ca.public_key())).is_ok()
            && certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
            && subject == cn
            && groups == organizations
            && names
                .is_none_or(|names| names_in(certificate.extensions().iter().map(|e| e.parsed_extension())) == *names)
            && !identity.near_its_end(SystemTime::now())?)
    }

    /// See [`crate::Pki::sign_csr`].
    pub fn sign_csr(&self, csr_pem: &str, signer: Signer, usages: &[&str], validity: Duration) -> Result<String> {
        let request = CertificateRequest::parse(csr_pem)?;
        signer.check(&request, usages)?;
        let organizations: Vec<_> = request.organizations.iter().map(String::as_str).collect();
        let names = Names { dns: request.dns_names.clone(), ips: request.ip_addresses.clone() };
        let names = (names != Names::default()).then_some(names);
        let mut extended = Vec::new();
        if usages.contains(&"client auth") {
            extended.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        if usages.contains(&"server auth") {
            extended.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let mut params = self.params(
            &request.common_name,
            &organizations,
            names.as_ref(),
            extended,
            validity.clamp(Duration::from_secs(600), LEAF_VALIDITY),
        )?;
        if usages.contains(&"key encipherment") {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        let certificate =
            params.signed_by(&request.public_key, &self.issuer).map_err(|e| issue_error(&request.common_name, &e))?;
        Ok(certificate.pem())
    }

    fn params(
        &self,
        cn: &str,
        organizations: &[&str],
        names: Option<&Names>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        validity: Duration,
    ) -> Result<CertificateParams> {
        let now = unix(SystemTime::now());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for organization in organizations {
            params.distinguished_name.push(DnType::OrganizationName, *organization);
        }
        params.distinguished_name.push(DnType::CommonName, cn);
        params.serial_number = Some(serial()?);
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.saturating_sub(BACKDATE));
        params.not_after =
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs((now + validity.as_secs()).min(self.not_after));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        if let Some(names) = names {
            for dns in &names.dns {
                let dns = dns.as_str().try_into().map_err(|e: rcgen::Error| issue_error(cn, &e))?;
                params.subject_alt_names.push(SanType::DnsName(dns));
            }
            params.subject_alt_names.extend(names.ips.iter().copied().map(SanType::IpAddress));
        }
        Ok(params)
    }
}

fn issue_error(subject: &str, error: &rcgen::Error) -> Error {
    Error::Issue { subject: subject.to_owned(), detail: error.to_string() }
}

fn generate() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| Error::Generate(e.to_string()))
}

fn load_key(pem: &str, path: &Path) -> Result<KeyPair> {
    KeyPair::from_pem(pem).map_err(|e| Error::Damaged {
        path: path.to_owned(),
        expected: "a private key",
        detail: e.to_string(),
    })
}

/// 128 random bits, positive.
fn serial() -> Result<SerialNumber> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Generate("no random numbers".into()))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn new_ca(key: &KeyPair) -> Result<String> {
    let now = unix(SystemTime::now());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.serial_number = Some(serial()?);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.saturating_sub(BACKDATE));
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now) + CA_VALIDITY;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(key).map_err(|e| issue_error("kubernetes", &e))?;
    Ok(certificate.pem())
}
