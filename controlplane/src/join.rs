//! What a node needs to join: a bootstrap token, and the CA's pin so that it knows whom it talks to.
//!
//! The file `D/server/token` holds `ID.SECRET::sha256:HEX`: a bootstrap token as kubeadm's, and the digest of the CA's
//! SubjectPublicKeyInfo as kubeadm's `--discovery-token-ca-cert-hash`.

use std::{fmt, path::Path, str::FromStr};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use strake_pki::{Pki, files};

const SEPARATOR: &str = "::";

/// A bootstrap token with the pin of the CA.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// `ID.SECRET`: 6 and 16 characters of a-z and 0-9.
    pub token: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub ca_pin: String,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.token.split('.').next().unwrap_or_default();
        write!(formatter, "JoinToken({id}.***, {})", self.ca_pin)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{SEPARATOR}{}", self.token, self.ca_pin)
    }
}

/// A text that is no [`JoinToken`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the join token must be ID.SECRET::sha256:HEX with 6 and 16 characters of a-z0-9 and 64 hexadecimal digits")]
pub struct JoinTokenError;

fn is_token(text: &str) -> bool {
    let part = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    text.split_once('.').is_some_and(|(id, secret)| part(id, 6) && part(secret, 16))
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (token, ca_pin) = text.trim().split_once(SEPARATOR).ok_or(JoinTokenError)?;
        let digits = ca_pin.strip_prefix("sha256:").ok_or(JoinTokenError)?;
        if !is_token(token) || digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(JoinTokenError);
        }
        Ok(Self { token: token.to_owned(), ca_pin: ca_pin.to_owned() })
    }
}

/// Why there is no join token.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The file or the CA.
    #[error("the join token: {0}")]
    Pki(#[from] strake_pki::Error),
    /// The Secret.
    #[error("writing the Secret kube-system/{name}: {source}")]
    Secret {
        /// The Secret's name.
        name: String,
        /// What the API says.
        source: Box<kube::Error>,
    },
}

fn random(length: usize) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..length).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())])).collect()
}

/// Reads the token's file or makes one, and sees that its Secret is there.
pub(crate) async fn ensure(client: &Client, pki: &Pki, data_dir: &Path) -> Result<JoinToken, JoinError> {
    let path = data_dir.join("server/token");
    let ca_pin = pki.ca().pin()?;
    let known = files::read_optional(&path)?.and_then(|text| text.parse::<JoinToken>().ok());
    let join = match known.filter(|known| known.ca_pin == ca_pin) {
        Some(known) => known,
        None => JoinToken { token: format!("{}.{}", random(6), random(16)), ca_pin },
    };
    let (id, secret) = join.token.split_once('.').unwrap_or_default();
    let name = format!("bootstrap-token-{id}");
    let data = json!({
        "token-id": id,
        "token-secret": secret,
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "description": "Joins nodes to this cluster.",
    });
    let object: Secret = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": data,
    }))
    .unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    let written = match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let patch = Patch::Merge(json!({"stringData": data}));
            api.patch(&name, &PatchParams::default(), &patch).await.map(|_| ())
        }
        other => other.map(|_| ()),
    };
    written.map_err(|source| JoinError::Secret { name, source: Box::new(source) })?;
    // After the Secret: whoever sees the file can join.
    files::write_atomic(&path, join.to_string().as_bytes(), 0o600)?;
    Ok(join)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_they_are_written() {
        let join = JoinToken { token: "abcdef.0123456789abcdef".into(), ca_pin: format!("sha256:{}", "0a".repeat(32)) };
        assert_eq!(format!("{join}\n").parse(), Ok(join.clone()));
        assert!(!format!("{join:?}").contains("0123456789abcdef"));
        for text in ["", "abcdef.0123456789abcdef", "abcdef.short::sha256:00", "ABCDEF.0123456789abcdef::sha256:00"] {
            assert_eq!(text.parse::<JoinToken>(), Err(JoinTokenError), "{text}");
        }
    }
}
