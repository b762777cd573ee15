//! The access log: a bounded queue and one thread that writes. A request never waits for the
//! log; a record that finds the queue full is dropped and counted. Made once by the assembly,
//! shared by reference; dropping it writes what is queued.

use super::form::{self, AccessRecord};
use super::queue::{QueueFull, WriterQueue};
use crate::config::AccessLogForm;
use crate::metrics::Metrics;
use prometheus::IntCounter;
use std::fmt;
use std::io::{self, Write};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Records that may wait for the writer.
const QUEUE_RECORDS_MAX: usize = 64 * 1024;
/// Bytes after which a batch is written, however many records wait.
const BATCH_BYTES: usize = 64 * 1024;
/// How long dropping the log waits for its last lines to be written.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// The destination of the lines.
pub enum AccessLogSink {
    /// The standard output.
    Stdout,
    /// Any writer.
    Writer(Box<dyn Write + Send>),
}

impl fmt::Debug for AccessLogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "Stdout",
            Self::Writer(_) => "Writer",
        })
    }
}

/// The access log's thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the access log's thread: {source}; raise the limit on threads")]
pub struct AccessLogError {
    /// What the system said.
    #[from]
    source: io::Error,
}

/// Takes one record a request.
#[derive(Debug)]
pub struct AccessLog {
    /// `None` if the log is off, and while it closes.
    open: Option<WriterQueue<Box<AccessRecord>>>,
    dropped: IntCounter,
}

impl AccessLog {
    /// Starts the writer, or nothing if `form` is `Off`.
    pub fn start(
        form: AccessLogForm,
        sink: AccessLogSink,
        metrics: &Metrics,
    ) -> Result<Self, AccessLogError> {
        Self::with_queue(form, sink, metrics, QUEUE_RECORDS_MAX)
    }

    fn with_queue(
        form: AccessLogForm,
        sink: AccessLogSink,
        metrics: &Metrics,
        records_max: usize,
    ) -> Result<Self, AccessLogError> {
        let dropped = metrics.access_log_dropped.clone();
        if form == AccessLogForm::Off {
            return Ok(Self { open: None, dropped });
        }
        let writer = AccessLogWriter {
            form,
            out: match sink {
                AccessLogSink::Stdout => Box::new(io::stdout()),
                AccessLogSink::Writer(writer) => writer,
            },
            dropped: dropped.clone(),
            is_failing: false,
        };
        let open = WriterQueue::start("access-log", records_max, |queue| writer.run(queue))?;
        Ok(Self { open: Some(open), dropped })
    }

    /// Whether records are written: if not, none need be made.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Queues a record. Never blocks; counts the record as dropped if the queue is full.
    pub fn record(&self, record: Box<AccessRecord>) {
        let Some(open) = &self.open else { return };
        if let Err(QueueFull) = open.send(record) {
            self.dropped.inc();
        }
    }

    /// Writes what is queued and ends the writer; waits at most five seconds. Blocks: call it
    /// outside the runtime, or after the drain. Dropping the log does the same.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(open) = self.open.take() else { return };
        if !open.end(CLOSE_DEADLINE) {
            tracing::warn!("access log is blocked, last lines are lost");
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.end();
    }
}

/// The thread's half.
struct AccessLogWriter {
    form: AccessLogForm,
    out: Box<dyn Write + Send>,
    dropped: IntCounter,
    is_failing: bool,
}

impl AccessLogWriter {
    fn run(mut self, queue: &Receiver<Box<AccessRecord>>) {
        let mut batch = Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 4);
        while let Ok(record) = queue.recv() {
            let mut records = self.append(&record, &mut batch);
            while batch.len() < BATCH_BYTES
                && let Ok(record) = queue.try_recv()
            {
                records += self.append(&record, &mut batch);
            }
            self.write(&batch, records);
            batch.clear();
        }
    }

    /// Appends the record's line; returns how many lines that made.
    fn append(&self, record: &AccessRecord, batch: &mut Vec<u8>) -> u64 {
        let before = batch.len();
        match self.form {
            AccessLogForm::Json => {
                if let Err(error) = form::json(record, batch) {
                    tracing::error!(%error, "cannot write access log record as JSON");
                    batch.truncate(before);
                    self.dropped.inc();
                    return 0;
                }
            }
            AccessLogForm::Combined => form::combined(record, batch),
            AccessLogForm::Off => return 0,
        }
        1
    }

    fn write(&mut self, batch: &[u8], records: u64) {
        match self.out.write_all(batch).and_then(|()| self.out.flush()) {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                self.dropped.inc_by(records);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(%error, "cannot write access log, records are dropped");
                }
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::form::tests::record;
    use super::*;
    use crate::sync::{Condvar, Mutex};
    use std::sync::Arc;

    /// A writer that can be held up, and that tells what it got.
    #[derive(Clone, Default)]
    pub(in crate::telemetry) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

    #[derive(Default)]
    struct GateState {
        is_shut: bool,
        is_reached: bool,
        written: Vec<u8>,
    }

    impl Gate {
        pub(in crate::telemetry) fn shut() -> Self {
            let gate = Self::default();
            gate.0.0.lock().is_shut = true;
            gate
        }

        pub(in crate::telemetry) fn wait_until_reached(&self) {
            let mut state = self.0.0.lock();
            while !state.is_reached {
                self.0.1.wait(&mut state);
            }
        }

        pub(in crate::telemetry) fn open(&self) {
            self.0.0.lock().is_shut = false;
            self.0.1.notify_all();
        }

        pub(in crate::telemetry) fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().written.clone()).unwrap()
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.0.lock();
            state.is_reached = true;
            self.0.1.notify_all();
            while state.is_shut {
                self.0.1.wait(&mut state);
            }
            state.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_record_is_one_line_and_closing_writes_them_all() {
        let gate = Gate::default();
        let metrics = Metrics::new().unwrap();
        let sink = AccessLogSink::Writer(Box::new(gate.clone()));
        let log = AccessLog::start(AccessLogForm::Json, sink, &metrics).unwrap();
        for number in 0..1_000 {
            log.record(Box::new(record(&format!("/{number}.narinfo"))));
        }
        log.close();
        let text = gate.text();
        assert_eq!(text.lines().count(), 1_000);
        for (number, line) in text.lines().enumerate() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["url"], format!("/{number}.narinfo"));
        }
        assert_eq!(metrics.access_log_dropped.get(), 0);
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_never_blocks() {
        let gate = Gate::shut();
        let metrics = Metrics::new().unwrap();
        let sink = AccessLogSink::Writer(Box::new(gate.clone()));
        let log = AccessLog::with_queue(AccessLogForm::Combined, sink, &metrics, 4).unwrap();
        log.record(Box::new(record("/first")));
        gate.wait_until_reached();
        for _ in 0..10 {
            log.record(Box::new(record("/next")));
        }
        assert_eq!(metrics.access_log_dropped.get(), 6);
        gate.open();
        log.close();
        assert_eq!(gate.text().lines().count(), 5);
    }

    #[test]
    fn a_broken_sink_counts_what_it_lost() {
        let metrics = Metrics::new().unwrap();
        let sink = AccessLogSink::Writer(Box::new(Broken));
        let log = AccessLog::start(AccessLogForm::Json, sink, &metrics).unwrap();
        log.record(Box::new(record("/a")));
        log.record(Box::new(record("/b")));
        log.close();
        assert_eq!(metrics.access_log_dropped.get(), 2);
    }

    #[test]
    fn an_access_log_that_is_off_takes_nothing() {
        let metrics = Metrics::new().unwrap();
        let log = AccessLog::start(AccessLogForm::Off, AccessLogSink::Stdout, &metrics).unwrap();
        assert!(log.open.is_none());
        log.record(Box::new(record("/a")));
        assert_eq!(metrics.access_log_dropped.get(), 0);
    }
}
