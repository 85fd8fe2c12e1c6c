//! ServiceAccount tokens bound to a Pod (TokenRequest), renewed at 80 % of their life.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;

use crate::error::{Error, Result};
use crate::pod;

/// Life asked for when the Pod does not say, seconds.
const DEFAULT_LIFE: i64 = 3600;
/// Tokens are renewed after a day at the latest.
const OLDEST: i64 = 24 * 3600;

struct Token {
    value: String,
    renew_at: Timestamp,
}

/// The tokens of one Pod, by audience and life.
pub struct Tokens {
    client: kube::Client,
    held: HashMap<(String, i64), Token>,
}

/// When a token obtained at `now` that lives until `expires` is renewed.
fn renewal(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = (expires.as_second() - now.as_second()).max(0);
    Timestamp::from_second(now.as_second() + (life * 8 / 10).min(OLDEST)).unwrap_or(now)
}

impl Tokens {
    /// None yet.
    pub fn new(client: kube::Client) -> Self {
        Self { client, held: HashMap::new() }
    }

    /// The token for a projection: the one held, or a new one when it is due. A held one outlives a failed renewal.
    pub async fn get(&mut self, p: &Pod, t: &ServiceAccountTokenProjection) -> Result<String> {
        let audience = t.audience.clone().unwrap_or_default();
        let life = t.expiration_seconds.unwrap_or(DEFAULT_LIFE);
        let key = (audience.clone(), life);
        let now = Timestamp::now();
        if let Some(held) = self.held.get(&key).filter(|h| now < h.renew_at) {
            return Ok(held.value.clone());
        }
        match self.request(p, audience, life).await {
            Ok((value, expires)) => {
                let token = Token { value: value.clone(), renew_at: renewal(now, expires) };
                self.held.insert(key, token);
                Ok(value)
            }
            Err(error) => match self.held.get_mut(&key) {
                Some(held) => {
                    tracing::warn!(%error, pod = pod::formatted(p), "token not renewed, trying again in 30 s");
                    held.renew_at = Timestamp::from_second(now.as_second() + 30).unwrap_or(now);
                    Ok(held.value.clone())
                }
                None => Err(error),
            },
        }
    }

    async fn request(&self, p: &Pod, audience: String, life: i64) -> Result<(String, Timestamp)> {
        let account = p.spec.as_ref().and_then(|s| s.service_account_name.clone()).filter(|n| !n.is_empty());
        let account = account.unwrap_or_else(|| "default".into());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience]),
                expiration_seconds: Some(life),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: p.metadata.name.clone(),
                    uid: p.metadata.uid.clone(),
                }),
            }),
            ..Default::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), pod::namespace(p));
        let answer = api
            .create_token_request(&account, &PostParams::default(), &request)
            .await
            .map_err(Error::api(format!("failed to fetch token of service account \"{account}\"")))?;
        let status =
            answer.status.ok_or_else(|| Error::Pod(format!("the token request of \"{account}\" has no status")))?;
        match (status.token, status.expiration_timestamp) {
            (Some(token), Some(expires)) => Ok((token, expires.0)),
            _ => Err(Error::Pod(format!("the token request of \"{account}\" was answered without a token"))),
        }
    }

    /// Time until the first renewal.
    pub fn refresh_in(&self) -> Option<Duration> {
        let first = self.held.values().map(|t| t.renew_at).min()?;
        let left = first.as_second() - Timestamp::now().as_second();
        Some(Duration::from_secs(left.max(1) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_at_four_fifths_and_within_a_day() {
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(renewal(at(0), at(3600)), at(2880));
        assert_eq!(renewal(at(0), at(400_000)), at(86_400));
    }
}
