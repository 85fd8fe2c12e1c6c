//! The container configuration: command, environment, mounts, resources, labels.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::security::{context, verify_non_root};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::expand::{expand, expand_strict};
use crate::volume::{pod_dir, subpath};
use crate::{cgroup, labels, pod};

pub use super::security::ImageUser;

/// What one start of a container is made from.
pub struct Start<'a> {
    /// Configuration.
    pub config: &'a Config,
    /// The Pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// How many ran before.
    pub restarts: i32,
    /// Reference of the image on the node.
    pub image: &'a str,
    /// User named by the image.
    pub image_user: &'a ImageUser,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Host paths of the volumes.
    pub volumes: &'a HashMap<String, PathBuf>,
    /// Memory of the node, bytes.
    pub node_memory: i64,
    /// /etc/hosts to be mounted, none when the Pod mounts its own.
    pub hosts: Option<PathBuf>,
    /// Container whose processes an ephemeral container sees, by CRI id.
    pub target: Option<String>,
}

/// CPU, memory and OOM score of a container.
pub fn resources(p: &Pod, c: &Container, node_memory: i64, unified: bool) -> cri::LinuxContainerResources {
    let r = c.resources.as_ref();
    let request = pod::request(r, "cpu");
    let mut out = cri::LinuxContainerResources {
        cpu_shares: cgroup::shares(request) as i64,
        cpu_period: cgroup::CPU_PERIOD as i64,
        cpu_quota: cgroup::quota(pod::limit(r, "cpu")),
        memory_limit_in_bytes: pod::limit(r, "memory"),
        oom_score_adj: pod::oom_score_adj(p, c, node_memory),
        ..Default::default()
    };
    if unified {
        // Kill the whole container, not one process of it, when it runs out of memory (stock since 1.28).
        out.unified.insert("memory.oom.group".into(), "1".into());
    }
    out
}

/// Directory of a container's own files.
fn own_dir(s: &Start<'_>) -> PathBuf {
    pod_dir(&s.config.pods_dir, pod::uid(s.pod)).join("containers").join(&s.container.name)
}

/// Builds the configuration and makes the files it mounts. A [`Error::Pod`] is a CreateContainerConfigError.
pub fn config(s: &Start<'_>, unified: bool) -> Result<cri::ContainerConfig> {
    let c = s.container;
    verify_non_root(s.pod, c, s.image_user).map_err(Error::Pod)?;
    let security = context(s.pod, c, s.image_user, &s.config.seccomp_dir, s.target.as_deref()).map_err(Error::Pod)?;
    let lookup: HashMap<&str, &str> = s.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expand_all = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|a| expand(a, |n| lookup.get(n).copied())).collect()
    };
    let mut mounts = Vec::new();
    for (i, m) in c.volume_mounts.iter().flatten().enumerate() {
        mounts.push(mount(s, m, i, &lookup)?);
    }
    if let Some(hosts) = &s.hosts
        && !mounts.iter().any(|m| m.container_path == "/etc/hosts")
    {
        mounts.push(plain(hosts, "/etc/hosts"));
    }
    let termination = c.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !termination.is_empty() {
        let dir = own_dir(s);
        fs::create_dir_all(&dir).map_err(Error::io("create directory", &dir))?;
        let file = dir.join(format!("{:08x}", rand::random::<u32>()));
        fs::File::create(&file).map_err(Error::io("create", &file))?;
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).map_err(Error::io("chmod", &file))?;
        mounts.push(plain(&file, termination));
    }
    let grace = s.pod.spec.as_ref().and_then(|p| p.termination_grace_period_seconds).unwrap_or(pod::DEFAULT_GRACE);
    let mut annotations: HashMap<String, String> = [
        (labels::HASH, pod::hash(c)),
        (labels::RESTART_COUNT, s.restarts.to_string()),
        (labels::TERMINATION_PATH, termination.to_owned()),
        (labels::TERMINATION_POLICY, c.termination_message_policy.clone().unwrap_or_else(|| "File".into())),
        (labels::GRACE_PERIOD, grace.to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect();
    if let Some(g) = s.pod.metadata.deletion_grace_period_seconds {
        annotations.insert(labels::DELETION_GRACE_PERIOD.into(), g.to_string());
    }
    let json = |v: serde_json::Result<String>| v.unwrap_or_default();
    if let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        annotations.insert(labels::PRE_STOP.into(), json(serde_json::to_string(hook)));
    }
    if let Some(ports) = c.ports.as_ref().filter(|p| !p.is_empty()) {
        annotations.insert(labels::PORTS.into(), json(serde_json::to_string(ports)));
    }
    let own_labels = [
        (labels::CONTAINER_NAME, c.name.as_str()),
        (labels::POD_NAME, pod::name(s.pod)),
        (labels::POD_NAMESPACE, pod::namespace(s.pod)),
        (labels::POD_UID, pod::uid(s.pod)),
    ];
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: c.name.clone(),
            attempt: u32::try_from(s.restarts).unwrap_or_default(),
        }),
        image: Some(cri::ImageSpec {
            image: s.image.to_owned(),
            user_specified_image: c.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expand_all(&c.command),
        args: expand_all(&c.args),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        envs: s.env.iter().map(|(k, v)| cri::KeyValue { key: k.clone(), value: v.clone() }).collect(),
        mounts,
        devices: Vec::new(),
        labels: own_labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        annotations,
        log_path: format!("{}/{}.log", c.name, s.restarts),
        stdin: c.stdin.unwrap_or_default(),
        stdin_once: c.stdin_once.unwrap_or_default(),
        tty: c.tty.unwrap_or_default(),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(s.pod, c, s.node_memory, unified)),
            security_context: Some(security),
        }),
        ..Default::default()
    })
}

fn plain(host: &Path, container: &str) -> cri::Mount {
    cri::Mount {
        container_path: container.to_owned(),
        host_path: host.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

fn mount(s: &Start<'_>, m: &VolumeMount, index: usize, env: &HashMap<&str, &str>) -> Result<cri::Mount> {
    let volume = s.volumes.get(&m.name).ok_or_else(|| {
        Error::Pod(format!("cannot find volume \"{}\" to mount into container \"{}\"", m.name, s.container.name))
    })?;
    let sub = match (m.sub_path.as_deref().unwrap_or_default(), m.sub_path_expr.as_deref().unwrap_or_default()) {
        ("", "") => None,
        ("", expr) => Some(expand_strict(expr, |n| env.get(n).copied()).map_err(Error::Pod)?),
        (path, _) => Some(path.to_owned()),
    };
    let host = match sub {
        None => volume.clone(),
        Some(sub) => {
            let target = pod_dir(&s.config.pods_dir, pod::uid(s.pod))
                .join("volume-subpaths")
                .join(&m.name)
                .join(&s.container.name)
                .join(index.to_string());
            subpath::prepare(volume, &sub, &target).map_err(|e| {
                Error::Pod(format!(
                    "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}",
                    m.name, s.container.name
                ))
            })?
        }
    };
    // A hostPath of no type need not exist: a directory is made, as the runtimes always did.
    if !host.exists() {
        fs::create_dir_all(&host).map_err(Error::io("create directory", &host))?;
    }
    let container = if m.mount_path.starts_with('/') { m.mount_path.clone() } else { format!("/{}", m.mount_path) };
    let propagation = match m.mount_propagation.as_deref() {
        Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
        _ => cri::MountPropagation::PropagationPrivate,
    };
    let source = s.pod.spec.iter().flat_map(|p| p.volumes.iter().flatten()).find(|v| v.name == m.name);
    let content = source.is_some_and(|v| {
        v.config_map.is_some() || v.secret.is_some() || v.projected.is_some() || v.downward_api.is_some()
    });
    Ok(cri::Mount {
        readonly: m.read_only.unwrap_or_default() || content,
        propagation: propagation as i32,
        ..plain(&host, &container)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_mounts_resources_and_annotations() {
        let dir = tempfile::tempdir().unwrap();
        let p: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"terminationGracePeriodSeconds": 7, "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "x"}}],
            "containers": [{"name": "a", "image": "i:1", "command": ["run", "$(X)"], "args": ["$(Y)"],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "c", "mountPath": "c"}],
                "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}}]}}))
        .unwrap();
        let config = Config::under(dir.path(), "n1", [192, 0, 2, 1].into(), "/s".into());
        let volumes = [("v", dir.path().join("vol")), ("c", dir.path().join("cm"))];
        let volumes = volumes.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let image_user = ImageUser::default();
        let s = Start {
            config: &config,
            pod: &p,
            container: &pod::containers(&p)[0],
            restarts: 3,
            image: "sha256:abc",
            image_user: &image_user,
            env: vec![("X".into(), "1".into())],
            volumes: &volumes,
            node_memory: 1 << 30,
            hosts: Some(dir.path().join("hosts")),
            target: None,
        };
        let c = super::config(&s, false).unwrap();
        assert_eq!((c.command, c.args), (vec!["run".to_owned(), "1".into()], vec!["$(Y)".to_owned()]));
        assert_eq!(c.log_path, "a/3.log");
        assert_eq!(c.annotations[labels::RESTART_COUNT], "3");
        assert_eq!(c.annotations[labels::GRACE_PERIOD], "7");
        let r = c.linux.unwrap().resources.unwrap();
        assert_eq!((r.cpu_shares, r.cpu_quota, r.memory_limit_in_bytes), (256, 50_000, 64 << 20));
        let at = |path: &str| c.mounts.iter().find(|m| m.container_path == path).unwrap();
        assert!(!at("/v").readonly && at("/c").readonly);
        assert!(Path::new(&at("/dev/termination-log").host_path).is_file());
        assert!(at("/etc/hosts").host_path.ends_with("/hosts"));
    }
}
