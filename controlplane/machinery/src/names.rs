//! Names: the validators that kinds share, worded as upstream (k8s.io/apimachinery/pkg/util/validation), and the
//! suffixes of generated names.
//!
//! Every `*_errors` function answers with the reasons against a text; none means it is valid.

/// The letters of generated suffixes: no vowels, so that no words appear, and nothing that looks like something else.
pub const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Letters in a generated suffix.
pub const SUFFIX_LENGTH: usize = 5;
/// Bytes of a generated name; a longer base is cut.
pub const MAX_GENERATED_LENGTH: usize = 63;

const LABEL_REGEX: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_REGEX: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

/// A name made of `generateName` and five letters chosen by `random` (one number a letter, any range).
pub fn generate(base: &str, mut random: impl FnMut() -> u32) -> String {
    let mut end = base.len().min(MAX_GENERATED_LENGTH - SUFFIX_LENGTH);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = String::with_capacity(end + SUFFIX_LENGTH);
    name.push_str(&base[..end]);
    for _ in 0..SUFFIX_LENGTH {
        name.push(SUFFIX_ALPHABET[random() as usize % SUFFIX_ALPHABET.len()] as char);
    }
    name
}

/// An encoding of a number in the suffix alphabet, as `rand.SafeEncodeString` does to hashes (pod-template-hash).
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| SUFFIX_ALPHABET[b as usize % SUFFIX_ALPHABET.len()] as char).collect()
}

fn max_length(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// Upstream's `RegexError`: the message, examples, and the expression.
fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn is_label(s: &str, first: impl Fn(u8) -> bool) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let b = s.as_bytes();
    match (b.first(), b.last()) {
        (Some(f), Some(l)) => first(*f) && alnum(*l) && b.iter().all(|c| alnum(*c) || *c == b'-'),
        _ => false,
    }
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// RFC 1123 label, at most 63: namespaces, and most names that become DNS labels.
pub fn dns1123_label_errors(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 63 {
        errors.push(max_length(63));
    }
    if !is_label(s, lower_alnum) {
        let subdomain = s.split('.').all(|part| is_label(part, lower_alnum));
        errors.push(if subdomain {
            "must not contain dots".into()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                LABEL_REGEX,
                &["my-name", "123-abc"],
            )
        });
    }
    errors
}

/// RFC 1123 subdomain, at most 253: names of most kinds.
pub fn dns1123_subdomain_errors(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 253 {
        errors.push(max_length(253));
    }
    if !s.split('.').all(|part| is_label(part, lower_alnum)) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            SUBDOMAIN_REGEX,
            &["example.com"],
        ));
    }
    errors
}

/// RFC 1035 label, at most 63, beginning with a letter.
pub fn dns1035_label_errors(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 63 {
        errors.push(max_length(63));
    }
    if !is_label(s, |b| b.is_ascii_lowercase()) {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// Names that are path segments only (RBAC roles, for one).
pub fn path_segment_errors(s: &str) -> Vec<String> {
    if matches!(s, "." | "..") {
        return vec![format!("may not be '{s}'")];
    }
    ["/", "%"].iter().filter(|c| s.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

fn is_qualified_part(s: &str) -> bool {
    let b = s.as_bytes();
    match (b.first(), b.last()) {
        (Some(f), Some(l)) => {
            f.is_ascii_alphanumeric()
                && l.is_ascii_alphanumeric()
                && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

/// `[prefix/]name`: label keys, annotation keys, resource names, conditions.
pub fn qualified_name_errors(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = s.split('/').collect();
    let message = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                   alphanumeric character";
    let regex = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
    let examples = ["MyName", "my.name", "123-abc"];
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".into());
            } else {
                errors.extend(dns1123_subdomain_errors(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(message, regex, &examples)
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", max_length(63)));
    }
    if !is_qualified_part(name) {
        errors.push(format!("name part {}", regex_error(message, regex, &examples)));
    }
    errors
}

/// Label values: empty, or like the name part of a key; at most 63.
pub fn label_value_errors(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 63 {
        errors.push(max_length(63));
    }
    if !s.is_empty() && !is_qualified_part(s) {
        errors.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// Port names: IANA service names, at most 15.
pub fn port_name_errors(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 15 {
        errors.push(max_length(15));
    }
    if !s.bytes().all(|b| lower_alnum(b) || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !s.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if s.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if s.starts_with('-') || s.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// Keys of ConfigMaps and Secrets, at most 253.
pub fn config_map_key_errors(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 253 {
        errors.push(max_length(253));
    }
    if s.is_empty() || !s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        errors.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    } else if s == "." {
        errors.push("must not be '.'".into());
    } else if s == ".." {
        errors.push("must not be '..'".into());
    } else if s.starts_with("..") {
        errors.push("must not start with '..'".into());
    }
    errors
}

/// Names of environment variables.
pub fn env_var_name_errors(s: &str) -> Vec<String> {
    let printable = !s.is_empty() && s.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=');
    if printable {
        Vec::new()
    } else {
        vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".into()]
    }
}

/// Port numbers, 1 to 65535.
pub fn port_number_errors(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".into()] }
}

/// A percentage string.
pub fn percent_errors(s: &str) -> Vec<String> {
    if crate::intorstring::percentage(s).is_some() {
        return Vec::new();
    }
    vec![regex_error(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        assert_eq!(
            dns1123_label_errors("X"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
              end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            dns1123_subdomain_errors("A_b"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            qualified_name_errors("a b"),
            ["name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
              alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
              '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"]
        );
        assert_eq!(
            label_value_errors("c d"),
            ["a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
              start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
              for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"]
        );
        assert_eq!(dns1123_subdomain_errors(&"a".repeat(254)), ["must be no more than 253 characters"]);
        assert_eq!(
            config_map_key_errors("a/b"),
            ["a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
              'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"]
        );
        assert_eq!(
            percent_errors("200x"),
            ["a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex \
              used for validation is '[0-9]+%')"]
        );
    }

    #[test]
    fn valid_names_have_no_errors() {
        assert!(dns1123_label_errors("123-abc").is_empty());
        assert!(dns1123_subdomain_errors("a.b-c.d").is_empty());
        assert!(qualified_name_errors("example.com/My_Name.x").is_empty());
        assert!(label_value_errors("").is_empty());
        assert!(port_name_errors("http-2").is_empty());
        assert!(dns1035_label_errors("a1").is_empty());
        assert!(!dns1035_label_errors("1a").is_empty());
        assert_eq!(dns1123_label_errors("a.b"), ["must not contain dots"]);
        assert_eq!(path_segment_errors("a/b"), ["may not contain '/'"]);
        assert_eq!(port_name_errors("Bad_Name").len(), 1);
    }

    #[test]
    fn generated_names_fit_in_a_label() {
        let mut n = 0;
        let name = generate(&"x".repeat(80), || {
            n += 7;
            n
        });
        assert_eq!(name.len(), 63);
        assert!(name.bytes().rev().take(5).all(|b| SUFFIX_ALPHABET.contains(&b)));
        assert!(generate("web-", || 0).starts_with("web-bbbbb"));
    }
}
