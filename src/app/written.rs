//! What the process makes the kernel write to disks, so that an operator can hold it against what
//! the disk tier was given: bodies, the index with its journal and its compaction, and all else.
//! Reads `/proc` when metrics are read; if that gives nothing, the counter stays.

use crate::metrics::Metrics;
use crate::sync::Mutex;

/// What has been counted so far.
#[derive(Debug, Default)]
pub(super) struct WrittenBytes {
    bytes: Mutex<u64>,
}

impl WrittenBytes {
    /// Counts what was written since the last time.
    pub(super) fn report(&self, metrics: &Metrics) {
        let Ok(text) = std::fs::read_to_string("/proc/self/io") else { return };
        let Some(now) = written_bytes(&text) else { return };
        let mut bytes = self.bytes.lock();
        metrics.disk_written_bytes.inc_by(now.saturating_sub(*bytes));
        *bytes = now.max(*bytes);
    }
}

/// What `/proc/self/io` says of bytes sent to disks: pages made dirty, whether or not they have
/// been written back yet.
fn written_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_for_what_goes_to_disk() {
        let text =
            "rchar: 323934931\nwchar: 323929600\nwrite_bytes: 4096\ncancelled_write_bytes: 1\n";
        assert_eq!(written_bytes(text), Some(4096));
        assert_eq!(written_bytes("write_bytes: many\n"), None);
        assert_eq!(written_bytes(""), None);
    }

    #[test]
    fn what_was_counted_once_is_not_counted_again() {
        let (metrics, written) = (Metrics::new().unwrap(), WrittenBytes::default());
        *written.bytes.lock() = u64::MAX;
        written.report(&metrics);
        assert_eq!(metrics.disk_written_bytes.get(), 0);
    }
}
