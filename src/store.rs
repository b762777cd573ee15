//! Objects on disk: found, written whole or not at all, recovered, evicted.
