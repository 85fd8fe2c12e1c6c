//! The chain of authorizers: paths open to all, system:masters, Node, RBAC. The first to allow decides.

use crate::{
    Attributes, Denied, Lookup, ResolvedRules, UserInfo, groups, node,
    rbac::{Policy, Verdict},
};
use parking_lot::RwLock;
use std::sync::Arc;

/// Paths that need no permission, as the stock `--authorization-always-allow-paths`.
const OPEN_PATHS: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allowed {
        reason: String,
    },
    /// Nobody allows it.
    Denied {
        reason: String,
    },
}

impl Decision {
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Allowed { reason } | Self::Denied { reason } => reason,
        }
    }
}

/// Decides who may do what.
pub struct Authorizer {
    lookup: Arc<dyn Lookup>,
    policy: RwLock<Arc<Policy>>,
}

impl Authorizer {
    pub fn new(lookup: Arc<dyn Lookup>) -> Self {
        let policy = RwLock::new(Arc::new(Policy::build(&*lookup)));
        Self { lookup, policy }
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        let policy = self.policy.read().clone();
        if policy.is_current(&*self.lookup) {
            return policy;
        }
        let built = Arc::new(Policy::build(&*self.lookup));
        *self.policy.write() = built.clone();
        built
    }

    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let allowed = |reason: String| Decision::Allowed { reason };
        if attributes.user.in_group(groups::MASTERS) {
            return allowed(String::new());
        }
        if !attributes.is_resource && OPEN_PATHS.contains(&attributes.path) {
            return allowed(String::new());
        }
        let mut reasons = Vec::new();
        match node::authorize(attributes, &*self.lookup) {
            node::Verdict::Allowed => return allowed(String::new()),
            node::Verdict::NoOpinion(reason) => reasons.push(reason),
        }
        match self.policy().authorize(attributes) {
            Verdict::Allowed(reason) => return allowed(reason),
            Verdict::NoOpinion(reason) => reasons.push(reason),
        }
        reasons.retain(|reason| !reason.is_empty());
        Decision::Denied { reason: reasons.join("\n") }
    }

    /// As [`Self::authorize`], with the 403 ready to be sent.
    pub fn require(&self, attributes: &Attributes<'_>) -> Result<(), Denied> {
        match self.authorize(attributes) {
            Decision::Allowed { .. } => Ok(()),
            Decision::Denied { reason } => Err(attributes.denied(&reason)),
        }
    }

    /// What RBAC lets a user do in a namespace (empty: cluster-wide grants only).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> ResolvedRules {
        self.policy().rules_for(user, namespace)
    }
}
