//! CustomResourceDefinitions: names, versions, the presence of schemas. Whether a schema is structural and its rules
//! compile is for the part that serves custom resources.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, forbidden, immutable, invalid, need_text, not_supported, one_of, required};
use crate::format;
use crate::walk::{Walk, default_text, default_to, drop_key, each, is_empty, object_mut, put, with};

/// Fills a CustomResourceDefinition.
pub(crate) fn default(obj: &mut Value) {
    let Some(s) = object_mut(obj, "spec") else { return };
    if let Some(names) = object_mut(s, "names") {
        let kind = names.text("kind").to_owned();
        default_text(names, "singular", &kind.to_lowercase());
        if !kind.is_empty() {
            default_text(names, "listKind", &format!("{kind}List"));
        }
        if names.text("singular").is_empty() {
            drop_key(names, "singular");
        }
    }
    if let Some(conversion) = object_mut(s, "conversion") {
        default_text(conversion, "strategy", "None");
        with(conversion, "webhook", |w| {
            with(w, "clientConfig", |c| with(c, "service", |x| default_to(x, "port", 443)))
        });
    }
    each(s, "versions", |v| {
        each(v, "additionalPrinterColumns", |c| {
            if c.int("priority") == Some(0) {
                drop_key(c, "priority");
            }
        });
    });
}

/// A new definition has been stored in its storage version.
pub(crate) fn prepare_create(obj: &mut Value) {
    record_storage_version(obj, &json!({}));
}

/// Every version that was ever stored stays recorded.
pub(crate) fn prepare_update(new: &mut Value, old: &Value) {
    record_storage_version(new, old.at("status"));
}

fn record_storage_version(obj: &mut Value, was: &Value) {
    let storage: Option<String> =
        obj.at("spec").list("versions").iter().find(|v| v.is_true("storage")).map(|v| v.text("name").to_owned());
    let mut all: Vec<String> = was.texts("storedVersions").into_iter().map(str::to_owned).collect();
    if let Some(name) = storage
        && !all.contains(&name)
    {
        all.push(name);
    }
    with(obj, "status", |s| put(s, "storedVersions", json!(all)));
}

/// Checks a CustomResourceDefinition.
pub(crate) fn validate(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    let (names, np) = (s.at("names"), p.child("names"));
    let (name, group, plural) = (obj.at("metadata").text("name"), s.text("group"), names.text("plural"));
    if old.is_none() && !name.is_empty() && name != format!("{plural}.{group}") {
        let why = "must be spec.names.plural+\".\"+spec.group".to_owned();
        e.push(invalid(&Path::new("metadata").child("name"), name, why));
    }
    if group.is_empty() {
        e.push(required(&p.child("group"), ""));
    } else {
        let errors = format::dns_subdomain(group);
        if !errors.is_empty() {
            e.push(invalid(&p.child("group"), group, errors.join(",")));
        } else if group.split('.').count() < 2 {
            e.push(invalid(&p.child("group"), group, "should be a domain with at least one dot"));
        }
    }
    one_of(e, &p.child("scope"), s.text("scope"), &["Cluster", "Namespaced"]);
    versions(s, &p, e);
    spec_names(names, &np, e);
    conversion(s.at("conversion"), &p.child("conversion"), e);
    if let Some(old) = old {
        let o = old.at("spec");
        // Once its names are accepted and objects may exist, they stay.
        let established = old
            .at("status")
            .list("conditions")
            .iter()
            .any(|c| c.text("type") == "Established" && c.text("status") == "True");
        if established {
            immutable(e, &p.child("scope"), s.at("scope"), o.at("scope"));
            immutable(e, &np.child("kind"), names.at("kind"), o.at("names").at("kind"));
        }
        immutable(e, &p.child("group"), s.at("group"), o.at("group"));
        immutable(e, &np.child("plural"), names.at("plural"), o.at("names").at("plural"));
        for (i, v) in obj.at("status").texts("storedVersions").into_iter().enumerate() {
            if !s.list("versions").iter().any(|x| x.text("name") == v) {
                let at = Path::new("status").child("storedVersions").index(i);
                e.push(invalid(&at, v, "must appear in spec.versions"));
            }
        }
    }
}

fn versions(s: &Value, p: &Path, e: &mut Errs) {
    let (list, at) = (s.list("versions"), p.child("versions"));
    let (mut storage, mut unique, mut seen) = (0, true, BTreeSet::new());
    for (i, v) in list.iter().enumerate() {
        let (vp, name) = (at.index(i), v.text("name"));
        storage += usize::from(v.is_true("storage"));
        unique &= seen.insert(name);
        let errors = format::dns1035_label(name);
        if !errors.is_empty() {
            e.push(invalid(&vp.child("name"), name, errors.join(",")));
        }
        if v.has("deprecationWarning") && !v.is_true("deprecated") {
            let why = "can only be set for deprecated versions";
            e.push(invalid(&vp.child("deprecationWarning"), v.text("deprecationWarning"), why));
        }
        if is_empty(v.at("schema").at("openAPIV3Schema")) {
            e.push(required(&vp.child("schema").child("openAPIV3Schema"), ""));
        } else {
            root_schema(v.path(&["schema", "openAPIV3Schema"]), &vp.child("schema").child("openAPIV3Schema"), e);
        }
        subresources(v.at("subresources"), &vp.child("subresources"), e);
        for (n, c) in v.list("additionalPrinterColumns").iter().enumerate() {
            column(c, &vp.child("additionalPrinterColumns").index(n), e);
        }
        for (n, f) in v.list("selectableFields").iter().enumerate() {
            if f.text("jsonPath").is_empty() {
                e.push(required(&vp.child("selectableFields").index(n).child("jsonPath"), ""));
            }
        }
    }
    if list.is_empty() {
        e.push(required(&at, "must have exactly one version marked as storage version"));
    } else {
        if !unique {
            e.push(invalid(&at, s.at("versions").clone(), "must contain unique version names"));
        }
        if storage != 1 {
            let why = "must have exactly one version marked as storage version";
            e.push(invalid(&at, s.at("versions").clone(), why));
        }
    }
}

fn root_schema(schema: &Value, p: &Path, e: &mut Errs) {
    match schema.text("type") {
        "" => e.push(required(&p.child("type"), "must not be empty at the root")),
        "object" => {}
        other => e.push(invalid(&p.child("type"), other, "must be object at the root")),
    }
    if schema.is_true("nullable") {
        e.push(forbidden(&p.child("nullable"), "nullable cannot be true at the root"));
    }
}

fn subresources(v: &Value, p: &Path, e: &mut Errs) {
    let (scale, at) = (v.at("scale"), p.child("scale"));
    if scale.is_null() {
        return;
    }
    for (field, root) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let path = scale.text(field);
        if path.is_empty() {
            e.push(required(&at.child(field), ""));
        } else if !path.starts_with(root) {
            let why = format!("should be a json path under {}", root.trim_end_matches('.'));
            e.push(invalid(&at.child(field), path, why));
        }
    }
    let path = scale.text("labelSelectorPath");
    if !path.is_empty() && ![".spec.", ".status."].iter().any(|r| path.starts_with(r)) {
        e.push(invalid(&at.child("labelSelectorPath"), path, "should be a json path under either .spec or .status"));
    }
}

fn column(c: &Value, p: &Path, e: &mut Errs) {
    need_text(e, p, c, "name");
    const TYPES: &[&str] = &["integer", "number", "string", "boolean", "date"];
    const FORMATS: &[&str] = &["int32", "int64", "float", "double", "byte", "date", "date-time", "password"];
    let kind = c.text("type");
    if kind.is_empty() {
        e.push(required(&p.child("type"), format!("must be one of {}", TYPES.join(","))));
    } else if !TYPES.contains(&kind) {
        e.push(invalid(&p.child("type"), kind, format!("must be one of {}", TYPES.join(","))));
    }
    let form = c.text("format");
    if !form.is_empty() && !FORMATS.contains(&form) {
        e.push(invalid(&p.child("format"), form, format!("must be one of {}", FORMATS.join(","))));
    }
    need_text(e, p, c, "jsonPath");
}

fn spec_names(v: &Value, p: &Path, e: &mut Errs) {
    for (field, value) in [("plural", v.text("plural")), ("singular", v.text("singular"))] {
        if value.is_empty() {
            if field == "plural" {
                e.push(required(&p.child(field), ""));
            }
            continue;
        }
        let errors = format::dns1035_label(value);
        if !errors.is_empty() {
            e.push(invalid(&p.child(field), value, errors.join(",")));
        }
    }
    for field in ["kind", "listKind"] {
        let value = v.text(field);
        if value.is_empty() {
            e.push(required(&p.child(field), ""));
            continue;
        }
        let errors = format::dns1035_label(&value.to_lowercase());
        if !errors.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", errors.join(","));
            e.push(invalid(&p.child(field), value, why));
        }
    }
    if !v.text("kind").is_empty() && v.text("kind") == v.text("listKind") {
        e.push(invalid(&p.child("listKind"), v.text("listKind"), "kind and listKind may not be the same"));
    }
    for field in ["shortNames", "categories"] {
        for (i, name) in v.texts(field).into_iter().enumerate() {
            let errors = format::dns1035_label(name);
            if !errors.is_empty() {
                e.push(invalid(&p.child(field).index(i), name, errors.join(",")));
            }
        }
    }
}

fn conversion(v: &Value, p: &Path, e: &mut Errs) {
    let strategy = v.text("strategy");
    match strategy {
        "None" => {
            if v.has("webhook") {
                let why = "should not be set when strategy is not set to Webhook";
                e.push(forbidden(&p.child("webhook"), why));
            }
        }
        "Webhook" => {
            let (w, wp) = (v.at("webhook"), p.child("webhook"));
            if w.at("clientConfig").is_null() {
                e.push(required(&wp.child("clientConfig"), "required when strategy is set to Webhook"));
            } else {
                crate::webhooks::client_config(w.at("clientConfig"), &wp.child("clientConfig"), e);
            }
            let reviews = w.texts("conversionReviewVersions");
            if reviews.is_empty() {
                e.push(required(&wp.child("conversionReviewVersions"), ""));
            } else if !reviews.iter().any(|r| ["v1", "v1beta1"].contains(r)) {
                let why = "must include at least one of v1, v1beta1";
                e.push(invalid(&wp.child("conversionReviewVersions"), w.at("conversionReviewVersions").clone(), why));
            }
        }
        _ => e.push(not_supported(&p.child("strategy"), strategy, &["None", "Webhook"])),
    }
}
