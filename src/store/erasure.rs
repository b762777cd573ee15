//! Which state of a key is to go: one way to say it for whole objects and parts. Values only; asked
//! under the stripe of the key, by whatever takes records away.

use crate::store::format;
use crate::store::scope::Scope;

/// Which state of a key is to go. A record that cannot be read might be meant by any of these, and
/// serves nothing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Erasure<'a> {
    /// Whatever is there.
    Any,
    /// Only this insertion.
    Insertion(u64),
    /// Only one that was inserted before this one.
    Before(u64),
    /// Only a record that cannot be read.
    Undecodable,
    /// Only an object that a purge of this covers.
    Covered(&'a Scope),
}

impl Erasure<'_> {
    /// Whether it is the object or the part with this record.
    pub(super) fn means(self, record: &[u8]) -> bool {
        let sequence = || format::decode_head(record).ok().map(|head| head.sequence);
        match self {
            Self::Any => true,
            Self::Insertion(meant) => sequence().is_none_or(|sequence| sequence == meant),
            Self::Before(next) => sequence().is_none_or(|sequence| sequence < next),
            Self::Undecodable => format::decode_record(record).is_err(),
            Self::Covered(Scope::Tags { site, tags }) => format::is_tagged(record, site, tags),
            Self::Covered(scope) => {
                format::decode_key(record).map_or(true, |key| scope.may_cover(&key))
            }
        }
    }
}
