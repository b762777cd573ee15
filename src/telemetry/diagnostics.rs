//! The diagnostic log: `tracing` events to stderr, filtered by `[log] level`. Started once, by the
//! entry, and lives as long as the process. A thread of its own writes, so that a reader that hangs
//! holds up nothing: lines that find its queue full are dropped and counted, and so are those that
//! are too many of their kind (`repeats`). Panics are told in it too.

use super::queue::WriterQueue;
use super::repeats::{LineVerdict, Repeats};
use crate::metrics::log_lines_dropped;
use crate::sync::Mutex;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// Lines that may wait for the writer.
const QUEUE_LINES_MAX: usize = 4096;
/// Bytes after which a batch is written, however many lines wait.
const BATCH_BYTES: usize = 64 * 1024;
/// How long the end of the process waits for the last lines to be written.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// The names a filter's level may have.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Why the diagnostic log did not start.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// A word that names no level.
    #[error(
        "log.level: {word:?} is no level; write one of off, error, warn, info, debug, trace, \
         or directives such as \"info,narthex::fill=debug\""
    )]
    Unknown {
        /// The word.
        word: String,
    },
    /// A directive that does not parse.
    #[error("log.level: {level:?} is no filter: {source}")]
    Directive {
        /// The whole setting.
        level: String,
        /// What the parser said.
        #[source]
        source: ParseError,
    },
    /// Something in this process already receives the events.
    #[error("the diagnostic log was already started")]
    Started,
    /// Its thread could not be started.
    #[error("cannot start the diagnostic log's thread: {source}; raise the limit on threads")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// Libraries with everyday lines that say nothing to an operator.
struct QuietFilter {
    modules: &'static [&'static str],
    /// What they say unless they are asked for by name.
    most: &'static str,
    /// The levels at which they say no more by themselves.
    quieter: &'static [&'static str],
}

/// The index tells its warnings, and TLS its errors: it warns of whatever a client sends.
const QUIET: [QuietFilter; 2] = [
    QuietFilter {
        modules: &["fjall", "lsm_tree"],
        most: "warn",
        quieter: &["off", "error", "warn"],
    },
    QuietFilter { modules: &["rustls"], most: "error", quieter: &["off", "error"] },
];

/// A word alone must be a level: the filter's own parser would take a misspelt one for a module.
fn filter(level: &str) -> Result<EnvFilter, LevelError> {
    let words = level.split(',').map(str::trim).collect::<Vec<_>>();
    for &word in words.iter().filter(|word| !word.contains(['=', '['])) {
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(word)) {
            return Err(LevelError::Unknown { word: word.to_owned() });
        }
    }
    let mut directives = words.join(",");
    for QuietFilter { modules, most, quieter } in QUIET {
        let is_louder = words.iter().any(|word| !quieter.contains(&&*word.to_lowercase()));
        if is_louder && !modules.iter().any(|module| level.contains(module)) {
            for module in modules {
                directives = format!("{module}={most},{directives}");
            }
        }
    }
    EnvFilter::try_new(directives)
        .map_err(|source| LevelError::Directive { level: level.to_owned(), source })
}

/// The diagnostic log; dropping it writes what is queued, for at most a second, and ends the
/// writer.
#[derive(Debug)]
pub struct Diagnostics(DiagnosticLines);

impl Drop for Diagnostics {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Starts the diagnostic log on stderr; `level` is the `[log] level` setting. It is written while
/// what is returned lives.
pub fn diagnostics(level: &str) -> Result<Diagnostics, LevelError> {
    let filter = filter(level)?;
    let lines = DiagnosticLines::start(io::stderr(), QUEUE_LINES_MAX)
        .map_err(|source| LevelError::Thread { source })?;
    let colours = if io::stderr().is_terminal() { Colours::Ansi } else { Colours::None };
    let log = tracing_subscriber::registry().with(layer(&lines, colours)).with(filter);
    log.try_init().map_err(|_| LevelError::Started)?;
    panic::set_hook(Box::new(log_panic));
    Ok(Diagnostics(lines))
}

/// Logs a panic. The standard library's own hook writes to stderr on the thread that panics, which
/// waits for a reader that hangs.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let is_captured = backtrace.status() == BacktraceStatus::Captured;
    tracing::error!(
        thread = thread::current().name(),
        location = panic.location().map(tracing::field::display),
        problem = panic.payload_as_str(),
        backtrace = is_captured.then(|| tracing::field::display(&backtrace)),
        "a thread panicked"
    );
}

/// How lines are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colours {
    None,
    Ansi,
}

fn layer<S>(lines: &DiagnosticLines, colours: Colours) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let few = RepeatFilter { repeats: Repeats::default(), lines: lines.clone() };
    let is_coloured = colours == Colours::Ansi;
    fmt::layer().with_ansi(is_coloured).with_writer(lines.clone()).with_filter(few)
}

/// Leaves out what is too much of its kind.
struct RepeatFilter {
    repeats: Repeats,
    lines: DiagnosticLines,
}

impl<S> Filter<S> for RepeatFilter {
    fn enabled(&self, _: &tracing::Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        match self.repeats.judge(event.metadata(), Instant::now()) {
            LineVerdict::Written { left_out: 0 } => true,
            LineVerdict::Written { left_out } => {
                let target = event.metadata().target();
                self.lines.put(
                    format!("{target}: {left_out} lines like the next one were left out\n").into(),
                );
                true
            }
            LineVerdict::LeftOut => {
                log_lines_dropped("repeated").inc();
                false
            }
        }
    }
}

/// Takes lines and never waits; cloning shares.
#[derive(Debug, Clone)]
struct DiagnosticLines(Arc<Mutex<Option<WriterQueue<Vec<u8>>>>>);

impl DiagnosticLines {
    fn start(out: impl Write + Send + 'static, lines_max: usize) -> io::Result<Self> {
        let queue = WriterQueue::start("log", lines_max, |queue| write(queue, out))?;
        Ok(Self(Arc::new(Mutex::new(Some(queue)))))
    }

    /// Queues a line, or counts it as dropped.
    fn put(&self, line: Vec<u8>) {
        let is_queued = self.0.lock().as_ref().is_some_and(|queue| queue.send(line).is_ok());
        if !is_queued {
            log_lines_dropped("full").inc();
        }
    }

    /// Writes what is queued; whatever comes later is dropped. Blocking.
    fn end(&self) {
        let queue = self.0.lock().take();
        if let Some(queue) = queue {
            // A reader that takes nothing loses the last lines.
            let _ = queue.end(CLOSE_DEADLINE);
        }
    }
}

fn write(queue: &Receiver<Vec<u8>>, mut out: impl Write) {
    while let Ok(mut batch) = queue.recv() {
        let mut lines = 1;
        while batch.len() < BATCH_BYTES
            && let Ok(line) = queue.try_recv()
        {
            batch.extend_from_slice(&line);
            lines += 1;
        }
        if out.write_all(&batch).and_then(|()| out.flush()).is_err() {
            log_lines_dropped("failed").inc_by(lines);
        }
    }
}

impl<'a> MakeWriter<'a> for DiagnosticLines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// One line is one call.
impl Write for &DiagnosticLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line.to_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::access::tests::Gate;
    use crate::telemetry::repeats::{LINES_MAX, WHILE};

    #[test]
    fn levels_and_directives_pass() {
        for level in ["info", "WARN", "off", "info,narthex::fill=debug", "info, hyper=error"] {
            assert!(filter(level).is_ok(), "{level}");
        }
    }

    #[test]
    fn the_index_is_quiet_unless_it_is_asked_for() {
        assert!(filter("info").unwrap().to_string().contains("lsm_tree=warn"));
        let asked = filter("info,lsm_tree=debug").unwrap().to_string();
        assert!(asked.contains("lsm_tree=debug") && !asked.contains("fjall"), "{asked}");
        assert!(!filter("off").unwrap().to_string().contains("fjall"));
    }

    /// FAULTS.md F4a: rustls warns of each handshake with a name that is an address.
    #[test]
    fn tls_tells_nothing_of_its_clients_unless_it_is_asked_for() {
        for level in ["info", "warn"] {
            assert!(filter(level).unwrap().to_string().contains("rustls=error"), "{level}");
        }
        for level in ["error", "off", "info,rustls=warn"] {
            assert!(!filter(level).unwrap().to_string().contains("rustls=error"), "{level}");
        }
    }

    fn logs(lines: &DiagnosticLines, work: impl FnOnce()) {
        let log = tracing_subscriber::registry().with(layer(lines, Colours::None));
        tracing::subscriber::with_default(log, work);
    }

    /// FAULTS.md F3.
    #[test]
    fn a_reader_that_hangs_holds_up_nothing_that_logs() {
        let gate = Gate::shut();
        let lines = DiagnosticLines::start(gate.clone(), 4).unwrap();
        let dropped = log_lines_dropped("full");
        let before = dropped.get();
        logs(&lines, || {
            tracing::info!("the first line");
            gate.wait_until_reached();
            for number in 0..20 {
                tracing::info!(number, "a line");
            }
        });
        assert!(dropped.get() >= before + 16);
        gate.open();
        lines.end();
        assert_eq!(gate.text().lines().count(), 5);
        lines.put(b"too late".to_vec());
        assert_eq!(gate.text().lines().count(), 5);
    }

    /// FAULTS.md F4a, F4b.
    #[test]
    fn what_a_client_causes_again_and_again_is_told_a_few_times() {
        let gate = Gate::default();
        let lines = DiagnosticLines::start(gate.clone(), 4096).unwrap();
        logs(&lines, || {
            for number in 0..1000 {
                tracing::warn!(number, "what a client does");
            }
            tracing::warn!("something else");
            for number in 0..100 {
                tracing::info!(target: "narthex::purge", number, "what an operator does");
                tracing::error!(target: "narthex::cli::serve", number, "what a file has wrong");
                tracing::warn!(target: "narthex::admin::routes", number, "what a guess gets");
            }
        });
        lines.end();
        let text = gate.text();
        let count = |part| text.lines().filter(|line| line.contains(part)).count();
        assert_eq!(count("what a client does"), LINES_MAX as usize);
        assert_eq!((count("something else"), count("what an operator does")), (1, 100));
        assert_eq!(count("what a file has wrong"), 100);
        assert_eq!(count("what a guess gets"), LINES_MAX as usize);
    }

    /// FAULTS.md F3.
    #[test]
    fn a_panic_waits_for_no_reader_of_the_log() {
        let gate = Gate::shut();
        let lines = DiagnosticLines::start(gate.clone(), 4).unwrap();
        let before = panic::take_hook();
        panic::set_hook(Box::new(log_panic));
        logs(&lines, || {
            tracing::info!("the first line");
            gate.wait_until_reached();
            panic::catch_unwind(|| panic!("on purpose, {}", 1)).unwrap_err();
        });
        panic::set_hook(before);
        gate.open();
        lines.end();
        let text = gate.text();
        for part in ["ERROR", "a thread panicked", "diagnostics.rs:", "on purpose, 1"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    /// FAULTS.md F4b.
    #[test]
    fn how_many_were_left_out_is_told_later() {
        let repeats = Repeats::default();
        let place = tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            tracing::warn_span!("a place")
        });
        let (metadata, now) = (place.metadata().unwrap(), Instant::now());
        let judge = |after| repeats.judge(metadata, now + after);
        for _ in 0..LINES_MAX {
            assert_eq!(judge(Duration::ZERO), LineVerdict::Written { left_out: 0 });
        }
        for _ in 0..7 {
            assert_eq!(judge(Duration::from_secs(9)), LineVerdict::LeftOut);
        }
        assert_eq!(judge(WHILE), LineVerdict::Written { left_out: 7 });
        assert_eq!(judge(WHILE), LineVerdict::Written { left_out: 0 });
    }

    #[test]
    fn a_misspelt_level_is_named() {
        let error = filter("inof").unwrap_err().to_string();
        assert!(error.contains("\"inof\"") && error.contains("info"), "{error}");
        assert!(matches!(filter(""), Err(LevelError::Unknown { .. })));
        assert!(matches!(filter("narthex=lots"), Err(LevelError::Directive { .. })));
    }
}
