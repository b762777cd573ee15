//! How a keyspace of the index is kept: its filters and its memory. Pure; called once for each
//! keyspace of an index that is opened.

use fjall::KeyspaceCreateOptions;
use fjall::config::{FilterPolicy, FilterPolicyEntry, PartitioningPolicy, PinningPolicy};

/// How the keys of a keyspace are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum LookupPattern {
    /// Keys that come in their order, so that no two tables share a range: a filter says nothing.
    InOrder,
    /// Keys that are there: filters say in which level, but for the last one.
    WhereItIs,
    /// Any key: a filter in memory saves reading a block for one that is not there.
    OftenInVain,
}

/// The filters and indexes of all tables stay in memory, whole: some bytes an object, so that a
/// look-up reads one block of data, however many there are. Otherwise the engine keeps them in its
/// cache, where data pushes them out, and reads hundreds of KiB for one of a large table.
pub(super) fn options(memtable_bytes: u64, sought: LookupPattern) -> KeyspaceCreateOptions {
    let options = KeyspaceCreateOptions::default()
        .max_memtable_size(memtable_bytes)
        .filter_block_partitioning_policy(PartitioningPolicy::all(false))
        .filter_block_pinning_policy(PinningPolicy::all(true))
        .index_block_partitioning_policy(PartitioningPolicy::all(false))
        .index_block_pinning_policy(PinningPolicy::all(true));
    match sought {
        LookupPattern::InOrder => options.filter_policy(FilterPolicy::all(FilterPolicyEntry::None)),
        LookupPattern::WhereItIs => options.expect_point_read_hits(true),
        LookupPattern::OftenInVain => options,
    }
}
