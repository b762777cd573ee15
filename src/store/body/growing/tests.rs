//! What readers of a growing object see, and what is let go of.

use super::*;
use crate::store::body::sums::CHUNK_BYTES;
use crate::sync::orders;
use proptest::prelude::*;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

const KEY: KeyHash = KeyHash([0; 16]);

fn growth(declared: Option<u64>, withhold: Withhold) -> Arc<Growth> {
    Growth::new(declared, withhold, KEY, Tasks::new())
}

fn is_waiting(future: impl Future) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[tokio::test]
async fn readers_see_what_is_not_withheld_and_wait_for_the_rest() {
    let length = WITHHELD_BYTES + 3;
    for declared in [Some(length), None] {
        let growth = growth(declared, Withhold::LastBytes);
        let reader = growth.reader();
        assert_eq!(reader.length(), declared);
        assert!(is_waiting(reader.read(0, 10)));
        growth.push(Bytes::from_static(b"abc"));
        assert_eq!(is_waiting(reader.read(0, 10)), declared.is_none());
        growth.push(vec![7; usize::try_from(WITHHELD_BYTES).unwrap()].into());
        assert_eq!((reader.visible(), reader.read(1, 10).await.unwrap()), (3, "bc".into()));
        assert!(is_waiting(reader.read(3, 10)), "the last bytes are withheld");
        growth.prove();
        assert_eq!(reader.read(3, 2).await.unwrap(), [7, 7][..]);
        assert_eq!(reader.read(length, 1).await.unwrap(), "");
        growth.abandon();
        assert_eq!(reader.read(length - 1, 9).await.unwrap(), [7][..]);
    }
}

#[tokio::test]
async fn no_reader_sees_the_end_before_the_object_is_proven() {
    for bytes in [0_u8, 5] {
        let growth = growth(None, Withhold::End);
        let reader = growth.reader();
        growth.push(vec![1; usize::from(bytes)].into());
        assert_eq!(reader.visible(), u64::from(bytes));
        assert!(is_waiting(reader.read(u64::from(bytes), 1)), "{bytes}");
        growth.prove();
        assert_eq!(reader.read(u64::from(bytes), 1).await.unwrap(), "");
    }
}

#[tokio::test]
async fn an_abandoned_object_breaks_its_readers_when_they_need_more() {
    let growth = growth(None, Withhold::End);
    let reader = growth.reader();
    growth.push(Bytes::from_static(b"ab"));
    let mut waiting = pin!(reader.read(2, 1));
    let mut context = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    growth.abandon();
    assert!(matches!(waiting.await, Err(Broken::Abandoned)));
    assert_eq!(reader.read(0, 9).await.unwrap(), "ab");
    let result = pin!(reader.read(4, 1)).poll(&mut context);
    assert!(matches!(result, Poll::Ready(Err(Broken::Abandoned))));
}

/// Writes bytes to the file of an object, as its writer does.
fn write(growth: &Growth, file: &Arc<File>, bytes: Vec<u8>) {
    growth.push(bytes.into());
    let batch = growth.take_batch().unwrap();
    file.write_all_at(&batch.segments.concat(), batch.offset).unwrap();
    let mut offset = batch.offset;
    for segment in &batch.segments {
        growth.in_file(segment, offset);
        offset += segment.len() as u64;
    }
    growth.batch_written(file);
}

/// A chunk that is fetched again may stand behind damage that is in the page cache.
#[tokio::test]
async fn a_chunk_is_trusted_by_all_once_its_last_byte_was_written() {
    let whole = usize::try_from(CHUNK_BYTES).unwrap();
    let chunks: Arc<Chunks> = Arc::default();
    let file = Arc::new(tempfile::tempfile().unwrap());
    file.write_all_at(&vec![9; whole], 0).unwrap();
    let growth = Growth::new_at(0, KEY, &chunks, Tasks::new());
    write(&growth, &file, vec![1; 300_000]);
    let is_trusted_by = |sight| chunks.trusted(0, sight).is_some();
    let own = Sight::Written(growth.writer);
    assert!(is_trusted_by(own) && !is_trusted_by(Sight::Whole));
    // The writer's readers compare what was written, and no more.
    chunks.doubt(0);
    assert!(!is_trusted_by(own));
    assert_eq!(growth.reader().read(299_990, 100).await.unwrap(), [1; 10][..]);
    assert!(is_trusted_by(own) && !is_trusted_by(Sight::Whole));
    // It broke off, and another begins the chunk anew.
    let next = Growth::new_at(0, KEY, &chunks, Tasks::new());
    write(&next, &file, vec![2; 1_000]);
    assert!(!is_trusted_by(own) && !is_trusted_by(Sight::Whole));
    assert!(is_trusted_by(Sight::Written(next.writer)));
    write(&next, &file, vec![2; whole - 1_000]);
    assert!(is_trusted_by(Sight::Whole));
    // The last chunk is a short one.
    write(&next, &file, vec![3; 5]);
    assert!(!chunks.is_trusted(1));
    next.chunk_in_file(1);
    assert!(chunks.is_trusted(1));
    // What was doubted on the way is compared by the next that reads it whole.
    write(&Growth::new_at(2 * CHUNK_BYTES, KEY, &chunks, Tasks::new()), &file, vec![4; 5]);
    assert!(!chunks.is_in_part_trusted(2), "its writer has left");
    let last = Growth::new_at(2 * CHUNK_BYTES, KEY, &chunks, Tasks::new());
    write(&last, &file, vec![4; 5]);
    chunks.doubt(2);
    last.chunk_in_file(2);
    assert!(!chunks.is_in_part_trusted(2));
}

/// What may happen to an object. A batch is written in two steps, as in the code: between them
/// anything else may happen.
#[derive(Debug, Clone, Copy)]
enum Step {
    Push(u16),
    TakeBatch,
    Written,
    Follow(u64),
    Move(usize, u64),
    Leave(usize),
    ForgetWhatAllHad,
    ForgetOldest(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop_oneof![1..20_u16, 1..9_000_u16].prop_map(Step::Push),
        1 => Just(Step::TakeBatch),
        1 => Just(Step::Written),
        2 => (0..60_000_u64).prop_map(Step::Follow),
        4 => (any::<usize>(), 0..20_000_u64).prop_map(|(number, by)| Step::Move(number, by)),
        1 => any::<usize>().prop_map(Step::Leave),
        3 => Just(Step::ForgetWhatAllHad),
        1 => (0..20_000_u64).prop_map(Step::ForgetOldest),
    ];
    proptest::collection::vec(step, 1..60)
}

/// An object under test, and what a plain model knows of it.
struct Model {
    growth: Arc<Growth>,
    file: Arc<File>,
    batch: Option<Batch>,
    is_memory_only: bool,
    followers: Vec<(Follower, u64)>,
}

fn byte(offset: u64) -> u8 {
    u8::try_from(offset * 31 % 251).unwrap()
}

impl Model {
    fn take(&mut self, step: Step) {
        let growth = Arc::clone(&self.growth);
        match step {
            Step::Push(bytes) => {
                let from = growth.received();
                let piece: Vec<u8> = (from..from + u64::from(bytes)).map(byte).collect();
                growth.push(piece.into());
            }
            Step::TakeBatch if !self.is_memory_only && self.batch.is_none() => {
                self.batch = growth.take_batch();
            }
            Step::Written if !self.is_memory_only => {
                if let Some(batch) = self.batch.take() {
                    self.file.write_all_at(&batch.segments.concat(), batch.offset).unwrap();
                    growth.batch_written(&self.file);
                }
            }
            Step::Follow(offset) => {
                let follower = growth.reader().follow(offset, None);
                if !self.has_lost(offset) {
                    self.followers.push((follower, offset));
                }
            }
            Step::Move(number, by) if !self.followers.is_empty() => {
                let number = number % self.followers.len();
                let (follower, position) = &mut self.followers[number];
                *position += by;
                growth.state.lock().followers.insert(follower.number, follower.state_at(*position));
            }
            Step::Leave(number) if !self.followers.is_empty() => {
                self.followers.remove(number % self.followers.len());
            }
            Step::TakeBatch | Step::Written | Step::Move(..) | Step::Leave(_) => {}
            Step::ForgetWhatAllHad => {
                self.is_memory_only = true;
                growth.forget_what_all_had();
            }
            Step::ForgetOldest(bytes) => {
                self.is_memory_only = true;
                growth.forget_oldest(bytes);
                // A follower behind that is waited for no more.
                let mut followers = std::mem::take(&mut self.followers);
                followers.retain(|(_, position)| !self.has_lost(*position));
                self.followers = followers;
            }
        }
    }

    fn has_lost(&self, offset: u64) -> bool {
        let state = self.growth.state.lock();
        let start = state.segments.start();
        start > state.file_end && offset < start
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let (visible, received) = (self.growth.reader().visible(), self.growth.received());
        let state = self.growth.state.lock();
        prop_assert!(state.segments.start() <= visible.max(state.file_end));
        for at in (0..received).step_by(997) {
            match state.whereabouts(at, 10) {
                BytesAt::Memory(bytes) => {
                    let right: Vec<u8> = (at..received).map(byte).take(10).collect();
                    prop_assert!(right.starts_with(&bytes) && !bytes.is_empty());
                }
                BytesAt::File(file, within) => {
                    prop_assert_eq!(at + within, state.file_end);
                    let mut read = [0];
                    file.read_exact_at(&mut read, at).unwrap();
                    prop_assert_eq!(read, [byte(at)]);
                }
                BytesAt::Gone => prop_assert!(at < state.segments.start()),
            }
        }
        for (_, position) in self.followers.iter().filter(|(_, position)| *position < received) {
            prop_assert!(!matches!(state.whereabouts(*position, 1), BytesAt::Gone));
        }
        Ok(())
    }
}

proptest! {
    /// Whatever is let go of, what is read is right, what is withheld stays, and no reader that is
    /// waited for loses a byte.
    #[test]
    fn no_byte_is_lost_or_read_wrongly(steps in steps(), withholds in any::<bool>()) {
        let withhold = if withholds { Withhold::LastBytes } else { Withhold::End };
        let mut model = Model {
            growth: growth(None, withhold),
            file: Arc::new(tempfile::tempfile().unwrap()),
            batch: None,
            is_memory_only: false,
            followers: Vec::new(),
        };
        for step in steps {
            model.take(step);
            model.check()?;
        }
    }
}

/// How a body that is written by one thread, and sent on by another, ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    Proven,
    Abandoned,
}

/// Reads on until the end; what was read, and whether the end was clean. `is_proven` is set before
/// the object is proven.
fn read_to_the_end(growing: &Growing, is_proven: &AtomicBool, most: usize) -> (Vec<u8>, bool) {
    let mut got = Vec::new();
    loop {
        match shuttle::future::block_on(growing.read(got.len() as u64, most)) {
            Ok(piece) if piece.is_empty() => return (got, true),
            Ok(piece) => got.extend_from_slice(&piece),
            Err(_) => return (got, false),
        }
        let withheld = growing.length().unwrap().saturating_sub(WITHHELD_BYTES);
        let is_withheld = got.len() as u64 > withheld;
        assert!(
            !is_withheld || is_proven.load(Ordering::SeqCst),
            "the last bytes before the proof"
        );
    }
}

/// Writes the batches that it is given, in turn.
fn write_batches(
    growth: &Growth,
    file: &Arc<File>,
    given: &shuttle::sync::mpsc::Receiver<Batch>,
    written: &shuttle::sync::mpsc::Sender<()>,
) {
    while let Ok(batch) = given.recv() {
        let mut offset = batch.offset;
        for segment in &batch.segments {
            orders::step();
            file.write_all_at(segment, offset).unwrap();
            growth.in_file(segment, offset);
            offset += segment.len() as u64;
        }
        growth.batch_written(file);
        written.send(()).unwrap();
    }
}

/// Receives `body` in pieces while a thread writes and two read.
fn pass_on(body: &[u8], piece_bytes: usize, ending: Ending) {
    use shuttle::sync::mpsc::channel;
    let growth = growth(Some(body.len() as u64), Withhold::LastBytes);
    let file = Arc::new(tempfile::tempfile().unwrap());
    let is_proven = Arc::new(AtomicBool::new(false));
    let reading = [700, 5_000].map(|most| {
        let (growing, is_proven) = (growth.reader(), Arc::clone(&is_proven));
        shuttle::thread::spawn(move || read_to_the_end(&growing, &is_proven, most))
    });
    let ((to_disk, given), (tell, written)) = (channel(), channel());
    let writing = {
        let (growth, file) = (Arc::clone(&growth), Arc::clone(&file));
        shuttle::thread::spawn(move || write_batches(&growth, &file, &given, &tell))
    };
    let mut is_writing = false;
    for piece in body.chunks(piece_bytes) {
        growth.push(Bytes::copy_from_slice(piece));
        is_writing &= written.try_recv().is_err();
        if !is_writing && let Some(batch) = growth.take_batch() {
            to_disk.send(batch).unwrap();
            is_writing = true;
        }
    }
    if is_writing {
        written.recv().unwrap();
    }
    growth.take_batch().into_iter().for_each(|batch| to_disk.send(batch).unwrap());
    drop(to_disk);
    if ending == Ending::Proven {
        is_proven.store(true, Ordering::SeqCst);
        growth.prove();
    } else {
        growth.abandon();
    }
    writing.join().unwrap();
    for thread in reading {
        let (got, is_clean) = thread.join().unwrap();
        assert_eq!((got.len() == body.len(), is_clean), (is_clean, ending == Ending::Proven));
        assert!(body.starts_with(&got), "other bytes");
    }
    let mut stored = vec![0; body.len()];
    file.read_exact_at(&mut stored, 0).unwrap();
    assert!(stored == body, "other bytes in the file");
}

#[test]
fn in_any_order_readers_and_the_file_get_the_bytes_and_the_end_comes_last() {
    let length = usize::try_from(WITHHELD_BYTES).unwrap() + 5_000;
    let body: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for (piece_bytes, ending) in
        [(1_000, Ending::Proven), (1_448, Ending::Abandoned), (5_000, Ending::Proven)]
    {
        let body = body.clone();
        orders::check(300, move || pass_on(&body, piece_bytes, ending));
    }
}
