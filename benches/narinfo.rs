//! Measures what a narinfo costs on its way from an origin to the store: reading it, the text that
//! is signed, the signature, and the class of its path. Run with `cargo bench --bench narinfo`.

use criterion::{Criterion, Throughput};
use narthex::nix::class;
use narthex::nix::narinfo::NarInfo;
use narthex::nix::signature::{SecretKey, TrustedKeys};
use narthex::nix::store_path::StorePath;
use std::error::Error;
use std::hint::black_box;

/// Written by Nix: three references, one signature.
const SMALL: &str = include_str!("../src/nix/vectors/nix-store.narinfo");

/// References of the large narinfo; those of a system's closure are some hundreds.
const REFERENCES: u32 = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let secret = SecretKey::from_seed("bench-1", [1; 32])?;
    let keys = TrustedKeys::new(vec![secret.public_key()?]);
    let mut criterion = Criterion::default().configure_from_args();

    let small = signed(NarInfo::parse(SMALL.as_bytes())?, &secret)?;
    measure(&mut criterion, "small", &small, &keys)?;

    let references = (0..REFERENCES)
        .map(|number| StorePath::from_base_name(&format!("{number:032}-package-{number}")))
        .collect::<Result<Vec<_>, _>>()?;
    let large = signed(NarInfo { references, ..small }, &secret)?;
    measure(&mut criterion, "large", &large, &keys)?;

    let mut paths = criterion.benchmark_group("path");
    for (name, path) in [
        ("narinfo", "/2qzg4zbq1mshms228hga5qxn1cf74q0a.narinfo"),
        ("nar", "/nar/0rwlk7j4wvisf4c9gd7l6cr3lvkjr9sqlrrhsw6nhj1yyg5vlrdv.nar.xz"),
        ("outside", "/wp-admin/setup-config.php"),
    ] {
        paths.bench_function(format!("classify {name}"), |bencher| {
            bencher.iter(|| class::classify(black_box(path)));
        });
    }
    paths.bench_function("file hash", |bencher| {
        let path = "/nar/0rwlk7j4wvisf4c9gd7l6cr3lvkjr9sqlrrhsw6nhj1yyg5vlrdv.nar.xz";
        bencher.iter(|| class::file_hash_of(black_box(path)));
    });
    paths.finish();
    criterion.final_summary();
    Ok(())
}

fn signed(mut narinfo: NarInfo, secret: &SecretKey) -> Result<NarInfo, Box<dyn Error>> {
    narinfo.signatures = vec![secret.sign(narinfo.fingerprint().as_bytes())?.to_string()];
    Ok(narinfo)
}

fn measure(
    criterion: &mut Criterion,
    name: &str,
    narinfo: &NarInfo,
    keys: &TrustedKeys,
) -> Result<(), Box<dyn Error>> {
    let text = narinfo.to_string();
    NarInfo::parse(text.as_bytes())?;
    keys.verify(narinfo)?;
    let mut group = criterion.benchmark_group(format!("narinfo {name}"));
    group.throughput(Throughput::Bytes(u64::try_from(text.len())?));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| NarInfo::parse(black_box(text.as_bytes())));
    });
    group.bench_function("fingerprint", |bencher| {
        bencher.iter(|| black_box(narinfo).fingerprint());
    });
    group.bench_function("verify", |bencher| {
        bencher.iter(|| keys.verify(black_box(narinfo)));
    });
    group.finish();
    Ok(())
}
