//! Keeps account of the uploads that the feed of notices has reported. This alone decides whether a
//! key that is not in the filter is not in the bucket. Pure; `now` is given. Held by a filter under
//! its lock.
//!
//! # Why no upload is missed
//!
//! A filter's file is complete up to a moment T. A later upload is known by its notice alone. So an
//! absence is certain only while every notice of an upload since T is known to have come. This
//! knowledge is kept as spans of time:
//!
//! - The *open* span: the feed has been heard again and again, never later than `feed_timeout`. It
//!   begins when the first notice of it came, by this machine's clock: the notices of uploads from
//!   then on are received. The notice of an upload before may have been sent while no listener was
//!   there, so the span never reaches back to what the first notice speaks of.
//! - The span is closed if the feed is late: it is silent, or a notice took longer than
//!   `feed_timeout` while the span was open. It is also closed if the process ends, or if a notice
//!   could not be noted. The end of the span is `feed_timeout` before the feed was last heard of,
//!   since a notice of an upload just before may have been on its way. The next notice opens
//!   another span, and uploads between the two are in doubt.
//! - The doubt ends in three ways. The feed states which uploads it has told of, and the statement
//!   joins the spans. Or the feed tries again what was not taken: an open span of `feed_retention`
//!   has brought everything that will come. That holds if the gap is at most half of that, since no
//!   notice can have been given up before it was tried again. Or a newer file is loaded, with a T
//!   in the open span.
//! - A notice that came and could not be read is not sent again: all spans are forgotten, and only
//!   a statement or a newer file helps.
//! - If the clock is set back, or right again after that, all spans are forgotten: no time that was
//!   noted can be compared with one that comes. An earlier process had another clock if it noted
//!   what is yet to come. A clock that is set back for less time than the process was away is not
//!   noticed: the gap then looks shorter than it was.
//!
//! So the filter answers if the open span, joined with those before it, reaches back to T. A
//! filter that was built before its feed was set up never does, whatever comes later. What is left
//! is the time that a notice takes: for so long an upload may be answered as absent, as it is by
//! the memory of absences.

use crate::clock::{Moment, Timestamp};
use std::time::Duration;

/// How far the clock may go back in all without having been set.
const CLOCK_SLACK: Duration = Duration::from_secs(1);
/// Closed spans that are remembered; the oldest go first.
const SPANS_MAX: usize = 64;

/// A span of time: the notices of all its uploads have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoticeSpan {
    pub(super) since: Timestamp,
    pub(super) up_to: Timestamp,
}

/// What the feed has told of.
#[derive(Debug, Clone)]
pub(super) struct Coverage {
    timeout: Duration,
    retention: Duration,
    /// In the order of their ends, none of which touch.
    closed: Vec<NoticeSpan>,
    open: Option<OpenSpan>,
    /// How far the clock that they were noted by was behind edge time.
    behind: Duration,
}

#[derive(Debug, Clone, Copy)]
struct OpenSpan {
    /// The first upload that is covered.
    since: Timestamp,
    /// When it was opened, to count the retention from.
    opened: Timestamp,
    /// What the newest notice speaks of.
    heard: Timestamp,
}

/// Whether what is not known is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AbsenceCertainty {
    /// It is.
    Certain,
    /// The feed is late, or was never heard.
    Late,
    /// The feed is alive; uploads since `since` are known, those before, after the file, are not.
    Gap { since: Timestamp },
}

impl Coverage {
    /// As it was written down, the process having ended since.
    pub(super) fn new(timeout: Duration, retention: Duration, spans: Vec<NoticeSpan>) -> Self {
        let (closed, open) = (Vec::new(), None);
        let mut coverage = Self { timeout, retention, closed, open, behind: Duration::ZERO };
        for span in spans {
            coverage.close(span);
        }
        coverage
    }

    /// The same with other settings.
    pub(super) fn set(&mut self, timeout: Duration, retention: Duration) {
        (self.timeout, self.retention) = (timeout, retention);
    }

    /// Whether what a file that is complete up to `complete_up_to` lacks is absent `now`.
    pub(super) fn standing(&self, complete_up_to: Timestamp, now: Moment) -> AbsenceCertainty {
        let has_stepped = self.has_stepped(now);
        let now = now.wall;
        let is_alive = |open: &OpenSpan| !has_stepped && !self.is_late(open.heard, now);
        let Some(open) = self.open.filter(is_alive) else { return AbsenceCertainty::Late };
        let since = self.reaches_back(open, now).0;
        if since <= complete_up_to {
            AbsenceCertainty::Certain
        } else {
            AbsenceCertainty::Gap { since }
        }
    }

    /// How old the newest upload is that the open span has heard of, if there is one.
    pub(super) fn age(&self, now: Timestamp) -> Option<Duration> {
        self.open.map(|open| now.since(open.heard))
    }

    /// The feed speaks `now`, of what happened `at`.
    pub(super) fn hear(&mut self, at: Timestamp, now: Moment) {
        self.keep_to(now);
        let now = now.wall;
        let at = at.min(now);
        // A feed that is behind is alive once it has caught up.
        let is_behind = self.is_late(at, now);
        let is_broken =
            |open: OpenSpan| self.is_late(open.heard, now) || (is_behind && at >= open.opened);
        if self.open.is_some_and(is_broken) {
            self.interrupt();
        }
        match &mut self.open {
            Some(open) => open.heard = open.heard.max(at),
            None if is_behind => {}
            None => self.open = Some(OpenSpan { since: now, opened: now, heard: at }),
        }
        self.join(now);
    }

    /// The feed states `now` that the notices of all uploads in `span` have come.
    pub(super) fn state(&mut self, span: NoticeSpan, now: Moment) {
        self.keep_to(now);
        let up_to = span.up_to.min(now.wall);
        if !self.is_late(up_to, now.wall) {
            self.hear(up_to, now);
        }
        self.close(NoticeSpan { up_to, ..span });
        self.join(now.wall);
    }

    /// A notice may have been missed that will be sent again.
    pub(super) fn interrupt(&mut self) {
        if let Some(open) = self.open.take() {
            self.close(self.as_closed(open));
        }
    }

    /// A notice was missed for good.
    pub(super) fn forget(&mut self) {
        self.open = None;
        self.closed.clear();
    }

    /// What is to be written down, as if the process ended.
    pub(super) fn spans(&self) -> Vec<NoticeSpan> {
        let mut written = self.clone();
        written.interrupt();
        written.closed
    }

    fn is_late(&self, heard: Timestamp, now: Timestamp) -> bool {
        now.since(heard) > self.timeout
    }

    /// Goes by the clock that says `now`, and forgets what was noted by another.
    fn keep_to(&mut self, now: Moment) {
        if self.has_stepped(now) {
            self.forget();
            self.behind = now.edge.since(now.wall);
        }
    }

    /// Whether the spans were noted by another clock. It was set back, or is right again, or an
    /// earlier process noted what is yet to come.
    fn has_stepped(&self, now: Moment) -> bool {
        let is_behind = now.edge.since(now.wall);
        let heard = self.open.iter().map(|open| open.heard);
        let mut noted = self.closed.last().map(|span| span.up_to).into_iter().chain(heard);
        self.behind.abs_diff(is_behind) > CLOCK_SLACK
            || noted.any(|at| at.since(now.wall) > CLOCK_SLACK)
    }

    fn as_closed(&self, open: OpenSpan) -> NoticeSpan {
        let timeout = i64::try_from(self.timeout.as_millis()).unwrap_or(i64::MAX);
        let up_to = Timestamp::from_millis(open.heard.millis().saturating_sub(timeout));
        NoticeSpan { since: open.since, up_to }
    }

    /// Adds a closed span, joined with those that it touches.
    fn close(&mut self, mut span: NoticeSpan) {
        if span.since >= span.up_to {
            return;
        }
        self.closed.retain(|other| {
            let is_apart = other.up_to < span.since || span.up_to < other.since;
            if !is_apart {
                span.since = span.since.min(other.since);
                span.up_to = span.up_to.max(other.up_to);
            }
            is_apart
        });
        let place = self.closed.partition_point(|other| other.up_to < span.up_to);
        self.closed.insert(place, span);
        if self.closed.len() > SPANS_MAX {
            self.closed.remove(0);
        }
    }

    /// Makes for good what has come to be certain `now`.
    fn join(&mut self, now: Timestamp) {
        let Some(open) = self.open else { return };
        let (since, count) = self.reaches_back(open, now);
        self.closed.truncate(self.closed.len().saturating_sub(count));
        self.open = Some(OpenSpan { since, ..open });
    }

    /// How far back the open span reaches with those that it is joined with, and how many these
    /// are.
    fn reaches_back(&self, open: OpenSpan, now: Timestamp) -> (Timestamp, usize) {
        let has_tried_again = now >= open.opened.plus(self.retention);
        let (mut since, mut count) = (open.since, 0);
        for span in self.closed.iter().rev() {
            let gap = open.opened.since(span.up_to);
            let is_tried = has_tried_again && gap <= self.retention / 2;
            if span.up_to < since && !is_tried {
                break;
            }
            since = since.min(span.since);
            count += 1;
        }
        (since, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, any, prop, proptest};

    const TIMEOUT: Duration = Duration::from_mins(1);
    const RETENTION: Duration = Duration::from_hours(1);

    const fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    /// A clock that was never set back.
    const fn clock(secs: i64) -> Moment {
        Moment::at(at(secs))
    }

    fn span(since: i64, up_to: i64) -> NoticeSpan {
        NoticeSpan { since: at(since), up_to: at(up_to) }
    }

    fn silent() -> Coverage {
        Coverage::new(TIMEOUT, RETENTION, Vec::new())
    }

    /// A feed that is heard every half minute over these seconds.
    fn alive(coverage: &mut Coverage, from: i64, to: i64) {
        for now in (from..=to).step_by(30) {
            coverage.hear(at(now), clock(now));
        }
    }

    fn is_certain(coverage: &Coverage, file: i64, now: i64) -> bool {
        coverage.standing(at(file), clock(now)) == AbsenceCertainty::Certain
    }

    #[test]
    fn only_a_file_made_while_the_feed_lives_is_certain() {
        let mut coverage = silent();
        assert_eq!(coverage.standing(at(0), clock(0)), AbsenceCertainty::Late);
        alive(&mut coverage, 1_000, 2_000);
        assert!(!is_certain(&coverage, 999, 2_000));
        assert!(is_certain(&coverage, 1_000, 2_000) && is_certain(&coverage, 1_500, 2_000));
        assert_eq!(
            coverage.standing(at(999), clock(2_000)),
            AbsenceCertainty::Gap { since: at(1_000) }
        );
        alive(&mut coverage, 2_000, 9_000);
        assert!(!is_certain(&coverage, 999, 9_000), "nothing tells of uploads before the feed");
    }

    #[test]
    fn a_late_feed_steps_aside_until_all_was_sent_again() {
        let mut coverage = silent();
        alive(&mut coverage, 0, 3_000);
        assert!(is_certain(&coverage, 100, 3_060));
        assert_eq!(coverage.standing(at(100), clock(3_061)), AbsenceCertainty::Late);
        alive(&mut coverage, 4_000, 7_590);
        assert!(!is_certain(&coverage, 100, 7_599) && is_certain(&coverage, 4_000, 7_599));
        assert!(is_certain(&coverage, 100, 7_600));
        alive(&mut coverage, 7_620, 7_700);
        assert!(is_certain(&coverage, 100, 7_700));
    }

    /// So many seconds behind edge time, which never goes back.
    const fn set_back(edge: i64, by: i64) -> Moment {
        Moment { edge: at(edge), wall: at(edge - by) }
    }

    /// FAULTS.md F15a.
    #[test]
    fn a_clock_set_back_keeps_no_dead_feed_alive() {
        let mut coverage = silent();
        alive(&mut coverage, 9_000, 10_000);
        let heard = 9_990;
        assert!(is_certain(&coverage, 9_500, heard - 1));
        assert_eq!(coverage.standing(at(9_500), clock(heard - 7_200)), AbsenceCertainty::Late);
        // A feed that lives opens another span by the clock as it is now.
        alive(&mut coverage, heard - 7_200, heard - 7_000);
        assert!(!is_certain(&coverage, 2_000, heard - 7_000));
        assert!(is_certain(&coverage, heard - 7_100, heard - 7_000));
    }

    /// FAULTS.md F15a: the time of silence is not known, and may look like none.
    #[test]
    fn what_was_noted_before_the_clock_was_set_back_is_not_joined() {
        for (silence, by) in [(3_000, 3_000), (3_000, 2_990), (3_000, 100), (40, 30), (0, 7_200)] {
            let mut coverage = silent();
            alive(&mut coverage, 990, 9_990);
            let now = set_back(9_990 + silence, by);
            assert_eq!(coverage.standing(at(5_000), now), AbsenceCertainty::Late, "{silence} {by}");
            for later in (0..5_000).step_by(30) {
                let now = set_back(9_990 + silence + later, by);
                coverage.hear(now.wall, now);
                let seen = coverage.standing(at(5_000), now);
                let since = at(9_990 + silence - by);
                let expected = if since <= at(5_000) {
                    AbsenceCertainty::Certain
                } else {
                    AbsenceCertainty::Gap { since }
                };
                assert_eq!(seen, expected, "{silence} {by} {later}");
            }
        }
    }

    #[test]
    fn a_clock_that_is_right_again_begins_anew_too() {
        let mut coverage = silent();
        for edge in (10_000..11_000).step_by(30) {
            let now = set_back(edge, 2_000);
            coverage.hear(now.wall, now);
        }
        assert_eq!(
            coverage.standing(at(8_000), set_back(11_000, 2_000)),
            AbsenceCertainty::Certain
        );
        assert_eq!(coverage.standing(at(8_000), set_back(11_010, 0)), AbsenceCertainty::Late);
        coverage.hear(at(11_010), clock(11_010));
        let since = at(11_010);
        assert_eq!(coverage.standing(at(8_000), clock(11_010)), AbsenceCertainty::Gap { since });
    }

    #[test]
    fn an_earlier_process_that_noted_what_is_yet_to_come_had_another_clock() {
        let spans = vec![span(100, 900), span(1_000, 9_000)];
        let mut coverage = Coverage::new(TIMEOUT, RETENTION, spans);
        alive(&mut coverage, 3_000, 8_000);
        assert!(!is_certain(&coverage, 2_999, 8_000) && is_certain(&coverage, 3_000, 8_000));
    }

    /// As time servers set it.
    #[test]
    fn a_clock_that_goes_back_by_less_than_a_second_is_the_same() {
        let mut coverage = silent();
        alive(&mut coverage, 1_000, 2_000);
        let now = Moment { edge: at(2_000), wall: Timestamp::from_millis(1_999_200) };
        coverage.hear(now.wall, now);
        assert_eq!(coverage.standing(at(1_000), now), AbsenceCertainty::Certain);
    }

    #[test]
    fn a_gap_that_is_too_long_is_never_certain_again() {
        let mut coverage = silent();
        alive(&mut coverage, 0, 3_000);
        alive(&mut coverage, 4_750, 20_000);
        assert!(!is_certain(&coverage, 100, 20_000));
        coverage.state(span(2_900, 2_945), clock(20_000));
        assert!(!is_certain(&coverage, 100, 20_000), "the statement leaves some out");
        coverage.state(span(2_945, 2_960), clock(20_000));
        assert!(is_certain(&coverage, 100, 20_000));
    }

    #[test]
    fn a_feed_that_is_behind_is_not_alive() {
        let mut coverage = silent();
        coverage.hear(at(100), clock(1_000));
        assert_eq!(coverage.standing(at(1_000), clock(1_000)), AbsenceCertainty::Late);
        coverage.hear(at(960), clock(1_010));
        assert!(is_certain(&coverage, 1_010, 1_020) && !is_certain(&coverage, 1_009, 1_020));
        // What a notice says of the future is no sign of life then.
        coverage.hear(at(99_999), clock(1_020));
        assert_eq!(coverage.standing(at(1_020), clock(1_081)), AbsenceCertainty::Late);
        assert_eq!(coverage.age(at(1_030)), Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_notice_that_took_too_long_ends_the_span_unless_it_is_of_an_earlier_gap() {
        let mut coverage = silent();
        alive(&mut coverage, 0, 300);
        coverage.hear(at(250), clock(310));
        assert!(is_certain(&coverage, 10, 310));
        coverage.hear(at(200), clock(310));
        assert!(!is_certain(&coverage, 10, 310));
        coverage.hear(at(310), clock(310));
        coverage.hear(at(250), clock(330));
        assert!(is_certain(&coverage, 310, 330), "sent again, of before the span");
    }

    #[test]
    fn a_restart_is_a_gap_and_a_statement_closes_it() {
        let mut coverage = silent();
        alive(&mut coverage, 0, 3_000);
        let mut again = Coverage::new(TIMEOUT, RETENTION, coverage.spans());
        assert_eq!(again.standing(at(100), clock(3_010)), AbsenceCertainty::Late);
        again.hear(at(3_010), clock(3_010));
        assert!(!is_certain(&again, 100, 3_010));
        again.state(span(2_940, 3_020), clock(3_020));
        assert!(is_certain(&again, 100, 3_020));
        again.interrupt();
        alive(&mut again, 3_030, 3_060);
        assert!(!is_certain(&again, 100, 3_060));
        again.forget();
        alive(&mut again, 3_100, 30_000);
        assert!(!is_certain(&again, 100, 30_000) && is_certain(&again, 3_100, 30_000));
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Hear(i64),
        Silence(i64),
        Restart,
        Interrupt,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Against a feed that sends each notice until it is taken, for the retention: if the
        /// coverage is certain, no upload since the file is unknown that a listener took too late.
        #[test]
        fn what_is_certain_was_heard_or_tried_again(
            steps in prop::collection::vec((0..4_u8, 1..2_000_i64), 1..60),
            file in 0..5_000_i64,
            unlucky in any::<bool>(),
        ) {
            let (mut coverage, mut now) = (silent(), 0);
            // Seconds without a listener: an upload then is told when it is tried again.
            let mut deaf: Vec<(i64, i64)> = vec![(i64::MIN, 0)];
            let mut listens_since = None;
            for (kind, length) in steps {
                let event = match kind {
                    0 | 3 => Event::Hear(length),
                    1 => Event::Silence(length % 900),
                    2 if unlucky => Event::Restart,
                    _ => Event::Interrupt,
                };
                match event {
                    Event::Hear(length) => {
                        let begun = now;
                        listens_since.get_or_insert(begun);
                        alive(&mut coverage, now, now + length);
                        now += length / 30 * 30;
                    }
                    Event::Silence(length) => {
                        listens_since = None;
                        deaf.push((now, now + length));
                        now += length;
                        if length <= 60 { coverage.interrupt(); }
                    }
                    Event::Restart => {
                        listens_since = None;
                        deaf.push((now, now));
                        coverage = Coverage::new(TIMEOUT, RETENTION, coverage.spans());
                    }
                    Event::Interrupt => {
                        listens_since = None;
                        deaf.push((now, now));
                        coverage.interrupt();
                    }
                }
                if is_certain(&coverage, file, now) {
                    // Every time of deafness that touches what came after the file is long past.
                    let doubt = deaf.iter().map(|(_, end)| *end).filter(|end| *end > file).max();
                    let tried = doubt.is_none_or(|end| now >= end + 3_600);
                    let heard = deaf.iter().all(|(begin, _)| *begin > i64::MIN) || file >= 0;
                    assert!(tried && heard, "file {file}, now {now}, deaf {deaf:?}");
                    assert!(listens_since.is_some());
                }
            }
        }
    }
}
