//! One fetch per key, streamed to every reader while it is written, verified, committed.
