//! Fuzzes `units`: sizes and durations print in one form that reads back as the same value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use narthex::units::{parse_duration, parse_size, print_duration, print_size};
use std::time::Duration;

fuzz_target!(|data: &[u8]| {
    let (number, rest) = narthex_fuzz::number(data);
    check_size(number);
    check_duration(Duration::from_nanos(number));
    let nanos = u32::try_from(rest.len()).unwrap_or_default() % 1_000_000_000;
    check_duration(Duration::new(number, nanos));
    let Some(text) = narthex_fuzz::text(data) else { return };
    let (size, duration) = (parse_size(text), parse_duration(text));
    if let Ok(size) = size {
        check_size(size);
        assert_eq!(parse_size(&text.to_ascii_uppercase()), Ok(size));
        assert_eq!(parse_size(&format!(" {text}\t")), Ok(size));
    }
    if let Ok(duration) = duration {
        check_duration(duration);
        assert_eq!(parse_duration(&text.to_ascii_lowercase()), Ok(duration));
        // Of one text, a size and a duration never both.
        assert!(size.is_err(), "{text}");
    }
});

fn check_size(bytes: u64) {
    let printed = print_size(bytes);
    assert_eq!(parse_size(&printed), Ok(bytes), "{printed}");
    assert!(printed.len() <= "18446744073709551615B".len());
}

fn check_duration(duration: Duration) {
    let printed = print_duration(duration);
    assert_eq!(parse_duration(&printed), Ok(duration), "{printed}");
    assert!(printed.len() <= "213503982334601d7h59m59s999ms999us999ns".len());
}
