//! Resource names and the `resources` of containers and Pods.

use std::collections::BTreeSet;

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{
    Errs, NOT_NEGATIVE, duplicate, forbidden, invalid, invalid_each, not_found, not_supported, required,
};
use crate::format;
use crate::quantities;
use crate::walk::{Walk, entries};

/// Which names a resource list may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// Of a container, and of `spec.overhead`.
    Container,
    /// Of a whole Pod.
    Pod,
    /// Of a ResourceQuota.
    Quota,
    /// Of a LimitRange item that is not about containers or Pods.
    Any,
}

const CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const INTEGERS: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_quota_huge_page(name: &str) -> bool {
    is_huge_page(name) || name.starts_with("requests.hugepages-")
}

/// True for names that Kubernetes itself defines.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && format::qualified_name(&format!("requests.{name}")).is_empty()
}

/// True if requests may differ from limits.
pub(crate) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// True if the name is one of a ResourceQuota's own.
pub(crate) fn is_standard_quota(name: &str) -> bool {
    QUOTA.contains(&name) || is_quota_huge_page(name)
}

/// Checks one resource name.
pub(crate) fn name(value: &str, kind: Names, p: &Path, e: &mut Errs) {
    let errors = format::qualified_name(value);
    let plain = !value.contains('/');
    let standard = STANDARD.contains(&value) || is_quota_huge_page(value);
    let well_formed = errors.is_empty();
    invalid_each(e, p, value, errors);
    if well_formed && plain && !standard {
        e.push(invalid(p, value, "must be a standard resource type or fully qualified"));
    }
    match kind {
        Names::Container => {
            if plain {
                if !CONTAINER.contains(&value) && !is_huge_page(value) {
                    e.push(invalid(p, value, "must be a standard resource for containers"));
                }
            } else if !is_native(value) && !is_extended(value) {
                e.push(invalid(p, value, "doesn't follow extended resource name standard"));
            }
        }
        Names::Pod => {
            if well_formed && (!plain || standard) && !["cpu", "memory"].contains(&value) && !is_huge_page(value) {
                e.push(not_supported(p, value, &["cpu", "hugepages-", "memory"]));
            }
        }
        Names::Quota => {
            if plain && !is_standard_quota(value) {
                e.push(invalid(p, value, "must be a standard resource for quota"));
            }
        }
        Names::Any => {}
    }
}

/// Checks the amount of one resource.
pub(crate) fn amount(resource: &str, v: &Value, p: &Path, e: &mut Errs) {
    let Some(q) = quantities::parse(v) else { return };
    if q.is_negative() {
        e.push(invalid(p, q.to_string(), NOT_NEGATIVE));
    }
    let whole = INTEGERS.contains(&resource) || is_extended(resource);
    if whole && !q.is_whole() {
        e.push(invalid(p, q.to_string(), "must be an integer"));
    }
}

fn huge_page(resource: &str, v: &Value, p: &Path, e: &mut Errs) {
    let page = quantities::parse(&Value::from(resource.trim_start_matches("hugepages-")));
    if let (Some(q), Some(page)) = (quantities::parse(v), page) {
        let (have, unit) = (q.value(), page.value());
        if unit <= 0 || have < 0 || have % unit != 0 {
            e.push(invalid(p, q.to_string(), format!("{q} is not positive integer multiple of {resource}")));
        }
    }
}

/// Checks `resources`. `claims` are the names in `spec.resourceClaims`.
pub(crate) fn requirements(v: &Value, kind: Names, claims: Option<&BTreeSet<&str>>, p: &Path, e: &mut Errs) {
    let (limits, requests) = (v.at("limits"), v.at("requests"));
    let (lp, rp) = (p.child("limits"), p.child("requests"));
    let (mut compute, mut huge) = (false, false);
    for (k, q) in entries(limits) {
        let at = lp.key(k);
        name(k, kind, &at, e);
        amount(k, q, &at, e);
        if is_huge_page(k) {
            huge = true;
            huge_page(k, q, &at, e);
        }
        compute |= ["cpu", "memory"].contains(&k);
    }
    for (k, q) in entries(requests) {
        let at = rp.key(k);
        name(k, kind, &at, e);
        amount(k, q, &at, e);
        match (quantities::parse(q), quantities::parse(limits.at(k))) {
            (Some(r), Some(l)) if r != l && !may_overcommit(k) => {
                e.push(invalid(&rp, r.to_string(), format!("must be equal to {k} limit of {l}")));
            }
            (Some(r), Some(l)) if r > l => {
                e.push(invalid(&rp, r.to_string(), format!("must be less than or equal to {k} limit of {l}")));
            }
            (_, None) if !may_overcommit(k) => {
                e.push(required(&lp, "Limit must be set for non overcommitable resources"));
            }
            _ => {}
        }
        if is_huge_page(k) {
            huge = true;
            huge_page(k, q, &at, e);
        }
        compute |= ["cpu", "memory"].contains(&k);
    }
    if huge && !compute {
        e.push(forbidden(p, "HugePages require cpu or memory"));
    }
    claim_names(v.list("claims"), claims, &p.child("claims"), e);
}

fn claim_names(list: &[Value], known: Option<&BTreeSet<&str>>, p: &Path, e: &mut Errs) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in list.iter().enumerate() {
        let (at, claim_name, request) = (p.index(i), claim.text("name"), claim.text("request"));
        if claim_name.is_empty() {
            e.push(required(&at, ""));
            continue;
        }
        if seen.contains(claim_name) {
            e.push(duplicate(&at, claim_name));
        } else {
            let mut key = claim_name.to_owned();
            if !request.is_empty() {
                invalid_each(e, &at.child("request"), request, format::dns_label(request));
                key = format!("{claim_name}/{request}");
            }
            if seen.contains(&key) {
                e.push(duplicate(&at, key.as_str()));
            } else if request.is_empty() {
                let overlaps = seen.iter().filter(|s| s.split_once('/').is_some_and(|(n, _)| n == claim_name)).count();
                for _ in 0..overlaps {
                    e.push(duplicate(&at, claim_name));
                }
            }
            seen.insert(key);
        }
        if known.is_none_or(|k| !k.contains(claim_name)) {
            let mut error = not_found(&at, claim_name);
            let names: Vec<&str> = known.into_iter().flatten().copied().collect();
            error.detail = match names.is_empty() {
                true => "must be one of the names in pod.spec.resourceClaims which is empty".into(),
                false => format!("must be one of the names in pod.spec.resourceClaims: {}", names.join(", ")),
            };
            e.push(error);
        }
    }
}
