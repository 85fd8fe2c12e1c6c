//! Starting a sandbox and a container, with the events and waiting reasons of the stock kubelet.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::jiff::Timestamp;
use kube::Api;

use super::worker::Worker;
use crate::backoff::go_duration;
use crate::downward::Facts;
use crate::error::{Error, Result};
use crate::events::Level;
use crate::generate::{container as generate, sandbox};
use crate::plan::Which;
use crate::runtime::{PodRuntime, Record, State, pod_log_dir, restarts_by_logs, timestamp};
use crate::status::Waiting;
use crate::{env, hosts, lifecycle, pod, resolv, services, volume};

/// A start that failed: why the container waits and when to try again.
pub struct Failed {
    pub waiting: Waiting,
    pub retry: Option<Duration>,
}

/// Pause before another attempt when nothing else wakes the worker.
const RETRY: Duration = Duration::from_secs(10);

fn failed(reason: &str, message: impl Into<String>) -> Failed {
    Failed { waiting: Waiting { reason: reason.into(), message: message.into() }, retry: Some(RETRY) }
}

/// The container a plan means.
pub fn find(p: &Pod, which: Which) -> Option<Container> {
    match which {
        Which::Init(i) => pod::init_containers(p).get(i).cloned(),
        Which::Main(i) => pod::containers(p).get(i).cloned(),
        Which::Ephemeral(i) => pod::ephemeral_containers(p).get(i).map(pod::as_container),
    }
}

impl Worker {
    /// The sandbox configuration, also needed to pull images and create containers.
    pub(super) fn sandbox_config(&self, p: &Pod, attempt: u32) -> Result<cri::PodSandboxConfig> {
        let c = &self.shared.config;
        let text = std::fs::read_to_string(&c.resolv_conf).unwrap_or_default();
        sandbox::config(c, p, attempt, &resolv::parse(&text)).map_err(Error::Pod)
    }

    /// Makes a sandbox.
    pub(super) async fn create_sandbox(&self, p: &Pod, attempt: u32) -> Result<()> {
        let config = self.sandbox_config(p, attempt)?;
        let dir = PathBuf::from(&config.log_directory);
        std::fs::create_dir_all(&dir).map_err(Error::io("create directory", &dir))?;
        let runtime_handler = match p.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()) {
            None | Some("") => String::new(),
            Some(class) => {
                let api: Api<RuntimeClass> = Api::all(self.shared.client.clone());
                api.get(class).await.map_err(Error::api("failed to get sandbox runtime"))?.handler
            }
        };
        self.shared
            .cri
            .run_sandbox(cri::RunPodSandboxRequest { config: Some(config), runtime_handler })
            .await
            .map(|_| ())
    }

    /// What the downward API tells of this Pod now.
    pub(super) fn facts(&self, rt: &PodRuntime) -> Facts {
        let c = &self.shared.config;
        let host_ips: Vec<String> = c.node_ips.iter().map(ToString::to_string).collect();
        let own = rt.active_sandbox().is_some_and(|s| !s.host_network);
        Facts {
            pod_ips: if own { rt.ips().to_vec() } else { host_ips.clone() },
            host_ips,
            node: c.node_name.clone(),
            cpu_milli: self.shared.capacity.cpu_milli,
            memory: self.shared.capacity.memory,
            storage: self.shared.capacity.storage,
        }
    }

    async fn pull_secrets(&self, p: &Pod) -> Vec<Arc<Secret>> {
        let mut out = Vec::new();
        for reference in p.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
            let name = &reference.name;
            match self.shared.secrets.get(pod::namespace(p), name, &self.user).await {
                Ok(Some(secret)) => out.push(secret),
                Ok(None) | Err(_) => self.shared.recorder.pod(
                    p,
                    Level::Warning,
                    "FailedToRetrieveImagePullSecret",
                    format!("Unable to retrieve some image pull secrets ({name}); attempting to pull the image may not succeed."),
                ),
            }
        }
        out
    }

    async fn environment(&self, p: &Pod, c: &Container, facts: &Facts) -> Result<Vec<(String, String)>> {
        let namespace = pod::namespace(p);
        let links = p.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
        let visible = self.shared.services.visible(namespace, links).await;
        let (maps, secrets) = env::references(c);
        let mut fetched = env::Fetched::default();
        for name in maps {
            let found = self.shared.config_maps.get(namespace, &name, &self.user).await?;
            fetched.config_maps.insert(name, found);
        }
        for name in secrets {
            let found = self.shared.secrets.get(namespace, &name, &self.user).await?;
            fetched.secrets.insert(name, found);
        }
        env::build(p, c, &services::variables(&visible), &fetched, facts).map_err(Error::Pod)
    }

    fn hosts_file(&self, p: &Pod, rt: &PodRuntime) -> Result<PathBuf> {
        let c = &self.shared.config;
        let text = if pod::host_network(p) {
            hosts::node_file(p, &std::fs::read_to_string("/etc/hosts").unwrap_or_default())
        } else {
            hosts::file(p, rt.ips(), &c.cluster_domain)
        };
        let path = volume::pod_dir(&c.pods_dir, pod::uid(p)).join("etc-hosts");
        std::fs::write(&path, text).map_err(Error::io("write", &path))?;
        Ok(path)
    }

    /// Whether the container must still wait after its last end. Notes the attempt when not.
    fn in_backoff(&mut self, p: &Pod, c: &Container, last: Option<&Record>) -> Result<(), Failed> {
        let Some(last) = last.filter(|r| r.state == State::Exited) else { return Ok(()) };
        let now = Timestamp::now();
        let ended = timestamp(last.finished_at).unwrap_or(now);
        let key = format!("{}/{}", c.name, pod::hash(c));
        if let Some(left) = self.backoff.remaining(&key, ended, now) {
            let name = &c.name;
            let pause = go_duration(self.backoff.pause(&key));
            let formatted = pod::formatted(p);
            let text = format!("Back-off restarting failed container {name} in pod {formatted}");
            self.shared.recorder.container(p, name, Level::Warning, "BackOff", text);
            let message = format!("back-off {pause} restarting failed container={name} pod={formatted}");
            let waiting = Waiting { reason: "CrashLoopBackOff".into(), message };
            return Err(Failed { waiting, retry: Some(left) });
        }
        self.backoff.next(&key, ended, now);
        Ok(())
    }

    /// Starts one container; on success the postStart hook has run.
    pub(super) async fn start_container(
        &mut self,
        p: &Arc<Pod>,
        c: &Container,
        which: Which,
        rt: &PodRuntime,
        volumes: &volume::Ready,
    ) -> Result<(), Failed> {
        let last = rt.latest(&c.name).cloned();
        self.in_backoff(p, c, last.as_ref())?;
        let shared = self.shared.clone();
        let Some(active) = rt.active_sandbox() else {
            return Err(failed("CreateContainerError", "the pod sandbox is not ready"));
        };
        let sandbox_config =
            self.sandbox_config(p, active.attempt).map_err(|e| failed("CreateContainerConfigError", e.to_string()))?;
        let secrets = self.pull_secrets(p).await;
        let image = shared
            .images
            .ensure(p, c, &secrets, &sandbox_config)
            .await
            .map_err(|r| Failed { waiting: r.waiting, retry: r.retry })?;

        let say = |level, reason, message: String| shared.recorder.container(p, &c.name, level, reason, message);
        let config_error = |e: Error| {
            say(Level::Warning, "Failed", format!("Error: {e}"));
            failed("CreateContainerConfigError", e.to_string())
        };
        let facts = self.facts(rt);
        let env = self.environment(p, c, &facts).await.map_err(config_error)?;
        let logs = pod_log_dir(&shared.config.pod_logs_dir, pod::namespace(p), pod::name(p), pod::uid(p)).join(&c.name);
        let restarts = last.as_ref().map_or_else(|| restarts_by_logs(&logs), |r| r.restarts + 1);
        std::fs::create_dir_all(&logs).map_err(|e| config_error(Error::io("create directory", &logs)(e)))?;
        let target = match which {
            Which::Ephemeral(i) => pod::ephemeral_containers(p)
                .get(i)
                .and_then(|e| e.target_container_name.as_deref())
                .and_then(|name| rt.active(name))
                .map(|r| r.id.clone()),
            _ => None,
        };
        let start = generate::Start {
            config: &shared.config,
            pod: p,
            container: c,
            restarts,
            image: &image.id,
            image_user: &image.user,
            env,
            volumes: &volumes.paths,
            node_memory: shared.capacity.memory,
            hosts: Some(self.hosts_file(p, rt).map_err(config_error)?),
            target,
        };
        let config = generate::config(&start, shared.cgroups.unified()).map_err(config_error)?;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: active.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let id = match Box::pin(shared.cri.create_container(request)).await {
            Ok(answer) => answer.container_id,
            Err(e) => {
                let message = strip(e);
                say(Level::Warning, "Failed", format!("Error: {message}"));
                return Err(failed("CreateContainerError", message));
            }
        };
        say(Level::Normal, "Created", format!("Container created: {}", c.name));
        if let Err(e) = shared.cri.start_container(&id).await {
            let message = strip(e);
            say(Level::Warning, "Failed", format!("Error: {message}"));
            return Err(failed("RunContainerError", message));
        }
        say(Level::Normal, "Started", format!("Container started: {}", c.name));
        if let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
            let ip = facts.pod_ips.first().map(String::as_str);
            if let Err(text) = lifecycle::run(&shared.cri, hook, c, &id, ip).await {
                say(Level::Warning, "FailedPostStartHook", format!("PostStartHook failed: {text}"));
                let grace = pod::grace_period(p);
                say(Level::Normal, "Killing", "FailedPostStartHook".into());
                if let Err(error) = shared.cri.stop_container(&id, grace).await {
                    tracing::warn!(%error, container = c.name, "container not stopped after its postStart hook failed");
                }
                return Err(failed("PostStartHookError", text));
            }
        }
        Ok(())
    }
}

/// The runtime's words without the name of the call.
fn strip(e: Error) -> String {
    match e {
        Error::Cri { message, .. } => message,
        e => e.to_string(),
    }
}
