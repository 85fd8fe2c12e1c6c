//! The cluster's own public key infrastructure: one CA, the certificates it issues, ServiceAccount tokens.
//!
//! What it is for: keys and certificates as files under `D/server/pki` and as values; everything ECDSA P-256, keys mode
//! 0600, files replaced atomically, `ensure` harmless to repeat. What it must not know: HTTP, the API's objects, who may
//! have a certificate (that is RBAC and the approval of a CertificateSigningRequest; only the rules of each signer about
//! subjects and usages are here).
//!
//! ```text
//!   ca.{crt,key}                        the cluster CA, ten years
//!   apiserver.{crt,key}                 serving certificate; issued again when its names change or its time runs out
//!   apiserver-kubelet-client.{crt,key}  what the API server shows to kubelets
//!   sa.key                              signs ServiceAccount tokens; sa-old/KID.pub still verify
//! ```

#![forbid(unsafe_code)]

mod ca;
mod csr;
mod error;
pub mod files;
mod kubeconfig;
mod token;

pub use ca::{CertificateAuthority, Identity, Names, subject_of};
pub use csr::{CertificateRequest, Signer};
pub use error::{Error, Result};
pub use kubeconfig::{Credential, Kubeconfig};
pub use token::{
    BoundObject, DEFAULT_ISSUER, KubernetesClaims, ServiceAccountClaims, ServiceAccountSigner, TokenError, TokenRequest,
};

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub const DAY: Duration = Duration::from_secs(86_400);
/// Validity of the CA.
pub const CA_VALIDITY: Duration = Duration::from_secs(3650 * 86_400);
/// Validity of what it issues for the control plane, and the most that a CSR gets.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 86_400);

/// The subject the API server shows to kubelets.
pub const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// The PKI of one cluster, in one directory.
pub struct Pki {
    dir: PathBuf,
    ca: CertificateAuthority,
    serving: Identity,
    kubelet_client: Identity,
    service_accounts: Arc<ServiceAccountSigner>,
}

impl Pki {
    /// Loads what is in `dir` and creates or renews what is missing, near its end, or made for other names.
    ///
    /// # Errors
    /// Names the file that could not be read, written or understood. A CA file that is damaged is never replaced.
    pub fn ensure(dir: &Path, names: &Names) -> Result<Self> {
        Self::ensure_with_issuer(dir, names, DEFAULT_ISSUER)
    }

    /// As [`Pki::ensure`], with another ServiceAccount issuer.
    pub fn ensure_with_issuer(dir: &Path, names: &Names, issuer: &str) -> Result<Self> {
        files::create_private_dir(dir)?;
        let ca = CertificateAuthority::ensure(dir)?;
        let serving = ca.ensure_identity(&dir.join("apiserver"), "kube-apiserver", &[], Some(names))?;
        let kubelet_client = ca.ensure_identity(&dir.join("apiserver-kubelet-client"), KUBELET_CLIENT, &[], None)?;
        let service_accounts = Arc::new(ServiceAccountSigner::ensure(dir, issuer)?);
        Ok(Self { dir: dir.to_owned(), ca, serving, kubelet_client, service_accounts })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn ca(&self) -> &CertificateAuthority {
        &self.ca
    }

    /// The CA's certificate.
    pub fn ca_pem(&self) -> &str {
        self.ca.certificate_pem()
    }

    /// The API server's serving certificate.
    pub fn serving(&self) -> &Identity {
        &self.serving
    }

    /// The API server's client certificate towards kubelets.
    pub fn kubelet_client(&self) -> &Identity {
        &self.kubelet_client
    }

    pub fn service_accounts(&self) -> &Arc<ServiceAccountSigner> {
        &self.service_accounts
    }

    /// Issues a client certificate: `common_name` is the user, `organizations` are its groups.
    pub fn issue_client(&self, common_name: &str, organizations: &[&str], validity: Duration) -> Result<Identity> {
        self.ca.issue_client(common_name, organizations, validity)
    }

    /// Issues a serving certificate for `names`.
    pub fn issue_server(
        &self,
        common_name: &str,
        organizations: &[&str],
        names: &Names,
        validity: Duration,
    ) -> Result<Identity> {
        self.ca.issue_server(common_name, organizations, names, validity)
    }

    /// A client identity kept as `dir/STEM.{crt,key}`, renewed when it is near its end.
    pub fn ensure_client(&self, dir: &Path, stem: &str, common_name: &str, organizations: &[&str]) -> Result<Identity> {
        files::create_private_dir(dir)?;
        self.ca.ensure_identity(&dir.join(stem), common_name, organizations, None)
    }

    /// Signs a CSR (PEM) by the rules of a signer; `usages` are those of the CertificateSigningRequest's spec.
    /// The answer is the certificate as PEM. `validity` is cut to what the signer and the CA allow.
    pub fn sign_csr(&self, csr_pem: &str, signer: Signer, usages: &[&str], validity: Duration) -> Result<String> {
        self.ca.sign_csr(csr_pem, signer, usages, validity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ips: &[&str]) -> Names {
        Names {
            dns: vec!["kubernetes".into(), "node1".into()],
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn ensure_twice_changes_nothing_and_new_names_change_the_serving_certificate_only() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::ensure(dir.path(), &names(&["10.96.0.1"])).unwrap();
        let again = Pki::ensure(dir.path(), &names(&["10.96.0.1"])).unwrap();
        assert_eq!(first.ca_pem(), again.ca_pem());
        assert_eq!(first.serving().certificate_pem, again.serving().certificate_pem);
        let moved = Pki::ensure(dir.path(), &names(&["10.96.0.1", "192.0.2.7"])).unwrap();
        assert_eq!(first.ca_pem(), moved.ca_pem());
        assert_eq!(first.kubelet_client().certificate_pem, moved.kubelet_client().certificate_pem);
        assert_ne!(first.serving().certificate_pem, moved.serving().certificate_pem);
        assert_eq!(moved.serving().names().unwrap(), names(&["10.96.0.1", "192.0.2.7"]));
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Pki::ensure(dir.path(), &names(&[])).unwrap();
        let mut keys = 0;
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.path().extension().is_some_and(|e| e == "key") {
                keys += 1;
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
            }
            assert!(!entry.file_name().to_string_lossy().contains(".tmp"), "left over: {:?}", entry.path());
        }
        assert_eq!(keys, 4);
    }

    #[test]
    fn a_damaged_ca_is_named_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        Pki::ensure(dir.path(), &names(&[])).unwrap();
        let path = dir.path().join("ca.crt");
        std::fs::write(&path, "damaged").unwrap();
        let error = Pki::ensure(dir.path(), &names(&[])).err().unwrap();
        assert!(error.to_string().contains("ca.crt"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "damaged");
        // A key without its certificate is a damaged CA, too.
        std::fs::remove_file(&path).unwrap();
        assert!(Pki::ensure(dir.path(), &names(&[])).is_err());
    }

    #[test]
    fn an_identity_near_its_end_is_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(dir.path(), &names(&[])).unwrap();
        let short = pki.issue_client("x", &["y"], DAY).unwrap();
        short.write(&dir.path().join("x")).unwrap();
        let ensured = pki.ensure_client(dir.path(), "x", "x", &["y"]).unwrap();
        assert_ne!(short.certificate_pem, ensured.certificate_pem);
        let again = pki.ensure_client(dir.path(), "x", "x", &["y"]).unwrap();
        assert_eq!(again.certificate_pem, ensured.certificate_pem);
        let other = pki.ensure_client(dir.path(), "x", "x", &["z"]).unwrap();
        assert_ne!(again.certificate_pem, other.certificate_pem, "another subject is another certificate");
    }
}
