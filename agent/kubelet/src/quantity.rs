//! Reading Kubernetes quantities (`250m`, `64Mi`, `1e3`) as integers. Only what resources need; no formatting of
//! arbitrary values.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The quantity in thousandths, rounded up, saturating. `None` for text that is not a quantity.
pub fn milli(q: &Quantity) -> Option<i64> {
    scaled(&q.0, 1000)
}

/// The quantity in whole units, rounded up, saturating. `None` for text that is not a quantity.
pub fn value(q: &Quantity) -> Option<i64> {
    scaled(&q.0, 1)
}

fn scaled(text: &str, scale: i128) -> Option<i64> {
    let text = text.trim();
    let digits_end = text
        .char_indices()
        .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '+' || *c == '-'))))
        .map_or(text.len(), |(i, _)| i);
    let (number, suffix) = text.split_at(digits_end);
    let (negative, number) = match number.strip_prefix('-') {
        Some(n) => (true, n),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut mantissa: i128 = 0;
    for c in whole.chars().chain(fraction.chars()) {
        mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(c.to_digit(10)?))?;
    }
    let mut denominator: i128 = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let mut numerator: i128 = 1;
    match suffix {
        "" => {}
        "n" => denominator = denominator.checked_mul(1_000_000_000)?,
        "u" => denominator = denominator.checked_mul(1_000_000)?,
        "m" => denominator = denominator.checked_mul(1000)?,
        "k" => numerator = 1000,
        "M" => numerator = 1_000_000,
        "G" => numerator = 1_000_000_000,
        "T" => numerator = 10i128.pow(12),
        "P" => numerator = 10i128.pow(15),
        "E" => numerator = 10i128.pow(18),
        "Ki" => numerator = 1 << 10,
        "Mi" => numerator = 1 << 20,
        "Gi" => numerator = 1 << 30,
        "Ti" => numerator = 1 << 40,
        "Pi" => numerator = 1 << 50,
        "Ei" => numerator = 1 << 60,
        exponent => {
            let e: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(e.unsigned_abs())?;
            if e >= 0 { numerator = power } else { denominator = denominator.checked_mul(power)? }
        }
    }
    let total = mantissa.checked_mul(numerator)?.checked_mul(scale)?;
    let up = total / denominator + i128::from(!negative && total % denominator != 0);
    let signed = if negative { -up } else { up };
    Some(i64::try_from(signed).unwrap_or(if negative { i64::MIN } else { i64::MAX }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(s: &str) -> Quantity {
        Quantity(s.into())
    }

    #[test]
    fn every_suffix_is_read() {
        assert_eq!(value(&q("1.41235134567820055534567820055555555551")), Some(2));
        assert_eq!(milli(&q("250m")), Some(250));
        assert_eq!(milli(&q("1")), Some(1000));
        assert_eq!(milli(&q("0.1")), Some(100));
        assert_eq!(milli(&q("1u")), Some(1));
        assert_eq!(value(&q("64Mi")), Some(64 << 20));
        assert_eq!(value(&q("1.5Gi")), Some(3 << 29));
        assert_eq!(value(&q("12e6")), Some(12_000_000));
        assert_eq!(value(&q("5E3")), Some(5000));
        assert_eq!(value(&q("2E")), Some(2_000_000_000_000_000_000));
        assert_eq!(value(&q("100m")), Some(1));
        assert_eq!(value(&q("100Ei")), Some(i64::MAX));
        assert_eq!(value(&q("x")), None);
        assert_eq!(value(&q("1Q")), None);
    }
}
