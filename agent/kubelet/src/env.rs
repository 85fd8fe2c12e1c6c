//! The environment of a container from every source, in the stock order: Services, envFrom, env. Pure once the
//! ConfigMaps and Secrets it names have been fetched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};

use crate::downward::{self, Facts};
use crate::expand::expand;
use crate::pod;

/// The objects a container's environment names; `None` for one that does not exist.
#[derive(Default)]
pub struct Fetched {
    /// ConfigMaps by name.
    pub config_maps: HashMap<String, Option<Arc<ConfigMap>>>,
    /// Secrets by name.
    pub secrets: HashMap<String, Option<Arc<Secret>>>,
}

/// Names of the ConfigMaps and Secrets of a container's environment.
pub fn references(c: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in c.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for from in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(from.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// Builds the environment. An error is the message of CreateContainerConfigError.
pub fn build(
    p: &Pod,
    c: &Container,
    services: &[(String, String)],
    fetched: &Fetched,
    facts: &Facts,
) -> Result<Vec<(String, String)>, String> {
    let service_env: HashMap<&str, &str> = services.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    let set = |values: &mut BTreeMap<String, String>, order: &mut Vec<String>, k: String, v: String| {
        if values.insert(k.clone(), v).is_none() {
            order.push(k);
        }
    };

    for from in c.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let usable = |k: &str| !k.is_empty() && !k.contains('=') && k.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        if let Some(r) = &from.config_map_ref {
            match config_map(fetched, &r.name) {
                Some(m) => {
                    for (k, v) in m.data.iter().flatten().filter(|(k, _)| usable(k)) {
                        set(&mut values, &mut order, format!("{prefix}{k}"), v.clone());
                    }
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", r.name)),
            }
        }
        if let Some(r) = &from.secret_ref {
            match secret(fetched, &r.name) {
                Some(s) => {
                    for (k, v) in s.data.iter().flatten().filter(|(k, _)| usable(k)) {
                        let text = String::from_utf8_lossy(&v.0).into_owned();
                        set(&mut values, &mut order, format!("{prefix}{k}"), text);
                    }
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", r.name)),
            }
        }
    }

    for e in c.env.iter().flatten() {
        let value = if let Some(v) = e.value.as_deref().filter(|v| !v.is_empty()) {
            expand(v, |n| values.get(n).map(String::as_str).or_else(|| service_env.get(n).copied()))
        } else if let Some(from) = &e.value_from {
            match sourced(p, c, from, fetched, facts)? {
                Some(v) => v,
                None => continue, // optional and absent
            }
        } else {
            String::new()
        };
        set(&mut values, &mut order, e.name.clone(), value);
    }

    let mut out: Vec<(String, String)> = services.iter().filter(|(k, _)| !values.contains_key(k)).cloned().collect();
    out.extend(order.into_iter().map(|k| {
        let v = values.remove(&k).unwrap_or_default();
        (k, v)
    }));
    Ok(out)
}

fn config_map<'a>(f: &'a Fetched, name: &str) -> Option<&'a ConfigMap> {
    f.config_maps.get(name)?.as_deref()
}
fn secret<'a>(f: &'a Fetched, name: &str) -> Option<&'a Secret> {
    f.secrets.get(name)?.as_deref()
}

fn sourced(p: &Pod, c: &Container, from: &EnvVarSource, f: &Fetched, facts: &Facts) -> Result<Option<String>, String> {
    let ns = pod::namespace(p);
    if let Some(r) = &from.field_ref {
        return downward::field(p, &r.field_path, facts).map(Some);
    }
    if let Some(r) = &from.resource_field_ref {
        let of = r.container_name.as_deref().filter(|n| !n.is_empty());
        let other = match of {
            Some(name) => Some(pod::container(p, name).ok_or_else(|| format!("container {name} not found"))?),
            None => None,
        };
        return downward::resource(other.as_ref().unwrap_or(c), r, facts).map(Some);
    }
    if let Some(r) = &from.config_map_key_ref {
        let optional = r.optional == Some(true);
        return match config_map(f, &r.name) {
            None if optional => Ok(None),
            None => Err(format!("configmap \"{}\" not found", r.name)),
            Some(m) => match m.data.as_ref().and_then(|d| d.get(&r.key)) {
                Some(v) => Ok(Some(v.clone())),
                None if optional => Ok(None),
                None => Err(format!("couldn't find key {} in ConfigMap {ns}/{}", r.key, r.name)),
            },
        };
    }
    if let Some(r) = &from.secret_key_ref {
        let optional = r.optional == Some(true);
        return match secret(f, &r.name) {
            None if optional => Ok(None),
            None => Err(format!("secret \"{}\" not found", r.name)),
            Some(s) => match s.data.as_ref().and_then(|d| d.get(&r.key)) {
                Some(v) => Ok(Some(String::from_utf8_lossy(&v.0).into_owned())),
                None if optional => Ok(None),
                None => Err(format!("couldn't find key {} in Secret {ns}/{}", r.key, r.name)),
            },
        };
    }
    Err("unsupported env var source".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(c: serde_json::Value) -> (Pod, Container, Fetched) {
        let p: Pod = serde_json::from_value(serde_json::json!(
            {"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [c]}}))
        .unwrap();
        let map = serde_json::from_value(serde_json::json!({"data": {"a": "1", "bad=key": "x", "b": "2"}})).unwrap();
        let secret = serde_json::from_value(serde_json::json!({"data": {"s": "cGFzcw=="}})).unwrap();
        let mut f = Fetched::default();
        f.config_maps.insert("cm".into(), Some(Arc::new(map)));
        f.secrets.insert("sec".into(), Some(Arc::new(secret)));
        let c = pod::containers(&p)[0].clone();
        (p, c, f)
    }
    fn env(c: serde_json::Value) -> Result<BTreeMap<String, String>, String> {
        let (p, c, f) = setup(c);
        let services = [("WEB_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned())];
        build(&p, &c, &services, &f, &Facts::default()).map(|v| v.into_iter().collect())
    }

    #[test]
    fn every_source_in_order() {
        let e = env(serde_json::json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "sec"}}],
            "env": [{"name": "A", "value": "$(P_a)-$(WEB_SERVICE_HOST)-$(C)"}, {"name": "C", "value": "c"},
                {"name": "P_b", "value": "own"},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "s"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "s", "optional": true}}}]}))
        .unwrap();
        assert_eq!(e["A"], "1-10.0.0.1-$(C)");
        assert_eq!(
            (e["P_b"].as_str(), e["s"].as_str(), e["S"].as_str(), e["N"].as_str()),
            ("own", "pass", "pass", "p")
        );
        assert!(!e.contains_key("O") && !e.contains_key("P_bad=key"));
        assert_eq!(e["WEB_SERVICE_HOST"], "10.0.0.1");
    }

    #[test]
    fn what_is_missing_is_named() {
        let from = |source: serde_json::Value| {
            env(serde_json::json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]})).unwrap_err()
        };
        assert_eq!(
            from(serde_json::json!({"configMapKeyRef": {"name": "no", "key": "k"}})),
            "configmap \"no\" not found"
        );
        assert_eq!(
            from(serde_json::json!({"secretKeyRef": {"name": "sec", "key": "k"}})),
            "couldn't find key k in Secret ns/sec"
        );
    }
}
