//! Reads the Go type declarations of the Kubernetes API: struct fields with their JSON and protobuf tags, and the names
//! that stand for other types. It understands gofmt'ed declarations, not Go.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result};

/// One struct field.
#[derive(Debug, Clone)]
pub struct GoField {
    /// Name in JSON; empty for an inlined struct.
    pub json: String,
    pub omit_empty: bool,
    /// Number in protobuf, and the name there; None if it is not on that wire.
    pub proto: Option<(u32, String)>,
    /// Type with package paths written out: `*[]k8s.io/api/core/v1.Container`.
    pub go_type: String,
    /// The `+default=` marker's JSON.
    pub default: Option<String>,
}

/// A type declaration.
#[derive(Debug, Clone)]
pub enum GoType {
    Struct(Vec<GoField>),
    /// Another name for this type.
    Alias(String),
}

/// Types of all packages by qualified name (`k8s.io/api/core/v1.Pod`).
pub type Packages = BTreeMap<String, GoType>;

/// Directories below k8s.io that hold served types.
pub const PACKAGES: &[&str] = &[
    "api/admissionregistration/v1",
    "api/apps/v1",
    "api/authentication/v1",
    "api/authorization/v1",
    "api/autoscaling/v1",
    "api/autoscaling/v2",
    "api/batch/v1",
    "api/certificates/v1",
    "api/coordination/v1",
    "api/core/v1",
    "api/discovery/v1",
    "api/events/v1",
    "api/flowcontrol/v1",
    "api/networking/v1",
    "api/node/v1",
    "api/policy/v1",
    "api/rbac/v1",
    "api/resource/v1",
    "api/scheduling/v1",
    "api/storage/v1",
    "apiextensions-apiserver/pkg/apis/apiextensions/v1",
    "apimachinery/pkg/apis/meta/v1",
    "kube-aggregator/pkg/apis/apiregistration/v1",
];

/// Read every package of [`PACKAGES`] below `k8s_io`.
pub fn read(k8s_io: &Path) -> Result<Packages> {
    let mut types = Packages::new();
    for package in PACKAGES {
        let dir = k8s_io.join(package);
        let mut files: Vec<_> = std::fs::read_dir(&dir)
            .with_context(|| format!("listing {}", dir.display()))?
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| {
                let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                name.ends_with(".go")
                    && (name.starts_with("types") || ["time.go", "micro_time.go"].contains(&name))
                    && !name.ends_with("_test.go")
                    && !name.contains("swagger")
            })
            .collect();
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            parse_file(&text, &format!("k8s.io/{package}"), &mut types);
        }
    }
    Ok(types)
}

fn parse_file(text: &str, package: &str, types: &mut Packages) {
    let imports = imports(text);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(declaration) = line.strip_prefix("type ") else { continue };
        let Some((name, rest)) = declaration.split_once(' ') else { continue };
        let rest = rest.trim();
        let key = format!("{package}.{name}");
        if rest == "struct {" {
            types.insert(key, GoType::Struct(fields(&mut lines, package, &imports)));
        } else if rest == "struct{}" {
            types.insert(key, GoType::Struct(Vec::new()));
        } else if !rest.starts_with("interface") && !rest.starts_with("func") {
            let target = rest.split(" //").next().unwrap_or(rest).trim();
            types.insert(key, GoType::Alias(qualify(target, package, &imports)));
        }
    }
}

fn imports(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for line in text.lines().take_while(|l| !l.starts_with("type ") && !l.starts_with("func ")) {
        let line = line.trim().trim_start_matches("import ").trim();
        let Some((alias, path)) = line.split_once('"') else { continue };
        let path = path.trim_end_matches('"');
        let alias = match alias.trim() {
            "" => path.rsplit('/').next().unwrap_or(path),
            named => named,
        };
        found.insert(alias.to_owned(), path.to_owned());
    }
    found
}

fn fields<'a>(
    lines: &mut impl Iterator<Item = &'a str>,
    package: &str,
    imports: &HashMap<String, String>,
) -> Vec<GoField> {
    let mut found = Vec::new();
    let mut default = None;
    for line in lines.by_ref() {
        if line.starts_with('}') {
            break;
        }
        let line = line.trim();
        if let Some(comment) = line.strip_prefix("//") {
            if let Some(value) = comment.trim().strip_prefix("+default=") {
                default = Some(value.trim().to_owned());
            }
            continue;
        }
        let Some((head, tags)) = line.split_once('`') else {
            default = None;
            continue;
        };
        let tags = tags.split('`').next().unwrap_or_default();
        // An embedded struct has no name of its own.
        let words: Vec<&str> = head.split_whitespace().collect();
        let go_type = match words.as_slice() {
            [embedded] => *embedded,
            [_, rest @ ..] => &rest.concat(),
            [] => continue,
        };
        let json = tag(tags, "json").unwrap_or_default();
        let mut json = json.split(',');
        let name = json.next().unwrap_or_default().to_owned();
        let options: Vec<&str> = json.collect();
        if name == "-" {
            default = None;
            continue;
        }
        let proto = tag(tags, "protobuf").and_then(|p| {
            let number = p.split(',').nth(1)?.parse().ok()?;
            let named = p.split(',').find_map(|o| o.strip_prefix("name="));
            Some((number, named.unwrap_or(words[0]).to_owned()))
        });
        found.push(GoField {
            json: name,
            omit_empty: options.contains(&"omitempty") || options.contains(&"omitzero"),
            proto,
            go_type: qualify(go_type, package, imports),
            default: default.take(),
        });
    }
    found
}

fn tag<'a>(tags: &'a str, key: &str) -> Option<&'a str> {
    let start = tags.find(&format!("{key}:\""))? + key.len() + 2;
    tags[start..].split('"').next()
}

/// Write out the package of every type name in a type expression.
fn qualify(go_type: &str, package: &str, imports: &HashMap<String, String>) -> String {
    for prefix in ["*", "[]", "map[string]"] {
        if let Some(rest) = go_type.strip_prefix(prefix) {
            return format!("{prefix}{}", qualify(rest, package, imports));
        }
    }
    // Keys of maps are strings by another name.
    if let Some(rest) = go_type.strip_prefix("map[")
        && let Some((_, value)) = rest.split_once(']')
    {
        return format!("map[string]{}", qualify(value, package, imports));
    }
    match go_type.split_once('.') {
        Some((alias, name)) => {
            let path = imports.get(alias).map_or(alias, String::as_str);
            format!("{path}.{name}")
        }
        None if is_primitive(go_type) => go_type.to_owned(),
        None => format!("{package}.{go_type}"),
    }
}

pub fn is_primitive(go_type: &str) -> bool {
    matches!(
        go_type,
        "string" | "bool" | "int" | "int32" | "int64" | "uint32" | "uint64" | "float64" | "byte" | "[]byte"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_tags_markers_and_packages() {
        let text = r#"package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

type Protocol string

// Port is one.
type Port struct {
	metav1.TypeMeta `json:",inline"`
	// +default="TCP"
	Protocol Protocol `json:"protocol,omitempty" protobuf:"bytes,4,opt,name=protocol,casttype=Protocol"`

	Limits map[ResourceName]resource.Quantity `json:"limits" protobuf:"bytes,1,rep,name=limits"`
	Common `json:",inline" protobuf:"bytes,2,req"`
}
"#;
        let mut types = Packages::new();
        parse_file(text, "k8s.io/api/x/v1", &mut types);
        assert!(matches!(&types["k8s.io/api/x/v1.Protocol"], GoType::Alias(to) if to == "string"));
        let GoType::Struct(fields) = &types["k8s.io/api/x/v1.Port"] else { panic!("no struct") };
        assert_eq!(fields[0].go_type, "k8s.io/apimachinery/pkg/apis/meta/v1.TypeMeta");
        assert_eq!(fields[1].default.as_deref(), Some("\"TCP\""));
        assert_eq!((fields[1].omit_empty, fields[1].proto.clone()), (true, Some((4, "protocol".into()))));
        assert_eq!(fields[2].go_type, "map[string]k8s.io/apimachinery/pkg/api/resource.Quantity");
        assert!(!fields[2].omit_empty && fields[2].default.is_none());
        assert_eq!(fields[3].proto, Some((2, "Common".into())));
    }
}
