//! Fuzzes the private `origin::netrc`, taken in by path: whatever a file holds, no error tells a
//! word of it, and what is written down for a host is found, quotes and all.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/origin/netrc.rs"]
mod netrc;

const HOST: &str = "cache.example.org";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = netrc::entry(text, HOST) {
        let told = error.to_string();
        assert!(told.lines().count() == 1 && told.len() < 200, "{told}");
        assert!(!format!("{error:?}").contains("HUSH"));
    }
    // Text that stands on one line is a word if it is in quotes.
    if text.lines().count() != 1 || text.contains(['\n', '\r']) {
        return;
    }
    let word = text.replace('\\', "\\\\").replace('"', "\\\"");
    let file = format!("machine {HOST} login \"{word}\" password \"{word}\"\n");
    let entry = netrc::entry(&file, HOST).unwrap();
    assert_eq!((entry.login.as_str(), entry.password.as_str()), (text, text));
});
