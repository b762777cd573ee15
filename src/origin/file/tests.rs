//! Tests of folders.

use super::super::exchange::{OriginAnswer, RangeAsked};
use super::super::testing::{Bench, ask, bench, found, head, origin, site, whole, word};
use super::super::{Method, OriginUrl};
use super::*;

struct Fixture {
    bench: Bench,
    folder: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    std::fs::create_dir_all(root.join("nar")).unwrap();
    std::fs::write(root.join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    std::fs::write(root.join("nar/a.nar"), "0123456789").unwrap();
    let bench = bench(&site(vec![origin("folder", OriginUrl::File(root))]));
    Fixture { bench, folder }
}

impl Fixture {
    async fn fetch(&self, ask: &Ask) -> Result<OriginAnswer<Response>, FetchError> {
        self.bench.origins.fetch(ask).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("cache").join(name)
    }
}

#[tokio::test]
async fn a_file_comes_with_its_head_and_body() {
    let fixture = fixture();
    let response = found(fixture.fetch(&ask("/nar/a.nar")).await);
    assert_eq!((response.status, response.content_length), (StatusCode::OK, Some(10)));
    assert_eq!(response.headers[header::CONTENT_TYPE], "application/x-nix-nar");
    assert_eq!(response.headers[header::CONTENT_LENGTH], "10");
    let tag = response.headers[header::ETAG].clone();
    assert!(tag.to_str().unwrap().starts_with('"'));
    assert_eq!(whole(response).await, b"0123456789");
    let response = found(fixture.fetch(&head("/nar/a.nar")).await);
    assert_eq!(response.headers[header::ETAG], tag);
    assert_eq!(response.content_length, Some(10));
    assert_eq!(whole(response).await, b"");
    let text = fixture.bench.metrics.text().unwrap();
    let counted =
        "narthex_origin_requests_total{class=\"other\",origin=\"folder\",status=\"200\"} 2";
    assert!(text.contains(counted), "{text}");
    assert!(text.contains("narthex_origin_bytes_total{class=\"other\",origin=\"folder\"} 10"));
}

#[tokio::test]
async fn large_files_come_whole_and_in_parts() {
    let fixture = fixture();
    let bytes: Vec<u8> = (0..PIECE_BYTES * 3 + 17).map(|at| (at % 251) as u8).collect();
    std::fs::write(fixture.path("nar/large"), &bytes).unwrap();
    assert_eq!(whole(found(fixture.fetch(&ask("/nar/large")).await)).await, bytes);
    let length = bytes.len() as u64;
    for (first, last) in [(0, None), (5, Some(5)), (length - 1, None), (9, Some(u64::MAX))] {
        let range = Some(RangeAsked { first, last });
        let response = found(fixture.fetch(&Ask { range, ..ask("/nar/large") }).await);
        let end = last.map_or(length, |last| last.saturating_add(1).min(length));
        let expected = format!("bytes {first}-{}/{length}", end - 1);
        assert_eq!(response.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(response.headers[header::CONTENT_RANGE], expected);
        let (first, end) = (usize::try_from(first).unwrap(), usize::try_from(end).unwrap());
        assert_eq!(whole(response).await, &bytes[first..end]);
    }
    let range = Some(RangeAsked { first: length, last: None });
    assert_eq!(word(&fixture.fetch(&Ask { range, ..ask("/nar/large") }).await), "changed");
}

#[tokio::test]
async fn preconditions_hold_until_the_file_changes() {
    let fixture = fixture();
    let response = found(fixture.fetch(&ask("/nar/a.nar")).await);
    let tag = Some(response.headers[header::ETAG].clone());
    let modified = Some(response.headers[header::LAST_MODIFIED].clone());
    let held = Ask { if_none_match: tag.clone(), ..ask("/nar/a.nar") };
    let dated = Ask { if_modified_since: modified, ..ask("/nar/a.nar") };
    let range = Some(RangeAsked { first: 4, last: None });
    let continued = Ask { if_match: tag, range, ..ask("/nar/a.nar") };
    assert_eq!(word(&fixture.fetch(&held).await), "not modified");
    assert_eq!(word(&fixture.fetch(&dated).await), "not modified");
    assert_eq!(whole(found(fixture.fetch(&continued).await)).await, b"456789");
    std::fs::write(fixture.path("nar/a.nar"), "other bytes").unwrap();
    assert_eq!(word(&fixture.fetch(&held).await), "found");
    assert_eq!(word(&fixture.fetch(&continued).await), "changed");
}

#[tokio::test]
async fn absence_is_known_only_in_a_folder_that_is_a_cache() {
    let fixture = fixture();
    for path in ["/missing.narinfo", "/nar", "/nar/", "/nar/a.nar/x", "/", "/no/such/folder"] {
        assert_eq!(word(&fixture.fetch(&ask(path)).await), "absent", "{path}");
    }
    std::fs::remove_file(fixture.path("nix-cache-info")).unwrap();
    let error = fixture.fetch(&ask("/missing.narinfo")).await.unwrap_err();
    assert!(error.to_string().contains("nix-cache-info"), "{error}");
    assert_eq!(word(&fixture.fetch(&ask("/nar/a.nar")).await), "found");
    std::fs::remove_dir_all(fixture.folder.path().join("cache")).unwrap();
    let error = fixture.fetch(&ask("/nar/a.nar")).await.unwrap_err();
    assert!(matches!(error, FetchError::Folder { .. }) && !error.may_retry());
    assert!(error.to_string().contains("cache"), "{error}");
    assert!(!fixture.bench.origins.health()[0].is_up);
}

#[tokio::test]
async fn nothing_outside_of_the_folder_is_served() {
    let fixture = fixture();
    std::fs::write(fixture.folder.path().join("secret"), "s").unwrap();
    let link = std::os::unix::fs::symlink::<&str, PathBuf>;
    link("../secret", fixture.path("out")).unwrap();
    link("/etc", fixture.path("etc")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        fixture.path("fifo"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for path in ["/../secret", "/nar/../../secret", "/out", "/etc/passwd", "/fifo"] {
        let answer = fixture.fetch(&ask(path)).await;
        assert!(matches!(word(&answer), "absent" | "folder"), "{path}: {answer:?}");
    }
    let folder = File::open(fixture.path("")).unwrap();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    assert!(open_step_by_step(&folder, "nar/a.nar", flags).is_ok());
    for path in ["out", "etc/passwd", "nar/missing"] {
        assert!(open_step_by_step(&folder, path, flags).is_err(), "{path}");
    }
}

#[tokio::test]
async fn a_file_cut_short_while_it_is_read_is_an_error() {
    let fixture = fixture();
    let path = fixture.path("nar/large");
    let length = PIECE_BYTES * 8;
    std::fs::write(&path, vec![1; usize::try_from(length).unwrap()]).unwrap();
    let mut response = found(fixture.fetch(&ask("/nar/large")).await);
    assert!(response.body.chunk().await.unwrap().is_some());
    File::options().write(true).open(&path).unwrap().set_len(PIECE_BYTES).unwrap();
    let mut read = PIECE_BYTES;
    let error = loop {
        match response.body.chunk().await {
            Ok(Some(piece)) => read += piece.len() as u64,
            Ok(None) => panic!("a clean end after {read} of {length} bytes"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("folder"), "{error}");
    assert!(read < length);
}

#[test]
fn a_method_does_not_change_the_plan() {
    let file = tempfile::tempfile().unwrap();
    let found = FoundFile { file, length: 10, modified: Duration::from_secs(9), inode: 1 };
    let headers = found.headers("/x");
    let plan = |method| found.plan(&Ask { method, ..ask("/x") }, headers.get(header::ETAG));
    assert_eq!(plan(Method::Get), plan(Method::Head));
    let late = FoundFile { modified: Duration::from_secs(u64::MAX), ..found };
    assert!(late.headers("/x").contains_key(header::LAST_MODIFIED));
}
