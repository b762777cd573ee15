//! Measures the hot tier: resident bytes of a narinfo with what it claims of its NAR, beside what
//! the tier counts for it, and the time of a look-up. Run with
//! `cargo bench --bench memory [-- NARINFOS]`; a million by default, which take 2 GiB.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use narthex::clock::Timestamp;
use narthex::config;
use narthex::memory::{Claimant, HeldClaim, Hot, Memory, NewObject};
use narthex::metrics::Metrics;
use narthex::nix::Class;
use narthex::nix::nar_file::{NarCompression, NarContents};
use narthex::object::{Key, Lifetime, Meta, NarClaim, Proof, Sha256, Variant};
use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

const NARINFOS: usize = 1_000_000;
const BODY_BYTES: usize = 1_100;
const LOOKUPS: usize = 1_000_000;
/// A step through the keys that visits all of them before any twice, and no neighbours in turn.
const STEP: usize = 7_919;

fn main() -> Result<(), Box<dyn Error>> {
    let count = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(NARINFOS);
    let settings = config::MemorySettings { size: 1 << 40, absent_size: 1 << 20 };
    let memory = Memory::new(&settings, &Metrics::new()?);
    let origin: Arc<str> = "bench".into();
    let body = vec![b'x'; BODY_BYTES];
    let before = resident_bytes()?;
    for number in 0..count {
        let meta = meta(number, &origin)?;
        let hot = Arc::new(Hot::published(&meta, &body, number as u64));
        let (order, response_time) = (hot.order(), meta.response_time);
        let coming = NewObject { hot: Some(&hot), order, response_time, since: order };
        memory.publish(&meta.key, &coming);
        let nar = Key::new("main#12ab", &format!("/nar/{number:052}.nar.xz"), None);
        let file_hash = Some(Sha256([7; 32]));
        let compression = NarCompression::Xz;
        let contents = Some(NarContents { sha256: [8; 32], bytes: number as u64, compression });
        let claim = NarClaim { file_hash, file_size: Some(number as u64), source: None, contents };
        let held = HeldClaim { claim, by: Claimant::Stored(meta.key.hash()), since: 0, order };
        memory.put_claim(nar, held);
    }
    let (grown, usage) = (resident_bytes()?.saturating_sub(before), memory.usage());
    let keys: Vec<Key> = (0..LOOKUPS).map(|turn| key(turn * STEP % count)).collect();
    let start = Instant::now();
    for key in &keys {
        black_box(memory.get(key.as_str()));
    }
    let spent = start.elapsed();
    writeln!(
        std::io::stdout().lock(),
        "narinfos                {}\n\
         resident bytes each     {} (with its claim)\n\
         counted bytes each      {} (without)\n\
         bytes of a body         {BODY_BYTES}\n\
         nanoseconds a look-up   {}",
        usage.objects,
        grown / count.max(1),
        usage.bytes / usage.objects.max(1),
        spent.as_nanos() / LOOKUPS as u128,
    )?;
    Ok(())
}

fn key(number: usize) -> Key {
    Key::new("main#12ab", &format!("/{number:032}.narinfo"), None)
}

/// The head of a narinfo as an S3 bucket gives it.
fn meta(number: usize, origin: &Arc<str>) -> Result<Meta, Box<dyn Error>> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/x-nix-narinfo"));
    headers.insert(header::ETAG, HeaderValue::from_str(&format!("\"{number:032x}\""))?);
    let modified = HeaderValue::from_static("Sun, 13 Sep 2020 12:26:40 GMT");
    headers.insert(header::LAST_MODIFIED, modified);
    Ok(Meta {
        key: key(number),
        class: Class::Narinfo,
        status: StatusCode::OK,
        headers,
        origin: Arc::clone(origin),
        request_time: Timestamp::from_secs(0),
        response_time: Timestamp::from_secs(0),
        age_at_response: 0,
        lifetime: Lifetime::Seconds(1),
        is_invalidated: false,
        proof: Proof::Signature,
        variant: Variant::default(),
    })
}

/// Resident memory of this process.
fn resident_bytes() -> Result<usize, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(kib.parse::<usize>()? * 1024)
}
