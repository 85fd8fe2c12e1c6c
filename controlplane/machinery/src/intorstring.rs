//! `IntOrString`: a count, or a percentage of something.

use serde_json::Value;

/// The value resolved against `total`: an integer as it is, `"25%"` of the total, rounded up or down.
/// `None` if it is neither (`"25"` is not a percentage).
pub fn scaled(value: &Value, total: i64, round_up: bool) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64(),
        Value::String(s) => {
            let percent = percentage(s)?;
            let product = percent.checked_mul(total)?;
            Some(if round_up {
                product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0)
            } else {
                product.div_euclid(100)
            })
        }
        _ => None,
    }
}

/// The number of a percentage string: `"25%"` → 25.
pub fn percentage(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// How it is printed in tables and messages.
pub fn display(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => "0".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentages_round_as_asked() {
        assert_eq!(scaled(&json!("25%"), 3, true), Some(1));
        assert_eq!(scaled(&json!("25%"), 3, false), Some(0));
        assert_eq!(scaled(&json!("100%"), 7, true), Some(7));
        assert_eq!(scaled(&json!(2), 7, true), Some(2));
        assert_eq!(scaled(&json!("2"), 7, true), None);
        assert_eq!(scaled(&json!("200x"), 7, true), None);
        assert_eq!(percentage("%"), None);
    }
}
