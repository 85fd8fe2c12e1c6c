//! Who calls and whether they may: client certificates and bearer tokens (TokenReview), then SubjectAccessReview.
//! Nobody is anonymous here. Answers are kept for a short while.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use sha2::{Digest as _, Sha256};

use super::{Body, text};

const TOKEN_KEPT: Duration = Duration::from_secs(10);
const ALLOWED_KEPT: Duration = Duration::from_secs(60);
const DENIED_KEPT: Duration = Duration::from_secs(10);
/// Answers kept at most.
const KEPT: usize = 4096;

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// User name.
    pub name: String,
    /// UID, of a token's user.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
}

/// The user of a verified client certificate: CN is the name, each O a group.
pub fn from_certificate(der: &[u8]) -> Option<Caller> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    groups.push("system:authenticated".into());
    Some(Caller { name, uid: String::new(), groups })
}

/// Verb and subresources of `nodes` that allow a request: any of them suffices.
fn attributes(method: &Method, path: &str) -> (&'static str, Vec<&'static str>) {
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let below = |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|r| r.starts_with('/'));
    let subresources = if below("/stats") {
        vec!["stats"]
    } else if below("/metrics") {
        vec!["metrics"]
    } else if below("/logs") {
        vec!["log"]
    } else if below("/spec") {
        vec!["spec"]
    } else if below("/checkpoint") {
        vec!["checkpoint"]
    } else if below("/pods") || below("/runningpods") {
        vec!["pods", "proxy"]
    } else if below("/healthz") {
        vec!["healthz", "proxy"]
    } else if below("/configz") {
        vec!["configz", "proxy"]
    } else {
        vec!["proxy"]
    };
    (verb, subresources)
}

/// Caller, verb, subresource.
type Question = (Caller, &'static str, &'static str);

/// Authentication and authorization.
pub struct Access {
    client: kube::Client,
    node: String,
    tokens: Mutex<HashMap<[u8; 32], (Caller, Instant)>>,
    decisions: Mutex<HashMap<Question, (bool, Instant)>>,
}

impl Access {
    /// Asks the API server through `client`.
    pub fn new(client: kube::Client, node: &str) -> Self {
        Self { client, node: node.to_owned(), tokens: Mutex::default(), decisions: Mutex::default() }
    }

    /// The caller of a request.
    pub async fn authenticate<B>(
        &self,
        request: &Request<B>,
        certificate: Option<Caller>,
    ) -> Result<Caller, Response<Body>> {
        if let Some(caller) = certificate {
            return Ok(caller);
        }
        let refuse = || text(StatusCode::UNAUTHORIZED, "Unauthorized");
        let header = request.headers().get(http::header::AUTHORIZATION).and_then(|h| h.to_str().ok());
        let token = header.and_then(|h| h.strip_prefix("Bearer ")).map(str::trim).ok_or_else(refuse)?;
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some((caller, until)) = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
            && Instant::now() < *until
        {
            return Ok(caller.clone());
        }
        let review =
            TokenReview { spec: TokenReviewSpec { token: token.to_owned(), audiences: None }, ..Default::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| {
            tracing::warn!(%error, "token review");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the token could not be reviewed")
        })?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).ok_or_else(refuse)?;
        let caller = Caller {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
        };
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= KEPT {
            tokens.clear();
        }
        tokens.insert(key, (caller.clone(), Instant::now() + TOKEN_KEPT));
        Ok(caller)
    }

    /// Whether the caller may.
    pub async fn authorize(&self, caller: &Caller, method: &Method, path: &str) -> Result<(), Response<Body>> {
        let (verb, subresources) = attributes(method, path);
        for subresource in &subresources {
            match self.allowed(caller, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "access review");
                    return Err(text(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        format!(
                            "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                            caller.name
                        ),
                    ));
                }
            }
        }
        let list = subresources.join(" ");
        let body = format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{list}])\n", caller.name);
        Err(text(StatusCode::FORBIDDEN, body))
    }

    async fn allowed(&self, caller: &Caller, verb: &'static str, subresource: &'static str) -> kube::Result<bool> {
        let key = (caller.clone(), verb, subresource);
        if let Some((allowed, until)) = self.decisions.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
            && Instant::now() < *until
        {
            return Ok(*allowed);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(caller.name.clone()),
                uid: (!caller.uid.is_empty()).then(|| caller.uid.clone()),
                groups: Some(caller.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.into()),
                    name: Some(self.node.clone()),
                    version: Some("v1".into()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        let allowed = answer.status.is_some_and(|s| s.allowed);
        let mut decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        if decisions.len() >= KEPT {
            decisions.clear();
        }
        let kept = if allowed { ALLOWED_KEPT } else { DENIED_KEPT };
        decisions.insert(key, (allowed, Instant::now() + kept));
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_map_to_the_stock_subresources() {
        assert_eq!(attributes(&Method::GET, "/containerLogs/a/b/c"), ("get", vec!["proxy"]));
        assert_eq!(attributes(&Method::POST, "/exec/a/b/c"), ("create", vec!["proxy"]));
        assert_eq!(attributes(&Method::GET, "/stats/summary"), ("get", vec!["stats"]));
        assert_eq!(attributes(&Method::GET, "/metrics/resource"), ("get", vec!["metrics"]));
        assert_eq!(attributes(&Method::GET, "/pods"), ("get", vec!["pods", "proxy"]));
        assert_eq!(attributes(&Method::GET, "/podsx"), ("get", vec!["proxy"]));
    }
}
