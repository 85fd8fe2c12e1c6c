//! Security contexts: namespaces, users, capabilities, seccomp, AppArmor, masked paths.

use std::path::Path;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, SeccompProfile};

use crate::pod;

/// Namespaces of the sandbox, or of a container (which may look into another's processes).
pub fn namespaces(p: &Pod, target: Option<&str>) -> cri::NamespaceOption {
    let spec = p.spec.as_ref();
    let node = |host: Option<bool>| {
        if host == Some(true) { cri::NamespaceMode::Node as i32 } else { cri::NamespaceMode::Pod as i32 }
    };
    let pid = if spec.and_then(|s| s.host_pid) == Some(true) {
        cri::NamespaceMode::Node
    } else if spec.and_then(|s| s.share_process_namespace) == Some(true) {
        cri::NamespaceMode::Pod
    } else if target.is_some() {
        cri::NamespaceMode::Target
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: node(spec.and_then(|s| s.host_network)),
        pid: pid as i32,
        ipc: node(spec.and_then(|s| s.host_ipc)),
        target_id: target.filter(|_| pid == cri::NamespaceMode::Target).unwrap_or_default().to_owned(),
        userns_options: None,
    }
}

/// Seccomp of a container: its own profile, else the Pod's, else none (RuntimeDefault for the sandbox itself).
pub fn profile(
    own: Option<&SeccompProfile>,
    of_pod: Option<&SeccompProfile>,
    privileged: bool,
    dir: &Path,
    sandbox: bool,
) -> Result<cri::SecurityProfile, String> {
    use cri::security_profile::ProfileType;
    let make =
        |kind: ProfileType, file: String| cri::SecurityProfile { profile_type: kind as i32, localhost_ref: file };
    if privileged {
        return Ok(make(ProfileType::Unconfined, String::new()));
    }
    match own.or(of_pod) {
        Some(s) => match s.type_.as_str() {
            "RuntimeDefault" => Ok(make(ProfileType::RuntimeDefault, String::new())),
            "Localhost" => {
                let file = s.localhost_profile.as_deref().unwrap_or_default();
                let inside = !file.is_empty() && !file.starts_with('/') && !file.contains("..");
                if !inside {
                    return Err("localhostProfile must be set if seccompProfile type is Localhost.".into());
                }
                Ok(make(ProfileType::Localhost, dir.join(file).to_string_lossy().into_owned()))
            }
            _ => Ok(make(ProfileType::Unconfined, String::new())),
        },
        None if sandbox => Ok(make(ProfileType::RuntimeDefault, String::new())),
        None => Ok(make(ProfileType::Unconfined, String::new())),
    }
}

fn apparmor(own: Option<&AppArmorProfile>, of_pod: Option<&AppArmorProfile>) -> Option<cri::SecurityProfile> {
    use cri::security_profile::ProfileType;
    let profile = own.or(of_pod)?;
    let kind = match profile.type_.as_str() {
        "RuntimeDefault" => ProfileType::RuntimeDefault,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    let file = profile.localhost_profile.clone().unwrap_or_default();
    Some(cri::SecurityProfile { profile_type: kind as i32, localhost_ref: file })
}

/// /proc paths a container does not see (the runtimes' default set, `procMount: Default`).
const MASKED: [&str; 13] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the image says about its user.
#[derive(Clone, Debug, Default)]
pub struct ImageUser {
    /// Numeric user, when the image names one.
    pub uid: Option<i64>,
    /// User by name, when the image names one.
    pub name: String,
}

/// The runAsNonRoot check, in the stock words.
pub fn verify_non_root(p: &Pod, c: &Container, image: &ImageUser) -> Result<(), String> {
    let of_pod = p.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = c.security_context.as_ref();
    let wanted = own.and_then(|s| s.run_as_non_root).or(of_pod.and_then(|s| s.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let at = format!("(pod: \"{}\", container: {})", pod::formatted(p), c.name);
    if let Some(user) = own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user)) {
        return if user == 0 { Err(format!("container's runAsUser breaks non-root policy {at}")) } else { Ok(()) };
    }
    match image.uid {
        Some(0) => Err(format!("container has runAsNonRoot and image will run as root {at}")),
        Some(_) => Ok(()),
        None if !image.name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {at}",
            image.name
        )),
        None => Err(format!("container has runAsNonRoot and image will run as root {at}")),
    }
}

/// The container's security context.
pub fn context(
    p: &Pod,
    c: &Container,
    image: &ImageUser,
    seccomp_dir: &Path,
    target: Option<&str>,
) -> Result<cri::LinuxContainerSecurityContext, String> {
    let of_pod = p.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = c.security_context.as_ref();
    let privileged = own.and_then(|s| s.privileged) == Some(true);
    let caps = own.and_then(|s| s.capabilities.as_ref());
    let run_as_user = own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user));
    let run_as_group = own.and_then(|s| s.run_as_group).or(of_pod.and_then(|s| s.run_as_group));
    // Without a user in the Pod the image's is used; the runtime wants one beside a group.
    let (user, username) = match run_as_user {
        Some(u) => (Some(u), String::new()),
        None => (image.uid, if image.uid.is_none() { image.name.clone() } else { String::new() }),
    };
    let mut groups: Vec<i64> = of_pod.and_then(|s| s.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(of_pod.and_then(|s| s.fs_group));
    let escalation = own.and_then(|s| s.allow_privilege_escalation);
    let unmasked = privileged || own.and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked");
    let list = |paths: &[&str]| if unmasked { Vec::new() } else { paths.iter().map(|p| (*p).to_owned()).collect() };
    let strict = of_pod.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict");
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: caps.map(|caps| cri::Capability {
            add_capabilities: caps.add.clone().unwrap_or_default(),
            drop_capabilities: caps.drop.clone().unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces(p, target)),
        run_as_user: user.map(|value| cri::Int64Value { value }),
        run_as_group: run_as_group.map(|value| cri::Int64Value { value }),
        run_as_username: username,
        readonly_rootfs: own.and_then(|s| s.read_only_root_filesystem) == Some(true),
        supplemental_groups: groups,
        supplemental_groups_policy: i32::from(strict),
        no_new_privs: escalation == Some(false) && !privileged,
        masked_paths: list(&MASKED),
        readonly_paths: list(&READ_ONLY),
        seccomp: Some(profile(
            own.and_then(|s| s.seccomp_profile.as_ref()),
            of_pod.and_then(|s| s.seccomp_profile.as_ref()),
            privileged,
            seccomp_dir,
            false,
        )?),
        apparmor: apparmor(
            own.and_then(|s| s.app_armor_profile.as_ref()),
            of_pod.and_then(|s| s.app_armor_profile.as_ref()),
        ),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(sc: serde_json::Value, own: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": sc, "containers": [{"name": "a", "securityContext": own}]}}))
        .unwrap()
    }

    #[test]
    fn the_containers_context_wins_over_the_pods() {
        let p = pod(
            serde_json::json!({"runAsUser": 1000, "fsGroup": 7, "supplementalGroups": [5]}),
            serde_json::json!({"runAsUser": 2, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true}),
        );
        let s = context(&p, &pod::containers(&p)[0], &ImageUser::default(), Path::new("/s"), None).unwrap();
        assert_eq!(s.run_as_user.unwrap().value, 2);
        assert_eq!(s.supplemental_groups, [5, 7]);
        assert!(s.no_new_privs && s.readonly_rootfs && !s.masked_paths.is_empty());
        assert_eq!(s.capabilities.unwrap().drop_capabilities, ["ALL"]);
    }

    #[test]
    fn non_root_is_verified() {
        let p = pod(serde_json::json!({"runAsNonRoot": true}), serde_json::json!({}));
        let c = &pod::containers(&p)[0];
        let check = |uid, name: &str| verify_non_root(&p, c, &ImageUser { uid, name: name.into() });
        assert!(check(Some(10), "").is_ok());
        assert!(check(Some(0), "").unwrap_err().contains("image will run as root"));
        assert!(check(None, "www").unwrap_err().contains("non-numeric user (www)"));
    }

    #[test]
    fn a_localhost_profile_stays_in_its_directory() {
        let s = SeccompProfile { type_: "Localhost".into(), localhost_profile: Some("../x".into()) };
        assert!(profile(Some(&s), None, false, Path::new("/s"), false).is_err());
        let s = SeccompProfile { type_: "Localhost".into(), localhost_profile: Some("a.json".into()) };
        assert_eq!(profile(Some(&s), None, false, Path::new("/s"), false).unwrap().localhost_ref, "/s/a.json");
    }
}
