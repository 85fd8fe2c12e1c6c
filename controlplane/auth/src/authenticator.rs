//! Who is it? Client certificate, then bearer token (ServiceAccount, bootstrap, static file), else anonymous.
//! A credential that is presented and wrong is an error, never anonymous.

use crate::{
    Lookup, UserInfo, groups, names,
    user::{extra, service_account_groups},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, header::AUTHORIZATION};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fmt::Write,
    path::{Path, PathBuf},
    sync::Arc,
};
use strake_pki::{BoundObject, ServiceAccountClaims, ServiceAccountSigner, TokenError};

/// The request carries a credential that does not hold: 401. The text is for the log; the client learns no more than
/// "Unauthorized".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unauthorized(pub String);

/// The static token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading the token file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the token file {}, line {line}: {detail}", path.display())]
    Line { path: PathBuf, line: usize, detail: String },
}

/// What an authenticator accepts.
pub struct AuthenticatorConfig {
    pub service_accounts: Arc<ServiceAccountSigner>,
    /// The API server's own audiences; empty: the issuer.
    pub audiences: Vec<String>,
    /// A csv file: token,user,uid[,"group1,group2"].
    pub token_file: Option<PathBuf>,
    /// Requests without a credential are system:anonymous; else they are refused.
    pub anonymous: bool,
}

/// A token that holds, as TokenReview shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticatedToken {
    pub user: UserInfo,
    /// Which of the asked-for audiences it is for; empty if it knows none.
    pub audiences: Vec<String>,
}

/// Decides who a request is made by.
pub struct Authenticator {
    service_accounts: Arc<ServiceAccountSigner>,
    audiences: Vec<String>,
    static_tokens: HashMap<[u8; 32], UserInfo>,
    anonymous: bool,
    lookup: Arc<dyn Lookup>,
}

impl Authenticator {
    pub fn new(config: AuthenticatorConfig, lookup: Arc<dyn Lookup>) -> Result<Self, ConfigError> {
        let audiences = if config.audiences.is_empty() {
            vec![config.service_accounts.issuer().to_owned()]
        } else {
            config.audiences
        };
        Ok(Self {
            service_accounts: config.service_accounts,
            audiences,
            static_tokens: config.token_file.as_deref().map(read_token_file).transpose()?.unwrap_or_default(),
            anonymous: config.anonymous,
            lookup,
        })
    }

    /// The API server's own audiences.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The user of a request. `certificate` is the client's leaf in DER, already verified against the CA by TLS.
    pub fn authenticate(&self, certificate: Option<&[u8]>, headers: &HeaderMap) -> Result<UserInfo, Unauthorized> {
        if let Some(der) = certificate
            && let Some(user) = user_of_certificate(der)?
        {
            return Ok(user);
        }
        if let Some(token) = bearer_token(headers)? {
            return Ok(self.authenticate_token(&token, &[])?.user);
        }
        if self.anonymous {
            return Ok(UserInfo::anonymous());
        }
        Err(Unauthorized("no credential was presented".into()))
    }

    /// The user of a token that is for one of `audiences` (empty: the API server's own). Also for TokenReview.
    pub fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<AuthenticatedToken, Unauthorized> {
        let wanted = if audiences.is_empty() { &self.audiences[..] } else { audiences };
        // Tokens of the other kinds are for the API server itself.
        let own: Vec<String> = self.audiences.iter().filter(|a| wanted.contains(a)).cloned().collect();
        let mut found = None;
        if let Some(user) = self.static_tokens.get(&digest(token)) {
            found = Some((user.clone(), own));
        } else if let Some((id, secret)) = split_bootstrap_token(token) {
            found = Some((self.bootstrap_user(id, secret)?, own));
        }
        let (mut user, audiences) = match found {
            Some((_, own)) if own.is_empty() => return Err(Unauthorized("the token is for another audience".into())),
            Some(found) => found,
            None => match self.service_accounts.verify(token, wanted) {
                Ok(claims) => {
                    let audiences = claims.aud.iter().filter(|a| wanted.contains(a)).cloned().collect();
                    (self.service_account_user(claims)?, audiences)
                }
                Err(TokenError::NotOurs) => return Err(Unauthorized("the token is of no known kind".into())),
                Err(error) => return Err(Unauthorized(error.to_string())),
            },
        };
        user.add_group(groups::AUTHENTICATED);
        Ok(AuthenticatedToken { user, audiences })
    }

    /// The user of a signed token, if everything it is bound to still lives.
    fn service_account_user(&self, claims: ServiceAccountClaims) -> Result<UserInfo, Unauthorized> {
        let bound = claims.kubernetes;
        let namespace = &bound.namespace;
        let account = &bound.serviceaccount;
        self.alive("serviceaccounts", namespace, account)?;
        if let Some(secret) = &bound.secret {
            self.alive("secrets", namespace, secret)?;
        }
        let mut user = UserInfo::service_account(namespace, &account.name);
        user.uid = account.uid.clone();
        user.groups = service_account_groups(namespace);
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(key.to_owned(), vec![value.to_owned()]);
            }
        };
        if !claims.jti.is_empty() {
            add(extra::CREDENTIAL_ID, &format!("JTI={}", claims.jti));
        }
        if let Some(pod) = &bound.pod {
            self.alive("pods", namespace, pod)?;
            add(extra::POD_NAME, &pod.name);
            add(extra::POD_UID, &pod.uid);
        }
        if let Some(node) = &bound.node {
            // A token bound to a Pod dies with the Pod; its node is information only.
            if bound.pod.is_none() {
                self.alive("nodes", "", node)?;
            }
            add(extra::NODE_NAME, &node.name);
            add(extra::NODE_UID, &node.uid);
        }
        Ok(user)
    }

    fn alive(&self, resource: &str, namespace: &str, object: &BoundObject) -> Result<(), Unauthorized> {
        let gone = |why: &str| Err(Unauthorized(format!("the token's {resource} {namespace}/{} {why}", object.name)));
        let Some(found) = self.lookup.get("", resource, namespace, &object.name) else {
            return gone("does not exist");
        };
        if !object.uid.is_empty() && found["metadata"]["uid"] != *object.uid {
            return gone("is another one of the same name");
        }
        // A minute of grace, so that what shuts down can still say so.
        let deleted = found["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
        match deleted {
            Some(at) if Timestamp::now().as_second() - at.as_second() > 60 => gone("has been deleted"),
            _ => Ok(()),
        }
    }

    fn bootstrap_user(&self, id: &str, secret: &str) -> Result<UserInfo, Unauthorized> {
        let refuse = |why: &str| Err(Unauthorized(format!("bootstrap token {id}: {why}")));
        let Some(object) = self.lookup.get("", "secrets", "kube-system", &format!("bootstrap-token-{id}")) else {
            return refuse("does not exist");
        };
        let field = |key: &str| {
            object["data"][key].as_str().and_then(|v| STANDARD.decode(v).ok()).and_then(|v| String::from_utf8(v).ok())
        };
        if object["type"] != "bootstrap.kubernetes.io/token" || !object["metadata"]["deletionTimestamp"].is_null() {
            return refuse("the Secret is of another type or being deleted");
        }
        // Digests are compared: the time it takes tells nothing of the secret.
        if digest(&field("token-secret").unwrap_or_default()) != digest(secret) {
            return refuse("the secret is wrong");
        }
        if field("token-id").as_deref() != Some(id) {
            return refuse("the Secret is for another id");
        }
        if let Some(expiration) = field("expiration") {
            match expiration.parse::<Timestamp>() {
                Ok(at) if at > Timestamp::now() => {}
                _ => return refuse("it has expired"),
            }
        }
        if field("usage-bootstrap-authentication").as_deref() != Some("true") {
            return refuse("it is not for authentication");
        }
        let mut user = UserInfo::new(format!("{}{id}", names::BOOTSTRAP_PREFIX), &[groups::BOOTSTRAPPERS]);
        for group in field("auth-extra-groups").iter().flat_map(|groups| groups.split(',')).map(str::trim) {
            let valid = group.strip_prefix("system:bootstrappers:").is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b":-".contains(&b))
            });
            match (group.is_empty(), valid) {
                (true, _) => {}
                (false, true) => user.add_group(group),
                (false, false) => return refuse("an extra group does not begin with system:bootstrappers:"),
            }
        }
        Ok(user)
    }
}

/// The user a client certificate names; `None` if it has no common name.
fn user_of_certificate(der: &[u8]) -> Result<Option<UserInfo>, Unauthorized> {
    let (name, organizations) = strake_pki::subject_of(der).map_err(|e| Unauthorized(e.to_string()))?;
    if name.is_empty() {
        return Ok(None);
    }
    let mut user = UserInfo { name, groups: organizations, ..UserInfo::default() };
    let id = Sha256::digest(der).iter().fold("X509SHA256=".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    user.extra.insert(extra::CREDENTIAL_ID.to_owned(), vec![id]);
    user.add_group(groups::AUTHENTICATED);
    Ok(Some(user))
}

/// The token of `Authorization: Bearer`, or of a WebSocket's subprotocol (what a browser can set).
fn bearer_token(headers: &HeaderMap) -> Result<Option<String>, Unauthorized> {
    if let Some(header) = headers.get(AUTHORIZATION) {
        let text = header.to_str().map_err(|_| Unauthorized("the Authorization header is not text".into()))?.trim();
        let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            let token = token.trim();
            if token.is_empty() {
                return Ok(None);
            }
            return Ok(Some(token.to_owned()));
        }
    }
    let protocols = headers.get_all("sec-websocket-protocol").iter().filter_map(|v| v.to_str().ok());
    for protocol in protocols.flat_map(|value| value.split(',')).map(str::trim) {
        let Some(encoded) = protocol.strip_prefix("base64url.bearer.authorization.k8s.io.") else { continue };
        let token = URL_SAFE_NO_PAD
            .decode(encoded)
            .or_else(|_| STANDARD_NO_PAD.decode(encoded))
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| Unauthorized("the WebSocket bearer protocol is not base64url".into()))?;
        return Ok(Some(token));
    }
    Ok(None)
}

/// `ID.SECRET`, 6 and 16 characters of a-z and 0-9.
fn split_bootstrap_token(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let fits =
        |part: &str, length| part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (fits(id, 6) && fits(secret, 16)).then_some((id, secret))
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

fn read_token_file(path: &Path) -> Result<HashMap<[u8; 32], UserInfo>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut tokens = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fail = |detail: &str| ConfigError::Line { path: path.to_owned(), line: number + 1, detail: detail.into() };
        let fields = csv(line).ok_or_else(|| fail("a quote is not closed"))?;
        let [token, name, uid, rest @ ..] = &fields[..] else {
            return Err(fail("it needs at least token, user and uid"));
        };
        if token.is_empty() || name.is_empty() {
            return Err(fail("the token or the user is empty"));
        }
        let groups = rest.first().map(String::as_str).unwrap_or_default();
        let groups = groups.split(',').map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned).collect();
        let user = UserInfo { name: name.clone(), uid: uid.clone(), groups, ..UserInfo::default() };
        tokens.insert(digest(token), user);
    }
    Ok(tokens)
}

/// The fields of one line of comma-separated values; `None` if a quote is left open.
fn csv(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field).trim().to_owned()),
            c => field.push(c),
        }
    }
    fields.push(field.trim().to_owned());
    (!quoted).then_some(fields)
}
