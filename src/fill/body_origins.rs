//! The origins that gave bytes of one body. If the body is rejected, one count and one log line
//! name them. One per try of a fill, shared by its parts; a lock held for a push only.

use super::error::Rejection;
use crate::metrics::Metrics;
use crate::object::Key;
use crate::sync::Mutex;
use std::sync::Arc;

/// The origins that gave bytes of one body, in the order in which they gave them.
#[derive(Debug, Clone, Default)]
pub(super) struct BodyOrigins(Arc<Mutex<Vec<BodyOrigin>>>);

#[derive(Debug, Clone)]
struct BodyOrigin {
    position: usize,
    name: Arc<str>,
}

impl BodyOrigins {
    /// The origin at `position` gives bytes from now on.
    pub(super) fn add(&self, position: usize, name: &Arc<str>) {
        let mut sources = self.0.lock();
        if sources.iter().all(|source| source.position != position) {
            sources.push(BodyOrigin { position, name: Arc::clone(name) });
        }
    }

    /// The same origins, for a body that goes on apart from this one.
    pub(super) fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    /// Their positions.
    pub(super) fn positions(&self) -> Vec<usize> {
        self.0.lock().iter().map(|source| source.position).collect()
    }

    /// Their names, with commas between.
    fn names(&self) -> String {
        let sources = self.0.lock();
        let names: Vec<&str> = sources.iter().map(|source| &*source.name).collect();
        names.join(",")
    }

    /// Counts and logs that `origin` gave a body, or a part of one, that is not what was promised.
    pub(super) fn reject(&self, metrics: &Metrics, key: &Key, origin: &str, rejection: &Rejection) {
        let reason = rejection.reason();
        metrics.rejected_bodies.with_label_values(&[origin, reason]).inc();
        let (expected, actual) = rejection.expected_and_actual();
        tracing::warn!(
            origin,
            sources = self.names(),
            site = key.site(),
            path = key.path(),
            reason,
            expected,
            actual,
            "rejected body: not stored"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Sha256;
    use std::io::{self, Write};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_rejected_body_is_one_count_and_one_line_that_says_all() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        let metrics = Metrics::new().unwrap();
        let key = Key::new("main#1", "/nar/a.nar.xz", None);
        let (expected, actual) = (Sha256([1; 32]), Sha256([2; 32]));
        tracing::subscriber::with_default(subscriber, || {
            let body_origins = BodyOrigins::default();
            body_origins.add(1, &"second".into());
            body_origins.add(0, &"first".into());
            body_origins.add(1, &"second".into());
            assert_eq!(body_origins.positions(), [1, 0]);
            let rejection = Rejection::FileHash { expected, actual };
            body_origins.reject(&metrics, &key, "second", &rejection);
        });
        let count = metrics.rejected_bodies.with_label_values(&["second", "file_hash"]).get();
        assert_eq!(count, 1);
        let line: serde_json::Value = serde_json::from_slice(&lines.0.lock()).unwrap();
        for (field, value) in [
            ("origin", "second"),
            ("sources", "second,first"),
            ("site", "main"),
            ("path", "/nar/a.nar.xz"),
            ("reason", "file_hash"),
            ("expected", &*expected.to_string()),
            ("actual", &*actual.to_string()),
        ] {
            assert_eq!(line["fields"][field], value, "{field}");
        }
    }
}
