//! Times on the wire: RFC 3339 in UTC, whole seconds for `Time`, microseconds for `MicroTime`; and the short ages of
//! tables. Nothing here reads a clock: callers pass `now`.

use jiff::Timestamp;

/// `metav1.Time`: `2026-11-22T19:29:28Z`.
pub fn format_seconds(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime`: `2026-11-22T19:29:28.000123Z`.
pub fn format_micros(t: Timestamp) -> String {
    format!("{}.{:06}Z", t.strftime("%Y-%m-%dT%H:%M:%S"), t.as_microsecond().rem_euclid(1_000_000))
}

/// Any RFC 3339 time.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// How long ago, as kubectl shows it: `5s`, `2m30s`, `3h5m`, `2d4h`, `3y`; `<invalid>` for the future,
/// `<unknown>` for no time.
pub fn age(then: &str, now: Timestamp) -> String {
    match parse(then) {
        Some(t) => human_duration(now.as_second() - t.as_second()),
        None => "<unknown>".into(),
    }
}

/// Seconds as `duration.HumanDuration` prints them: two units at most, the coarser the longer.
pub fn human_duration(seconds: i64) -> String {
    // Up to a second in the future is clock skew.
    if seconds < -1 {
        return "<invalid>".into();
    }
    if seconds < 0 {
        return "0s".into();
    }
    if seconds < 120 {
        return format!("{seconds}s");
    }
    let two = |big: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    let minutes = seconds / 60;
    if minutes < 10 {
        return two(minutes, 'm', seconds % 60, 's');
    }
    if minutes < 180 {
        return format!("{minutes}m");
    }
    let hours = seconds / 3600;
    if hours < 8 {
        return two(hours, 'h', minutes % 60, 'm');
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    let days = hours / 24;
    if hours < 24 * 8 {
        return two(days, 'd', hours % 24, 'h');
    }
    if hours < 24 * 365 * 2 {
        return format!("{days}d");
    }
    if hours < 24 * 365 * 8 {
        return two(days / 365, 'y', days % 365, 'd');
    }
    format!("{}y", days / 365)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        let t = parse("2026-11-22T20:29:28.123456789+01:00").unwrap();
        assert_eq!(format_seconds(t), "2026-11-22T19:29:28Z");
        assert_eq!(format_micros(t), "2026-11-22T19:29:28.123456Z");
        assert_eq!(parse("yesterday"), None);
    }

    #[test]
    fn ages_are_as_kubectl_shows_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (187_200, "2d4h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_072_000 + 86_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }
}
