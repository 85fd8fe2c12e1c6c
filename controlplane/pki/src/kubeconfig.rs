//! Kubeconfig files, as kubectl and every client library read them.

use crate::{Identity, Result, files};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::path::Path;

/// How a client proves who it is.
#[derive(Clone, Debug)]
pub enum Credential {
    /// The certificate and key are embedded.
    Certificate(Identity),
    /// The certificate and key stay in files of their own, for clients that renew them.
    CertificateFiles {
        certificate: std::path::PathBuf,
        key: std::path::PathBuf,
    },
    Token(String),
}

/// One cluster, one user, one context.
#[derive(Clone, Debug)]
pub struct Kubeconfig<'a> {
    /// Such as `https://192.0.2.1:6443`.
    pub server: &'a str,
    pub ca_pem: &'a str,
    pub cluster: &'a str,
    pub user: &'a str,
    pub credential: Credential,
}

/// A YAML scalar that means exactly this text: JSON strings are YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Kubeconfig<'_> {
    pub fn to_yaml(&self) -> String {
        let credential = match &self.credential {
            Credential::Certificate(identity) => format!(
                "    client-certificate-data: {}\n    client-key-data: {}\n",
                STANDARD.encode(&identity.certificate_pem),
                STANDARD.encode(&identity.key_pem)
            ),
            Credential::CertificateFiles { certificate, key } => format!(
                "    client-certificate: {}\n    client-key: {}\n",
                quoted(&certificate.to_string_lossy()),
                quoted(&key.to_string_lossy())
            ),
            Credential::Token(token) => format!("    token: {}\n", quoted(token)),
        };
        let (cluster, user) = (quoted(self.cluster), quoted(self.user));
        let context = quoted(&format!("{}@{}", self.user, self.cluster));
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {cluster}\n  cluster:\n    server: {}\n    \
             certificate-authority-data: {}\nusers:\n- name: {user}\n  user:\n{credential}contexts:\n- name: {context}\n  \
             context:\n    cluster: {cluster}\n    user: {user}\ncurrent-context: {context}\npreferences: {{}}\n",
            quoted(self.server),
            STANDARD.encode(self.ca_pem),
        )
    }

    /// Writes it, mode 0600, in one step; a file that already says the same is left alone.
    pub fn write(&self, path: &Path) -> Result<()> {
        let yaml = self.to_yaml();
        if files::read_optional(path).ok().flatten().as_deref() == Some(&yaml) {
            return Ok(());
        }
        files::write_atomic(path, yaml.as_bytes(), 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_privately_and_names_its_parts() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.kubeconfig");
        let config = Kubeconfig {
            server: "https://192.0.2.1:6443",
            ca_pem: "CA",
            cluster: "strake",
            user: "kubernetes-admin",
            credential: Credential::Token("a\"b".into()),
        };
        config.write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("    server: \"https://192.0.2.1:6443\"\n    certificate-authority-data: Q0E=\n"),
            "{text}"
        );
        assert!(text.contains("current-context: \"kubernetes-admin@strake\"\n"), "{text}");
        assert!(text.contains("    token: \"a\\\"b\"\n"), "{text}");
    }
}
