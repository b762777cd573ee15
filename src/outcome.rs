//! How a request was answered: one closed enum that is the access-log field, the metric label,
//! the basis of `Cache-Status` and what tests assert. Pure values.

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Fresh from memory.
    HitMemory,
    /// Fresh from disk.
    HitDisk,
    /// Stored, stale, and served because the origin could not be asked or is asked meanwhile.
    HitStale,
    /// A remembered absence; the origin was not asked.
    HitAbsent,
    /// Stored and confirmed by the origin with 304.
    Revalidated,
    /// Fetched from an origin for this request, and stored.
    Miss,
    /// Joined a fetch that another request had begun.
    Collapsed,
    /// Fetched from an origin and not stored.
    Pass,
    /// Every origin said that there is no such object.
    Absent,
    /// The site's absence filter knows that there is no such object; the origin was not asked.
    AbsentFilter,
    /// No origin has the object as far as is known, since an optional one could not be asked.
    AbsentOptional,
    /// Answered by Narthex itself: a landing page, an overridden `nix-cache-info`.
    Local,
    /// Refused without asking: malformed, not allowed, too large, a loop, an unknown host.
    Refused,
    /// Refused because a limit on work in hand was reached.
    Shed,
    /// No origin gave a usable answer.
    OriginFailed,
    /// A fault inside Narthex.
    Fault,
}

impl Outcome {
    /// Every outcome, in the order of the metric's label values.
    pub const ALL: [Self; 16] = [
        Self::HitMemory,
        Self::HitDisk,
        Self::HitStale,
        Self::HitAbsent,
        Self::Revalidated,
        Self::Miss,
        Self::Collapsed,
        Self::Pass,
        Self::Absent,
        Self::AbsentFilter,
        Self::AbsentOptional,
        Self::Local,
        Self::Refused,
        Self::Shed,
        Self::OriginFailed,
        Self::Fault,
    ];

    /// The name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HitMemory => "hit_memory",
            Self::HitDisk => "hit_disk",
            Self::HitStale => "hit_stale",
            Self::HitAbsent => "hit_absent",
            Self::Revalidated => "revalidated",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Pass => "pass",
            Self::Absent => "absent",
            Self::AbsentFilter => "absent_filter",
            Self::AbsentOptional => "absent_optional",
            Self::Local => "local",
            Self::Refused => "refused",
            Self::Shed => "shed",
            Self::OriginFailed => "origin_failed",
            Self::Fault => "fault",
        }
    }

    /// The position in [`Outcome::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether a stored answer was used without waiting for an origin.
    pub const fn is_hit(self) -> bool {
        matches!(self, Self::HitMemory | Self::HitDisk | Self::HitStale | Self::HitAbsent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_complete_and_in_order() {
        for (position, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome.index(), position);
        }
        assert_eq!(Outcome::ALL.last().map(|o| o.index() + 1), Some(Outcome::ALL.len()));
        assert_eq!(Outcome::Fault.index() + 1, Outcome::ALL.len());
    }
}
