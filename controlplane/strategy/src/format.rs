//! Formats of single texts and numbers, answered as the reasons against them (none: valid). The shared ones live in
//! strake-machinery; here are short names for them and the few that only validation uses.

use strake_machinery::field::Path;
pub(crate) use strake_machinery::names::{
    config_map_key_errors as config_map_key, dns1035_label_errors as dns1035_label, dns1123_label_errors as dns_label,
    dns1123_subdomain_errors as dns_subdomain, env_var_name_errors as env_var_name, label_value_errors as label_value,
    path_segment_errors as path_segment, percent_errors as percent, port_name_errors as port_name,
    port_number_errors as port_number, qualified_name_errors as qualified_name,
};

use crate::errs::{Errs, invalid, invalid_each, required};

/// How the name of a kind's objects is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// RFC 1123 subdomain: most kinds.
    Subdomain,
    /// RFC 1123 label: Namespaces, Services, StatefulSets.
    Label,
    /// Anything that is one path segment: RBAC.
    PathSegment,
    /// An IP address in canonical form: IPAddress objects.
    Ip,
    /// Checked by the kind itself.
    Any,
}

impl NameRule {
    /// The reasons against a name; `prefix` for a generateName, which may end in a dash.
    pub(crate) fn errors(self, name: &str, prefix: bool) -> Vec<String> {
        let masked = if prefix { without_trailing_dash(name) } else { name };
        match self {
            NameRule::Subdomain => dns_subdomain(masked),
            NameRule::Label => dns_label(masked),
            NameRule::PathSegment => path_segment(name),
            NameRule::Ip => {
                if crate::ip::is_canonical(name) {
                    Vec::new()
                } else {
                    vec!["must be a valid IP address".into()]
                }
            }
            NameRule::Any => Vec::new(),
        }
    }
}

/// A name prefix without its last dash: the generated letters will follow it.
pub(crate) fn without_trailing_dash(name: &str) -> &str {
    match name.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => rest,
        _ => name,
    }
}

fn with_regex(message: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

/// HTTP header names.
pub(crate) fn http_header_name(s: &str) -> Vec<String> {
    if !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![with_regex(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

/// A host with one leading `*.`.
pub(crate) fn wildcard_subdomain(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 253 {
        errors.push("must be no more than 253 characters".into());
    }
    if s.strip_prefix("*.").is_none_or(|rest| !dns_subdomain(rest).is_empty()) {
        let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        let regex = format!("\\*\\.{LABEL}(\\.{LABEL})*");
        errors.push(with_regex(message, &regex, &["*.example.com"]));
    }
    errors
}

/// A DNS subdomain whose labels may hold underscores: resolver search paths.
pub(crate) fn subdomain_with_underscores(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 253 {
        errors.push("must be no more than 253 characters".into());
    }
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = s.split('.').all(|label| {
        let b = label.strip_prefix('_').unwrap_or(label).as_bytes();
        !b.is_empty() && edge(b[0]) && edge(b[b.len() - 1]) && b.iter().all(|c| edge(*c) || matches!(c, b'-' | b'_'))
    });
    if !good {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
        let label = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
        errors.push(with_regex(message, &format!("{label}(\\.{label})*"), &["example.com"]));
    }
    errors
}

/// A domain of at least `segments` labels; a trailing dot is tolerated where two are enough.
pub(crate) fn fully_qualified(name: &str, segments: usize, p: &Path, e: &mut Errs) {
    if name.is_empty() {
        e.push(required(p, ""));
        return;
    }
    let name = if segments == 2 { name.strip_suffix('.').unwrap_or(name) } else { name };
    let errors = dns_subdomain(name);
    if !errors.is_empty() {
        e.push(invalid(p, name, errors.join(",")));
        return;
    }
    if name.split('.').count() < segments {
        let count = if segments == 2 { "two" } else { "three" };
        e.push(invalid(p, name, format!("should be a domain with at least {count} segments separated by dots")));
        return;
    }
    if segments == 2 {
        for label in name.split('.') {
            let errors = dns_label(label);
            if !errors.is_empty() {
                e.push(invalid(p, label, errors.join(",")));
                return;
            }
        }
    }
}

/// `domain/path`, such as the name of a controller.
pub(crate) fn domain_prefixed_path(s: &str, p: &Path, e: &mut Errs) {
    if s.is_empty() {
        e.push(required(p, ""));
        return;
    }
    let Some((host, path)) = s.split_once('/').filter(|(h, t)| !h.is_empty() && !t.is_empty()) else {
        e.push(invalid(p, s, "must be a domain-prefixed path (such as \"acme.io/foo\")"));
        return;
    };
    invalid_each(e, p, host, dns_subdomain(host));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !path.bytes().all(allowed) {
        let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        e.push(invalid(p, path, why));
    }
}

/// Splits an int-or-percent: the number and whether it is a percentage. 0 for what is neither.
pub(crate) fn int_or_percent(v: &serde_json::Value) -> (i64, bool) {
    match v.as_str() {
        Some(s) => match strake_machinery::intorstring::percentage(s) {
            Some(n) => (n, true),
            None => (s.parse().unwrap_or(0), false),
        },
        None => (crate::walk::as_int(v).unwrap_or(0), false),
    }
}

/// A count that is not negative, or a percentage.
pub(crate) fn positive_int_or_percent(v: &serde_json::Value, p: &Path, e: &mut Errs) {
    match v.as_str() {
        Some(s) => invalid_each(e, p, s, percent(s)),
        None => crate::errs::non_negative(e, p, crate::walk::as_int(v).unwrap_or(0)),
    }
}

/// A percentage, if it is one, may not pass 100.
pub(crate) fn at_most_100_percent(v: &serde_json::Value, p: &Path, e: &mut Errs) {
    if let (n, true) = int_or_percent(v)
        && n > 100
    {
        e.push(invalid(p, v.clone(), "must not be greater than 100%"));
    }
}
