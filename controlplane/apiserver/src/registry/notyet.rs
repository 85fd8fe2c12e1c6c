//! Kinds whose objects are kept and served, but on which nothing of Strake's acts yet. Whoever creates one is told in a
//! Warning header, because an accepted object that does nothing is worse than a refused one. (A stock component may be
//! running that does act on them: hence a warning and no refusal.)

use strake_machinery::Kind;

/// What does not happen yet for objects of a kind.
pub fn warning(kind: &Kind) -> Option<String> {
    let what = match (kind.group.as_str(), kind.kind.as_str()) {
        ("apiextensions.k8s.io", "CustomResourceDefinition") => "custom resources are not served yet",
        ("apiregistration.k8s.io", "APIService") => "requests are not forwarded to extension API servers yet",
        ("admissionregistration.k8s.io", _) => "admission policies and webhooks are not called yet",
        ("", "ResourceQuota") => "quotas are not enforced yet",
        ("networking.k8s.io", "NetworkPolicy") => "network policies are not enforced yet",
        ("networking.k8s.io", "Ingress") => "no ingress controller is included",
        ("policy", "PodDisruptionBudget") => {
            "no disruption controller is included yet: evictions that it covers are refused"
        }
        ("apps", "DaemonSet" | "StatefulSet")
        | ("batch", "Job" | "CronJob")
        | ("autoscaling", "HorizontalPodAutoscaler")
        | ("", "ReplicationController" | "PersistentVolumeClaim") => "no controller for this kind is included yet",
        ("flowcontrol.apiserver.k8s.io", _) => "requests are limited by number only, not by flow schemas yet",
        _ => return None,
    };
    Some(format!("strake: {}: {what}", kind.kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use strake_machinery::Registry;

    #[test]
    fn what_is_acted_on_is_not_warned_of() {
        let registry = Registry::builtin();
        for (api_version, kind, warned) in
            [("v1", "Pod", false), ("apps/v1", "Deployment", false), ("networking.k8s.io/v1", "NetworkPolicy", true)]
        {
            assert_eq!(warning(registry.by_type(api_version, kind).unwrap()).is_some(), warned, "{kind}");
        }
    }
}
