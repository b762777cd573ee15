//! Phases of a connection, without a socket.

use super::*;

pub(in crate::front) const DEADLINES: Deadlines = Deadlines {
    request_head: Duration::from_secs(10),
    idle: Duration::from_mins(1),
    write_stall: Duration::from_secs(30),
};

pub(in crate::front) fn watch() -> (Arc<Watch>, Instant) {
    let now = Instant::now();
    (Arc::new(Watch::new(DEADLINES, now)), now)
}

fn fault(watch: &Watch) -> Fault {
    watch.due().1
}

#[test]
fn a_new_connection_owes_a_head_and_then_may_be_idle() {
    let (watch, now) = watch();
    assert_eq!(watch.due(), (now + DEADLINES.request_head, Fault::RequestHead));
    let mut request = UnderWay::begin(&watch);
    assert_eq!(fault(&watch), Fault::Gone);
    request.finished();
    drop(request);
    assert_eq!(fault(&watch), Fault::Idle);
    watch.read(b"G");
    assert_eq!(fault(&watch), Fault::RequestHead);
}

#[test]
fn further_bytes_of_a_head_do_not_prolong_it() {
    let (watch, _) = watch();
    let first = watch.due();
    watch.read(b"GET");
    assert_eq!(watch.due(), first);
}

#[test]
fn half_a_request_sent_ahead_is_a_head_begun() {
    for (pieces, expected) in [
        (&["GET / HTTP/1.1\r\n\r\n"][..], Fault::Idle),
        (&["GET / HTTP/1.1\r\n\r", "\n"], Fault::Idle),
        (&["GET / HTTP/1.1\n\n"], Fault::Idle),
        (&["GET / HTTP/1.1\r\n\r\nG"], Fault::RequestHead),
        (&["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n"], Fault::RequestHead),
    ] {
        let (watch, _) = watch();
        let (first, others) = pieces.split_first().unwrap();
        watch.read(first.as_bytes());
        let request = UnderWay::begin(&watch);
        for piece in others {
            watch.read(piece.as_bytes());
        }
        drop(request);
        assert_eq!(fault(&watch), expected, "{pieces:?}");
    }
}

#[test]
fn a_client_that_takes_nothing_stalls_and_one_that_takes_a_byte_does_not() {
    let (watch, _) = watch();
    let mut request = UnderWay::begin(&watch);
    request.handed_over();
    watch.blocked();
    let (at, stall) = watch.due();
    assert_eq!(stall, Fault::WriteStall);
    watch.blocked();
    assert_eq!(watch.due(), (at, stall));
    watch.wrote(1);
    watch.blocked();
    assert!(watch.due().0 >= at);
    watch.wrote(1);
    request.asked();
    assert_eq!(fault(&watch), Fault::Gone);
}

/// A connection whose socket takes nothing from `now` on.
fn blocked() -> (Arc<Watch>, Instant) {
    let (watch, now) = watch();
    watch.state.lock().polled_at = Some(now);
    watch.blocked();
    (watch, now)
}

#[expect(clippy::unnecessary_wraps, reason = "as a socket tells it")]
fn taken(acknowledged_bytes: u64) -> Option<Progress> {
    Some(Progress { acknowledged_bytes, is_owed: true, is_over: false, is_half_closed: false })
}

/// What is overdue each quarter of the stall after `from`, as the kernel tells at each.
fn looks(watch: &Watch, from: Instant, told: &[Option<Progress>]) -> Vec<Option<Fault>> {
    let quarter = DEADLINES.write_stall / 4;
    let mut state = watch.state.lock();
    let looks = (1..)
        .zip(told)
        .map(|(number, &progress)| state.overdue(from + quarter * number, &DEADLINES, progress));
    looks.collect()
}

/// FAULTS.md F2: megabytes may wait in the socket of a reader that was fast.
#[test]
fn what_a_client_acknowledged_renews_its_deadline_although_the_socket_takes_nothing() {
    let (watch, now) = blocked();
    let hours: Vec<_> = (1..2000).map(|bytes| taken(bytes / 4)).collect();
    assert_eq!(looks(&watch, now, &hours), vec![None; 1999]);
}

#[test]
fn a_client_that_acknowledges_nothing_is_cut_after_the_stall() {
    for told in [None, taken(0)] {
        let (watch, now) = blocked();
        let stall = Some(Fault::WriteStall);
        assert_eq!(looks(&watch, now, &[told; 4]), [None, None, None, stall]);
    }
    // What it took before the first look is not known to be of before.
    let (watch, now) = blocked();
    let seen = looks(&watch, now, &[taken(1000); 5]);
    assert_eq!(seen, [None, None, None, None, Some(Fault::WriteStall)]);
}

/// A client may have its frames acknowledged without reading an answer.
#[test]
fn small_frames_are_no_progress() {
    let (watch, now) = watch();
    watch.speaks(Version::Http2);
    let mut request = UnderWay::begin(&watch);
    request.handed_over();
    watch.state.lock().progress_at = now;
    let mut acknowledged = 0;
    let mut last = None;
    for number in 1..=4 {
        watch.wrote(17);
        acknowledged += 17;
        let at = now + DEADLINES.write_stall / 4 * number;
        last = watch.state.lock().overdue(at, &DEADLINES, taken(acknowledged));
    }
    assert_eq!(last, Some(Fault::WriteStall));
}

/// FAULTS.md F15b.
#[test]
fn a_wait_for_the_disk_of_the_edge_is_not_the_client_s() {
    let (watch, _) = watch();
    let mut request = UnderWay::begin(&watch);
    request.handed_over();
    watch.blocked();
    watch.reads_disk();
    assert_eq!(fault(&watch), Fault::Gone);
    assert!(watch.is_answering());
    watch.blocked();
    assert_eq!(fault(&watch), Fault::WriteStall);
}

#[test]
fn an_idle_client_that_still_receives_its_last_answer_is_not_let_go() {
    let (watch, now) = watch();
    watch.answered();
    let mut state = watch.state.lock();
    state.idle_since = now;
    let idle = |number| now + DEADLINES.idle * number;
    assert_eq!(state.overdue(idle(1), &DEADLINES, taken(1)), None);
    assert_eq!(state.overdue(idle(2), &DEADLINES, taken(2)), None);
    let whole =
        Progress { acknowledged_bytes: 3, is_owed: false, is_over: false, is_half_closed: false };
    assert_eq!(state.overdue(idle(3), &DEADLINES, Some(whole)), Some(Fault::Idle));
}

/// FAULTS.md F13: one byte sent ahead hid that a client had left.
#[test]
fn a_client_that_left_while_it_waits_is_noticed() {
    let (watch, now) = watch();
    let _request = UnderWay::begin(&watch);
    let mut state = watch.state.lock();
    (state.progress_at, state.looked_at) = (now, now);
    let look = |number| now + GONE_LOOK * number;
    assert_eq!(state.overdue(look(1), &DEADLINES, taken(1)), None);
    assert_eq!(state.overdue(look(2), &DEADLINES, None), None);
    let over =
        Progress { acknowledged_bytes: 1, is_owed: false, is_over: true, is_half_closed: false };
    assert_eq!(state.overdue(look(3), &DEADLINES, Some(over)), Some(Fault::Gone));
}

#[test]
fn a_client_that_closed_its_side_may_be_sent_nothing_for_a_while_alone() {
    let (watch, now) = watch();
    let _request = UnderWay::begin(&watch);
    let mut state = watch.state.lock();
    (state.progress_at, state.looked_at) = (now, now);
    let half_closed = taken(1).map(|progress| Progress { is_half_closed: true, ..progress });
    let seen = now + GONE_LOOK;
    let border = seen + HALF_CLOSED_MAX;
    let shortly = Duration::from_millis(1);
    for at in [seen, border - shortly] {
        assert_eq!(state.overdue(at, &DEADLINES, half_closed), None);
    }
    // A piece of the answer is written.
    state.progress_at = border - shortly;
    let border = state.progress_at + HALF_CLOSED_MAX;
    assert_eq!(state.overdue(border - shortly, &DEADLINES, half_closed), None);
    state.looked_at = now;
    assert_eq!(state.overdue(border, &DEADLINES, half_closed), Some(Fault::Gone));
}

/// What was written may still be on its way over a slow link.
#[test]
fn a_client_that_closed_its_side_and_takes_bytes_is_not_let_go() {
    let (watch, now) = watch();
    let _request = UnderWay::begin(&watch);
    let mut state = watch.state.lock();
    (state.progress_at, state.looked_at) = (now, now);
    let half_closed =
        |bytes| taken(bytes).map(|progress| Progress { is_half_closed: true, ..progress });
    let mut at = now;
    for bytes in 1..=2 * HALF_CLOSED_MAX.as_secs() / GONE_LOOK.as_secs() {
        at += GONE_LOOK;
        assert_eq!(state.overdue(at, &DEADLINES, half_closed(bytes)), None, "{bytes}");
    }
    // It has ended: the last bytes that it took do not count.
    let over = half_closed(1_000).map(|progress| Progress { is_over: true, ..progress });
    assert_eq!(state.overdue(at + GONE_LOOK, &DEADLINES, over), Some(Fault::Gone));
}

#[test]
fn a_stream_whose_window_is_shut_stalls_although_the_socket_is_free() {
    let (watch, _) = watch();
    watch.speaks(Version::Http2);
    let mut request = UnderWay::begin(&watch);
    assert_eq!(fault(&watch), Fault::Gone);
    request.handed_over();
    assert_eq!(fault(&watch), Fault::WriteStall);
    request.asked();
    assert_eq!(fault(&watch), Fault::Gone);
}

#[test]
fn the_last_bytes_of_an_answer_are_waited_for_before_the_idle_time_begins() {
    let (watch, _) = watch();
    let mut request = UnderWay::begin(&watch);
    request.finished();
    watch.blocked();
    drop(request);
    assert_eq!(fault(&watch), Fault::WriteStall);
    assert!(watch.is_answering());
    watch.wrote(100);
    assert_eq!(fault(&watch), Fault::Idle);
}

#[test]
fn http2_frames_are_no_heads() {
    let (watch, _) = watch();
    watch.speaks(Version::Http2);
    watch.read(b"\0");
    assert_eq!(fault(&watch), Fault::Idle);
}

#[test]
fn an_http2_client_that_only_abandons_comes_due() {
    let (watch, _) = watch();
    watch.speaks(Version::Http2);
    for _ in 0..=ABANDONED_MAX {
        assert_ne!(fault(&watch), Fault::Abandoned);
        drop(UnderWay::begin(&watch));
    }
    assert_eq!(fault(&watch), Fault::Abandoned);
    let mut request = UnderWay::begin(&watch);
    request.finished();
    drop(request);
    assert_eq!(fault(&watch), Fault::Idle);
}

#[test]
fn an_unfinished_answer_resets_unless_decided_otherwise() {
    let (watch, _) = watch();
    assert!(!watch.is_reset());
    let request = UnderWay::begin(&watch);
    assert!(watch.is_reset());
    watch.end_clean();
    assert!(!watch.is_reset());
    drop(request);
    watch.end_reset();
    assert!(watch.is_reset());
}
