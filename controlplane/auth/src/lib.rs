//! Who is asking, and may they: authentication, authorization, and the objects a new cluster begins with.
//!
//! What it is for: deciding. Every function here takes values and returns a value; what the cluster contains is asked
//! through [`Lookup`], which the API server answers from its watch cache. What it must not know: HTTP servers, TLS
//! handshakes, the store.
//!
//! ```text
//!   certificate, headers ──► Authenticator ──► UserInfo ──► impersonate ──► UserInfo
//!   UserInfo + verb, resource, name ──► Authorizer: system:masters, Node, RBAC ──► Decision
//!   writes of roles and bindings ──► escalation;   writes by kubelets ──► node_restriction
//! ```

#![forbid(unsafe_code)]

mod attributes;
mod authenticator;
mod authorizer;
pub mod bootstrap;
mod escalation;
mod impersonation;
mod lookup;
mod node;
mod node_restriction;
mod rbac;
mod review;
mod rules;
mod user;

pub use attributes::{Attributes, Denied};
pub use authenticator::{AuthenticatedToken, Authenticator, AuthenticatorConfig, ConfigError, Unauthorized};
pub use authorizer::{Authorizer, Decision};
pub use impersonation::{ImpersonationError, impersonate};
pub use lookup::Lookup;
pub use node::node_name;
pub use node_restriction::{Operation, Write, node_restriction};
pub use rbac::ResolvedRules;
pub use rules::PolicyRule;
pub use user::{UserInfo, groups, names};
