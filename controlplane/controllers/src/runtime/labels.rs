//! Label selectors over label maps, without copying either.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

/// Label or annotation map as objects carry it.
pub type Labels = BTreeMap<String, String>;

/// Whether `labels` satisfy `selector`. An empty selector matches everything (LabelSelector's rule);
/// an unknown operator matches nothing.
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let get = |key: &str| labels.and_then(|l| l.get(key));
    selector.match_labels.iter().flatten().all(|(k, v)| get(k) == Some(v))
        && selector.match_expressions.iter().flatten().all(|e| {
            let values = e.values.as_deref().unwrap_or_default();
            match (e.operator.as_str(), get(&e.key)) {
                ("In", Some(v)) => values.contains(v),
                ("NotIn", Some(v)) => !values.contains(v),
                ("NotIn" | "DoesNotExist", None) | ("Exists", Some(_)) => true,
                _ => false,
            }
        })
}

/// No requirement at all: it would select everything.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether `labels` contain each pair of `wanted` (a Service's or ReplicationController's plain selector).
pub fn contains(labels: Option<&Labels>, wanted: &Labels) -> bool {
    wanted.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn expr(key: &str, op: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: op.into(),
                values: Some(values.iter().map(|s| s.to_string()).collect()),
            }]),
            match_labels: None,
        }
    }

    #[test]
    fn not_in_matches_an_absent_key_and_in_does_not() {
        let labels: Labels = [("a".to_string(), "1".to_string())].into();
        assert!(matches(&expr("b", "NotIn", &["1"]), Some(&labels)));
        assert!(!matches(&expr("b", "In", &["1"]), Some(&labels)));
        assert!(matches(&expr("a", "In", &["1", "2"]), Some(&labels)));
        assert!(!matches(&expr("a", "DoesNotExist", &[]), Some(&labels)));
        assert!(matches(&LabelSelector::default(), None));
        assert!(!matches(&expr("a", "Near", &["1"]), Some(&labels)));
    }
}
