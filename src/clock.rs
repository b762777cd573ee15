//! The clock, real or turned by hand. Lives as long as the process; lock-free; every decision about
//! time takes it from here, never from the system directly.
//!
//! It tells two times. *Wall time* is what the machine says, and what others are told and compared
//! with: logs, `Date`, signatures, certificates, notices. *Edge time* is what ages are measured by:
//! it is the wall time at first, goes on with the monotonic clock, and follows the wall clock
//! forward but never back. So it is never behind the wall time, and a step back of the wall clock
//! makes nothing younger. The monotonic clock stands still while the machine sleeps; the step of
//! the wall clock after that makes up for it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment in milliseconds since the Unix epoch.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A moment from milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// A moment from seconds since the Unix epoch; saturates.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        let millis = self.0.saturating_sub(earlier.0);
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    /// The moment `duration` later; saturates.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis_of(duration)))
    }

    /// The same moment as the system's type; moments before the epoch become the epoch.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(u64::try_from(self.0).unwrap_or(0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(i64::try_from(after.as_millis()).unwrap_or(i64::MAX)),
            Err(before) => {
                Self(i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |m| -m))
            }
        }
    }
}

/// One look at the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The edge time.
    pub edge: Timestamp,
    /// The wall time.
    pub wall: Timestamp,
}

impl Moment {
    /// A moment at which the wall clock has never been set back.
    pub const fn at(time: Timestamp) -> Self {
        Self { edge: time, wall: time }
    }
}

/// Tells the time. Cloning shares the clock.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's clock.
    #[default]
    System,
    /// A clock that moves only when told to; for tests.
    Manual(ManualClock),
}

impl Clock {
    /// The present edge time.
    pub fn now(&self) -> Timestamp {
        self.moment().edge
    }

    /// The present wall time.
    pub fn wall(&self) -> Timestamp {
        #[cfg(test)]
        if let (Self::System, Some(millis)) = (self, crate::simulation::wall_clock()) {
            return Timestamp::from_millis(millis);
        }
        match self {
            Self::System => SystemTime::now().into(),
            Self::Manual(manual) => manual.wall(),
        }
    }

    /// Both times at present.
    pub fn moment(&self) -> Moment {
        #[cfg(test)]
        if let (Self::System, Some(millis)) = (self, crate::simulation::wall_clock()) {
            return Moment::at(Timestamp::from_millis(millis));
        }
        match self {
            Self::System => system_moment(),
            Self::Manual(manual) => Moment { edge: manual.now(), wall: manual.wall() },
        }
    }
}

fn system_moment() -> Moment {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    static LEAD: AtomicI64 = AtomicI64::new(i64::MIN);
    let elapsed = STARTED.get_or_init(Instant::now).elapsed();
    let wall = SystemTime::now().into();
    Moment { edge: edge_time(&LEAD, elapsed, wall), wall }
}

/// The edge time when the monotonic clock has gone for `elapsed`; `lead` is the most that the wall
/// clock has ever been ahead of that.
fn edge_time(lead: &AtomicI64, elapsed: Duration, wall: Timestamp) -> Timestamp {
    let elapsed = millis_of(elapsed);
    let ahead = wall.0.saturating_sub(elapsed);
    let known = lead.load(Ordering::Relaxed);
    // Written only when the wall clock has gone forward: all requests read it.
    let most =
        if ahead > known { lead.fetch_max(ahead, Ordering::Relaxed).max(ahead) } else { known };
    Timestamp(elapsed.saturating_add(most))
}

/// A clock turned by hand.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Hands>);

#[derive(Debug)]
struct Hands {
    edge: AtomicI64,
    /// How far the wall clock was set back in all.
    behind: AtomicI64,
}

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn starting_at(start: Timestamp) -> Self {
        Self(Arc::new(Hands { edge: AtomicI64::new(start.0), behind: AtomicI64::new(0) }))
    }

    /// The edge time that the clock stands at.
    pub fn now(&self) -> Timestamp {
        Timestamp(self.0.edge.load(Ordering::Relaxed))
    }

    /// The wall time that the clock stands at.
    pub fn wall(&self) -> Timestamp {
        Timestamp(self.now().0.saturating_sub(self.0.behind.load(Ordering::Relaxed)))
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.0.edge.fetch_add(millis_of(by), Ordering::Relaxed);
    }

    /// Sets the wall clock back.
    pub fn set_back(&self, by: Duration) {
        self.0.behind.fetch_add(millis_of(by), Ordering::Relaxed);
    }

    /// Sets the wall clock forward, as if it had never been set back.
    pub fn set_right(&self) {
        self.0.behind.store(0, Ordering::Relaxed);
    }
}

fn millis_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_turned() {
        let manual = ManualClock::starting_at(Timestamp::from_secs(1_000));
        let clock = Clock::Manual(manual.clone());
        let before = clock.now();
        assert_eq!(clock.now(), before);
        manual.advance(Duration::from_millis(1_500));
        assert_eq!(clock.now().since(before), Duration::from_millis(1_500));
        assert_eq!(before.since(clock.now()), Duration::ZERO);
    }

    /// FAULTS.md S6.
    #[test]
    fn a_step_back_of_the_wall_clock_turns_nothing_back() {
        let lead = AtomicI64::new(i64::MIN);
        let at = |elapsed, wall| {
            edge_time(&lead, Duration::from_secs(elapsed), Timestamp::from_secs(wall)).secs()
        };
        assert_eq!(at(0, 10_000), 10_000);
        assert_eq!(at(5, 10_005), 10_005);
        // Two hours back: it goes on with the monotonic clock.
        assert_eq!(at(6, 10_006 - 7_200), 10_006);
        assert_eq!(at(100, 10_100 - 7_200), 10_100);
        // Forward again, to its former time.
        assert_eq!(at(101, 10_101), 10_101);
        // Further forward, or the machine has slept.
        assert_eq!(at(102, 20_000), 20_000);
        assert_eq!(at(103, 10_103), 20_001);
        assert_eq!(at(0, i64::MIN), 19_898, "nothing overflows");
    }

    #[test]
    fn a_manual_clock_that_is_set_back_tells_both_times() {
        let manual = ManualClock::starting_at(Timestamp::from_secs(10_000));
        let clock = Clock::Manual(manual.clone());
        assert_eq!(clock.moment(), Moment::at(Timestamp::from_secs(10_000)));
        manual.set_back(Duration::from_hours(2));
        manual.advance(Duration::from_secs(2));
        let (edge, wall) = (Timestamp::from_secs(10_002), Timestamp::from_secs(2_802));
        assert_eq!(clock.moment(), Moment { edge, wall });
        assert_eq!((clock.now(), clock.wall()), (edge, wall));
        manual.set_right();
        assert_eq!(clock.moment(), Moment::at(edge));
    }

    #[test]
    fn the_edge_time_of_the_system_is_not_behind_its_wall_time() {
        for _ in 0..1_000 {
            let Moment { edge, wall } = Clock::System.moment();
            assert!(edge >= wall);
            assert!(Clock::System.now() >= edge);
        }
    }
}
