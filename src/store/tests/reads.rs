//! What comes from the disk is compared before a reader gets it.

use crate::store::body::read::{BodyFile, StoredBody};
use crate::store::body::trailer;
use crate::store::handle::Store;
use crate::store::tests::{Bench, KIB, MIB, append, bytes, digest, held, key, meta, put, read};
use crate::store::{WITHHELD_BYTES, Withhold};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const LENGTH: usize = 3 * MIB + 7;

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

async fn body_of(store: &Store) -> Arc<BodyFile> {
    let StoredBody::File(file) = store.get(&key("a")).await.unwrap().body else { panic!() };
    file
}

/// What a reader gets until it fails.
async fn read_through(file: &Arc<BodyFile>) -> (Vec<u8>, Option<io::Error>) {
    let mut got = Vec::new();
    while (got.len() as u64) < file.length() {
        let offset = got.len() as u64;
        let piece = match file.read_now(offset, 64 * KIB) {
            Some(piece) => Ok(piece),
            None => file.read(offset, 64 * KIB).await,
        };
        match piece {
            Ok(piece) => got.extend_from_slice(&piece),
            Err(error) => return (got, Some(error)),
        }
    }
    (got, None)
}

/// A store that knows nothing of the chunks of its one object, with a file that is flipped at
/// `offset`.
async fn flipped(bench: &mut Bench, offset: u64) -> Store {
    let store = bench.open().await;
    put(&store, &key("a"), &bytes(1, LENGTH)).await.unwrap();
    bench.close(store).await;
    flip(bench.files().first().unwrap(), offset);
    bench.open().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_never_given_out() {
    let length = LENGTH as u64;
    let body = bytes(1, LENGTH);
    let last_sum = trailer::tail_offset(length) - 1;
    for (offset, chunk) in [(0, 0), (MIB as u64, 1), (length - 1, 3), (length, 0), (last_sum, 3)] {
        let mut bench = Bench::new(64 * MIB);
        let store = flipped(&mut bench, offset).await;
        let file = body_of(&store).await;
        let other = body_of(&store).await;
        let (got, error) = read_through(&file).await;
        let error = error.unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{offset}: {error}");
        assert!(error.to_string().contains("not what was written"), "{error}");
        assert_eq!(got, body[..chunk * MIB], "{offset}: all before the chunk, nothing of it");
        assert_eq!(bench.damaged(), 1);
        assert!(store.get(&key("a")).await.is_none());
        assert_eq!(bench.files().len(), 0);
        let wrong = (chunk * MIB) as u64;
        assert_eq!(other.read_now(wrong, 1), None, "wrong pages are in the cache now");
        assert!(other.read(wrong, 1).await.is_err(), "a reader that was there before");
        assert_eq!(bench.damaged(), 1, "counted once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_cache_is_believed_once_it_was_compared() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(1, LENGTH);
    put(&store, &key("a"), &body).await.unwrap();
    let file = body_of(&store).await;
    assert!(file.is_trusted(0) && file.is_trusted(LENGTH as u64 - 1), "written by this process");
    assert_eq!(file.read_now(0, 10).unwrap(), body[..10]);
    drop(file);
    bench.close(store).await;

    let store = bench.open().await;
    let file = body_of(&store).await;
    assert_eq!(file.read_now(0, 10), None, "however it came into the cache");
    assert_eq!(file.read(MIB as u64 - 3, 10).await.unwrap(), body[MIB - 3..MIB], "one chunk");
    assert_eq!(file.read_now(5, 10).unwrap(), body[5..15]);
    assert_eq!(file.read_now(MIB as u64, 10), None, "another chunk was not compared");
    drop(file);
    assert!(body_of(&store).await.is_trusted(0), "remembered from one reader to the next");
    assert_eq!(held(&store, &key("a")).await.unwrap(), body);
    let file = body_of(&store).await;
    assert_eq!(file.read_now(LENGTH as u64, 10).unwrap(), "");
    assert_eq!(file.read(LENGTH as u64, 10).await.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sees_reads_from_the_disk_believes_for_a_second_that_a_chunk_is_in_the_page_cache() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("a"), &bytes(1, LENGTH)).await.unwrap();
    let (file, now) = (body_of(&store).await, Instant::now());
    let just_before = now + Duration::from_millis(999);
    for offset in [0, 5, MIB as u64, LENGTH as u64 - 1] {
        assert!(file.was_cached(offset, now), "at {offset}");
    }
    let path = File::options().write(true).open(bench.files().first().unwrap()).unwrap();
    path.sync_all().unwrap();
    let drop_pages = || rustix::fs::fadvise(&path, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    drop_pages();
    assert!(file.was_cached(0, just_before) && file.was_cached(LENGTH as u64 - 1, just_before));
    // The kernel keeps a page that another of its threads looks at just then.
    let sees_it = |offset, second| {
        drop_pages();
        !file.was_cached(offset, now + Duration::from_secs(second))
    };
    for offset in [0, MIB as u64] {
        assert!((1..100).any(|second| sees_it(offset, second)), "it asks again");
        assert!(!file.was_cached(offset, just_before), "and what is doubted is not believed");
    }
    assert_eq!(file.read(0, 10).await.unwrap(), bytes(1, LENGTH)[..10]);
    assert!(file.was_cached(0, just_before), "it was compared");
    bench.close(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_cold_body_get_all_of_it() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(1, LENGTH);
    put(&store, &key("a"), &body).await.unwrap();
    bench.close(store).await;
    let store = bench.open().await;
    let readers: Vec<_> = (0..50_u64)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let file = body_of(&store).await;
                let offset = number * 61_234;
                (offset, file.read(offset, 200 * KIB).await.unwrap())
            })
        })
        .collect();
    for reader in readers {
        let (offset, got) = reader.await.unwrap();
        let offset = usize::try_from(offset).unwrap();
        assert!(!got.is_empty());
        assert_eq!(got, body[offset..offset + got.len()]);
    }
    assert_eq!(bench.damaged(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_a_growing_body_compares_what_left_the_page_cache() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(1, 2 * MIB + 300 * KIB);
    let mut pending = store.begin(&key("a"), None).await.unwrap();
    append(&mut pending, &body).await.unwrap();
    let (growing, growth) = (pending.growing(), Arc::clone(pending.growth()));
    let ended = pending.end().await.unwrap();
    assert!(body.len() as u64 - growth.in_memory() > 2 * MIB as u64);
    for index in 0..3 {
        growth.chunks().doubt(index);
    }
    for offset in [0, MIB - 10, MIB, 2 * MIB + 5] {
        let got = growing.read(offset as u64, 100).await.unwrap();
        assert!(!got.is_empty());
        assert_eq!(got, body[offset..offset + got.len()]);
    }
    let sealed = ended.prove().unwrap().seal().unwrap();
    let stored = sealed.commit(meta(&key("a")), None).unwrap();
    assert_eq!(read(&stored).await, body);
    let StoredBody::File(file) = &stored.body else { panic!() };
    assert!(file.is_trusted(0), "the readers of both share what they know");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_readers_follow_one_growing_object() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(7, 6 * MIB + 321);
    let key = key("a");
    let begun = store.begin_withholding(&key, None, Withhold::LastBytes);
    let mut pending = begun.await.unwrap();
    let readers: Vec<_> = (0..200_usize)
        .map(|number| {
            let growing = pending.growing();
            tokio::spawn(async move {
                let mut got = Vec::new();
                loop {
                    let max = 10_000 + number * 300;
                    let chunk = growing.read(got.len() as u64, max).await.unwrap();
                    if chunk.is_empty() {
                        return digest(&got);
                    }
                    got.extend_from_slice(&chunk);
                }
            })
        })
        .collect();
    let mut rest = body.clone();
    while !rest.is_empty() {
        let chunk = rest.split_to(rest.len().min(50_000));
        pending.append(chunk).await.unwrap();
        assert!(
            pending.growth().in_memory() < 4 * MIB as u64 + 50_000,
            "a fill buffers one window"
        );
    }
    let growing = pending.growing();
    let ended = pending.end().await.unwrap();
    assert_eq!(growing.visible(), body.len() as u64 - WITHHELD_BYTES, "the end is withheld");
    ended.prove().unwrap().seal().unwrap().commit(meta(&key), None).unwrap();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), digest(&body));
    }
    assert_eq!(growing.read(body.len() as u64, 1).await.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proven_body_reaches_its_readers_even_if_it_is_not_stored() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(7, MIB);
    let mut pending = store.begin(&key("a"), None).await.unwrap();
    append(&mut pending, &body).await.unwrap();
    let growing = pending.growing();
    drop(pending.seal().await.unwrap());
    let mut got = Vec::new();
    while got.len() < body.len() {
        got.extend_from_slice(&growing.read(got.len() as u64, MIB).await.unwrap());
    }
    assert_eq!(got, body);
    assert_eq!(growing.read(got.len() as u64, 1).await.unwrap(), "");
    assert!(store.get(&key("a")).await.is_none());
}
