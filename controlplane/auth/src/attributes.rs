//! What a request asks to do, and the words in which it is denied.

use crate::UserInfo;

/// One question to the authorizer. For a request that is not about a resource only `user`, `verb` and `path` count.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    pub user: &'a UserInfo,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or a special verb; for a
    /// non-resource request the HTTP method in lower case.
    pub verb: &'a str,
    /// Empty for the core group.
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    /// Empty for cluster-scoped requests.
    pub namespace: &'a str,
    /// Empty for create and for lists; a list or watch whose field selector fixes `metadata.name` has that name here.
    pub name: &'a str,
    /// Whether it is about a resource.
    pub is_resource: bool,
    /// The path of a non-resource request, such as `/healthz`.
    pub path: &'a str,
    /// The requirements `field = value` of a list's, watch's or deletecollection's field selector.
    pub fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Attributes<'a> {
    pub fn resource(user: &'a UserInfo, verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Self {
            user,
            verb,
            group,
            version: "v1",
            resource,
            subresource: "",
            namespace: "",
            name: "",
            is_resource: true,
            path: "",
            fields: Vec::new(),
        }
    }

    pub fn non_resource(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Self {
        Self { is_resource: false, path, version: "", ..Self::resource(user, verb, "", "") }
    }

    pub fn version(mut self, version: &'a str) -> Self {
        self.version = version;
        self
    }

    pub fn subresource(mut self, subresource: &'a str) -> Self {
        self.subresource = subresource;
        self
    }

    pub fn namespace(mut self, namespace: &'a str) -> Self {
        self.namespace = namespace;
        self
    }

    pub fn name(mut self, name: &'a str) -> Self {
        self.name = name;
        self
    }

    pub fn fields(mut self, fields: Vec<(&'a str, &'a str)>) -> Self {
        self.fields = fields;
        self
    }

    /// `pods`, `pods/log`.
    pub fn combined_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The refusal, in the API's words.
    pub fn denied(&self, reason: &str) -> Denied {
        let user = go_quoted(&self.user.name);
        let mut cause = if !self.is_resource {
            format!("User {user} cannot {} path {}", self.verb, go_quoted(self.path))
        } else {
            let scope = if self.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {}", go_quoted(self.namespace))
            };
            format!(
                "User {user} cannot {} resource {} in API group {} {scope}",
                self.verb,
                go_quoted(&self.combined_resource()),
                go_quoted(self.group)
            )
        };
        if !reason.is_empty() {
            cause = format!("{cause}: {reason}");
        }
        Denied::new(self.group, self.resource, self.name, cause)
    }
}

/// Text in double quotes, with quotes and control characters escaped.
pub(crate) fn go_quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A 403. `message` is the Status message; the other fields are its details.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Denied {
    pub message: String,
    pub group: String,
    /// The Status' `details.kind`.
    pub resource: String,
    pub name: String,
}

impl Denied {
    /// `RESOURCE.GROUP "NAME" is forbidden: CAUSE`, as upstream's errors.NewForbidden.
    pub fn new(group: &str, resource: &str, name: &str, cause: impl std::fmt::Display) -> Self {
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let message = match (resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {cause}"),
            (false, true) => format!("{qualified} is forbidden: {cause}"),
            (false, false) => format!("{qualified} {} is forbidden: {cause}", go_quoted(name)),
        };
        Self { message, group: group.into(), resource: resource.into(), name: name.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_reads_as_everywhere() {
        let x = UserInfo::new("x", &[]);
        let list = Attributes::resource(&x, "list", "", "pods").namespace("default");
        assert_eq!(
            list.denied("").message,
            "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
        let scale =
            Attributes::resource(&x, "get", "apps", "deployments").subresource("scale").namespace("a").name("b");
        assert_eq!(
            scale.denied("why").message,
            "deployments.apps \"b\" is forbidden: User \"x\" cannot get resource \"deployments/scale\" in API group \
             \"apps\" in the namespace \"a\": why"
        );
        let nodes = Attributes::resource(&x, "list", "", "nodes");
        assert!(nodes.denied("").message.ends_with("in API group \"\" at the cluster scope"));
        let path = Attributes::non_resource(&x, "get", "/metrics");
        assert_eq!(path.denied("").message, "forbidden: User \"x\" cannot get path \"/metrics\"");
    }
}
