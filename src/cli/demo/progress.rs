//! Progress bars of the demo's clients. They draw on standard output if that is a terminal, and
//! stay silent otherwise: the report afterwards says it all.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// NARs from this size on get a bar of their own while they arrive.
const OWN_BAR_BYTES: u64 = 4 * 1024 * 1024;

const NARINFOS: &str = "  TITLE  narinfos {bar:32.cyan/dim} {pos:>9} of {len}";
const NARS: &str = "  TITLE  NARs     {bar:32.green/dim} {decimal_bytes:>9} of \
                    {decimal_total_bytes}, {decimal_bytes_per_sec}";
const ONE_NAR: &str = "        {msg:20!} {bar:20.dim} {decimal_bytes:>9} of {decimal_total_bytes}";
const SPINNER: &str = "  {spinner} {msg}";

/// Every template.
#[cfg(test)]
const TEMPLATES: [&str; 4] = [NARINFOS, NARS, ONE_NAR, SPINNER];

const REDRAW: Duration = Duration::from_millis(100);

/// The bars of one journey.
#[derive(Debug)]
pub struct JourneyBars {
    bars: MultiProgress,
    narinfos: ProgressBar,
    nars: ProgressBar,
}

/// The destination of the bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// A terminal: bars and colours.
    Terminal,
    /// A file or a pipe: neither.
    Plain,
}

impl JourneyBars {
    /// The bars of a journey called `title`.
    pub fn start(screen: Screen, title: &str) -> Self {
        let target = match screen {
            Screen::Terminal => ProgressDrawTarget::stdout(),
            Screen::Plain => ProgressDrawTarget::hidden(),
        };
        let bars = MultiProgress::with_draw_target(target);
        let narinfos = bars.add(ProgressBar::new(0));
        narinfos.set_style(style(NARINFOS, title));
        let nars = bars.add(ProgressBar::new(0));
        nars.set_style(style(NARS, title));
        Self { bars, narinfos, nars }
    }

    /// One more narinfo is to be asked for.
    pub fn narinfo_wanted(&self) {
        self.narinfos.inc_length(1);
    }

    /// A narinfo came; its NAR of `file_bytes` is to be asked for.
    pub fn narinfo_came(&self, file_bytes: u64) {
        self.narinfos.inc(1);
        self.nars.inc_length(file_bytes);
    }

    /// A bar for one large NAR; hidden for a small one.
    pub fn nar_begins(&self, name: &str, file_bytes: u64) -> ProgressBar {
        if file_bytes < OWN_BAR_BYTES {
            return ProgressBar::hidden();
        }
        let bar = self.bars.add(ProgressBar::new(file_bytes));
        bar.set_style(style(ONE_NAR, ""));
        bar.set_message(name.to_owned());
        bar
    }

    /// `bytes` of a NAR came; `own` is the bar from [`JourneyBars::nar_begins`].
    pub fn nar_came(&self, own: &ProgressBar, bytes: u64) {
        own.inc(bytes);
        self.nars.inc(bytes);
    }

    /// The NAR is over, well or badly.
    pub fn nar_ends(&self, own: &ProgressBar) {
        own.finish_and_clear();
        self.bars.remove(own);
    }

    /// The journey is over; its bars stay in place.
    pub fn finish(self) {
        self.narinfos.abandon();
        self.nars.abandon();
    }
}

/// Turns while something takes its time; hidden off terminals.
pub fn spinner(screen: Screen, message: &str) -> ProgressBar {
    let target = match screen {
        Screen::Terminal => ProgressDrawTarget::stdout(),
        Screen::Plain => ProgressDrawTarget::hidden(),
    };
    let spinner = ProgressBar::with_draw_target(None, target);
    spinner.set_style(style(SPINNER, ""));
    spinner.set_message(message.to_owned());
    spinner.enable_steady_tick(REDRAW);
    spinner
}

/// A style from a template, with the journey's title in place of `TITLE`; indicatif's own if the
/// template were wrong, which a test rules out.
fn style(template: &str, title: &str) -> ProgressStyle {
    ProgressStyle::with_template(&template.replace("TITLE", title))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
        .tick_chars("|/-\\ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_terminals_nothing_is_drawn_and_everything_is_counted() {
        let progress = JourneyBars::start(Screen::Plain, "cold");
        assert!(progress.bars.is_hidden());
        progress.narinfo_wanted();
        progress.narinfo_came(OWN_BAR_BYTES);
        let own = progress.nar_begins("linux", OWN_BAR_BYTES);
        progress.nar_came(&own, OWN_BAR_BYTES);
        progress.nar_ends(&own);
        assert_eq!(progress.narinfos.position(), 1);
        assert_eq!((progress.nars.position(), progress.nars.length()), (4 << 20, Some(4 << 20)));
        assert_eq!(own.position(), 4 << 20);
    }

    #[test]
    fn every_template_is_understood() {
        for template in TEMPLATES {
            ProgressStyle::with_template(&template.replace("TITLE", "cold")).unwrap();
        }
    }
}
