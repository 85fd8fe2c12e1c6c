//! Values of the downward API: fields of the Pod and resources of a container. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::pod;
use crate::quantity;

/// What is known only at run time.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Pod addresses.
    pub pod_ips: Vec<String>,
    /// Node addresses.
    pub host_ips: Vec<String>,
    /// Node name.
    pub node: String,
    /// Allocatable cpu, thousandths.
    pub cpu_milli: i64,
    /// Allocatable memory, bytes.
    pub memory: i64,
    /// Allocatable ephemeral storage, bytes.
    pub storage: i64,
}

fn quoted_map(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (i, (k, v)) in map.into_iter().flatten().enumerate() {
        let _ = write!(out, "{}{k}={v:?}", if i > 0 { "\n" } else { "" });
    }
    out
}

/// Value of a fieldRef.
pub fn field(p: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    let m = &p.metadata;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|s| s.split_once("['")) {
        let map = match map {
            "metadata.labels" => m.labels.as_ref(),
            "metadata.annotations" => m.annotations.as_ref(),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(map.and_then(|l| l.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod::name(p).to_owned(),
        "metadata.namespace" => pod::namespace(p).to_owned(),
        "metadata.uid" => pod::uid(p).to_owned(),
        "metadata.labels" => quoted_map(m.labels.as_ref()),
        "metadata.annotations" => quoted_map(m.annotations.as_ref()),
        "spec.nodeName" => facts.node.clone(),
        "spec.serviceAccountName" => p.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// Value of a resourceFieldRef of container `c`: rounded up to the divisor.
pub fn resource(c: &Container, r: &ResourceFieldSelector, facts: &Facts) -> Result<String, String> {
    let (list, name) = r.resource.split_once('.').ok_or_else(|| format!("unsupported resource: {}", r.resource))?;
    let own = c.resources.as_ref();
    let node = match name {
        "cpu" => facts.cpu_milli,
        "memory" => facts.memory,
        "ephemeral-storage" => facts.storage,
        n if n.starts_with("hugepages-") => 0,
        _ => return Err(format!("unsupported container resource : {}", r.resource)),
    };
    let amount = match list {
        // A container without a limit may use the whole node.
        "limits" => Some(pod::limit(own, name)).filter(|v| *v > 0).unwrap_or(node),
        "requests" => pod::request(own, name),
        _ => return Err(format!("unsupported container resource : {}", r.resource)),
    };
    let cpu = name == "cpu";
    let divisor = r.divisor.as_ref().and_then(if cpu { quantity::milli } else { quantity::value });
    let divisor = divisor.filter(|d| *d > 0).unwrap_or(if cpu { 1000 } else { 1 });
    Ok(((amount + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_resources() {
        let p: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n", "namespace": "s", "labels": {"b": "2\"", "a": "1"}}, "spec": {"containers": []}}))
        .unwrap();
        let facts = Facts { cpu_milli: 2000, memory: 1 << 30, ..Default::default() };
        assert_eq!(field(&p, "metadata.labels", &facts).unwrap(), "a=\"1\"\nb=\"2\\\"\"");
        assert_eq!(field(&p, "metadata.labels['a']", &facts).unwrap(), "1");
        assert!(field(&p, "spec.x", &facts).is_err());
        let c: Container = serde_json::from_value(
            serde_json::json!({"name": "c", "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "64Mi"}}}),
        )
        .unwrap();
        let get = |resource: &str, divisor: &str| {
            let r = serde_json::from_value(serde_json::json!({"resource": resource, "divisor": divisor})).unwrap();
            super::resource(&c, &r, &facts).unwrap()
        };
        assert_eq!(get("requests.cpu", "1"), "1");
        assert_eq!(get("requests.cpu", "1m"), "250");
        assert_eq!(get("limits.memory", "1Mi"), "64");
        assert_eq!(get("limits.cpu", "0"), "2");
    }
}
