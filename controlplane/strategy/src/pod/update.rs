//! Checks of Pods on creation and on each kind of update.

use serde_json::Value;
use strake_machinery::field::Path;

use super::spec::{Owner, spec};
use super::{container, placement, qos, security};
use crate::errs::{Errs, between, duplicate, forbidden, immutable, invalid, invalid_each, required};
use crate::format::{self, NameRule};
use crate::ip;
use crate::meta;
use crate::walk::{Walk, changes, drop_key, each, put, same};

const MIRROR: &str = "kubernetes.io/config.mirror";
const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn metadata_and_spec(pod: &Value, e: &mut Errs) {
    let (mp, sp) = (Path::new("metadata"), Path::new("spec"));
    let (m, s) = (pod.at("metadata"), pod.at("spec"));
    meta::validate(pod, true, NameRule::Subdomain, e);
    security::annotations(m, s, &mp.child("annotations"), e);
    spec(s, Owner::Pod(m.text("name")), &sp, e);
    if s.text("serviceAccountName").is_empty() {
        for (i, v) in s.list("volumes").iter().enumerate() {
            for (n, source) in v.at("projected").list("sources").iter().enumerate() {
                if source.has("serviceAccountToken") {
                    let at = sp.child("volumes").index(i).child("projected").child("sources").index(n);
                    let why = "must not be specified when serviceAccountName is not set";
                    e.push(forbidden(&at.child("serviceAccountToken"), why));
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for (i, c) in s.list(list).iter().enumerate() {
            container::image_not_padded(c, &sp.child(list).index(i), e);
        }
    }
}

/// Checks a new Pod.
pub(crate) fn validate_create(pod: &Value, e: &mut Errs) {
    metadata_and_spec(pod, e);
    let (s, p) = (pod.at("spec"), Path::new("spec"));
    if !s.list("ephemeralContainers").is_empty() {
        e.push(forbidden(&p.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !s.text("nodeName").is_empty() && !s.list("schedulingGates").is_empty() {
        e.push(forbidden(&p.child("nodeName"), "cannot be set until all schedulingGates have been cleared"));
    }
}

/// Checks an update of a Pod proper.
pub(crate) fn validate_update(new: &Value, old: &Value, e: &mut Errs) {
    meta::validate_update(new, old, e);
    metadata_and_spec(new, e);
    let annotations = Path::new("metadata").child("annotations");
    security::annotation_changes(new.at("metadata"), old.at("metadata"), &annotations, e);
    let (s, o, p) = (new.at("spec"), old.at("spec"), Path::new("spec"));
    for list in ["containers", "initContainers"] {
        if s.list(list).len() != o.list(list).len() {
            e.push(forbidden(&p.child(list), "pod updates may not add or remove containers"));
            return;
        }
        for (i, c) in s.list(list).iter().enumerate() {
            if c.text("image").is_empty() {
                e.push(required(&p.child(list).index(i).child("image"), ""));
            }
            container::image_not_padded(c, &p.child(list).index(i), e);
        }
    }
    if !deadline(s, o, &p.child("activeDeadlineSeconds"), e) {
        return;
    }
    placement::tolerations_only_added(s.list("tolerations"), o.list("tolerations"), &p.child("tolerations"), e);
    placement::gates_only_removed(s.list("schedulingGates"), o.list("schedulingGates"), &p.child("schedulingGates"), e);
    if same(s, o) {
        return;
    }
    let mut rest = s.clone();
    for list in ["containers", "initContainers"] {
        let images: Vec<Value> = o.list(list).iter().map(|c| c.at("image").clone()).collect();
        let mut images = images.into_iter();
        each(&mut rest, list, |c| put(c, "image", images.next().unwrap_or(Value::Null)));
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put(&mut rest, field, o.at(field).clone());
    }
    if o.int("terminationGracePeriodSeconds").is_some_and(|g| g < 0) && s.num("terminationGracePeriodSeconds") == 1 {
        put(&mut rest, "terminationGracePeriodSeconds", o.at("terminationGracePeriodSeconds").clone());
    }
    if !o.list("schedulingGates").is_empty() {
        gated(&mut rest, o, &p, e);
    }
    if !same(&rest, o) {
        let why = format!("pod updates may not change fields other than {CHANGEABLE}\n{}", changes(o, &rest, 8));
        e.push(forbidden(&p, why));
    }
}

/// False if nothing more is to be checked.
fn deadline(new: &Value, old: &Value, p: &Path, e: &mut Errs) -> bool {
    match (new.int("activeDeadlineSeconds"), old.int("activeDeadlineSeconds")) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            e.push(invalid(p, n, between(0, i64::from(i32::MAX))));
            false
        }
        (Some(n), Some(o)) if o < n => {
            e.push(invalid(p, n, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            e.push(invalid(p, Value::Null, "must not update from a positive integer to nil value"));
            true
        }
        _ => true,
    }
}

/// A Pod that waits at a gate may be narrowed: more node labels, more required terms.
fn gated(rest: &mut Value, old: &Value, p: &Path, e: &mut Errs) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    if !same(rest.at("nodeSelector"), old.at("nodeSelector")) {
        if old.entries("nodeSelector").into_iter().any(|(k, v)| rest.at("nodeSelector").at(k) != v) {
            let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            e.push(invalid(&p.child("nodeSelector"), rest.at("nodeSelector").clone(), why));
        }
        put(rest, "nodeSelector", old.at("nodeSelector").clone());
    }
    let now = rest.at("affinity").at("nodeAffinity").clone();
    let was = old.at("affinity").at("nodeAffinity");
    if same(&now, was) {
        return;
    }
    let at = p.child("affinity").child("nodeAffinity").child(REQUIRED).child("nodeSelectorTerms");
    let (new_terms, old_terms) =
        (now.at(REQUIRED).list("nodeSelectorTerms"), was.at(REQUIRED).list("nodeSelectorTerms"));
    if !old_terms.is_empty() && old_terms.len() != new_terms.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        e.push(invalid(&at, new_terms.to_vec(), why));
    } else {
        for (i, (n, o)) in new_terms.iter().zip(old_terms).enumerate() {
            if !only_added(n, o) {
                let why = "only additions are allowed (no mutations or deletions)";
                e.push(invalid(&at.index(i), n.clone(), why));
            }
        }
    }
    if let Some(affinity) = rest.get_mut("affinity").filter(|a| a.is_object()) {
        put(affinity, "nodeAffinity", was.clone());
        if !old.has("affinity") && affinity.as_object().is_some_and(serde_json::Map::is_empty) {
            drop_key(rest, "affinity");
        }
    } else if !was.is_null() {
        put(rest, "affinity", serde_json::json!({ "nodeAffinity": was }));
    }
}

fn only_added(new: &Value, old: &Value) -> bool {
    let none = |t: &Value| t.list("matchExpressions").is_empty() && t.list("matchFields").is_empty();
    if none(old) {
        return none(new);
    }
    ["matchExpressions", "matchFields"].into_iter().all(|f| {
        let (n, o) = (new.list(f), old.list(f));
        n.len() >= o.len() && n.iter().zip(o).all(|(a, b)| same(a, b))
    })
}

/// Checks an update of `status`.
pub(crate) fn validate_status(new: &Value, old: &Value, e: &mut Errs) {
    meta::validate_update(new, old, e);
    let (mp, p) = (Path::new("metadata"), Path::new("status"));
    security::annotation_changes(new.at("metadata"), old.at("metadata"), &mp.child("annotations"), e);
    let (s, o) = (new.at("status"), old.at("status"));
    for (i, c) in s.list("conditions").iter().enumerate() {
        let kind = c.text("type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            invalid_each(e, &mp.child("conditions").index(i).child("Type"), kind, format::qualified_name(kind));
        }
    }
    let nominated = s.text("nominatedNodeName");
    if nominated != o.text("nominatedNodeName") && !nominated.is_empty() {
        security::subdomain(nominated, &p.child("nominatedNodeName"), e);
    }
    immutable(e, &p.child("qosClass"), s.at("qosClass"), o.at("qosClass"));
    let policy = old.at("spec").text("restartPolicy");
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        let policy = if list == "ephemeralContainerStatuses" { "Never" } else { policy };
        transitions(s.list(list), o.list(list), policy, old.at("spec"), &p.child(list), e);
    }
    addresses(s, "podIPs", None, &p, e);
    addresses(s, "hostIPs", Some("hostIP"), &p, e);
}

/// A container that ended for good stays ended.
fn transitions(new: &[Value], old: &[Value], policy: &str, spec: &Value, p: &Path, e: &mut Errs) {
    if policy == "Always" {
        return;
    }
    let restarts_itself =
        |name: &str| super::every_container(spec).any(|c| c.text("name") == name && c.has("restartPolicy"));
    for (i, was) in old.iter().enumerate() {
        let ended = was.at("state").at("terminated");
        let name = was.text("name");
        if ended.is_null() || (ended.num("exitCode") != 0 && policy == "OnFailure") || restarts_itself(name) {
            continue;
        }
        if new.iter().any(|n| n.text("name") == name && !n.at("state").has("terminated")) {
            let why = "may not be transitioned to non-terminated state";
            e.push(forbidden(&p.index(i).child("state"), why));
        }
    }
}

fn addresses(status: &Value, many: &str, one: Option<&str>, p: &Path, e: &mut Errs) {
    let list: Vec<&str> = status.list(many).iter().map(|x| x.text("ip")).collect();
    let at = p.child(many);
    if let (Some(one), Some(first)) = (one, list.first())
        && status.text(one) != *first
    {
        e.push(invalid(&at.index(0).child("ip"), *first, format!("must be equal to `{one}`")));
    }
    for (i, s) in list.iter().enumerate() {
        ip::address(s, &at.index(i), e);
    }
    if list.len() > 1 {
        if list.len() > 2 || ip::is_dual_stack(&list) != Some(true) {
            let why = "may specify no more than one IP for each IP family";
            e.push(invalid(&at, status.at(many).clone(), why));
        }
        for (i, s) in list.iter().enumerate() {
            if list[..i].contains(s) {
                e.push(duplicate(&at.index(i), status.list(many)[i].clone()));
            }
        }
    }
}

fn mirrored(old: &Value) -> bool {
    old.at("metadata").at("annotations").has(MIRROR)
}

/// Checks an update of `ephemeralcontainers`: existing ones stay as they are.
pub(crate) fn validate_ephemeral(new: &Value, old: &Value, e: &mut Errs) {
    meta::validate_update(new, old, e);
    metadata_and_spec(new, e);
    if mirrored(old) {
        *e = vec![forbidden(&Path::root(), "static pods do not support ephemeral containers")];
        return;
    }
    let p = Path::new("spec").child("ephemeralContainers");
    let now = new.at("spec").list("ephemeralContainers");
    for was in old.at("spec").list("ephemeralContainers") {
        let name = was.text("name");
        match now.iter().find(|n| n.text("name") == name) {
            None => {
                e.push(forbidden(&p, format!("existing ephemeral containers {name:?} may not be removed\n")));
            }
            Some(n) if !same(n, was) => {
                let diff = changes(was, n, 8);
                let why = format!("existing ephemeral containers {name:?} may not be changed\n{diff}");
                e.push(forbidden(&p, why));
            }
            Some(_) => {}
        }
    }
}

/// Checks an update of `resize`: cpu and memory of containers and sidecars, without changing the Pod's class.
pub(crate) fn validate_resize(new: &Value, old: &Value, e: &mut Errs) {
    meta::validate_update(new, old, e);
    metadata_and_spec(new, e);
    let root = Path::root();
    if mirrored(old) {
        *e = vec![forbidden(&root, "static pods cannot be resized")];
        return;
    }
    if old.at("spec").at("os").text("name") == "windows" {
        *e = vec![forbidden(&root, "windows pods cannot be resized")];
        return;
    }
    let p = Path::new("spec");
    let class = old.at("status").text("qosClass");
    let class = if class.is_empty() { qos::class_of(old).as_str() } else { class };
    if class != qos::class_of(new).as_str() {
        let why = "Pod QOS Class may not change as a result of resizing";
        e.push(invalid(&p, new.at("status").text("qosClass"), why));
    }
    let running = old.at("status").list("containerStatuses").iter().find(|c| c.at("state").has("running"));
    if running.is_some_and(|c| !c.has("resources")) {
        e.push(forbidden(&p, "Pod running on node without support for resize"));
    }
    for list in ["initContainers", "containers"] {
        let sidecars = list == "initContainers";
        for (i, (n, o)) in new.at("spec").list(list).iter().zip(old.at("spec").list(list)).enumerate() {
            let resizable = !sidecars || o.text("restartPolicy") == "Always";
            if !resizable {
                if !same(n, o) {
                    e.push(forbidden(&p, "resources for non-sidecar init containers are immutable"));
                }
                continue;
            }
            container_resize(n, o, &p.child(list).index(i).child("resources"), e);
            let (mut a, mut b) = (n.clone(), o.clone());
            for c in [&mut a, &mut b] {
                drop_key(c, "resizePolicy");
                for which in ["limits", "requests"] {
                    for name in ["cpu", "memory"] {
                        if let Some(l) = c.get_mut("resources").and_then(|r| r.get_mut(which)) {
                            drop_key(l, name);
                        }
                    }
                }
            }
            if !same(&a, &b) {
                let why = if sidecars {
                    "only cpu and memory resources for sidecar containers are mutable"
                } else {
                    "only cpu and memory resources are mutable"
                };
                e.push(forbidden(&p, why));
            }
        }
    }
}

fn container_resize(new: &Value, old: &Value, p: &Path, e: &mut Errs) {
    let (n, o) = (new.at("resources"), old.at("resources"));
    for (field, what) in [("requests", "resource requests"), ("limits", "resource limits")] {
        if o.entries(field).into_iter().any(|(k, _)| !n.at(field).has(k)) {
            e.push(forbidden(&p.child(field), format!("{what} cannot be removed")));
        }
    }
}
