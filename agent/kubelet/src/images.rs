//! Making sure a container's image is on the node: policy, pull, credentials, backoff, the stock reasons.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use k8s_openapi::jiff::Timestamp;

use crate::backoff::Backoff;
use crate::cri::Cri;
use crate::events::{Level, Recorder};
use crate::generate::container::ImageUser;
use crate::image_ref::{self, ImageRef, PullPolicy};
use crate::status::Waiting;

/// An image ready for use.
#[derive(Clone, Debug)]
pub struct Image {
    /// What containers are created from: the runtime's id.
    pub id: String,
    /// Its user.
    pub user: ImageUser,
}

/// Why there is none, and when to try again.
#[derive(Clone, Debug)]
pub struct Refused {
    /// For the status.
    pub waiting: Waiting,
    /// For the next attempt, if time helps.
    pub retry: Option<Duration>,
}

/// Pulls images, remembering failures.
pub struct Images {
    cri: Cri,
    recorder: Recorder,
    backoff: Mutex<Backoff>,
    failures: Mutex<BTreeMap<String, (Timestamp, String)>>,
}

fn refused(reason: &str, message: String, retry: Option<Duration>) -> Refused {
    Refused { waiting: Waiting { reason: reason.into(), message }, retry }
}

fn ready(image: cri::Image) -> Image {
    Image { id: image.id, user: ImageUser { uid: image.uid.map(|u| u.value), name: image.username } }
}

impl Images {
    /// A puller.
    pub fn new(cri: Cri, recorder: Recorder) -> Self {
        Self { cri, recorder, backoff: Mutex::default(), failures: Mutex::default() }
    }

    /// Makes the image of `c` present by its policy.
    pub async fn ensure(
        &self,
        p: &Pod,
        c: &Container,
        secrets: &[std::sync::Arc<Secret>],
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<Image, Refused> {
        let name = c.image.as_deref().unwrap_or_default();
        let say = |level, reason, message: String| self.recorder.container(p, &c.name, level, reason, message);
        let parsed = image_ref::parse(name).map_err(|e| {
            let message =
                format!("Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": {e}");
            say(Level::Warning, "InspectFailed", message.clone());
            refused("InvalidImageName", message, None)
        })?;
        let full = full_name(&parsed);
        let policy = image_ref::policy(c.image_pull_policy.as_deref(), &parsed);
        let present = self.cri.image(&full).await.map_err(|e| {
            let message = format!("Failed to inspect image \"{name}\": {e}");
            say(Level::Warning, "InspectFailed", message.clone());
            refused("ImageInspectError", message, Some(Duration::from_secs(2)))
        })?;
        match (present, policy) {
            (Some(image), PullPolicy::IfNotPresent | PullPolicy::Never) => {
                let message =
                    format!("Container image \"{name}\" already present on machine and can be accessed by the pod");
                say(Level::Normal, "Pulled", message);
                return Ok(ready(image));
            }
            (None, PullPolicy::Never) => {
                let message = format!("Container image \"{name}\" is not present with pull policy of Never");
                say(Level::Warning, "ErrImageNeverPull", message.clone());
                return Err(refused("ErrImageNeverPull", message, None));
            }
            _ => {}
        }

        let key = format!("{}/{full}", crate::pod::uid(p));
        if let Some((at, error)) = self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned() {
            let backoff = self.backoff.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(left) = backoff.remaining(&key, at, Timestamp::now()) {
                say(Level::Normal, "BackOff", format!("Back-off pulling image \"{name}\""));
                let message = format!("Back-off pulling image \"{name}\": ErrImagePull: {error}");
                return Err(refused("ImagePullBackOff", message, Some(left)));
            }
        }
        say(Level::Normal, "Pulling", format!("Pulling image \"{name}\""));
        let begun = std::time::Instant::now();
        match self.pull(&full, &parsed, secrets, sandbox).await {
            Ok(image) => {
                self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                self.backoff.lock().unwrap_or_else(PoisonError::into_inner).forget(&key);
                let took = begun.elapsed();
                say(Level::Normal, "Pulled", format!("Successfully pulled image \"{name}\" in {took:.3?}"));
                Ok(ready(image))
            }
            Err(error) => {
                let now = Timestamp::now();
                let left = {
                    let mut backoff = self.backoff.lock().unwrap_or_else(PoisonError::into_inner);
                    backoff.next(&key, now, now);
                    backoff.pause(&key)
                };
                let message = format!("failed to pull image \"{name}\": {error}");
                self.failures.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (now, message.clone()));
                say(Level::Warning, "Failed", format!("Failed to pull image \"{name}\": {error}"));
                say(Level::Warning, "Failed", "Error: ErrImagePull".into());
                Err(refused("ErrImagePull", message, Some(left.min(Duration::from_secs(2)))))
            }
        }
    }

    async fn pull(
        &self,
        full: &str,
        parsed: &ImageRef,
        secrets: &[std::sync::Arc<Secret>],
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<cri::Image, String> {
        let mut last = None;
        let with = credentials(secrets, parsed).into_iter().map(Some);
        // Every credential that fits, then none: what a registry refuses one may be open to all.
        for auth in with.chain([None]) {
            match self.cri.pull(full, auth, Some(sandbox.clone())).await {
                Ok(reference) => {
                    return match self.cri.image(&reference).await {
                        Ok(Some(image)) => Ok(image),
                        Ok(None) => Err(format!("image {reference} is not there after it was pulled")),
                        Err(e) => Err(e.to_string()),
                    };
                }
                Err(e) => last = last.or(Some(e)),
            }
        }
        Err(last.map_or_else(|| "no attempt was made".into(), strip_call))
    }

    /// The Pod is gone.
    pub fn forget(&self, uid: &str) {
        let prefix = format!("{uid}/");
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<String> = failures.keys().filter(|k| k.starts_with(&prefix)).cloned().collect();
        for key in keys {
            failures.remove(&key);
            self.backoff.lock().unwrap_or_else(PoisonError::into_inner).forget(&key);
        }
    }
}

/// Only the runtime's words.
fn strip_call(e: crate::Error) -> String {
    match e {
        crate::Error::Cri { code, message, .. } => format!("rpc error: code = {code} desc = {message}"),
        e => e.to_string(),
    }
}

/// The name with registry and tag filled in.
fn full_name(r: &ImageRef) -> String {
    let mut full = r.repository();
    if let Some(tag) = &r.tag {
        full.push(':');
        full.push_str(tag);
    }
    if let Some(digest) = &r.digest {
        full.push('@');
        full.push_str(digest);
    }
    full
}

#[derive(serde::Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Default, serde::Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

/// Credentials of the pull secrets that fit the image, the most specific first.
fn credentials(secrets: &[std::sync::Arc<Secret>], image: &ImageRef) -> Vec<cri::AuthConfig> {
    let mut found: Vec<(usize, cri::AuthConfig)> = Vec::new();
    for secret in secrets {
        let data = secret.data.as_ref();
        let file = data.and_then(|d| d.get(".dockerconfigjson").or_else(|| d.get(".dockercfg")));
        let Some(file) = file else { continue };
        let auths = match secret.type_.as_deref() {
            Some("kubernetes.io/dockercfg") => serde_json::from_slice(&file.0).unwrap_or_default(),
            _ => serde_json::from_slice::<DockerConfig>(&file.0).map(|c| c.auths).unwrap_or_default(),
        };
        for (registry, auth) in auths {
            let key = registry.trim_start_matches("https://").trim_start_matches("http://");
            let key = key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
            if !fits(key, image) {
                continue;
            }
            let (mut username, mut password) = (auth.username, auth.password);
            if username.is_empty()
                && let Ok(decoded) = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim())
                && let Ok(decoded) = String::from_utf8(decoded)
                && let Some((u, p)) = decoded.split_once(':')
            {
                (username, password) = (u.to_owned(), p.to_owned());
            }
            found.push((
                key.len(),
                cri::AuthConfig { username, password, identity_token: auth.identity_token, ..Default::default() },
            ));
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, a)| a).collect()
}

/// Whether a docker config key (host, `*.host`, host/path) covers the image.
fn fits(key: &str, image: &ImageRef) -> bool {
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
    let (ours, theirs): (Vec<&str>, Vec<&str>) = (image.registry.split('.').collect(), host.split('.').collect());
    let host_fits = ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(o, t)| *t == "*" || o == t);
    host_fits && (path.is_empty() || image.path == path || image.path.starts_with(&format!("{path}/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_by_registry_and_path() {
        let json = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpw"},
            "ghcr.io": {"username": "a", "password": "b"},
            "ghcr.io/org": {"username": "c", "password": "d"}}});
        let secret: Secret = serde_json::from_value(serde_json::json!({"type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64::engine::general_purpose::STANDARD.encode(json.to_string())}}))
        .unwrap();
        let secrets = [std::sync::Arc::new(secret)];
        let get = |image: &str| {
            let list = credentials(&secrets, &image_ref::parse(image).unwrap());
            list.iter().map(|a| format!("{}:{}", a.username, a.password)).collect::<Vec<_>>()
        };
        assert_eq!(get("nginx"), ["u:p"]);
        assert_eq!(get("ghcr.io/org/x"), ["c:d", "a:b"]);
        assert_eq!(get("ghcr.io/other"), ["a:b"]);
        assert!(get("quay.io/x").is_empty());
    }

    #[test]
    fn names_are_completed() {
        let full = |n: &str| full_name(&image_ref::parse(n).unwrap());
        assert_eq!(full("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(full("strake.local/demo:1"), "strake.local/demo:1");
    }
}
