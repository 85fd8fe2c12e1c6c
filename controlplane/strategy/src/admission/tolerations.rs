//! DefaultTolerationSeconds: a Pod stays five minutes on a node that stopped answering.

use serde_json::{Value, json};

use crate::walk::{Walk, list_mut, with};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Adds the two tolerations, each `seconds` long, unless the Pod already tolerates that taint's NoExecute.
pub fn default_tolerations(pod: &mut Value, seconds: i64) {
    with(pod, "spec", |s| {
        for key in [NOT_READY, UNREACHABLE] {
            let has = s.list("tolerations").iter().any(|t| {
                (t.text("key") == key || t.text("key").is_empty()) && ["NoExecute", ""].contains(&t.text("effect"))
            });
            if !has && let Some(all) = list_mut(s, "tolerations") {
                all.push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
                }));
            }
        }
    });
}
