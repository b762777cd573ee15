//! Sizes and durations as people write them: read with errors that say what to write, printed in
//! one canonical form that reads back as the same value. Pure; called by `config`.

use std::time::Duration;

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// It does not begin with a digit.
    #[error("it does not begin with a whole number")]
    NoNumber,
    /// The number has a fraction or an exponent.
    #[error("its number is not whole; use a smaller unit, such as 1536MiB for 1.5 GiB")]
    Fraction,
    /// What follows the number is no unit.
    #[error("the unit {unit:?} is none of B, KiB, MiB, GiB, TiB, PiB, kB, MB, GB, TB, PB")]
    Unit {
        /// What follows the number.
        unit: String,
    },
    /// More than 2^64 - 1 bytes.
    #[error("it is more than 16 EiB")]
    TooLarge,
}

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// A part does not begin with a digit.
    #[error("it does not begin with a whole number")]
    NoNumber,
    /// A number has a fraction or an exponent.
    #[error("its number is not whole; use a smaller unit, such as 1500ms for 1.5 s")]
    Fraction,
    /// A number stands without a unit.
    #[error("the unit is missing after {number}; write {number}s for seconds")]
    NoUnit {
        /// The number.
        number: String,
    },
    /// What follows a number is no unit.
    #[error("the unit {unit:?} is none of d, h, m, s, ms, us, ns")]
    Unit {
        /// What follows the number.
        unit: String,
    },
    /// The units do not go from large to small, each once.
    #[error("the unit {unit} is out of place; go from large to small, such as 1h30m")]
    Order {
        /// The unit that is out of place.
        unit: &'static str,
    },
    /// More than 2^64 - 1 seconds.
    #[error("it is longer than a duration can be")]
    TooLong,
}

/// Bytes of each unit; every binary unit stands before the decimal one, so that it wins a tie.
const SIZE_UNITS: [(&str, u64); 12] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("EiB", 1 << 60),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
];

/// Nanoseconds of each unit, from large to small.
const DURATION_UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a number of bytes: `512MiB`, `50 GiB`, `1GB`, or plain bytes. Units ignore case.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let (number, unit) = split_number(text.trim());
    if number.is_empty() {
        return Err(SizeError::NoNumber);
    }
    if unit.starts_with(['.', ',']) {
        return Err(SizeError::Fraction);
    }
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Ok(number);
    }
    let (_, bytes) = SIZE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .ok_or_else(|| SizeError::Unit { unit: unit.to_owned() })?;
    number.checked_mul(*bytes).ok_or(SizeError::TooLarge)
}

/// Prints a number of bytes with the unit that divides it and leaves the smallest number.
pub fn print_size(bytes: u64) -> String {
    let mut best = (bytes, "B");
    for (name, unit) in SIZE_UNITS {
        if bytes.is_multiple_of(unit) && bytes / unit < best.0 {
            best = (bytes / unit, name);
        }
    }
    format!("{}{}", best.0, best.1)
}

/// Reads a duration: `10s`, `500ms`, `1h30m`, `1d`. A number without a unit is an error.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    let mut nanos: u128 = 0;
    let mut units = DURATION_UNITS.iter();
    loop {
        let (number, after) = split_number(rest);
        if number.is_empty() {
            return Err(DurationError::NoNumber);
        }
        if after.starts_with(['.', ',']) {
            return Err(DurationError::Fraction);
        }
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(end).unwrap_or((after, ""));
        let unit = unit.trim();
        if unit.is_empty() {
            return Err(DurationError::NoUnit { number: number.to_owned() });
        }
        let (name, each) = DURATION_UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .ok_or_else(|| DurationError::Unit { unit: unit.to_owned() })?;
        if !units.any(|(expected, _)| expected == name) {
            return Err(DurationError::Order { unit: name });
        }
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        nanos = nanos.saturating_add(u128::from(number).saturating_mul(*each));
        if after.is_empty() {
            return duration_of(nanos);
        }
        rest = after;
    }
}

/// Prints a duration, from days to nanoseconds, leaving out the units that are zero.
pub fn print_duration(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    let mut text = String::new();
    for (name, each) in DURATION_UNITS {
        let number = nanos / each;
        nanos %= each;
        if number > 0 {
            text.push_str(&number.to_string());
            text.push_str(name);
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

fn duration_of(nanos: u128) -> Result<Duration, DurationError> {
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| DurationError::TooLong)?;
    let rest = u32::try_from(nanos % 1_000_000_000).map_err(|_| DurationError::TooLong)?;
    Ok(Duration::new(seconds, rest))
}

/// The leading digits, and what follows them.
fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        assert_eq!(parse_size("50 GiB"), Ok(50 << 30));
        assert_eq!(parse_size("1GB"), Ok(1_000_000_000));
        assert_eq!(parse_size("3kb"), Ok(3_000));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size(" 0 "), Ok(0));
        assert_eq!(parse_size("15EiB"), Ok(15 << 60));
    }

    #[test]
    fn a_wrong_size_says_what_to_write() {
        assert_eq!(parse_size(""), Err(SizeError::NoNumber));
        assert_eq!(parse_size("-1"), Err(SizeError::NoNumber));
        assert_eq!(parse_size("MiB"), Err(SizeError::NoNumber));
        assert_eq!(parse_size("1.5GiB"), Err(SizeError::Fraction));
        assert_eq!(parse_size("50G"), Err(SizeError::Unit { unit: "G".into() }));
        assert_eq!(parse_size("16EiB"), Err(SizeError::TooLarge));
        assert_eq!(parse_size("99999999999999999999"), Err(SizeError::TooLarge));
        assert!(parse_size("50G").unwrap_err().to_string().contains("GiB"));
    }

    #[test]
    fn sizes_are_printed_with_the_unit_that_fits() {
        assert_eq!(print_size(0), "0B");
        assert_eq!(print_size(50 << 30), "50GiB");
        assert_eq!(print_size(50_000_000_000), "50GB");
        assert_eq!(print_size(1536 << 20), "1536MiB");
        assert_eq!(print_size(1001), "1001B");
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse_duration("1d"), Ok(Duration::from_hours(24)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn a_wrong_duration_says_what_to_write() {
        assert_eq!(parse_duration(""), Err(DurationError::NoNumber));
        assert_eq!(parse_duration("-1s"), Err(DurationError::NoNumber));
        assert_eq!(parse_duration("1.5s"), Err(DurationError::Fraction));
        assert_eq!(parse_duration("10"), Err(DurationError::NoUnit { number: "10".into() }));
        assert_eq!(parse_duration("5min"), Err(DurationError::Unit { unit: "min".into() }));
        assert_eq!(parse_duration("30m1h"), Err(DurationError::Order { unit: "h" }));
        assert_eq!(parse_duration("1s1s"), Err(DurationError::Order { unit: "s" }));
        assert_eq!(parse_duration("99999999999999999d"), Err(DurationError::TooLong));
        assert!(parse_duration("10").unwrap_err().to_string().contains("10s"));
    }

    #[test]
    fn durations_are_printed_from_large_to_small() {
        assert_eq!(print_duration(Duration::ZERO), "0s");
        assert_eq!(print_duration(Duration::from_hours(24)), "1d");
        assert_eq!(print_duration(Duration::from_mins(90)), "1h30m");
        assert_eq!(print_duration(Duration::new(1, 5_000_001)), "1s5ms1ns");
    }

    /// Numbers as operators choose them, and any other.
    fn sizes() -> impl Strategy<Value = u64> {
        (any::<u64>(), prop_oneof![Just(1u64), Just(1_000), Just(1 << 10), Just(1 << 30)])
            .prop_map(|(number, unit)| (number % 100_000).checked_mul(unit).unwrap_or(number))
    }

    proptest! {
        #[test]
        fn a_printed_size_reads_back(few in sizes(), any in any::<u64>()) {
            assert_eq!(parse_size(&print_size(few)), Ok(few));
            assert_eq!(parse_size(&print_size(any)), Ok(any));
        }

        #[test]
        fn a_printed_duration_reads_back(seconds in any::<u64>(), nanos in 0..1_000_000_000u32) {
            for duration in [Duration::new(seconds, nanos), Duration::new(seconds % 9999, 0)] {
                assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}", near in "[0-9]{0,22}[dhmsMKiBunG. -]{0,4}[0-9]{0,3}s?") {
            let _ = (parse_size(&text), parse_duration(&text));
            let _ = (parse_size(&near), parse_duration(&near));
        }
    }
}
