//! The paths of a kind, and what can be done at each.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Dialect, schemas};
use crate::patch::PatchType;
use crate::registry::{Kind, Subresource, Verbs};
use crate::schema::{Schema, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Parameters of the verbs: name and type.
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

const NO_PARAMETERS: &[(&str, &str)] = &[];

/// An operation to be written.
struct Operation<'a> {
    /// HTTP method, lower case.
    method: &'static str,
    /// `list`, `read`, `create`, `replace`, `patch`, `delete`, `deleteCollection`, `connect`.
    verb: &'static str,
    /// What `x-kubernetes-action` says.
    action: &'static str,
    parameters: Vec<(String, &'static str)>,
    body: Option<&'a str>,
    answer: &'a str,
}

struct Writer<'a> {
    kind: &'a Kind,
    dialect: Dialect,
    wanted: &'a mut BTreeSet<String>,
}

/// Write the paths of `kind` into `out`, and the schemas they need into `wanted`.
pub(super) fn of_kind(kind: &Kind, dialect: Dialect, out: &mut Map<String, Value>, wanted: &mut BTreeSet<String>) {
    if kind.schema.is_empty() {
        return;
    }
    let mut writer = Writer { kind, dialect, wanted };
    let list_schema = format!("{}List", kind.schema);
    let collection = kind.path(if kind.namespaced { "{namespace}" } else { "" });
    let mut operations = Vec::new();
    if kind.verbs.contains(Verbs::DELETECOLLECTION) {
        let options = format!("{META}.DeleteOptions");
        let parameters = [LIST, DELETE].concat();
        operations.push(writer.operation(
            "delete",
            "deleteCollection",
            "deletecollection",
            &parameters,
            Some(&options),
            &format!("{META}.Status"),
            kind.namespaced,
        ));
    }
    if kind.verbs.contains(Verbs::LIST) {
        operations.push(writer.operation("get", "list", "list", LIST, None, &list_schema, kind.namespaced));
    }
    if kind.verbs.contains(Verbs::CREATE) {
        operations.push(writer.operation(
            "post",
            "create",
            "post",
            WRITE,
            Some(&kind.schema),
            &kind.schema,
            kind.namespaced,
        ));
    }
    writer.path(out, collection.clone(), operations, None);
    if kind.namespaced && kind.verbs.contains(Verbs::LIST) {
        let all = writer.operation("get", "list", "list", LIST, None, &list_schema, false);
        writer.path(out, kind.path(""), vec![all], None);
    }
    let item = format!("{collection}/{{name}}");
    let mut operations = Vec::new();
    for (verb, method) in
        [(Verbs::DELETE, "delete"), (Verbs::GET, "get"), (Verbs::PATCH, "patch"), (Verbs::UPDATE, "put")]
    {
        if kind.verbs.contains(verb) {
            operations.push(writer.item_operation(method, &kind.schema, &kind.schema));
        }
    }
    writer.path(out, item.clone(), operations, None);
    for sub in &kind.subresources {
        writer.subresource(out, &item, sub);
    }
}

/// The legacy discovery document of a group and version.
pub(super) fn resource_list(group: &str, version: &str, dialect: Dialect, out: &mut Map<String, Value>) {
    let path = if group.is_empty() { format!("/api/{version}/") } else { format!("/apis/{group}/{version}/") };
    let answer = match dialect {
        Dialect::V2 => json!({"200": {"description": "OK"}, "401": {"description": "Unauthorized"}}),
        Dialect::V3 => json!({"200": {"description": "OK", "content": {"application/json": {}}}}),
    };
    let id = format!("get{}APIResources", camel(group, version));
    out.insert(path, json!({"get": {"operationId": id, "tags": [tag(group, version)], "responses": answer}}));
}

fn tag(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    format!("{group}_{version}")
}

/// `AppsV1`, `CoreV1`.
fn camel(group: &str, version: &str) -> String {
    let upper = |s: &str| {
        let mut chars = s.chars();
        chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
    };
    let group = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    format!("{}{}", upper(group), upper(version))
}

impl Writer<'_> {
    fn item_operation(&mut self, method: &'static str, sent: &str, answered: &str) -> (&'static str, Value) {
        let namespaced = self.kind.namespaced;
        let options = format!("{META}.DeleteOptions");
        match method {
            "delete" => {
                let status = format!("{META}.Status");
                self.operation("delete", "delete", "delete", DELETE, Some(&options), &status, namespaced)
            }
            "patch" => self.operation("patch", "patch", "patch", PATCH, Some(schemas::PATCH), answered, namespaced),
            "put" => self.operation("put", "replace", "put", WRITE, Some(sent), answered, namespaced),
            _ => self.operation("get", "read", "get", NO_PARAMETERS, None, answered, namespaced),
        }
    }

    fn subresource(&mut self, out: &mut Map<String, Value>, item: &str, sub: &Subresource) {
        let schema = crate::registry::schema_name(&sub.group, &sub.version, &sub.kind);
        let connects = sub.kind.ends_with("Options") || sub.name == "log";
        let mut operations = Vec::new();
        if connects {
            let options = if sub.name == "log" { schema.replace(".Pod", ".PodLogOptions") } else { schema };
            let parameters = option_parameters(&options);
            for (verb, method) in [
                (Verbs::DELETE, "delete"),
                (Verbs::GET, "get"),
                (Verbs::PATCH, "patch"),
                (Verbs::CREATE, "post"),
                (Verbs::UPDATE, "put"),
            ] {
                if sub.verbs.contains(verb) {
                    let (verb, action) = if sub.name == "log" { ("read", "get") } else { ("connect", "connect") };
                    operations.push(self.operation(method, verb, action, &parameters, None, "", self.kind.namespaced));
                }
            }
        } else {
            for (verb, method) in [(Verbs::GET, "get"), (Verbs::PATCH, "patch"), (Verbs::UPDATE, "put")] {
                if sub.verbs.contains(verb) {
                    operations.push(self.item_operation(method, &schema, &schema));
                }
            }
            if sub.verbs.contains(Verbs::CREATE) {
                let namespaced = self.kind.namespaced;
                operations.push(self.operation("post", "create", "post", WRITE, Some(&schema), &schema, namespaced));
            }
        }
        self.path(out, format!("{item}/{}", sub.name), operations, Some(sub));
    }

    /// A path with its operations, the parameters of the path beside them.
    fn path(
        &self,
        out: &mut Map<String, Value>,
        path: String,
        operations: Vec<(&'static str, Value)>,
        sub: Option<&Subresource>,
    ) {
        if operations.is_empty() {
            return;
        }
        let (group, version, kind) = match sub {
            Some(s) => (&s.group, &s.version, &s.kind),
            None => (&self.kind.group, &self.kind.version, &self.kind.kind),
        };
        let mut object = Map::new();
        for (method, mut operation) in operations {
            operation["x-kubernetes-group-version-kind"] = json!({"group": group, "version": version, "kind": kind});
            if let Some(sub) = sub {
                let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
                let mut name = sub.name.clone();
                name[..1].make_ascii_uppercase();
                operation["operationId"] = json!(format!("{id}{name}"));
            }
            object.insert(method.into(), operation);
        }
        let mut parameters = Vec::new();
        for name in ["name", "namespace"] {
            if path.contains(&format!("{{{name}}}")) {
                let mut parameter = self.parameter(name, "string", "path");
                parameter["required"] = json!(true);
                parameters.push(parameter);
            }
        }
        parameters.push(self.parameter("pretty", "string", "query"));
        object.insert("parameters".into(), json!(parameters));
        out.insert(path, Value::Object(object));
    }

    fn parameter(&self, name: &str, ty: &str, place: &str) -> Value {
        match self.dialect {
            Dialect::V2 => json!({"name": name, "in": place, "type": ty, "uniqueItems": true}),
            Dialect::V3 => json!({"name": name, "in": place, "schema": {"type": ty, "uniqueItems": true}}),
        }
    }

    fn operation(
        &mut self,
        method: &'static str,
        verb: &'static str,
        action: &'static str,
        parameters: &[(impl AsRef<str>, &'static str)],
        body: Option<&str>,
        answer: &str,
        in_namespace: bool,
    ) -> (&'static str, Value) {
        let parameters = parameters.iter().map(|(n, t)| (n.as_ref().to_owned(), *t)).collect();
        let operation = Operation { method, verb, action, parameters, body, answer };
        for name in [operation.body, Some(operation.answer)].into_iter().flatten().filter(|n| !n.is_empty()) {
            self.wanted.insert(name.to_owned());
        }
        (method, self.write(&operation, in_namespace))
    }

    fn write(&self, o: &Operation<'_>, in_namespace: bool) -> Value {
        let kind = self.kind;
        let scope = if in_namespace { "Namespaced" } else { "" };
        let everywhere = if kind.namespaced && !in_namespace { "ForAllNamespaces" } else { "" };
        let id = match o.verb {
            "deleteCollection" => {
                format!("delete{}Collection{scope}{}", camel(&kind.group, &kind.version), kind.kind)
            }
            "connect" => {
                let mut method = o.method.to_owned();
                method[..1].make_ascii_uppercase();
                format!("connect{}{method}{scope}{}", camel(&kind.group, &kind.version), kind.kind)
            }
            verb => format!("{verb}{}{scope}{}{everywhere}", camel(&kind.group, &kind.version), kind.kind),
        };
        let mut parameters: Vec<Value> = o.parameters.iter().map(|(n, t)| self.parameter(n, t, "query")).collect();
        let mut out = Map::new();
        out.insert("operationId".into(), json!(id));
        out.insert("tags".into(), json!([tag(&kind.group, &kind.version)]));
        out.insert("x-kubernetes-action".into(), json!(o.action));
        let sent: &[&str] = if o.method == "patch" {
            &[PatchType::APPLY_YAML, PatchType::JSON, PatchType::MERGE, PatchType::STRATEGIC]
        } else {
            &["*/*"]
        };
        let answered = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
        let answer = (!o.answer.is_empty()).then(|| self.dialect.reference(o.answer));
        match self.dialect {
            Dialect::V2 => {
                if let Some(body) = o.body {
                    let optional = o.method == "delete";
                    parameters.push(json!({"name": "body", "in": "body", "required": !optional,
                        "schema": self.dialect.reference(body)}));
                }
                out.insert("consumes".into(), json!(sent));
                out.insert("produces".into(), json!(answered));
                out.insert("schemes".into(), json!(["https"]));
                let ok = match answer {
                    Some(schema) => json!({"description": "OK", "schema": schema}),
                    None => json!({"description": "OK", "schema": {"type": "string"}}),
                };
                out.insert("responses".into(), json!({"200": ok, "401": {"description": "Unauthorized"}}));
            }
            Dialect::V3 => {
                if let Some(body) = o.body {
                    let content: Map<String, Value> = sent
                        .iter()
                        .map(|t| ((*t).to_owned(), json!({"schema": self.dialect.reference(body)})))
                        .collect();
                    out.insert("requestBody".into(), json!({"content": content, "required": o.method != "delete"}));
                }
                let content: Map<String, Value> = match answer {
                    Some(schema) => answered.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect(),
                    None => Map::from_iter([("*/*".to_owned(), json!({"schema": {"type": "string"}}))]),
                };
                let ok = json!({"description": "OK", "content": content});
                out.insert("responses".into(), json!({"200": ok, "401": {"description": "Unauthorized"}}));
            }
        }
        if !parameters.is_empty() {
            out.insert("parameters".into(), json!(parameters));
        }
        Value::Object(out)
    }
}

/// The query parameters of a connecting subresource are the fields of its options.
fn option_parameters(schema_name: &str) -> Vec<(String, &'static str)> {
    let Some(message) = Schema::get().message(schema_name) else { return Vec::new() };
    Schema::get()
        .json_fields(message)
        .map(|field| {
            let ty = match field.ty {
                Type::Bool => "boolean",
                Type::Int32 | Type::Int64 => "integer",
                _ => "string",
            };
            (field.name.to_owned(), ty)
        })
        .collect()
}
