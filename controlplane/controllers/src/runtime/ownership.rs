//! Owner references: who controls an object, and what a controller may adopt or must release.

use super::labels::{self, Labels};
use super::{Doing, Informer, Key, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;

/// The owner reference with `controller: true`, if any.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|r| r.controller == Some(true))
}

/// Whether the object's controller has this uid.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|r| r.uid == uid)
}

/// A controlling, deletion-blocking reference to `owner`.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What to do with one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is ours and matches.
    Keep,
    /// Nobody's, and it matches.
    Adopt,
    /// Ours, and it no longer matches.
    Release,
    /// Not ours.
    Ignore,
}

/// Decides about one object, as upstream's ControllerRefManager does.
pub fn decide(owner: &ObjectMeta, selector: &LabelSelector, object: &ObjectMeta) -> Claim {
    let matching = |l: Option<&Labels>| labels::matches(selector, l);
    match controller_of(object) {
        Some(r) if Some(&r.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matching(object.labels.as_ref()) => Claim::Keep,
        Some(_) if owner.deletion_timestamp.is_some() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner.deletion_timestamp.is_some() || !matching(object.labels.as_ref()) => Claim::Ignore,
        None if object.deletion_timestamp.is_some() => Claim::Ignore,
        None if object.namespace != owner.namespace => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Claims `candidates` for `owner`: the ones that are (now) its own. Before the first adoption the owner is
/// read afresh, so that one deleted and created again under the same name adopts nothing for the old one.
pub async fn claim<O, K>(
    owners: &Api<O>,
    owner: &O,
    selector: &LabelSelector,
    objects: &Api<K>,
    store: &Informer<K>,
    candidates: Vec<Arc<K>>,
) -> Result<Vec<Arc<K>>>
where
    O: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut ours = Vec::new();
    let mut may_adopt = None;
    for object in candidates {
        let key = Key::of(object.meta());
        match decide(owner.meta(), selector, object.meta()) {
            Claim::Keep => ours.push(object),
            Claim::Ignore => {}
            Claim::Adopt => {
                if may_adopt.is_none() {
                    may_adopt = Some(still_there(owners, owner).await?);
                }
                if may_adopt == Some(true)
                    && let Some(o) =
                        patch(objects, store, &key, &object, adoption(owner, object.meta()), "adopting").await?
                {
                    ours.push(o);
                }
            }
            Claim::Release => {
                patch(objects, store, &key, &object, release(owner.meta(), object.meta()), "releasing").await?;
            }
        }
    }
    Ok(ours)
}

async fn still_there<O>(owners: &Api<O>, owner: &O) -> Result<bool>
where
    O: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let name = owner.meta().name.clone().unwrap_or_default();
    let fresh = owners.get_opt(&name).await.doing(|| format!("reading {} {name} before adopting", O::kind(&())))?;
    Ok(fresh.is_some_and(|f| f.meta().uid == owner.meta().uid && f.meta().deletion_timestamp.is_none()))
}

fn adoption<O: Resource<DynamicType = ()>>(owner: &O, object: &ObjectMeta) -> serde_json::Value {
    let mut refs = object.owner_references.clone().unwrap_or_default();
    refs.push(controller_reference(owner));
    serde_json::json!({"metadata": {"uid": object.uid, "ownerReferences": refs}})
}

fn release(owner: &ObjectMeta, object: &ObjectMeta) -> serde_json::Value {
    serde_json::json!({"metadata": {
        "uid": object.uid,
        "ownerReferences": [{"$patch": "delete", "uid": owner.uid}],
    }})
}

/// Strategic merge on uid: concurrent changes of other references survive; a wrong uid is refused.
async fn patch<K>(
    api: &Api<K>,
    store: &Informer<K>,
    key: &Key,
    object: &K,
    body: serde_json::Value,
    act: &str,
) -> Result<Option<Arc<K>>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let answer = api
        .patch(&key.name, &PatchParams::default(), &Patch::Strategic(body))
        .await
        .doing(|| format!("{act} {} {key}", K::kind(&())));
    match answer {
        Ok(new) => {
            store.wrote(new.clone());
            Ok(Some(Arc::new(new)))
        }
        // Gone, or another object took its name (the uid in the patch no longer fits).
        Err(e) if e.is_not_found() => {
            store.removed(key, object.meta().uid.as_deref().unwrap_or_default());
            Ok(None)
        }
        Err(e) if e.code() == 422 => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, app: &str, owner: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            namespace: Some("default".into()),
            labels: Some([("app".to_string(), app.to_string())].into()),
            owner_references: owner
                .map(|o| vec![OwnerReference { uid: o.into(), controller: Some(true), ..Default::default() }]),
            ..Default::default()
        }
    }

    #[test]
    fn claims_follow_controller_and_labels() {
        let selector =
            LabelSelector { match_labels: Some([("app".to_string(), "web".to_string())].into()), ..Default::default() };
        let mut owner = meta("o", "x", None);
        assert_eq!(decide(&owner, &selector, &meta("a", "web", Some("o"))), Claim::Keep);
        assert_eq!(decide(&owner, &selector, &meta("a", "web", None)), Claim::Adopt);
        assert_eq!(decide(&owner, &selector, &meta("a", "db", Some("o"))), Claim::Release);
        assert_eq!(decide(&owner, &selector, &meta("a", "web", Some("p"))), Claim::Ignore);
        owner.deletion_timestamp = Some(crate::runtime::now());
        assert_eq!(decide(&owner, &selector, &meta("a", "web", None)), Claim::Ignore);
        assert_eq!(decide(&owner, &selector, &meta("a", "db", Some("o"))), Claim::Ignore);
    }
}
