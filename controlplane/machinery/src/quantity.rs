//! Resource quantities: `500m`, `1.5Gi`, `2e3` (k8s.io/apimachinery/pkg/api/resource).
//!
//! A quantity is an exact count of billionths (nano), kept with the notation it was written in, so that it prints the
//! way upstream canonicalises it. Smaller fractions round away from zero, as upstream rounds them up.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// How a quantity is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`, powers of 1024.
    BinarySI,
    /// `12M`, powers of 1000.
    DecimalSI,
}

/// Why a text is no quantity. The messages are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;

/// An amount of something.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSI };

    /// A whole number.
    pub fn from_units(units: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(units) * NANO, format }
    }

    /// Thousandths, as CPU is counted.
    pub fn from_milli(milli: i64) -> Self {
        Quantity { nanos: i128::from(milli) * (NANO / 1000), format: Format::DecimalSI }
    }

    /// The quantity in a JSON value: a string or a bare number.
    pub fn from_value(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(s) => s.parse(),
            Value::Number(n) => n.to_string().parse(),
            _ => Err(QuantityError::Format),
        }
    }

    /// Whole units, rounded up; saturates.
    pub fn value(self) -> i64 {
        saturate(ceil_div(self.nanos, NANO))
    }

    /// Thousandths, rounded up; saturates.
    pub fn milli_value(self) -> i64 {
        saturate(ceil_div(self.nanos, NANO / 1000))
    }

    /// The number as a float, for ratios.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    pub fn format(self) -> Format {
        self.format
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }
}

/// The sum, in the notation of the left side (of the right, if the left is zero), as upstream adds.
impl std::ops::Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(iter: I) -> Quantity {
        iter.fold(Quantity::ZERO, |a, b| a + b)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

fn ceil_div(a: i128, b: i128) -> i128 {
    a.div_euclid(b) + i128::from(a.rem_euclid(b) != 0)
}

fn saturate(v: i128) -> i64 {
    i64::try_from(v).unwrap_or(if v < 0 { i64::MIN } else { i64::MAX })
}

/// The number in `digits`; none if it is too large.
fn number_of(digits: impl Iterator<Item = u8>) -> Option<i128> {
    let mut n: i128 = 0;
    for b in digits {
        n = n.checked_mul(10)?.checked_add(i128::from(b - b'0'))?;
    }
    Some(n)
}

/// `whole.fraction` times ten to `exponent`, rounded up; none if it is too large.
fn decimal_nanos(whole: &str, fraction: &str, exponent: i32) -> Option<i128> {
    // Digits that end up behind the point are only asked whether they are all zero.
    let digits = || whole.bytes().chain(fraction.bytes());
    let kept = i64::try_from(whole.len()).ok()? + i64::from(exponent);
    let kept = usize::try_from(kept.max(0)).ok()?;
    let zeros = kept.saturating_sub(whole.len() + fraction.len());
    if digits().all(|b| b == b'0') {
        return Some(0);
    }
    let n = number_of(digits().take(kept).chain(std::iter::repeat_n(b'0', zeros)))?;
    let rest = digits().skip(kept).any(|b| b != b'0');
    n.checked_add(rest.into())
}

/// `whole.fraction` times two to `exponent`, in billionths, rounded up; none if it is too large.
fn binary_nanos(whole: &str, fraction: &str, exponent: i32) -> Option<i128> {
    let unit = NANO.checked_mul(1i128.checked_shl(u32::try_from(exponent).ok()?)?)?;
    // As many digits of the fraction as can be multiplied exactly; what is behind them rounds up.
    let mut kept = fraction.len();
    loop {
        let shown = number_of(fraction.bytes().take(kept)).and_then(|n| n.checked_mul(unit));
        let scale = u32::try_from(kept).ok().and_then(|k| 10i128.checked_pow(k));
        if let (Some(n), Some(scale)) = (shown, scale) {
            let rest = fraction.bytes().skip(kept).any(|b| b != b'0');
            let below = ceil_div(n, scale).checked_add(rest.into())?;
            return number_of(whole.bytes())?.checked_mul(unit)?.checked_add(below);
        }
        kept -= 1;
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let text = text.trim();
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(QuantityError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let digits_end = rest.bytes().position(|b| !b.is_ascii_digit() && b != b'.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits_end);
        let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
        let tail = suffix[letters..].strip_prefix(['-', '+']).unwrap_or(&suffix[letters..]);
        if !tail.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') {
            return Err(QuantityError::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Numeric);
        }
        let (base, exponent, format) = suffix_of(suffix).ok_or(QuantityError::Suffix)?;
        let magnitude = match base {
            2 => binary_nanos(whole, fraction, exponent),
            _ => decimal_nanos(whole, fraction, exponent + 9),
        };
        // Upstream keeps what fits its fast path as it is, and everything else below 2^63.
        let exact = base == 10 && whole.trim_start_matches('0').len() + fraction.len() <= 18;
        let most = i128::from(i64::MAX) * NANO;
        let nanos = match magnitude {
            Some(n) if exact || n <= most => n,
            _ => most,
        };
        let nanos = if negative { -nanos } else { nanos };
        Ok(Quantity { nanos, format })
    }
}

/// Base (2 or 10), exponent and notation of a suffix.
fn suffix_of(suffix: &str) -> Option<(u32, i32, Format)> {
    let decimal = |e| Some((10, e, Format::DecimalSI));
    let binary = |e| Some((2, e, Format::BinarySI));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            Some((10, exponent.clamp(-100, 100), Format::DecimalExponent))
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let format = match self.format {
            // Small ones read better, and fractions would be lost.
            Format::BinarySI if self.nanos.abs() < 1024 * NANO || !self.is_whole() => Format::DecimalSI,
            other => other,
        };
        if format == Format::BinarySI {
            let mut mantissa = self.nanos / NANO;
            let mut power = 0;
            while mantissa % 1024 == 0 && power < 6 {
                mantissa /= 1024;
                power += 1;
            }
            return write!(f, "{mantissa}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let mut mantissa = self.nanos;
        let mut power = 0;
        while mantissa % 1000 == 0 && power < 9 {
            mantissa /= 1000;
            power += 1;
        }
        if format == Format::DecimalSI {
            return write!(f, "{mantissa}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][power]);
        }
        match power as i32 * 3 - 9 {
            0 => write!(f, "{mantissa}"),
            exponent => write!(f, "{mantissa}e{exponent}"),
        }
    }
}

/// The canonical form of a quantity in JSON, a string.
pub fn canonical(value: &Value) -> Result<String, QuantityError> {
    Ok(Quantity::from_value(value)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_print_canonically() {
        for (text, canonical) in [
            ("0", "0"),
            ("0.0", "0"),
            ("1", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1.50", "1500m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1000k", "1M"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("1000Ki", "1000Ki"),
            ("0.5Ki", "512"),
            ("0.1Mi", "104857600m"),
            ("1Ki", "1Ki"),
            ("2e3", "2e3"),
            ("2000e-3", "2"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("-1", "-1"),
            ("+5", "5"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("7Ei", "7Ei"),
            ("16Ei", "9223372036854775807"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
        ] {
            let q: Quantity = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            if text.len() < 20 {
                assert_eq!(q.to_string(), canonical, "{text}");
            }
            assert_eq!(q.to_string().parse::<Quantity>().unwrap(), q, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_says_why() {
        assert_eq!("1x".parse::<Quantity>().unwrap_err(), QuantityError::Format);
        assert_eq!("".parse::<Quantity>().unwrap_err(), QuantityError::Format);
        assert_eq!("k".parse::<Quantity>().unwrap_err(), QuantityError::Numeric);
        assert_eq!("1Kk".parse::<Quantity>().unwrap_err(), QuantityError::Suffix);
        assert_eq!("1.2.3".parse::<Quantity>().unwrap_err(), QuantityError::Format);
        assert!(Quantity::from_value(&json!({})).is_err());
    }

    #[test]
    fn amounts_compare_and_add_across_notations() {
        let q = |s: &str| s.parse::<Quantity>().unwrap();
        assert_eq!(q("1Ki"), q("1024"));
        assert!(q("1G") < q("1Gi"));
        assert_eq!((q("100m") + q("0.9")).to_string(), "1");
        assert_eq!((q("0") + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("1Gi") - q("512Mi")).to_string(), "512Mi");
        assert_eq!(q("1001m").value(), 2);
        assert_eq!(q("0.1m").milli_value(), 1);
        assert_eq!(q("-1500m").value(), -1);
        assert_eq!(Quantity::from_value(&json!(0.25)).unwrap().to_string(), "250m");
        assert_eq!(Quantity::from_value(&json!(2)).unwrap().to_string(), "2");
    }
}
