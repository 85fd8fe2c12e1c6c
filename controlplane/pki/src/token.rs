//! ServiceAccount tokens: ES256 JSON Web Tokens (RFC 7519) bound to an audience, a time and objects (KEP-1205), the key
//! set that verifies them (RFC 7517) and the issuer's discovery document (KEP-1393).
//!
//! Whether the bound objects still live is the authenticator's question; here is only what a signature can say.

use crate::{Error, Result, files};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The issuer when none is configured.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// DER of a P-256 SubjectPublicKeyInfo (RFC 5480) up to the 65 bytes of the uncompressed point.
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Allowed difference between the clocks of the signer and the verifier, in seconds.
const LEEWAY: u64 = 10;

/// An object a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundObject {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesClaims {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<BoundObject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BoundObject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<BoundObject>,
    pub serviceaccount: BoundObject,
    /// When its holder should have fetched another one, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<u64>,
}

/// What a token says. Times are seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccountClaims {
    pub aud: Vec<String>,
    pub exp: u64,
    pub iat: u64,
    pub iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: KubernetesClaims,
    pub nbf: u64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

/// What a token is asked for.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    pub namespace: String,
    pub service_account: BoundObject,
    /// Empty: the API server's own.
    pub audiences: Vec<String>,
    pub lifetime: Duration,
    /// For tokens that live longer than asked for, so that old clients survive: when to warn, from now on.
    pub warn_after: Option<Duration>,
    pub pod: Option<BoundObject>,
    pub node: Option<BoundObject>,
    pub secret: Option<BoundObject>,
}

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is none of ours: another authenticator may know it.
    #[error("not a ServiceAccount token of this issuer")]
    NotOurs,
    #[error("the token is malformed: {0}")]
    Malformed(String),
    #[error("the token's signature is wrong or its key {kid:?} is unknown")]
    Signature { kid: String },
    #[error("the token expired at {0}")]
    Expired(u64),
    #[error("the token is not valid before {0}")]
    NotYet(u64),
    #[error("the token is for {found:?}, not for {wanted:?}")]
    Audience { found: Vec<String>, wanted: Vec<String> },
}

struct PublicKey {
    kid: String,
    /// 0x04, x, y.
    point: Vec<u8>,
}

impl PublicKey {
    fn new(point: &[u8]) -> Self {
        Self { kid: URL_SAFE_NO_PAD.encode(Sha256::digest(spki(point))), point: point.to_vec() }
    }

    fn jwk(&self) -> Value {
        json!({
            "use": "sig", "kty": "EC", "kid": self.kid, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(&self.point[1..33]), "y": URL_SAFE_NO_PAD.encode(&self.point[33..65]),
        })
    }
}

fn spki(point: &[u8]) -> Vec<u8> {
    [&SPKI_P256[..], point].concat()
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// Signs and verifies ServiceAccount tokens.
pub struct ServiceAccountSigner {
    issuer: String,
    key: EcdsaKeyPair,
    /// The current key first, then those that only verify.
    keys: Vec<PublicKey>,
}

impl ServiceAccountSigner {
    /// Loads `sa.key`, or makes one, and the public keys in `sa-old/`.
    pub fn ensure(dir: &Path, issuer: &str) -> Result<Self> {
        let path = dir.join("sa.key");
        let key = match files::read_optional(&path)? {
            Some(text) => load(&text, &path)?,
            None => {
                let (key, text) = generate()?;
                files::write_atomic(&path, text.as_bytes(), 0o600)?;
                key
            }
        };
        let mut keys = vec![PublicKey::new(key.public_key().as_ref())];
        for path in old_keys(&dir.join("sa-old"))? {
            let damaged = |detail| Error::Damaged { path: path.clone(), expected: "a P-256 public key", detail };
            let text = files::read_optional(&path)?.unwrap_or_default();
            let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(|e| damaged(e.to_string()))?;
            let point = der
                .strip_prefix(&SPKI_P256[..])
                .filter(|point| point.len() == 65)
                .ok_or_else(|| damaged("it is of another kind".into()))?;
            keys.push(PublicKey::new(point));
        }
        Ok(Self { issuer: issuer.to_owned(), key, keys })
    }

    /// Makes a new signing key. The old one goes on verifying until its file under `sa-old/` is removed.
    pub fn rotate(dir: &Path, issuer: &str) -> Result<Self> {
        let old = Self::ensure(dir, issuer)?;
        let current = &old.keys[0];
        files::create_private_dir(&dir.join("sa-old"))?;
        let public = pem("PUBLIC KEY", &spki(&current.point));
        files::write_atomic(&dir.join("sa-old").join(format!("{}.pub", current.kid)), public.as_bytes(), 0o644)?;
        let (_, text) = generate()?;
        files::write_atomic(&dir.join("sa.key"), text.as_bytes(), 0o600)?;
        Self::ensure(dir, issuer)
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs a token; returns it with its claims.
    pub fn sign(&self, request: &TokenRequest) -> Result<(String, ServiceAccountClaims)> {
        let now = unix(SystemTime::now());
        let audiences =
            if request.audiences.is_empty() { vec![self.issuer.clone()] } else { request.audiences.clone() };
        let claims = ServiceAccountClaims {
            aud: audiences,
            exp: now + request.lifetime.as_secs(),
            iat: now,
            iss: self.issuer.clone(),
            jti: uuid()?,
            kubernetes: KubernetesClaims {
                namespace: request.namespace.clone(),
                node: request.node.clone(),
                pod: request.pod.clone(),
                secret: request.secret.clone(),
                serviceaccount: request.service_account.clone(),
                warnafter: request.warn_after.map(|after| now + after.as_secs()),
            },
            nbf: now,
            sub: format!("system:serviceaccount:{}:{}", request.namespace, request.service_account.name),
        };
        let token = self.encode(&claims)?;
        Ok((token, claims))
    }

    fn encode(&self, claims: &ServiceAccountClaims) -> Result<String> {
        let part = |json: serde_json::Result<Vec<u8>>| {
            json.map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).map_err(|e| Error::Token(e.to_string()))
        };
        let header = Header { alg: "ES256".into(), kid: self.keys[0].kid.clone() };
        let message = format!("{}.{}", part(serde_json::to_vec(&header))?, part(serde_json::to_vec(claims))?);
        let signature =
            self.key.sign(&SystemRandom::new(), message.as_bytes()).map_err(|e| Error::Token(e.to_string()))?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// The claims of a token that one of our keys signed, whose time is now, and which is for one of `audiences`
    /// (empty: the API server's own).
    pub fn verify(&self, token: &str, audiences: &[String]) -> Result<ServiceAccountClaims, TokenError> {
        self.verify_at(token, audiences, unix(SystemTime::now()))
    }

    fn verify_at(&self, token: &str, audiences: &[String], now: u64) -> Result<ServiceAccountClaims, TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::NotOurs)?;
        let (header, body) = message.split_once('.').ok_or(TokenError::NotOurs)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::NotOurs);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::NotOurs)?;
        let body = decode(body)?;
        // Somebody else's token is not looked into further.
        #[derive(Deserialize)]
        struct Issuer {
            iss: String,
        }
        let issuer: Issuer = serde_json::from_slice(&body).map_err(|_| TokenError::NotOurs)?;
        if issuer.iss != self.issuer {
            return Err(TokenError::NotOurs);
        }
        let signature = decode(signature)?;
        let known = header.alg == "ES256"
            && self.keys.iter().filter(|key| header.kid.is_empty() || key.kid == header.kid).any(|key| {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point)
                    .verify(message.as_bytes(), &signature)
                    .is_ok()
            });
        if !known {
            return Err(TokenError::Signature { kid: header.kid });
        }
        let claims: ServiceAccountClaims =
            serde_json::from_slice(&body).map_err(|e| TokenError::Malformed(e.to_string()))?;
        if claims.exp + LEEWAY < now {
            return Err(TokenError::Expired(claims.exp));
        }
        if claims.nbf > now + LEEWAY {
            return Err(TokenError::NotYet(claims.nbf));
        }
        let own = [self.issuer.clone()];
        let wanted = if audiences.is_empty() { &own[..] } else { audiences };
        if !claims.aud.iter().any(|audience| wanted.contains(audience)) {
            return Err(TokenError::Audience { found: claims.aud, wanted: wanted.to_vec() });
        }
        Ok(claims)
    }

    /// The JSON Web Key Set, served at `/openid/v1/jwks` as `application/jwk-set+json`.
    pub fn jwks(&self) -> Value {
        json!({ "keys": self.keys.iter().map(PublicKey::jwk).collect::<Vec<_>>() })
    }

    /// The discovery document, served at `/.well-known/openid-configuration`. `jwks_uri` is where [`Self::jwks`] is
    /// served to the outside.
    pub fn discovery(&self, jwks_uri: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn generate() -> Result<(EcdsaKeyPair, String)> {
    let failed = |_| Error::Generate("the ServiceAccount key".into());
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).map_err(failed)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref())
        .map_err(|e| Error::Generate(e.to_string()))?;
    Ok((key, pem("PRIVATE KEY", pkcs8.as_ref())))
}

fn load(text: &str, path: &Path) -> Result<EcdsaKeyPair> {
    let damaged = |detail| Error::Damaged { path: path.to_owned(), expected: "a P-256 private key", detail };
    let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|e| damaged(e.to_string()))?;
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der())
        .map_err(|e| damaged(e.to_string()))
}

fn old_keys(dir: &Path) -> Result<Vec<PathBuf>> {
    let fail = |source| Error::Io { doing: "reading", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(fail)?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "pub"));
    paths.sort();
    Ok(paths)
}

/// A random UUID (RFC 9562, version 4).
fn uuid() -> Result<String> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Generate("no random numbers".into()))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let n = u128::from_be_bytes(bytes);
    let hex = format!("{n:032x}");
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> TokenRequest {
        TokenRequest {
            namespace: "default".into(),
            service_account: BoundObject { name: "web".into(), uid: "u1".into() },
            audiences: vec![],
            lifetime: Duration::from_secs(3600),
            warn_after: Some(Duration::from_secs(60)),
            pod: Some(BoundObject { name: "web-1".into(), uid: "u2".into() }),
            node: Some(BoundObject { name: "n1".into(), uid: "u3".into() }),
            secret: None,
        }
    }

    #[test]
    fn a_token_says_who_where_and_for_whom() {
        let dir = tempfile::tempdir().unwrap();
        let signer = ServiceAccountSigner::ensure(dir.path(), DEFAULT_ISSUER).unwrap();
        let (token, claims) = signer.sign(&request()).unwrap();
        assert_eq!(signer.verify(&token, &[]).unwrap(), claims);
        assert_eq!(claims.sub, "system:serviceaccount:default:web");
        assert_eq!(claims.aud, [DEFAULT_ISSUER]);
        assert_eq!(claims.kubernetes.warnafter, Some(claims.iat + 60));
        let body = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["kubernetes.io"]["pod"]["name"], "web-1");
        assert!(body["kubernetes.io"].get("secret").is_none());
    }

    #[test]
    fn time_audience_signature_and_issuer_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let signer = ServiceAccountSigner::ensure(dir.path(), DEFAULT_ISSUER).unwrap();
        let (token, claims) = signer.sign(&request()).unwrap();
        assert_eq!(signer.verify_at(&token, &[], claims.exp + 11), Err(TokenError::Expired(claims.exp)));
        assert_eq!(signer.verify_at(&token, &[], claims.nbf - 11), Err(TokenError::NotYet(claims.nbf)));
        assert!(matches!(signer.verify(&token, &["vault".into()]), Err(TokenError::Audience { .. })));
        let other = tempfile::tempdir().unwrap();
        let stranger = ServiceAccountSigner::ensure(other.path(), DEFAULT_ISSUER).unwrap();
        assert!(matches!(stranger.verify(&token, &[]), Err(TokenError::Signature { .. })));
        let elsewhere = ServiceAccountSigner::ensure(other.path(), "https://example.com").unwrap();
        assert_eq!(elsewhere.verify(&token, &[]), Err(TokenError::NotOurs));
        for garbage in ["", ".", "..", "a.b.c", &token[..token.len() - 4], "é.é.é"] {
            assert!(signer.verify(garbage, &[]).is_err(), "{garbage}");
        }
    }

    #[test]
    fn a_token_with_a_header_of_another_algorithm_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let signer = ServiceAccountSigner::ensure(dir.path(), DEFAULT_ISSUER).unwrap();
        let (token, _) = signer.sign(&request()).unwrap();
        let rest = token.split_once('.').unwrap().1;
        for alg in ["none", "HS256"] {
            let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"{alg}\"}}"));
            assert!(matches!(signer.verify(&format!("{header}.{rest}"), &[]), Err(TokenError::Signature { .. })));
        }
    }

    #[test]
    fn after_a_rotation_old_tokens_verify_and_new_ones_use_the_new_key() {
        let dir = tempfile::tempdir().unwrap();
        let before = ServiceAccountSigner::ensure(dir.path(), DEFAULT_ISSUER).unwrap();
        let (old, _) = before.sign(&request()).unwrap();
        let after = ServiceAccountSigner::rotate(dir.path(), DEFAULT_ISSUER).unwrap();
        let (new, _) = after.sign(&request()).unwrap();
        assert!(after.verify(&old, &[]).is_ok() && after.verify(&new, &[]).is_ok());
        assert!(before.verify(&new, &[]).is_err());
        assert_eq!(after.jwks()["keys"].as_array().unwrap().len(), 2);
        assert_eq!(after.jwks()["keys"][1], before.jwks()["keys"][0]);
    }
}
