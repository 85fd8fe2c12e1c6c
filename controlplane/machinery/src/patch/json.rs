//! JSON patch, RFC 6902, with upstream's answers: a patch that cannot be read is a bad request, one that does not
//! apply (a failed `test`, a path that is not there) is unprocessable.

use serde_json::Value;

use crate::ApiError;

/// More operations than this are refused, as upstream does.
pub const MAX_OPERATIONS: usize = 10_000;

/// Apply the operations of `patch` to `object`.
pub fn json(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    let operations = patch.as_array().map_or(0, Vec::len);
    if operations > MAX_OPERATIONS {
        return Err(ApiError::too_large(&format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {operations}"
        )));
    }
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &patch).map_err(|e| ApiError::generic(422, &e.to_string()))?;
    Ok(patched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_apply_in_order() {
        let o = json!({"spec": {"replicas": 1, "list": ["a"]}});
        let p = json!([
            {"op": "test", "path": "/spec/replicas", "value": 1},
            {"op": "replace", "path": "/spec/replicas", "value": 2},
            {"op": "add", "path": "/spec/list/-", "value": "b"},
            {"op": "add", "path": "/metadata", "value": {"labels": {"a/b": "c"}}},
            {"op": "remove", "path": "/metadata/labels/a~1b"}
        ]);
        assert_eq!(
            json(&o, &p).unwrap(),
            json!({"spec": {"replicas": 2, "list": ["a", "b"]}, "metadata": {"labels": {}}})
        );
    }

    #[test]
    fn a_failed_test_or_a_missing_path_is_unprocessable() {
        let o = json!({"data": {"a": "b"}});
        for p in
            [json!([{"op": "test", "path": "/data/a", "value": "z"}]), json!([{"op": "remove", "path": "/data/zzz"}])]
        {
            let e = json(&o, &p).unwrap_err();
            assert_eq!(
                (e.code, e.message.as_str()),
                (422, "the server rejected our request due to an error in our request")
            );
        }
        assert_eq!(json(&o, &json!({"op": "add"})).unwrap_err().code, 400);
    }
}
