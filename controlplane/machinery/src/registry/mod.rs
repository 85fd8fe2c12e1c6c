//! The kinds the API serves: one row a kind, with its names, scope, verbs, subresources and place in the store.
//!
//! A row says what a kind *is*; what happens to its objects when they are written (defaulting, validation, status
//! rules) belongs to strake-strategy. Rows for custom resources are added to a copy of the built-in registry.

mod builtin;

pub(crate) use builtin::schema_name;

use std::fmt;
use std::sync::{Arc, OnceLock};

/// A set of API verbs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Verbs(u16);

impl Verbs {
    pub const NONE: Verbs = Verbs(0);
    pub const CREATE: Verbs = Verbs(1);
    pub const DELETE: Verbs = Verbs(1 << 1);
    pub const DELETECOLLECTION: Verbs = Verbs(1 << 2);
    pub const GET: Verbs = Verbs(1 << 3);
    pub const LIST: Verbs = Verbs(1 << 4);
    pub const PATCH: Verbs = Verbs(1 << 5);
    pub const UPDATE: Verbs = Verbs(1 << 6);
    pub const WATCH: Verbs = Verbs(1 << 7);
    /// What a stored kind has.
    pub const ALL: Verbs = Verbs(0xff);
    /// What a status or scale subresource has.
    pub const READ_WRITE: Verbs = Verbs(Self::GET.0 | Self::PATCH.0 | Self::UPDATE.0);

    const NAMES: [&'static str; 8] =
        ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

    pub const fn with(self, other: Verbs) -> Verbs {
        Verbs(self.0 | other.0)
    }

    pub const fn without(self, other: Verbs) -> Verbs {
        Verbs(self.0 & !other.0)
    }

    pub const fn contains(self, other: Verbs) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the verb of this name (`get`, `deletecollection` ...) is in the set.
    pub fn has(self, verb: &str) -> bool {
        Self::NAMES.iter().position(|n| *n == verb).is_some_and(|i| self.0 & (1 << i) != 0)
    }

    /// The names, in alphabetical order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().enumerate().filter(move |(i, _)| self.0 & (1 << i) != 0).map(|(_, n)| n)
    }
}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Where a scale subresource finds its numbers: paths of field names below the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// `["spec", "replicas"]`.
    pub spec: Vec<String>,
    /// `["status", "replicas"]`.
    pub status: Vec<String>,
    /// The selector, a LabelSelector object or (ReplicationController) a plain map.
    pub selector: Vec<String>,
}

/// A subresource, `pods/log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    pub name: String,
    /// Group, version and kind of what is sent and answered (`autoscaling/v1 Scale`, `policy/v1 Eviction`).
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: Verbs,
    /// Set for `scale`.
    pub scale: Option<ScalePaths>,
}

/// A row: one kind in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub kind: String,
    /// The resource's name in paths and RBAC, `deployments`.
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub verbs: Verbs,
    pub subresources: Vec<Subresource>,
    /// Whether objects of it are kept; the others (reviews, bindings, componentstatuses) are computed a request.
    pub stored: bool,
    /// `/registry/pods/`: keys are this, then `NAMESPACE/` if namespaced, then the name.
    pub storage_prefix: String,
    /// The version objects are stored in; differs from `version` where a group has two (autoscaling).
    pub storage_version: String,
    /// The group objects are stored in; differs from `group` for events.k8s.io.
    pub storage_group: String,
    /// Name in the schema table, `io.k8s.api.apps.v1.Deployment`; empty for custom resources.
    pub schema: String,
    /// Fields a field selector may name, besides metadata.name and metadata.namespace.
    pub selectable: Vec<String>,
}

impl Kind {
    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// The kind of a list of these.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    pub fn group_kind(&self) -> GroupKind<'_> {
        GroupKind { group: &self.group, kind: &self.kind }
    }

    pub fn group_resource(&self) -> GroupResource<'_> {
        GroupResource { group: &self.group, resource: &self.plural }
    }

    /// Whether this is the row of that group and kind, in any version.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresource(name).is_some()
    }

    /// The key of one object. `namespace` is ignored for cluster-scoped kinds.
    pub fn storage_key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}{namespace}/{name}", self.storage_prefix)
        } else {
            format!("{}{name}", self.storage_prefix)
        }
    }

    /// The prefix of the keys of a list: of one namespace, or of all with an empty one.
    pub fn storage_list_prefix(&self, namespace: &str) -> String {
        if self.namespaced && !namespace.is_empty() {
            format!("{}{namespace}/", self.storage_prefix)
        } else {
            self.storage_prefix.clone()
        }
    }

    /// Namespace and name of a key below `storage_prefix`.
    pub fn parse_storage_key<'a>(&self, key: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = key.strip_prefix(self.storage_prefix.as_str())?;
        if self.namespaced { rest.split_once('/') } else { Some(("", rest)) }
    }

    /// Path of the collection: `/apis/apps/v1/namespaces/NS/deployments` (empty namespace: of all).
    pub fn path(&self, namespace: &str) -> String {
        let base = if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.group) };
        if self.namespaced && !namespace.is_empty() {
            format!("{base}/{}/namespaces/{namespace}/{}", self.version, self.plural)
        } else {
            format!("{base}/{}/{}", self.version, self.plural)
        }
    }
}

/// `apps/v1`, or `v1` for the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Group and version of an `apiVersion`: `apps/v1` → (`apps`, `v1`), `v1` → (``, `v1`).
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// A kind in errors: `Deployment.apps`, `Pod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupKind<'a> {
    pub group: &'a str,
    pub kind: &'a str,
}

impl<'a> GroupKind<'a> {
    pub const fn new(group: &'a str, kind: &'a str) -> Self {
        GroupKind { group, kind }
    }
}

impl fmt::Display for GroupKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

impl<'a> From<&'a Kind> for GroupKind<'a> {
    fn from(k: &'a Kind) -> Self {
        k.group_kind()
    }
}

impl<'a> From<&'a Arc<Kind>> for GroupKind<'a> {
    fn from(k: &'a Arc<Kind>) -> Self {
        k.group_kind()
    }
}

/// A resource in errors: `deployments.apps`, `pods`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupResource<'a> {
    pub group: &'a str,
    pub resource: &'a str,
}

impl<'a> GroupResource<'a> {
    pub const fn new(group: &'a str, resource: &'a str) -> Self {
        GroupResource { group, resource }
    }
}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

impl<'a> From<&'a Kind> for GroupResource<'a> {
    fn from(k: &'a Kind) -> Self {
        k.group_resource()
    }
}

impl<'a> From<&'a Arc<Kind>> for GroupResource<'a> {
    fn from(k: &'a Arc<Kind>) -> Self {
        k.group_resource()
    }
}

/// A group with its versions, the preferred one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub versions: Vec<String>,
}

/// Every row, findable by path and by kind. Immutable; custom resources make a new one.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    kinds: Vec<Arc<Kind>>,
    groups: Vec<Group>,
    /// Places in `kinds`, sorted by group, version and plural; by group, version and kind.
    by_resource: Vec<usize>,
    by_kind: Vec<usize>,
}

fn resource_key(kind: &Kind) -> (&str, &str, &str) {
    (&kind.group, &kind.version, &kind.plural)
}

fn kind_key(kind: &Kind) -> (&str, &str, &str) {
    (&kind.group, &kind.version, &kind.kind)
}

impl Registry {
    /// The built-in kinds of the stable groups of Kubernetes 1.36, made once.
    pub fn builtin() -> &'static Registry {
        static BUILTIN: OnceLock<Registry> = OnceLock::new();
        BUILTIN.get_or_init(|| Registry::new(builtin::rows().into_iter().map(Arc::new)))
    }

    /// A registry of these rows. Groups appear in the order of their first row, and so do a group's versions.
    pub fn new(kinds: impl IntoIterator<Item = Arc<Kind>>) -> Self {
        let mut registry = Registry::default();
        for kind in kinds {
            match registry.groups.iter_mut().find(|g| g.name == kind.group) {
                Some(g) if g.versions.contains(&kind.version) => {}
                Some(g) => g.versions.push(kind.version.clone()),
                None => {
                    registry.groups.push(Group { name: kind.group.clone(), versions: vec![kind.version.clone()] });
                }
            }
            registry.kinds.push(kind);
        }
        let kinds = &registry.kinds;
        registry.by_resource = (0..kinds.len()).collect();
        registry.by_kind = registry.by_resource.clone();
        registry.by_resource.sort_by(|a, b| resource_key(&kinds[*a]).cmp(&resource_key(&kinds[*b])));
        registry.by_kind.sort_by(|a, b| kind_key(&kinds[*a]).cmp(&kind_key(&kinds[*b])));
        registry
    }

    /// This registry and these rows too.
    pub fn with(&self, more: impl IntoIterator<Item = Arc<Kind>>) -> Self {
        Registry::new(self.kinds.iter().cloned().chain(more))
    }

    /// All rows, in discovery order.
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// All groups, in priority order; the core group has the empty name.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.name == name)
    }

    /// Whether any row has this group and version.
    pub fn has_group_version(&self, group: &str, version: &str) -> bool {
        self.group(group).is_some_and(|g| g.versions.iter().any(|v| v == version))
    }

    /// The row of a path's group, version and resource (plural).
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        let wanted = (group, version, plural);
        let at = self.by_resource.binary_search_by(|i| resource_key(&self.kinds[*i]).cmp(&wanted)).ok()?;
        Some(&self.kinds[self.by_resource[at]])
    }

    /// The row of a group, version and kind.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let wanted = (group, version, kind);
        let at = self.by_kind.binary_search_by(|i| kind_key(&self.kinds[*i]).cmp(&wanted)).ok()?;
        Some(&self.kinds[self.by_kind[at]])
    }

    /// The row of an object's `apiVersion` and `kind`.
    pub fn by_type(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let (group, version) = split_api_version(api_version);
        self.kind(group, version, kind)
    }

    /// The row in the preferred version of a group's kind.
    pub fn preferred_kind(&self, group: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.group(group)?.versions.iter().find_map(|v| self.kind(group, v, kind))
    }

    /// The row in the preferred version of a group's resource (plural).
    pub fn preferred_resource(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.group(group)?.versions.iter().find_map(|v| self.resource(group, v, plural))
    }

    /// The rows of one group and version, in discovery order.
    pub fn in_group_version<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Kind>> {
        self.kinds.iter().filter(move |k| k.group == group && k.version == version)
    }

    /// The row that objects of `kind` are stored as (itself, unless the group has several versions).
    pub fn storage_kind(&self, kind: &Kind) -> Option<&Arc<Kind>> {
        self.kind(&kind.storage_group, &kind.storage_version, &kind.kind)
    }
}

#[cfg(test)]
mod tests;
