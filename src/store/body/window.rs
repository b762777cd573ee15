//! How much of each object that is being received may be in memory: a share of one amount, within
//! bounds. Lock-free.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An amount of memory that objects share. Cloning shares it.
#[derive(Debug, Clone)]
pub(in crate::store) struct Windows {
    count: Arc<AtomicU64>,
    all_bytes: u64,
    least_bytes: u64,
    most_bytes: u64,
}

/// The windows of the objects that one disk receives.
#[derive(Debug)]
pub(in crate::store) struct MemoryWindows {
    /// Of objects that wait for the disk.
    pub(in crate::store) to_disk: Windows,
    /// Of objects that are not stored and wait for the slowest reader.
    pub(in crate::store) without_disk: Windows,
}

impl Default for MemoryWindows {
    fn default() -> Self {
        Self { to_disk: Windows::to_the_disk(), without_disk: Windows::without_a_disk() }
    }
}

/// One object's share, until it is dropped.
#[derive(Debug)]
pub(super) struct BodyWindow(Windows);

impl Windows {
    /// For objects that wait for the disk. A peer that sends at a constant pace never makes
    /// up for a wait, so each window is as long as the disk's pauses: 1 Gbit/s for 32 ms.
    fn to_the_disk() -> Self {
        #[cfg(test)]
        if crate::simulation::world().is_some() {
            // No batch may hold a part of a body that goes into the index.
            return Self::new(1 << 20, 256 << 10, 512 << 10);
        }
        Self::new(256 << 20, 512 << 10, 4 << 20)
    }

    /// For objects without a disk, which wait for the slowest reader: the product of 1 Gbit/s
    /// and 60 ms, so that a reader that pauses for a moment holds up no other.
    fn without_a_disk() -> Self {
        #[cfg(test)]
        if crate::simulation::world().is_some() {
            return Self::new(1 << 20, 16 << 10, 256 << 10);
        }
        Self::new(256 << 20, 512 << 10, 8 << 20)
    }

    fn new(all_bytes: u64, least_bytes: u64, most_bytes: u64) -> Self {
        Self { count: Arc::default(), all_bytes, least_bytes, most_bytes }
    }

    /// A share of one more object.
    pub(super) fn open(&self) -> BodyWindow {
        self.count.fetch_add(1, Ordering::Relaxed);
        BodyWindow(self.clone())
    }
}

impl BodyWindow {
    /// Bytes of the object that may be in memory at present.
    pub(super) fn bytes(&self) -> u64 {
        let Windows { count, all_bytes, least_bytes, most_bytes } = &self.0;
        (all_bytes / count.load(Ordering::Relaxed).max(1)).clamp(*least_bytes, *most_bytes)
    }
}

impl Drop for BodyWindow {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_share_within_its_bounds() {
        let windows = Windows::new(1000, 10, 400);
        let bytes = |objects: usize| {
            let open: Vec<_> = (0..objects).map(|_| windows.open()).collect();
            open[0].bytes()
        };
        assert_eq!([bytes(1), bytes(4), bytes(100), bytes(101), bytes(1)], [400, 250, 10, 10, 400]);
    }
}
