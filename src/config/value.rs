//! One value: from TOML, or from the text of a variable or flag, to what its setting says it may
//! be. Pure; called by `scope` and `overlay`.

use super::problem::{ConfigProblem, ProblemReport, Spot, Spotted};
use super::settings::{Fallback, Setting, SettingKind};
use crate::units;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;
use toml::Spanned;
use toml::de::DeValue;

/// A value that is what its setting says it may be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Of `Text`, `Word` and `Path`.
    Text(Spotted<String>),
    /// Of `Texts` and `Paths`.
    Texts(Vec<Spotted<String>>),
    /// Of `Boolean`.
    Boolean(bool),
    /// Of `Integer`, in bytes of `Size`, and in billionths of `Price`.
    Number(u64),
    /// Of `Sizes`, in bytes.
    Numbers(Vec<Spotted<u64>>),
    /// Of `Duration`.
    Duration(Duration),
    /// Of `Addresses`, and of `AddressOrOff`: none if it is off.
    Addresses(Vec<Spotted<SocketAddr>>),
}

/// A value as it was written.
enum RawValue<'a> {
    Text(Cow<'a, str>),
    /// `None` if it is negative or too large.
    Integer(Option<u64>, String),
    Boolean(bool),
    /// A number with a fraction, as it was written.
    Fraction(String),
    /// What it is instead, with its article.
    Other(&'static str),
    List(Vec<(RawValue<'a>, Spot)>),
}

/// Gives the place of an element of a list, by its position.
pub(super) type SpotOf<'a> = &'a dyn Fn(usize, &Spanned<DeValue<'_>>) -> Spot;

/// Reads the value of `setting` that stands in a file at `spot`. `None` if it is wrong, which
/// `report` then says.
pub(super) fn from_toml(
    setting: &Setting,
    value: &DeValue<'_>,
    spot: &Spot,
    spot_of: SpotOf<'_>,
    report: &mut ProblemReport,
) -> Option<Value> {
    let raw = match value.as_array() {
        None => raw(value),
        Some(elements) => {
            let elements = elements.iter().enumerate();
            let place =
                |(position, element): (usize, &Spanned<DeValue<'_>>)| spot_of(position, element);
            RawValue::List(
                elements.map(|(i, each)| (raw(each.get_ref()), place((i, each)))).collect(),
            )
        }
    };
    read(setting, &raw, spot, report)
}

/// Reads the value of `setting` from the texts of a variable or flag: the last one, or for a list
/// all of them, each of which may hold several elements with commas between.
pub(super) fn from_texts(
    setting: &Setting,
    texts: &[String],
    spot: &Spot,
    report: &mut ProblemReport,
) -> Option<Value> {
    let text = texts.last().map_or("", String::as_str).trim();
    let is_list = matches!(
        setting.kind,
        SettingKind::Texts
            | SettingKind::Addresses
            | SettingKind::Paths
            | SettingKind::Sizes { .. }
    );
    let raw = if is_list {
        let elements = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
        let elements = elements.filter(|element| !element.is_empty());
        RawValue::List(elements.map(|text| (RawValue::Text(text.into()), spot.clone())).collect())
    } else if matches!(setting.kind, SettingKind::Integer { .. }) && is_digits(text) {
        RawValue::Integer(text.parse().ok(), text.to_owned())
    } else if matches!(setting.kind, SettingKind::Boolean) && matches!(text, "true" | "false") {
        RawValue::Boolean(text == "true")
    } else {
        RawValue::Text(text.into())
    };
    read(setting, &raw, spot, report)
}

/// The default of `setting`, if it is a fixed value.
pub(super) fn fallback(setting: &Setting, spot: &Spot) -> Option<Value> {
    let Fallback::Is(text) = setting.fallback else {
        return None;
    };
    let value = DeValue::parse(text).ok()?;
    let spot_of = |position: usize, _: &Spanned<DeValue<'_>>| spot.element(position);
    from_toml(setting, value.get_ref(), spot, &spot_of, &mut ProblemReport::default())
}

fn read(
    setting: &Setting,
    raw: &RawValue<'_>,
    spot: &Spot,
    report: &mut ProblemReport,
) -> Option<Value> {
    let example = setting.example;
    let spotted = |value| Value::Text(Spotted { value, spot: spot.clone() });
    let value = match setting.kind {
        SettingKind::Text => text(raw, example).map(spotted),
        SettingKind::Word(words) => word(raw, words).map(spotted),
        SettingKind::Path => path(raw, example).map(spotted),
        SettingKind::Boolean => boolean(raw).map(Value::Boolean),
        SettingKind::Integer { min, max } => integer(raw, min, max).map(Value::Number),
        SettingKind::Size { min, max } => size(raw, min, max, example).map(Value::Number),
        SettingKind::Duration { min, max } => duration(raw, min, max, example).map(Value::Duration),
        SettingKind::Price => price(raw, example).map(Value::Number),
        SettingKind::AddressOrOff => address_or_off(raw).map(|address| {
            let spotted = |value| Spotted { value, spot: spot.clone() };
            Value::Addresses(address.map(spotted).into_iter().collect())
        }),
        SettingKind::Texts => {
            let read = |raw: &RawValue<'_>| text(raw, "each element in quotes");
            return list(raw, example, read, spot, report).map(Value::Texts);
        }
        SettingKind::Addresses => {
            return list(raw, example, address, spot, report).map(Value::Addresses);
        }
        SettingKind::Paths => {
            let read = |raw: &RawValue<'_>| path(raw, example);
            return one_or_more(raw, example, read, spot, report).map(Value::Texts);
        }
        SettingKind::Sizes { min, max } => {
            let read = |raw: &RawValue<'_>| size(raw, min, max, example);
            return one_or_more(raw, example, read, spot, report).map(Value::Numbers);
        }
    };
    value.map_err(|message| report.problem(told(raw, message, spot))).ok()
}

/// Reads every element, so that each wrong one is told.
fn list<T>(
    raw: &RawValue<'_>,
    example: &str,
    read: impl Fn(&RawValue<'_>) -> Result<T, String>,
    spot: &Spot,
    report: &mut ProblemReport,
) -> Option<Vec<Spotted<T>>> {
    let RawValue::List(elements) = raw else {
        report.problem(told(raw, format!("is not a list; write {example}"), spot));
        return None;
    };
    let mut values = Vec::new();
    for (raw, spot) in elements {
        match read(raw) {
            Ok(value) => values.push(Spotted { value, spot: spot.clone() }),
            Err(message) => report.problem(told(raw, message, spot)),
        }
    }
    (values.len() == elements.len()).then_some(values)
}

/// Reads a value that stands alone or in a list, which is never empty.
fn one_or_more<T>(
    raw: &RawValue<'_>,
    example: &str,
    read: impl Fn(&RawValue<'_>) -> Result<T, String>,
    spot: &Spot,
    report: &mut ProblemReport,
) -> Option<Vec<Spotted<T>>> {
    match raw {
        RawValue::List(elements) if elements.is_empty() => {
            report.problem(spot.problem(format!("is an empty list; write {example}")));
            None
        }
        RawValue::List(_) => list(raw, example, read, spot, report),
        RawValue::Text(_)
        | RawValue::Integer(..)
        | RawValue::Boolean(_)
        | RawValue::Fraction(_)
        | RawValue::Other(_) => {
            let value = read(raw).map_err(|message| report.problem(told(raw, message, spot)));
            value.ok().map(|value| vec![Spotted { value, spot: spot.clone() }])
        }
    }
}

fn text(raw: &RawValue<'_>, example: &str) -> Result<String, String> {
    match raw {
        RawValue::Text(text) => Ok(text.clone().into_owned()),
        RawValue::Integer(..)
        | RawValue::Boolean(_)
        | RawValue::Fraction(_)
        | RawValue::Other(_)
        | RawValue::List(_) => Err(format!("is not a text; write {example}")),
    }
}

fn word(raw: &RawValue<'_>, words: &[&str]) -> Result<String, String> {
    let choice = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
    match raw {
        RawValue::Text(text) if words.contains(&text.as_ref()) => Ok(text.clone().into_owned()),
        RawValue::Text(_)
        | RawValue::Integer(..)
        | RawValue::Boolean(_)
        | RawValue::Fraction(_)
        | RawValue::Other(_)
        | RawValue::List(_) => Err(format!("is not known here; write {choice}")),
    }
}

fn path(raw: &RawValue<'_>, example: &str) -> Result<String, String> {
    let text = text(raw, example)?;
    if text.is_empty() || text.contains('\0') {
        return Err(format!("is not a path; write one like {example}"));
    }
    Ok(text)
}

fn boolean(raw: &RawValue<'_>) -> Result<bool, String> {
    match raw {
        RawValue::Boolean(boolean) => Ok(*boolean),
        RawValue::Text(_)
        | RawValue::Integer(..)
        | RawValue::Fraction(_)
        | RawValue::Other(_)
        | RawValue::List(_) => {
            Err("is neither true nor false; write one of them, without quotes".to_owned())
        }
    }
}

fn integer(raw: &RawValue<'_>, min: u64, max: u64) -> Result<u64, String> {
    match raw {
        RawValue::Integer(Some(number), _) if (min..=max).contains(number) => Ok(*number),
        RawValue::Integer(..) => {
            Err(format!("is out of range; write a number from {min} to {max}"))
        }
        RawValue::Text(_)
        | RawValue::Boolean(_)
        | RawValue::Fraction(_)
        | RawValue::Other(_)
        | RawValue::List(_) => {
            Err(format!("is not a whole number; write one from {min} to {max}, without quotes"))
        }
    }
}

/// Billionths of a sum, which is at most a million.
fn price(raw: &RawValue<'_>, example: &str) -> Result<u64, String> {
    let text = match raw {
        RawValue::Fraction(text) | RawValue::Integer(_, text) => text.as_str(),
        RawValue::Text(text) => text,
        RawValue::Boolean(_) | RawValue::Other(_) | RawValue::List(_) => "",
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_price = is_digits(whole) && is_digits(fraction) && fraction.len() <= 9;
    let nanos = format!("{fraction:0<9}").parse::<u64>().ok().filter(|_| is_price);
    let whole = whole.parse::<u64>().ok().filter(|whole| *whole < 1_000_000);
    match (whole, nanos) {
        (Some(whole), Some(nanos)) => Ok(whole * 1_000_000_000 + nanos),
        _ => Err(format!(
            "is not a price; write a number below a million with at most nine digits behind the \
             point, such as {example}"
        )),
    }
}

fn size(raw: &RawValue<'_>, min: u64, max: u64, example: &str) -> Result<u64, String> {
    let size = match raw {
        RawValue::Integer(Some(size), _) => *size,
        RawValue::Text(text) => units::parse_size(text)
            .map_err(|error| format!("is not a size: {error}; write one like {example}"))?,
        RawValue::Integer(None, _)
        | RawValue::Boolean(_)
        | RawValue::Fraction(_)
        | RawValue::Other(_)
        | RawValue::List(_) => return Err(format!("is not a size; write one like {example}")),
    };
    let print = units::print_size;
    if size < min {
        return Err(format!("is too small; write at least {:?}", print(min)));
    }
    if size > max {
        return Err(format!("is too large; write at most {:?}", print(max)));
    }
    Ok(size)
}

fn duration(
    raw: &RawValue<'_>,
    min: Duration,
    max: Duration,
    example: &str,
) -> Result<Duration, String> {
    let RawValue::Text(text) = raw else {
        return Err(format!("is not a duration; write one with its unit, like {example}"));
    };
    let duration = units::parse_duration(text)
        .map_err(|error| format!("is not a duration: {error}; write one like {example}"))?;
    let print = units::print_duration;
    if duration < min {
        return Err(format!("is too short; write at least {:?}", print(min)));
    }
    if duration > max {
        return Err(format!("is too long; write at most {:?}", print(max)));
    }
    Ok(duration)
}

fn address(raw: &RawValue<'_>) -> Result<SocketAddr, String> {
    let wanted = "write ADDRESS:PORT in quotes, such as \"[::]:8080\" or \"127.0.0.1:8080\"";
    match raw {
        RawValue::Text(text) => text.parse().map_err(|_| {
            format!("is not an address with a port; host names do not serve; {wanted}")
        }),
        RawValue::Integer(..)
        | RawValue::Boolean(_)
        | RawValue::Fraction(_)
        | RawValue::Other(_)
        | RawValue::List(_) => Err(format!("is not an address with a port; {wanted}")),
    }
}

fn address_or_off(raw: &RawValue<'_>) -> Result<Option<SocketAddr>, String> {
    if matches!(raw, RawValue::Text(text) if text == "off") {
        return Ok(None);
    }
    address(raw).map(Some).map_err(|message| format!("{message}, or \"off\" for none"))
}

fn raw<'a>(value: &'a DeValue<'_>) -> RawValue<'a> {
    match value {
        DeValue::String(text) => RawValue::Text(text.as_ref().into()),
        DeValue::Integer(integer) => {
            let digits = integer.as_str();
            RawValue::Integer(
                u64::from_str_radix(digits, integer.radix()).ok(),
                integer.to_string(),
            )
        }
        DeValue::Boolean(boolean) => RawValue::Boolean(*boolean),
        DeValue::Float(number) => RawValue::Fraction(number.to_string()),
        DeValue::Datetime(_) => RawValue::Other("a date"),
        DeValue::Array(_) => RawValue::Other("a list"),
        DeValue::Table(_) => RawValue::Other("a table"),
    }
}

fn told(raw: &RawValue<'_>, message: String, spot: &Spot) -> ConfigProblem {
    let found = match raw {
        RawValue::Text(text) => return spot.problem_with(text, message),
        RawValue::Integer(_, digits) | RawValue::Fraction(digits) => {
            digits.chars().take(60).collect()
        }
        RawValue::Boolean(boolean) => boolean.to_string(),
        RawValue::Other(what) => (*what).to_owned(),
        RawValue::List(_) => "a list".to_owned(),
    };
    ConfigProblem { found: Some(found), ..spot.problem(message) }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::super::problem::SourcePlace;
    use super::super::settings::{self, settings};
    use super::*;

    fn spot() -> Spot {
        Spot { path: "a.b".into(), place: SourcePlace::Default }
    }

    fn read_toml(path: &str, text: &str) -> Result<Value, String> {
        let setting = settings::setting(path).unwrap();
        let value = DeValue::parse(text).unwrap();
        let mut report = ProblemReport::default();
        let spot_of = |position: usize, _: &Spanned<DeValue<'_>>| spot().element(position);
        from_toml(setting, value.get_ref(), &spot(), &spot_of, &mut report)
            .ok_or_else(|| report.problems.iter().map(ToString::to_string).collect())
    }

    fn wrong(path: &str, text: &str) -> String {
        read_toml(path, text).unwrap_err()
    }

    #[test]
    fn every_default_and_every_example_is_a_value_of_its_setting() {
        for setting in settings() {
            if matches!(setting.fallback, Fallback::Is(_)) {
                assert!(fallback(setting, &spot()).is_some(), "{}", setting.path);
            }
            read_toml(setting.path, setting.example).unwrap();
        }
    }

    #[test]
    fn sizes_and_durations_may_not_leave_their_range() {
        let size = "server.limits.path_bytes_max";
        assert_eq!(read_toml(size, "2048"), Ok(Value::Number(2048)));
        assert_eq!(read_toml(size, "0x1000"), Ok(Value::Number(4096)));
        assert!(wrong(size, "\"1B\"").contains("too small; write at least \"256B\""));
        assert!(wrong(size, "\"1GiB\"").contains("too large; write at most \"64KiB\""));
        assert!(wrong(size, "-1").contains("-1 is not a size"));
        assert!(wrong(size, "1.5").contains("1.5 is not a size"));
        let wait = "server.timeouts.idle";
        assert!(wrong(wait, "\"0s\"").contains("\"0s\" is too short; write at least \"100ms\""));
        assert!(wrong(wait, "\"2h\"").contains("too long; write at most \"1h\""));
        assert!(wrong(wait, "10").contains("10 is not a duration; write one with its unit"));
        assert!(wrong(wait, "\"10\"").contains("write 10s for seconds"));
    }

    #[test]
    fn a_wrong_type_says_what_to_write() {
        assert!(wrong("server.http2", "\"yes\"").contains("write one of them, without quotes"));
        assert!(wrong("server.limits.streams_max", "\"5\"").contains("without quotes"));
        assert!(wrong("server.limits.streams_max", "0").contains("from 1 to 10000"));
        assert!(wrong("server.limits.streams_max", "99999999999999999999").contains("range"));
        assert!(wrong("log.access", "\"jsn\"").contains("\"json\" or \"combined\" or \"off\""));
        assert!(wrong("site.kind", "\"git\"").contains("\"nix-cache\" or \"generic\""));
        assert!(wrong("site.hosts", "\"a\"").contains("is not a list; write [\"cache.ex"));
        assert!(wrong("disk.path", "\"\"").contains("is not a path"));
        assert!(wrong("server.listen", "[\"localhost:80\"]").contains("host names do not serve"));
        assert!(wrong("server.listen", "[\"off\"]").contains("is not an address"));
        assert!(wrong("admin.listen", "\"x\"").contains("or \"off\" for none"));
    }

    #[test]
    fn every_wrong_element_is_told() {
        let problems = wrong("server.listen", "[1, \"[::]:80\", true]");
        assert!(problems.contains("a.b[0]: 1 is") && problems.contains("a.b[2]: true is"));
        assert!(!problems.contains("a.b[1]"));
    }

    #[test]
    fn texts_of_variables_are_read_by_kind() {
        let read = |path: &str, texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
            let mut report = ProblemReport::default();
            from_texts(settings::setting(path).unwrap(), &texts, &spot(), &mut report)
                .ok_or(report.problems.len())
        };
        assert_eq!(read("server.http2", &["false"]), Ok(Value::Boolean(false)));
        assert_eq!(read("server.http2", &["no"]), Err(1));
        assert_eq!(read("server.limits.streams_max", &["7"]), Ok(Value::Number(7)));
        assert_eq!(read("server.limits.streams_max", &["-7"]), Err(1));
        assert_eq!(read("memory.size", &["1GiB", "2MiB"]), Ok(Value::Number(2 << 20)));
        let Ok(Value::Addresses(both)) = read("server.listen", &["[::]:1, 0.0.0.0:2", "[::1]:3"])
        else {
            panic!("no list")
        };
        assert_eq!(both.len(), 3);
    }
}
