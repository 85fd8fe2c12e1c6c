//! Deletes bootstrap token Secrets when they expire.

use crate::Context;
use crate::runtime::{Doing, Key, Outcome, Result, WorkQueue, elapsed, run_workers};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "token-cleaner";

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let queue = WorkQueue::new();
    let q = queue.clone();
    ctx.shared.bootstrap_tokens.on_change(move |c| q.add(Key::of(&c.object().metadata)));
    ctx.shared.bootstrap_tokens.synced().await;
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(NAME, queue, 1, cancel, move |key| {
        let ctx = ctx.clone();
        async move { sync(&ctx, key).await }
    })
    .await;
}

/// Time until the token expires: zero when it has, or when its expiration cannot be read; None when it never does.
fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let text = secret.data.as_ref()?.get("expiration")?;
    if text.0.is_empty() {
        return None;
    }
    let at = std::str::from_utf8(&text.0).ok().and_then(|t| t.parse::<Timestamp>().ok());
    Some(at.map_or(Duration::ZERO, |at| elapsed(now, at)))
}

async fn sync(ctx: &Context, key: Key) -> Result<Outcome> {
    let Some(secret) = ctx.shared.bootstrap_tokens.get(&key) else { return Ok(Outcome::Done) };
    match left(&secret, Timestamp::now()) {
        None => Ok(Outcome::Done),
        Some(left) if !left.is_zero() => Ok(Outcome::After(left)),
        Some(_) => {
            let params = DeleteParams::default()
                .preconditions(Preconditions { uid: secret.metadata.uid.clone(), resource_version: None });
            match Api::<Secret>::namespaced(ctx.client.clone(), &key.namespace)
                .delete(&key.name, &params)
                .await
                .doing(|| format!("deleting expired bootstrap token {key}"))
            {
                Err(e) if !e.is_not_found() && !e.is_conflict() => Err(e),
                _ => Ok(Outcome::Done),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn expiry_is_read_and_garbage_counts_as_expired() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let secret = |text: &str| Secret {
            data: Some([("expiration".to_string(), ByteString(text.as_bytes().to_vec()))].into()),
            ..Default::default()
        };
        assert_eq!(left(&Secret::default(), now), None);
        assert_eq!(left(&secret("2023-11-14T22:13:30Z"), now), Some(Duration::from_secs(10)));
        assert_eq!(left(&secret("2020-01-01T00:00:00Z"), now), Some(Duration::ZERO));
        assert_eq!(left(&secret("soon"), now), Some(Duration::ZERO));
    }
}
