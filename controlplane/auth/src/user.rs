//! The user a request is made by.

use std::collections::BTreeMap;

/// Well-known groups.
pub mod groups {
    pub const MASTERS: &str = "system:masters";
    pub const AUTHENTICATED: &str = "system:authenticated";
    pub const UNAUTHENTICATED: &str = "system:unauthenticated";
    pub const NODES: &str = "system:nodes";
    pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
    pub const BOOTSTRAPPERS: &str = "system:bootstrappers";
    pub const STRAKE_AGENTS: &str = "system:strake-agents";
}

/// Well-known users and the prefixes of others.
pub mod names {
    pub const ANONYMOUS: &str = "system:anonymous";
    pub const NODE_PREFIX: &str = "system:node:";
    pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
    pub const BOOTSTRAP_PREFIX: &str = "system:bootstrap:";
    pub const STRAKE_AGENT_PREFIX: &str = "system:strake-agent:";
}

/// Keys of [`UserInfo::extra`] that a ServiceAccount token sets.
pub(crate) mod extra {
    pub(crate) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
    pub(crate) const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
    pub(crate) const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
    pub(crate) const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
    pub(crate) const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
}

/// As `UserInfo` of authentication.k8s.io/v1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user with a name and groups.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..Self::default() }
    }

    pub fn anonymous() -> Self {
        Self::new(names::ANONYMOUS, &[groups::UNAUTHENTICATED])
    }

    /// A ServiceAccount's user, as its tokens and certificates name it.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let mut user = Self::new(format!("{}{namespace}:{name}", names::SERVICE_ACCOUNT_PREFIX), &[]);
        user.groups = service_account_groups(namespace);
        user
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Namespace and name, if it is a ServiceAccount.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        split_service_account(&self.name)
    }

    /// As the JSON of authentication.k8s.io/v1 (TokenReview, SelfSubjectReview, admission, audit).
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::Map::new();
        json.insert("username".into(), self.name.clone().into());
        if !self.uid.is_empty() {
            json.insert("uid".into(), self.uid.clone().into());
        }
        if !self.groups.is_empty() {
            json.insert("groups".into(), self.groups.clone().into());
        }
        if !self.extra.is_empty() {
            let extra: serde_json::Map<_, _> = self.extra.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
            json.insert("extra".into(), extra.into());
        }
        json.into()
    }

    pub(crate) fn add_group(&mut self, group: &str) {
        if !self.in_group(group) {
            self.groups.push(group.to_owned());
        }
    }
}

pub(crate) fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![groups::SERVICE_ACCOUNTS.to_owned(), format!("{}:{namespace}", groups::SERVICE_ACCOUNTS)]
}

pub(crate) fn split_service_account(name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = name.strip_prefix(names::SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}
