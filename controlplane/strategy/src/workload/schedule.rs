//! Cron schedules: five fields, or a descriptor such as `@hourly`. Only their form is checked here; the CronJob
//! controller reckons the times.

/// Lowest and highest value of each field, and names for values.
struct Field {
    low: u32,
    high: u32,
    words: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { low: 0, high: 59, words: &[] },
    Field { low: 0, high: 23, words: &[] },
    Field { low: 1, high: 31, words: &[] },
    Field { low: 1, high: 12, words: MONTHS },
    Field { low: 0, high: 6, words: DAYS },
];

/// Why a schedule is malformed, in upstream's words.
pub(crate) fn check(schedule: &str) -> Result<(), String> {
    let rest = if schedule.starts_with("TZ=") || schedule.starts_with("CRON_TZ=") {
        let (zone, rest) = schedule.split_once(' ').unwrap_or((schedule, ""));
        let zone = zone.split_once('=').map_or("", |(_, z)| z);
        if jiff::tz::TimeZone::get(zone).is_err() {
            return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        rest.trim()
    } else {
        schedule
    };
    if let Some(word) = rest.strip_prefix('@') {
        return descriptor(word, rest);
    }
    let parts: Vec<&str> = rest.split_whitespace().collect();
    if parts.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    }
    parts.iter().zip(&FIELDS).try_for_each(|(text, field)| text.split(',').try_for_each(|part| range(part, field)))
}

fn descriptor(word: &str, whole: &str) -> Result<(), String> {
    match word {
        "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
        _ => match word.strip_prefix("every ") {
            Some(duration) if is_duration(duration) => Ok(()),
            Some(_) => Err(format!("failed to parse duration {whole}")),
            None => Err(format!("unrecognized descriptor: {whole}")),
        },
    }
}

/// A Go duration: `1h30m`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let unit = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
        if digits == 0 || !["ns", "us", "ms", "s", "m", "h"].contains(&&rest[digits..digits + unit]) {
            return false;
        }
        rest = &rest[digits + unit..];
    }
    !text.is_empty()
}

fn number(text: &str, field: &Field) -> Result<u32, String> {
    if let Some(i) = field.words.iter().position(|w| w.eq_ignore_ascii_case(text)) {
        return Ok(i as u32 + field.low);
    }
    text.parse().map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
}

fn range(part: &str, field: &Field) -> Result<(), String> {
    let pieces: Vec<&str> = part.split('/').collect();
    let bounds: Vec<&str> = pieces[0].split('-').collect();
    let single = bounds.len() == 1;
    let (low, mut high) = if bounds[0] == "*" || bounds[0] == "?" {
        (field.low, field.high)
    } else {
        let low = number(bounds[0], field)?;
        match bounds.len() {
            1 => (low, low),
            2 => (low, number(bounds[1], field)?),
            _ => return Err(format!("too many hyphens: {part}")),
        }
    };
    match pieces.len() {
        1 => {}
        2 => {
            let step = pieces[1].parse::<u32>().map_err(|_| {
                format!("failed to parse int from {0}: strconv.Atoi: parsing {0:?}: invalid syntax", pieces[1])
            })?;
            if single {
                high = field.high;
            }
            if step == 0 {
                return Err(format!("step of range should be a positive number: {part}"));
            }
        }
        _ => return Err(format!("too many slashes: {part}")),
    }
    if low < field.low {
        return Err(format!("beginning of range ({low}) below minimum ({}): {part}", field.low));
    }
    if high > field.high {
        return Err(format!("end of range ({high}) above maximum ({}): {part}", field.high));
    }
    if low > high {
        return Err(format!("beginning of range ({low}) beyond end of range ({high}): {part}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn schedules_are_five_fields_or_a_descriptor() {
        for good in ["* * * * *", "*/5 0-3,9 1 JAN-mar MON", "@hourly", "@every 1h30m", "0 0 ? * 0"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(check("now then").unwrap_err(), "expected exactly 5 fields, found 2: [now then]");
        assert_eq!(check("60 * * * *").unwrap_err(), "end of range (60) above maximum (59): 60");
        assert_eq!(check("* * 0 * *").unwrap_err(), "beginning of range (0) below minimum (1): 0");
        assert_eq!(check("*/0 * * * *").unwrap_err(), "step of range should be a positive number: */0");
        assert_eq!(check("@never").unwrap_err(), "unrecognized descriptor: @never");
        assert!(check("é * * * *").is_err() && check("@every é").is_err());
    }
}
