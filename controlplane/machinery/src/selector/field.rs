//! Field selectors: `metadata.name=x,status.phase!=Running`. Which fields a kind can be selected by is in its row.

use std::fmt;

use serde_json::Value;

use super::SelectorError;
use crate::meta;
use crate::registry::Kind;
use crate::status::quote;

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Field path, `spec.nodeName`.
    pub field: String,
    pub value: String,
    /// True for `!=`.
    pub negated: bool,
}

/// All comparisons must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    /// Read `text` and check that `kind` can be selected by each field.
    pub fn parse(kind: &Kind, text: &str) -> Result<Self, SelectorError> {
        let selector = Self::parse_any(text)?;
        for r in &selector.requirements {
            let field = r.field.as_str();
            let known =
                matches!(field, "metadata.name" | "metadata.namespace") || kind.selectable.iter().any(|f| f == field);
            if known {
                continue;
            }
            return Err(SelectorError(if kind.selectable.is_empty() {
                format!(
                    "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                    quote(field)
                )
            } else {
                format!("field label not supported: {field}")
            }));
        }
        Ok(selector)
    }

    /// Read `text` without asking which fields there are.
    pub fn parse_any(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let (field, negated, value) = split_term(term)
                .ok_or_else(|| SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")))?;
            requirements.push(FieldRequirement { field: field.into(), value: unescape(value)?, negated });
        }
        Ok(FieldSelector { requirements })
    }

    /// Whether an object of `kind` matches.
    pub fn matches(&self, kind: &Kind, object: &Value) -> bool {
        self.requirements.iter().all(|r| (field_value(kind, object, &r.field) == r.value) != r.negated)
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// The value a field must be equal to, if the selector says so (`metadata.name=x` names one object).
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.field == field && !r.negated).map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let value = r.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{}{}{value}", r.field, if r.negated { "!=" } else { "=" })?;
        }
        Ok(())
    }
}

/// What a field is for a selector: strings as they are, numbers and booleans printed, absent ones as Go's zero value.
fn field_value(kind: &Kind, object: &Value, field: &str) -> String {
    match field {
        "spec.hostNetwork" | "spec.unschedulable" => meta::bool_at(object, &path(field)).to_string(),
        "status.replicas" => meta::i64_at(object, &path(field)).unwrap_or(0).to_string(),
        "status.successful" => meta::i64_at(object, &["status", "succeeded"]).unwrap_or(0).to_string(),
        "status.podIPs" => meta::str_at(object, &["status", "podIP"]).to_owned(),
        "spec.schedulerName" if kind.is("", "Pod") => {
            Some(meta::str_at(object, &path(field))).filter(|s| !s.is_empty()).unwrap_or("default-scheduler").to_owned()
        }
        "source" => Some(meta::str_at(object, &["source", "component"]))
            .filter(|s| !s.is_empty())
            .unwrap_or_else(|| meta::str_at(object, &["reportingComponent"]))
            .to_owned(),
        _ => match meta::at(object, &path(field)) {
            Some(Value::String(s)) => s.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        },
    }
}

fn path(field: &str) -> Vec<&str> {
    field.split('.').collect()
}

/// The terms between commas that are not escaped.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..i], negated, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                Some(other) => {
                    return Err(SelectorError(format!("invalid field selector: invalid escape sequence: \\{other}")));
                }
                None => return Err(SelectorError("invalid field selector: invalid escape sequence: \\".into())),
            },
            ',' | '=' => {
                return Err(SelectorError(format!("invalid field selector: unescaped character in value: {c}")));
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;
    use serde_json::json;

    #[test]
    fn fields_of_the_kind_select() {
        let pod = Registry::builtin().by_type("v1", "Pod").unwrap();
        let o = json!({"metadata": {"name": "x", "namespace": "d"},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        for (text, expected) in [
            ("", true),
            ("metadata.name=x", true),
            ("metadata.name==y", false),
            ("spec.nodeName=n1,status.phase!=Failed", true),
            ("status.phase!=Running", false),
            ("spec.hostNetwork=false", true),
            ("status.podIP=", true),
        ] {
            assert_eq!(FieldSelector::parse(pod, text).unwrap().matches(pod, &o), expected, "{text}");
        }
        assert_eq!(FieldSelector::parse(pod, "metadata.name=x").unwrap().exact("metadata.name"), Some("x"));
    }

    #[test]
    fn a_field_the_kind_does_not_offer_is_refused() {
        let pod = Registry::builtin().by_type("v1", "Pod").unwrap();
        assert_eq!(FieldSelector::parse(pod, "spec.foo=bar").unwrap_err().0, "field label not supported: spec.foo");
        let cm = Registry::builtin().by_type("v1", "ConfigMap").unwrap();
        assert_eq!(
            FieldSelector::parse(cm, "data.a=b").unwrap_err().0,
            "\"data.a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert_eq!(
            FieldSelector::parse(cm, "nope").unwrap_err().0,
            "invalid selector: 'nope'; can't understand 'nope'"
        );
    }

    #[test]
    fn commas_and_equal_signs_can_be_escaped() {
        let s = FieldSelector::parse_any(r"metadata.name=a\,b\=c\\").unwrap();
        assert_eq!(s.requirements()[0].value, r"a,b=c\");
        assert_eq!(s.to_string(), r"metadata.name=a\,b\=c\\");
        assert!(FieldSelector::parse_any(r"a=b\x").is_err());
    }
}
