//! Certificate signing requests: what they ask for, and which signer signs what.
//! The rules of the kubernetes.io signers follow KEP-1513.

use crate::{
    Error, Result,
    ca::{ip, subject_strings},
};
use rcgen::{CertificateSigningRequestParams, PublicKey};
use std::net::IpAddr;
use x509_parser::{
    certification_request::X509CertificationRequest,
    prelude::{FromDer, GeneralName, ParsedExtension},
};

/// A certificate signing request (PKCS#10) whose signature was verified.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ip_addresses: Vec<IpAddr>,
    /// Alternative names of other kinds (mail addresses, URIs ...), as text.
    pub other_names: Vec<String>,
    pub(crate) public_key: PublicKey,
}

impl CertificateRequest {
    /// Reads a `CERTIFICATE REQUEST` PEM block.
    pub fn parse(pem: &str) -> Result<Self> {
        let bad = |e: String| Error::Request(e);
        // Checks the signature and the key's algorithm.
        let checked = CertificateSigningRequestParams::from_pem(pem).map_err(|e| bad(e.to_string()))?;
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let (_, csr) = X509CertificationRequest::from_der(&block.contents).map_err(|e| bad(e.to_string()))?;
        let (common_name, organizations) = subject_strings(&csr.certification_request_info.subject);
        let mut request = Self {
            common_name,
            organizations,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            other_names: Vec::new(),
            public_key: checked.public_key,
        };
        for extension in csr.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(san) = extension else { continue };
            for name in &san.general_names {
                match name {
                    GeneralName::DNSName(dns) => request.dns_names.push((*dns).to_owned()),
                    GeneralName::IPAddress(bytes) => {
                        request.ip_addresses.push(ip(bytes).ok_or_else(|| bad("an IP address of odd length".into()))?);
                    }
                    other => request.other_names.push(other.to_string()),
                }
            }
        }
        Ok(request)
    }
}

/// Who signs a request, and by which rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// Client certificates that the API server honours; approved by hand.
    KubeApiserverClient,
    /// Client certificates of kubelets.
    KubeApiserverClientKubelet,
    /// Serving certificates of kubelets.
    KubeletServing,
    /// Client certificates of Strake's datapath agents.
    StrakeAgent,
}

impl Signer {
    /// By the name in `spec.signerName`; `None` for signers that are not ours.
    pub fn named(name: &str) -> Option<Self> {
        [Self::KubeApiserverClient, Self::KubeApiserverClientKubelet, Self::KubeletServing, Self::StrakeAgent]
            .into_iter()
            .find(|signer| signer.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::KubeApiserverClient => "kubernetes.io/kube-apiserver-client",
            Self::KubeApiserverClientKubelet => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::KubeletServing => "kubernetes.io/kubelet-serving",
            Self::StrakeAgent => "strake.io/agent",
        }
    }

    /// The user name prefix and the one group its subjects have, where it has a rule.
    fn subject_rule(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::KubeApiserverClient => None,
            Self::KubeApiserverClientKubelet | Self::KubeletServing => Some(("system:node:", "system:nodes")),
            Self::StrakeAgent => Some(("system:strake-agent:", "system:strake-agents")),
        }
    }

    /// Whether this signer signs this request with these usages.
    pub fn check(self, request: &CertificateRequest, usages: &[&str]) -> Result<()> {
        let refuse = |reason: String| Err(Error::Refused { signer: self.name(), reason });
        let serving = self == Self::KubeletServing;
        let purpose = if serving { "server auth" } else { "client auth" };
        if !usages.contains(&purpose) {
            return refuse(format!("its usages lack {purpose:?}"));
        }
        if let Some(usage) = usages.iter().find(|u| ![purpose, "digital signature", "key encipherment"].contains(u)) {
            return refuse(format!("the usage {usage:?} is not allowed"));
        }
        let Some((prefix, group)) = self.subject_rule() else {
            if request.organizations.iter().any(|o| o == "system:masters") {
                return refuse("the organization system:masters is not given out".into());
            }
            return Ok(());
        };
        if !usages.contains(&"digital signature") {
            return refuse("its usages lack \"digital signature\"".into());
        }
        if request.organizations != [group] {
            return refuse(format!("the organizations are {:?} instead of [{group:?}]", request.organizations));
        }
        if request.common_name.strip_prefix(prefix).is_none_or(str::is_empty) {
            return refuse(format!("the common name {:?} does not begin with {prefix:?}", request.common_name));
        }
        if !request.other_names.is_empty() {
            return refuse(format!("the alternative names {:?} are not allowed", request.other_names));
        }
        match (serving, request.dns_names.is_empty() && request.ip_addresses.is_empty()) {
            (true, true) => refuse("a serving certificate needs a DNS name or an IP address".into()),
            (false, false) => refuse("a client certificate has no DNS names or IP addresses".into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CertificateAuthority, DAY, Identity};
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn csr(cn: &str, organization: &str, names: &[&str]) -> String {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, cn);
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    fn sign(csr: &str, signer: Signer, usages: &[&str]) -> Result<Identity> {
        let dir = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::ensure(dir.path()).unwrap();
        let certificate_pem = ca.sign_csr(csr, signer, usages, DAY)?;
        Ok(Identity { certificate_pem, key_pem: String::new() })
    }

    const CLIENT: &[&str] = &["digital signature", "client auth"];
    const SERVER: &[&str] = &["digital signature", "key encipherment", "server auth"];

    #[test]
    fn a_kubelet_gets_its_client_and_serving_certificates() {
        let client =
            sign(&csr("system:node:a", "system:nodes", &[]), Signer::KubeApiserverClientKubelet, CLIENT).unwrap();
        assert_eq!(client.subject().unwrap(), ("system:node:a".into(), vec!["system:nodes".into()]));
        let (begin, end) = client.validity().unwrap();
        assert_eq!(end - begin, 86_400 + 300);
        let names = ["a", "192.0.2.1"];
        let serving = sign(&csr("system:node:a", "system:nodes", &names), Signer::KubeletServing, SERVER).unwrap();
        assert_eq!(serving.names().unwrap().ips, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn each_signer_keeps_its_rules() {
        use Signer::{KubeApiserverClient, KubeApiserverClientKubelet, KubeletServing, StrakeAgent};
        for (cn, organization, names, signer, usages, reason) in [
            ("a", "system:nodes", &[][..], KubeApiserverClientKubelet, CLIENT, "system:node:"),
            ("system:node:", "system:nodes", &[], KubeApiserverClientKubelet, CLIENT, "system:node:"),
            ("system:node:a", "system:masters", &[], KubeApiserverClientKubelet, CLIENT, "system:masters"),
            ("system:node:a", "system:nodes", &["a"], KubeApiserverClientKubelet, CLIENT, "no DNS names"),
            ("system:node:a", "system:nodes", &[], KubeApiserverClientKubelet, SERVER, "client auth"),
            ("system:node:a", "system:nodes", &[], KubeApiserverClientKubelet, &["client auth"], "digital"),
            ("system:node:a", "system:nodes", &[], KubeletServing, SERVER, "needs a DNS name"),
            ("x", "system:masters", &[], KubeApiserverClient, CLIENT, "system:masters"),
            ("x", "y", &[], KubeApiserverClient, &["client auth", "cert sign"], "cert sign"),
            ("system:node:a", "system:nodes", &[], StrakeAgent, CLIENT, "system:strake-agents"),
        ] {
            let error = sign(&csr(cn, organization, names), signer, usages).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(signer.name()), "{error} should say {reason}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert!(matches!(CertificateRequest::parse("x"), Err(Error::Request(_))));
        let good = csr("x", "y", &[]);
        // Somebody else's signature.
        let (_, block) = x509_parser::pem::parse_x509_pem(good.as_bytes()).unwrap();
        let mut der = block.contents;
        *der.last_mut().unwrap() ^= 1;
        use base64::Engine;
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let forged = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(matches!(CertificateRequest::parse(&forged), Err(Error::Request(_))));
    }

    #[test]
    fn signers_are_found_by_name() {
        assert_eq!(Signer::named("strake.io/agent"), Some(Signer::StrakeAgent));
        assert_eq!(Signer::named("example.com/mine"), None);
    }
}
