//! What is stored, once the edge has ended: `narthex fsck` finds nothing, each stored body is the
//! right one, and each is a hit after another start.

use super::Failure;
use super::client::{Outcome, Question};
use super::edge::{Edge, Setup};
use super::play::{StoredObject, World};
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// A body at rest is a file from here on; a smaller one is in the index.
const FILE_BYTES_MIN: u64 = 64 << 10;
/// Beginning of a body, by which it is found.
const BEGINNING_BYTES: usize = 32;
/// Bodies above are asked for in part after the start.
const WHOLE_BYTES_MAX: u64 = 8 << 20;

/// Ends the edge and checks all there is; what is wrong, each printed.
pub(crate) async fn check(
    setup: &Setup,
    edge: Edge,
    world: &World,
) -> Result<Vec<String>, Failure> {
    let mut problems = Vec::new();
    if let Err(error) = edge.end() {
        problems.push(format!("the end of the edge: {error}"));
    }
    problems.extend(setup.panics()?);
    let (is_well, said) = setup.check()?;
    if !is_well {
        problems.push(format!("fsck: {}", said.trim_end()));
    }
    problems.extend(compare_files(setup, world)?);
    let edge = setup.start()?;
    let objects = std::mem::take(&mut *world.objects.lock());
    for stored in objects.iter().filter(|stored| stored.is_hit) {
        let body = &stored.object.body;
        let length = body.len() as u64;
        let range = (length > WHOLE_BYTES_MAX).then(|| length - (3 << 20)..length);
        let question = world.question(&stored.host, &stored.object.path);
        let question = Question { edge: edge.address, range, ..question };
        let answer = question.ask(body).await;
        if answer.outcome != Outcome::Right || !answer.is_hit {
            problems.push(format!("after a start: {}: {answer:?}", stored.name));
        }
    }
    *world.objects.lock() = objects;
    edge.end()?;
    for problem in &problems {
        println!("AT REST: {problem}");
    }
    Ok(problems)
}

/// Compares each file of a body that was a hit with the right one.
fn compare_files(setup: &Setup, world: &World) -> Result<Vec<String>, Failure> {
    let objects = world.objects.lock();
    let hits = objects.iter().filter(|stored| stored.is_hit);
    let files = hits.filter(|stored| stored.object.body.len() as u64 >= FILE_BYTES_MIN);
    let mut awaited: HashMap<Bytes, _> =
        files.map(|stored| (stored.object.body.slice(..BEGINNING_BYTES), stored)).collect();
    for path in setup.stored() {
        let mut beginning = [0; BEGINNING_BYTES];
        File::open(&path)?.read_exact(&mut beginning)?;
        // The others are of objects in part, of bad bodies and of measured memory.
        let Some(stored) = awaited.get(&beginning[..]) else { continue };
        if is_same(&path, &stored.object.body)? {
            awaited.remove(&beginning[..]);
        }
    }
    let told = |stored: &&StoredObject| format!("no file with the bytes of {}", stored.name);
    Ok(awaited.values().map(told).collect())
}

/// Whether a file begins with all of `body`.
fn is_same(path: &Path, body: &[u8]) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let mut block = vec![0; 1 << 20];
    for right in body.chunks(block.len()) {
        let block = &mut block[..right.len()];
        match file.read_exact(block) {
            Ok(()) if block == right => {}
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error),
            Ok(()) | Err(_) => return Ok(false),
        }
    }
    Ok(true)
}
