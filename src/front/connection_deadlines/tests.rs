//! Phases of a connection, without a socket.

use super::*;

pub(in crate::front) const DEADLINES: DeadlineSettings = DeadlineSettings {
    request_head: Duration::from_secs(10),
    idle: Duration::from_mins(1),
    write_stall: Duration::from_secs(30),
};

pub(in crate::front) fn deadlines() -> (Arc<ConnectionDeadlines>, Instant) {
    let now = Instant::now();
    (Arc::new(ConnectionDeadlines::new(DEADLINES, now)), now)
}

fn fault(deadlines: &ConnectionDeadlines) -> ConnectionFault {
    deadlines.due().1
}

#[test]
fn a_new_connection_owes_a_head_and_then_may_be_idle() {
    let (deadlines, now) = deadlines();
    assert_eq!(deadlines.due(), (now + DEADLINES.request_head, ConnectionFault::RequestHead));
    let mut request = ActiveRequest::begin(&deadlines);
    assert_eq!(fault(&deadlines), ConnectionFault::Gone);
    request.finished();
    drop(request);
    assert_eq!(fault(&deadlines), ConnectionFault::Idle);
    deadlines.read(b"G");
    assert_eq!(fault(&deadlines), ConnectionFault::RequestHead);
}

#[test]
fn further_bytes_of_a_head_do_not_prolong_it() {
    let (deadlines, _) = deadlines();
    let first = deadlines.due();
    deadlines.read(b"GET");
    assert_eq!(deadlines.due(), first);
}

#[test]
fn half_a_request_sent_ahead_is_a_head_begun() {
    for (pieces, expected) in [
        (&["GET / HTTP/1.1\r\n\r\n"][..], ConnectionFault::Idle),
        (&["GET / HTTP/1.1\r\n\r", "\n"], ConnectionFault::Idle),
        (&["GET / HTTP/1.1\n\n"], ConnectionFault::Idle),
        (&["GET / HTTP/1.1\r\n\r\nG"], ConnectionFault::RequestHead),
        (&["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n"], ConnectionFault::RequestHead),
    ] {
        let (deadlines, _) = deadlines();
        let (first, others) = pieces.split_first().unwrap();
        deadlines.read(first.as_bytes());
        let request = ActiveRequest::begin(&deadlines);
        for piece in others {
            deadlines.read(piece.as_bytes());
        }
        drop(request);
        assert_eq!(fault(&deadlines), expected, "{pieces:?}");
    }
}

#[test]
fn a_client_that_takes_nothing_stalls_and_one_that_takes_a_byte_does_not() {
    let (deadlines, _) = deadlines();
    let mut request = ActiveRequest::begin(&deadlines);
    request.handed_over();
    deadlines.blocked();
    let (at, stall) = deadlines.due();
    assert_eq!(stall, ConnectionFault::WriteStall);
    deadlines.blocked();
    assert_eq!(deadlines.due(), (at, stall));
    deadlines.wrote(1);
    deadlines.blocked();
    assert!(deadlines.due().0 >= at);
    deadlines.wrote(1);
    request.asked();
    assert_eq!(fault(&deadlines), ConnectionFault::Gone);
}

/// A connection with a socket that accepts nothing from `now` on.
fn blocked() -> (Arc<ConnectionDeadlines>, Instant) {
    let (deadlines, now) = deadlines();
    deadlines.state.lock().polled_at = Some(now);
    deadlines.blocked();
    (deadlines, now)
}

#[expect(clippy::unnecessary_wraps, reason = "as a socket tells it")]
fn taken(acknowledged_bytes: u64) -> Option<ClientProgress> {
    Some(ClientProgress {
        acknowledged_bytes,
        is_owed: true,
        is_over: false,
        is_half_closed: false,
    })
}

/// What is overdue each quarter of the stall after `from`, as the kernel tells at each.
fn looks(
    deadlines: &ConnectionDeadlines,
    from: Instant,
    told: &[Option<ClientProgress>],
) -> Vec<Option<ConnectionFault>> {
    let quarter = DEADLINES.write_stall / 4;
    let mut state = deadlines.state.lock();
    let looks = (1..)
        .zip(told)
        .map(|(number, &progress)| state.overdue(from + quarter * number, &DEADLINES, progress));
    looks.collect()
}

/// FAULTS.md F2: megabytes may wait in the socket of a reader that was fast.
#[test]
fn what_a_client_acknowledged_renews_its_deadline_although_the_socket_takes_nothing() {
    let (deadlines, now) = blocked();
    let hours: Vec<_> = (1..2000).map(|bytes| taken(bytes / 4)).collect();
    assert_eq!(looks(&deadlines, now, &hours), vec![None; 1999]);
}

#[test]
fn a_client_that_acknowledges_nothing_is_cut_after_the_stall() {
    for told in [None, taken(0)] {
        let (deadlines, now) = blocked();
        let stall = Some(ConnectionFault::WriteStall);
        assert_eq!(looks(&deadlines, now, &[told; 4]), [None, None, None, stall]);
    }
    // What it took before the first look is not known to be of before.
    let (deadlines, now) = blocked();
    let seen = looks(&deadlines, now, &[taken(1000); 5]);
    assert_eq!(seen, [None, None, None, None, Some(ConnectionFault::WriteStall)]);
}

/// A client may have its frames acknowledged without reading an answer.
#[test]
fn small_frames_are_no_progress() {
    let (deadlines, now) = deadlines();
    deadlines.speaks(ConnectionProtocol::Http2);
    let mut request = ActiveRequest::begin(&deadlines);
    request.handed_over();
    deadlines.state.lock().progress_at = now;
    let mut acknowledged = 0;
    let mut last = None;
    for number in 1..=4 {
        deadlines.wrote(17);
        acknowledged += 17;
        let at = now + DEADLINES.write_stall / 4 * number;
        last = deadlines.state.lock().overdue(at, &DEADLINES, taken(acknowledged));
    }
    assert_eq!(last, Some(ConnectionFault::WriteStall));
}

/// FAULTS.md F15b.
#[test]
fn a_wait_for_the_disk_of_the_edge_is_not_the_client_s() {
    let (deadlines, _) = deadlines();
    let mut request = ActiveRequest::begin(&deadlines);
    request.handed_over();
    deadlines.blocked();
    deadlines.reads_disk();
    assert_eq!(fault(&deadlines), ConnectionFault::Gone);
    assert!(deadlines.is_answering());
    deadlines.blocked();
    assert_eq!(fault(&deadlines), ConnectionFault::WriteStall);
}

#[test]
fn an_idle_client_that_still_receives_its_last_answer_is_not_let_go() {
    let (deadlines, now) = deadlines();
    deadlines.answered();
    let mut state = deadlines.state.lock();
    state.idle_since = now;
    let idle = |number| now + DEADLINES.idle * number;
    assert_eq!(state.overdue(idle(1), &DEADLINES, taken(1)), None);
    assert_eq!(state.overdue(idle(2), &DEADLINES, taken(2)), None);
    let whole = ClientProgress {
        acknowledged_bytes: 3,
        is_owed: false,
        is_over: false,
        is_half_closed: false,
    };
    assert_eq!(state.overdue(idle(3), &DEADLINES, Some(whole)), Some(ConnectionFault::Idle));
}

/// FAULTS.md F13: one byte sent ahead hid that a client had left.
#[test]
fn a_client_that_left_while_it_waits_is_noticed() {
    let (deadlines, now) = deadlines();
    let _request = ActiveRequest::begin(&deadlines);
    let mut state = deadlines.state.lock();
    (state.progress_at, state.looked_at) = (now, now);
    let look = |number| now + GONE_LOOK * number;
    assert_eq!(state.overdue(look(1), &DEADLINES, taken(1)), None);
    assert_eq!(state.overdue(look(2), &DEADLINES, None), None);
    let over = ClientProgress {
        acknowledged_bytes: 1,
        is_owed: false,
        is_over: true,
        is_half_closed: false,
    };
    assert_eq!(state.overdue(look(3), &DEADLINES, Some(over)), Some(ConnectionFault::Gone));
}

#[test]
fn a_client_that_closed_its_side_may_be_sent_nothing_for_a_while_alone() {
    let (deadlines, now) = deadlines();
    let _request = ActiveRequest::begin(&deadlines);
    let mut state = deadlines.state.lock();
    (state.progress_at, state.looked_at) = (now, now);
    let half_closed = taken(1).map(|progress| ClientProgress { is_half_closed: true, ..progress });
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
    assert_eq!(state.overdue(border, &DEADLINES, half_closed), Some(ConnectionFault::Gone));
}

/// What was written may still be on its way over a slow link.
#[test]
fn a_client_that_closed_its_side_and_takes_bytes_is_not_let_go() {
    let (deadlines, now) = deadlines();
    let _request = ActiveRequest::begin(&deadlines);
    let mut state = deadlines.state.lock();
    (state.progress_at, state.looked_at) = (now, now);
    let half_closed =
        |bytes| taken(bytes).map(|progress| ClientProgress { is_half_closed: true, ..progress });
    let mut at = now;
    for bytes in 1..=2 * HALF_CLOSED_MAX.as_secs() / GONE_LOOK.as_secs() {
        at += GONE_LOOK;
        assert_eq!(state.overdue(at, &DEADLINES, half_closed(bytes)), None, "{bytes}");
    }
    // It has ended: the last bytes that it took do not count.
    let over = half_closed(1_000).map(|progress| ClientProgress { is_over: true, ..progress });
    assert_eq!(state.overdue(at + GONE_LOOK, &DEADLINES, over), Some(ConnectionFault::Gone));
}

#[test]
fn a_stream_whose_window_is_shut_stalls_although_the_socket_is_free() {
    let (deadlines, _) = deadlines();
    deadlines.speaks(ConnectionProtocol::Http2);
    let mut request = ActiveRequest::begin(&deadlines);
    assert_eq!(fault(&deadlines), ConnectionFault::Gone);
    request.handed_over();
    assert_eq!(fault(&deadlines), ConnectionFault::WriteStall);
    request.asked();
    assert_eq!(fault(&deadlines), ConnectionFault::Gone);
}

#[test]
fn the_last_bytes_of_an_answer_are_waited_for_before_the_idle_time_begins() {
    let (deadlines, _) = deadlines();
    let mut request = ActiveRequest::begin(&deadlines);
    request.finished();
    deadlines.blocked();
    drop(request);
    assert_eq!(fault(&deadlines), ConnectionFault::WriteStall);
    assert!(deadlines.is_answering());
    deadlines.wrote(100);
    assert_eq!(fault(&deadlines), ConnectionFault::Idle);
}

#[test]
fn http2_frames_are_no_heads() {
    let (deadlines, _) = deadlines();
    deadlines.speaks(ConnectionProtocol::Http2);
    deadlines.read(b"\0");
    assert_eq!(fault(&deadlines), ConnectionFault::Idle);
}

#[test]
fn an_http2_client_that_only_abandons_comes_due() {
    let (deadlines, _) = deadlines();
    deadlines.speaks(ConnectionProtocol::Http2);
    for _ in 0..=ABANDONED_MAX {
        assert_ne!(fault(&deadlines), ConnectionFault::Abandoned);
        drop(ActiveRequest::begin(&deadlines));
    }
    assert_eq!(fault(&deadlines), ConnectionFault::Abandoned);
    let mut request = ActiveRequest::begin(&deadlines);
    request.finished();
    drop(request);
    assert_eq!(fault(&deadlines), ConnectionFault::Idle);
}

#[test]
fn an_unfinished_answer_resets_unless_decided_otherwise() {
    let (deadlines, _) = deadlines();
    assert!(!deadlines.is_reset());
    let request = ActiveRequest::begin(&deadlines);
    assert!(deadlines.is_reset());
    deadlines.end_clean();
    assert!(!deadlines.is_reset());
    drop(request);
    deadlines.end_reset();
    assert!(deadlines.is_reset());
}
