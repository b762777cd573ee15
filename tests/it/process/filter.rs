//! `narthex filter build`: of a listing of a private bucket, of a list of keys, of an inventory;
//! and what it refuses.

use super::edge::{Settings, narthex, run};
use flate2::Compression;
use flate2::write::GzEncoder;
use narthex::cli::demo::s3_origin::{DemoS3Origin, S3OriginSettings};
use narthex::filter::{Event, FilterVerdict};
use narthex::tasks::Tasks;
use std::io::Write;
use std::path::Path;

/// Runs the command in a folder with this config; the code, and what it said.
fn build(settings: &Settings, sites: &str, arguments: &[&str]) -> (i32, String) {
    settings.write(sites);
    let mut command = narthex(settings.folder());
    command.args(["filter", "build", "--config"]).arg(settings.file()).args(arguments);
    let output = run(command);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(said).unwrap())
}

fn site(folder: &Path, origin: &str) -> String {
    format!(
        "[[site]]\nname = \"main\"\n[site.absence_filter]\nfile = \"{}/main.filter\"\n\
         bucket = \"cache\"\n[[site.origin]]\n{origin}\n",
        folder.display()
    )
}

/// What the filter that was built says of a path.
fn verdict(folder: &Path, path: &str) -> FilterVerdict {
    let text = "[disk]\nsize = 0\n".to_owned() + &site(folder, "url = \"http://127.0.0.1:1\"");
    let file = Some(("test.toml".into(), text));
    let sources = narthex::config::Sources { file, ..Default::default() };
    let config = narthex::config::load(&sources).unwrap().config;
    let settings = config.sites[0].absence_filter.clone().unwrap();
    let (clock, metrics) =
        (narthex::clock::Clock::System, narthex::metrics::Metrics::new().unwrap());
    let filter = narthex::filter::Filter::new("main", settings.clone(), clock, metrics);
    filter.start();
    // Whatever it says of the future counts up to now.
    let moment = narthex::clock::Timestamp::from_secs;
    let (since, up_to) = (moment(0), moment(4_000_000_000));
    filter.take(&[Event::Delivered { since, up_to }]).unwrap();
    let verdict = filter.check(path, narthex::nix::Class::Narinfo).unwrap();
    drop(filter);
    std::fs::remove_file(settings.journal).unwrap();
    verdict
}

fn narinfo(number: u64) -> String {
    format!("zz{number:030}.narinfo")
}

#[test]
fn a_private_bucket_is_listed_to_its_end_with_the_sites_credentials() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let own = S3OriginSettings::new("cache", "AKIDTEST", "a-secret");
    let bucket = runtime.block_on(DemoS3Origin::start(own, &Tasks::new())).unwrap();
    bucket.put("nix-cache-info", "StoreDir: /nix/store\n".into(), "text/plain");
    bucket.put("log/a b+c%", "log".into(), "text/plain");
    for number in 0..1_200 {
        bucket.put(&narinfo(number), "x".into(), "text/x-nix-narinfo");
    }
    let settings = Settings::new();
    let folder = settings.folder().to_owned();
    std::fs::write(folder.join("id"), "AKIDTEST").unwrap();
    let origin = format!(
        "url = \"s3://cache?region=us-east-1&endpoint={}\"\n\
         credentials = {{ access_key_id_file = \"{folder}/id\", \
         secret_access_key_file = \"{folder}/secret\" }}",
        bucket.endpoint(),
        folder = folder.display(),
    );
    std::fs::write(folder.join("secret"), "wrong").unwrap();
    let (code, said) = build(&settings, &site(&folder, &origin), &["--list"]);
    assert!(code == 1 && said.contains("SignatureDoesNotMatch"), "{code} {said}");
    assert!(!folder.join("main.filter").exists());
    std::fs::write(folder.join("secret"), "a-secret").unwrap();
    let (code, said) = build(&settings, &site(&folder, &origin), &["--list"]);
    assert!(code == 0 && said.contains("1201 keys of 1202"), "{code} {said}");
    for number in [0, 998, 999, 1_000, 1_199] {
        let path = format!("/{}", narinfo(number));
        assert_eq!(verdict(&folder, &path), FilterVerdict::Maybe, "{path}");
    }
    let absent = (2_000..2_100).map(|number| verdict(&folder, &format!("/{}", narinfo(number))));
    assert!(absent.filter(|verdict| *verdict == FilterVerdict::Absent).count() > 90);
}

#[test]
fn a_list_of_keys_may_be_packed_and_must_say_of_when_it_is() {
    let settings = Settings::new();
    let folder = settings.folder().to_owned();
    let sites = site(&folder, "url = \"http://127.0.0.1:1\"");
    let list = folder.join("keys");
    let list_text = list.to_str().unwrap();
    let keys = format!("nix-cache-info\n{}\r\n\nlog/x\n{}", narinfo(1), narinfo(2));
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(keys.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(keys.as_bytes()).unwrap();
    let when = ["--complete-up-to", "2026-05-28T20:00:00Z"];
    for content in [keys.into_bytes(), packed.clone(), xz.finish().unwrap()] {
        std::fs::write(&list, content).unwrap();
        let (code, said) = build(&settings, &sites, &[&["--keys", list_text], &when[..]].concat());
        assert!(code == 0 && said.contains("3 keys of 4"), "{code} {said}");
        assert_eq!(verdict(&folder, &format!("/{}", narinfo(2))), FilterVerdict::Maybe);
        std::fs::remove_file(folder.join("main.filter")).unwrap();
    }
    let (code, said) = build(&settings, &sites, &["--keys", list_text]);
    assert!(code == 2 && said.contains("--complete-up-to"), "{code} {said}");
    for (content, word) in [
        (&packed[..packed.len() - 9], "cannot be read to its end"),
        (&b"/nix/store/abc-hello\n"[..], "is a store path"),
        (&b"a.narinfo\nlog/x\n"[..], "nix-cache-info is not among the 2 keys"),
        (&b"nix-cache-info\n\xff\n"[..], "line 2: is not UTF-8"),
    ] {
        std::fs::write(&list, content).unwrap();
        let (code, said) = build(&settings, &sites, &[&["--keys", list_text], &when[..]].concat());
        assert!(code == 1 && said.contains(word), "{code} {said}");
        assert!(!folder.join("main.filter").exists());
    }
}

#[test]
fn an_inventory_is_checked_against_its_manifest() {
    let settings = Settings::new();
    let folder = settings.folder().to_owned();
    let sites = site(&folder, "url = \"http://127.0.0.1:1\"");
    std::fs::create_dir_all(folder.join("data")).unwrap();
    std::fs::create_dir_all(folder.join("2026")).unwrap();
    let rows = format!(
        "\"cache\",\"nix-cache-info\",\"1\",\"true\"\n\"cache\",\"{}\",\"1\",\"true\"\n\
         \"cache\",\"{}\",\"1\",\"false\"\n\"cache\",\"log%2Fa+b\",\"1\",\"true\"\n",
        narinfo(1),
        narinfo(2),
    );
    // As `gzip -n` packs it, so that its sum is known: stored, not compressed.
    let mut packed = GzEncoder::new(Vec::new(), Compression::none());
    packed.write_all(rows.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    std::fs::write(folder.join("data/one.csv.gz"), &packed).unwrap();
    let md5 = {
        use md5::{Digest, Md5};
        let hex = Md5::digest(&packed).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
        hex.concat()
    };
    let manifest = serde_json::json!({
        "sourceBucket": "cache", "destinationBucket": "arn:aws:s3:::inventories",
        "version": "2016-11-30", "creationTimestamp": "1780000000000", "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, Size, IsLatest",
        "files": [{ "key": "p/cache/c/data/one.csv.gz", "size": packed.len(), "MD5checksum": md5 }]
    });
    let path = folder.join("2026/manifest.json");
    let try_with = |manifest: &serde_json::Value| {
        std::fs::write(&path, manifest.to_string()).unwrap();
        build(&settings, &sites, &["--inventory", path.to_str().unwrap()])
    };
    let (code, said) = try_with(&manifest);
    assert!(code == 0 && said.contains("2 keys of 3"), "{code} {said}");
    assert_eq!(verdict(&folder, &format!("/{}", narinfo(1))), FilterVerdict::Maybe);
    std::fs::remove_file(folder.join("main.filter")).unwrap();
    for (field, value, word) in [
        ("/fileFormat", "Parquet", "of the format Parquet, which is not read"),
        ("/sourceBucket", "other", "an inventory of \"other\""),
        ("/files/0/MD5checksum", "00", "its MD5 is another"),
        ("/files/0/key", "p/data/two.csv.gz", "two.csv.gz is neither"),
        ("/creationTimestamp", "today", "creationTimestamp"),
        ("/fileSchema", "Bucket, Size", "no Key"),
    ] {
        let mut wrong = manifest.clone();
        *wrong.pointer_mut(field).unwrap() = value.into();
        let (code, said) = try_with(&wrong);
        assert!(code == 1 && said.contains(word), "{field}: {code} {said}");
        assert!(!folder.join("main.filter").exists());
    }
}

#[test]
fn a_call_that_cannot_be_meant_says_what_is_missing() {
    let settings = Settings::new();
    let folder = settings.folder().to_owned();
    let plain = "[[site]]\n[[site.origin]]\nurl = \"http://127.0.0.1:1\"\n";
    let with = site(&folder, "url = \"http://127.0.0.1:1\"");
    for (sites, arguments, word) in [
        (plain, &["--list"][..], "no site of the config has a [site.absence_filter]"),
        (plain, &["--list", "--site", "x"], "no site is named x"),
        (&with, &["--list"], "--list needs an s3:// origin"),
        (&with, &[], "--list"),
        (&with, &["--list", "--keys", "k"], "cannot be used with"),
    ] {
        let (code, said) = build(&settings, sites, arguments);
        assert!(code == 2 && said.contains(word), "{arguments:?}: {code} {said}");
    }
}
