//! What is expected of each fault, written by hand. A cell says what the client got, and how the
//! same request is answered once the fault is over.

use super::Cell;
use crate::harness::Fault;

/// A fault, and what is expected of it.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// What goes wrong with an object.
    pub(super) fault: fn(&Cell) -> Fault,
    /// The deadline that is short while it goes wrong.
    pub(super) deadline: Option<&'static str>,
    pub(super) once: Cells,
    pub(super) for_good: Cells,
    pub(super) bucket: Bucket,
}

/// What differs if the origin is a bucket.
pub(super) enum Bucket {
    Same,
    /// A narinfo that is nowhere, once and for good: a 404 is not believed without the error
    /// document.
    Nowhere([&'static str; 2]),
    /// Everything, however often it strikes.
    Always(Cells),
}

/// One for each state.
pub(super) type Cells = [&'static str; 7];

/// The client notices nothing: the edge asks again, or continues at the same byte.
const UNNOTICED: Cells = [
    "200 hit_memory; hit_memory",
    "200 revalidated; hit_memory",
    "200 miss; hit_memory",
    "404 absent; hit_absent",
    "200 miss; hit_disk",
    "200 miss; hit_disk",
    "200 hit_disk; hit_disk",
];

/// What is here serves; the rest is a fault, which is not remembered.
const FAILED: Cells = [
    "200 hit_memory; hit_memory",
    "200 hit_stale; revalidated",
    "502 origin_failed; miss",
    "502 origin_failed; absent",
    "502 origin_failed; miss",
    "502 origin_failed; miss",
    "200 hit_disk; hit_disk",
];

/// The same, but it took too long.
const SILENT: Cells = [
    "200 hit_memory; hit_memory",
    "200 hit_stale; revalidated",
    "504 origin_failed; miss",
    "504 origin_failed; absent",
    "504 origin_failed; miss",
    "504 origin_failed; miss",
    "200 hit_disk; hit_disk",
];

/// The head came, so it was believed: 304 and 404 are all they say, a NAR goes as far as it came.
const CUT: Cells = [
    "200 hit_memory; hit_memory",
    "200 revalidated; hit_memory",
    "502 origin_failed; miss",
    "404 absent; hit_absent",
    "200 miss, cut; miss",
    "200 miss, cut; miss",
    "200 hit_disk; hit_disk",
];

/// The same, but a narinfo, which goes out whole or not at all, took too long.
const STALLED: Cells = [
    "200 hit_memory; hit_memory",
    "200 revalidated; hit_memory",
    "504 origin_failed; miss",
    "404 absent; hit_absent",
    "200 miss, cut; miss",
    "200 miss, cut; miss",
    "200 hit_disk; hit_disk",
];

/// The length is seen to be wrong before anything goes out; the key is then left alone for 10 s.
const WRONG_LENGTH: Cells = [
    "200 hit_memory; hit_memory",
    "200 revalidated; hit_memory",
    "502 origin_failed; miss",
    "404 absent; hit_absent",
    "502 origin_failed; miss later",
    "502 origin_failed; miss later",
    "200 hit_disk; hit_disk",
];

/// Nothing of it goes out, and nothing is remembered of it: the next request asks again.
const UNUSED: Cells = [
    "200 hit_memory; hit_memory",
    "200 revalidated; hit_memory",
    "502 origin_failed; miss",
    "404 absent; hit_absent",
    "502 origin_failed; miss",
    "502 origin_failed; miss",
    "200 hit_disk; hit_disk",
];

/// Another object, as far as its tag tells: fetched anew, and proven by its hash.
const OTHER_TAG: Cells = [
    "200 hit_memory; hit_memory",
    "200 miss; hit_memory",
    "200 miss; hit_memory",
    "404 absent; hit_absent",
    "200 miss; hit_disk",
    "200 miss; hit_disk",
    "200 hit_disk; hit_disk",
];

/// What was wrong went out in part and never as a whole; it was fetched again for the next client.
const WRONG_ONCE: Cells = [
    "200 hit_memory; hit_memory",
    "200 miss; hit_memory",
    "200 miss; hit_memory",
    "404 absent; hit_absent",
    "200 miss, cut; hit_disk",
    "200 miss, cut; hit_disk",
    "200 hit_disk; hit_disk",
];

/// What is wrong each time is left alone for 10 s, and never kept.
const WRONG: Cells = [
    "200 hit_memory; hit_memory",
    "200 hit_stale; hit_stale",
    "502 origin_failed; miss later",
    "404 absent; hit_absent",
    "200 miss, cut; miss later",
    "200 miss, cut; miss later",
    "200 hit_disk; hit_disk",
];

/// An old absence is told, and not remembered.
const AGED: Cells = [
    "200 hit_memory; hit_memory",
    "200 revalidated; hit_memory",
    "200 miss; hit_memory",
    "404 absent; absent",
    "200 miss; hit_disk",
    "200 miss; hit_disk",
    "200 hit_disk; hit_disk",
];

const fn status(status: u16, retry_after: Option<u64>) -> Fault {
    Fault::Status { status, retry_after }
}

/// Every fault.
pub(super) const ROWS: &[Row] = &[
    Row {
        name: "connections refused",
        fault: |_| Fault::Refuse,
        deadline: None,
        once: UNNOTICED,
        for_good: FAILED,
        bucket: Bucket::Same,
    },
    Row {
        name: "reset before the head",
        fault: |_| Fault::ResetBeforeHead,
        deadline: None,
        once: UNNOTICED,
        for_good: FAILED,
        bucket: Bucket::Same,
    },
    Row {
        name: "reset after the head",
        fault: |_| Fault::ResetAfterHead,
        deadline: None,
        once: UNNOTICED,
        for_good: CUT,
        bucket: Bucket::Nowhere(["404 absent; hit_absent", "502 origin_failed; absent"]),
    },
    Row {
        name: "closed in mid-body",
        fault: |cell| Fault::Cut(cell.late()),
        deadline: None,
        once: UNNOTICED,
        for_good: CUT,
        bucket: Bucket::Same,
    },
    Row {
        name: "reset in mid-body",
        fault: |cell| Fault::Reset(cell.late()),
        deadline: None,
        once: UNNOTICED,
        for_good: CUT,
        bucket: Bucket::Same,
    },
    Row {
        name: "no answer",
        fault: |_| Fault::Hang,
        deadline: Some("first_byte"),
        once: UNNOTICED,
        for_good: SILENT,
        bucket: Bucket::Same,
    },
    Row {
        name: "stalled in mid-body",
        fault: |cell| Fault::Stall(cell.late()),
        deadline: Some("between_bytes"),
        once: UNNOTICED,
        for_good: STALLED,
        bucket: Bucket::Same,
    },
    Row {
        name: "1 byte a second",
        fault: |_| Fault::Drip(1_000),
        deadline: None,
        once: UNNOTICED,
        for_good: UNNOTICED,
        bucket: Bucket::Same,
    },
    Row {
        name: "500",
        fault: |_| status(500, None),
        deadline: None,
        once: UNNOTICED,
        for_good: FAILED,
        bucket: Bucket::Same,
    },
    Row {
        name: "503",
        fault: |_| status(503, None),
        deadline: None,
        once: UNNOTICED,
        for_good: FAILED,
        bucket: Bucket::Same,
    },
    Row {
        name: "503, Retry-After",
        fault: |_| status(503, Some(1)),
        deadline: None,
        once: UNNOTICED,
        for_good: FAILED,
        bucket: Bucket::Same,
    },
    Row {
        name: "503 SlowDown",
        fault: |_| Fault::SlowDown,
        deadline: None,
        once: UNNOTICED,
        for_good: FAILED,
        bucket: Bucket::Same,
    },
    Row {
        name: "429",
        fault: |_| status(429, None),
        deadline: None,
        once: UNNOTICED,
        for_good: FAILED,
        bucket: Bucket::Same,
    },
    Row {
        name: "429, Retry-After",
        fault: |_| status(429, Some(1)),
        deadline: None,
        once: UNNOTICED,
        for_good: FAILED,
        bucket: Bucket::Same,
    },
    Row {
        name: "half the length",
        fault: |_| Fault::Shorter,
        deadline: None,
        once: UNNOTICED,
        for_good: WRONG_LENGTH,
        bucket: Bucket::Same,
    },
    Row {
        name: "100 bytes too many",
        fault: |_| Fault::Longer,
        deadline: None,
        once: UNNOTICED,
        for_good: WRONG_LENGTH,
        bucket: Bucket::Same,
    },
    Row {
        name: "length claims too much",
        fault: |_| Fault::Overclaimed,
        deadline: None,
        once: UNNOTICED,
        for_good: UNUSED,
        bucket: Bucket::Same,
    },
    Row {
        name: "wrong range",
        fault: |_| Fault::WrongRange,
        deadline: None,
        once: UNUSED,
        for_good: UNUSED,
        bucket: Bucket::Same,
    },
    Row {
        name: "another ETag",
        fault: |_| Fault::ChangedTag,
        deadline: None,
        once: OTHER_TAG,
        for_good: OTHER_TAG,
        bucket: Bucket::Same,
    },
    Row {
        name: "a wrong bit",
        fault: |cell| Fault::Flip(cell.proven()),
        deadline: None,
        once: WRONG_ONCE,
        for_good: WRONG,
        bucket: Bucket::Same,
    },
    Row {
        name: "another ETag, a wrong bit",
        fault: |cell| Fault::Replaced(cell.proven()),
        deadline: None,
        once: WRONG_ONCE,
        for_good: WRONG,
        bucket: Bucket::Same,
    },
    Row {
        name: "ExpiredToken",
        fault: |_| Fault::ExpiredToken,
        deadline: None,
        once: FAILED,
        for_good: FAILED,
        bucket: Bucket::Same,
    },
    Row {
        name: "RequestTimeTooSkewed",
        fault: |_| Fault::TimeTooSkewed,
        deadline: None,
        once: FAILED,
        for_good: FAILED,
        bucket: Bucket::Always(UNNOTICED),
    },
    Row {
        name: "Date an hour behind",
        fault: |_| Fault::DateBehind(3_600),
        deadline: None,
        once: AGED,
        for_good: AGED,
        bucket: Bucket::Same,
    },
    Row {
        name: "Date an hour ahead",
        fault: |_| Fault::DateAhead(3_600),
        deadline: None,
        once: UNNOTICED,
        for_good: UNNOTICED,
        bucket: Bucket::Same,
    },
    Row {
        name: "redirect elsewhere",
        fault: |_| Fault::Redirect,
        deadline: None,
        once: FAILED,
        for_good: FAILED,
        bucket: Bucket::Same,
    },
    Row {
        name: "no HTTP at all",
        fault: |_| Fault::Garbage,
        deadline: None,
        once: UNNOTICED,
        for_good: FAILED,
        bucket: Bucket::Same,
    },
];
