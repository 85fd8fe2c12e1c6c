//! The order of a merged list: items the patch names come in its order, items only the server has in theirs, and the
//! two are interleaved so that server-only items keep their place before the items they preceded.

use serde_json::Value;

use super::same_key;

/// Whether two items are the same one: same merge key, or equal without one.
pub(super) fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        None => a == b,
        Some(key) => match (a.get(key), b.get(key)) {
            (Some(a), Some(b)) => same_key(a, b),
            _ => false,
        },
    }
}

fn index(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    list.iter().position(|v| same(v, item, key))
}

/// Reorder `merged`: `patch_order` for what it names, `server_order` for the rest.
pub(super) fn enforce(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let (mut patched, mut server_only): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|v| index(patch_order, v, key).is_some());
    patched.sort_by_key(|v| index(patch_order, v, key));
    server_only.sort_by_key(|v| index(server_order, v, key));
    let mut result = Vec::with_capacity(patched.len() + server_only.len());
    let (mut left, mut right) = (server_only.into_iter().peekable(), patched.into_iter().peekable());
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (Some(l), Some(r)) => match (index(server_order, l, key), index(server_order, r, key)) {
                (Some(l), Some(r)) => l < r,
                _ => false,
            },
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return result,
        };
        result.extend(if take_left { left.next() } else { right.next() });
    }
}
