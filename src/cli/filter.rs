//! `narthex filter build`: makes the file of an absence filter of an inventory, a list of keys, or
//! a listing of the bucket. Nothing takes the place of an older file before it is whole.
//!
//! # Up to when the file is complete
//!
//! A listing shows what was uploaded before it began, so that is the moment, less a margin for
//! clocks that differ. An inventory's is its own, less a day: S3 says that one may lack recent
//! uploads. Of a list only its author knows the moment.

use super::arguments::{BuildArgs, FilterArgs, FilterCommand};
use super::config::{ConfigError, load, report};
use super::output::{EXIT_USAGE, complain, say};
use crate::client::Trusts;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, FlagOverrides, OriginUrl};
use crate::filter::{
    BuildError, BuildSummary, Builder, FilterFacts, Inventory, SourceError, parse_moment,
    print_moment, read_keys,
};
use crate::metrics::Metrics;
use crate::origin::{FetchError, OriginSetupError, Origins, Page};
use crate::tasks::Tasks;
use crate::units::parse_duration;
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const TEMPLATE: &str = "  {spinner} {msg} {human_pos} {elapsed}";
/// What clocks may differ by.
const MARGIN: Duration = Duration::from_mins(1);
/// What an inventory may lack.
const INVENTORY_MARGIN: Duration = Duration::from_hours(24);
/// Tries of one page of a listing.
const TRIES_MAX: u32 = 6;
/// The characters of Nix's base 32, in the order of their bytes.
const NIX32: &[u8] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Why no file was made.
#[derive(Debug, thiserror::Error)]
enum FilterCommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("{inventory}: is an inventory of {found:?}, the site's bucket is {expected:?}")]
    Bucket { inventory: PathBuf, found: String, expected: String },
    #[error(transparent)]
    Setup(#[from] OriginSetupError),
    #[error("the bucket cannot be listed: {0}")]
    Listing(#[from] FetchError),
    #[error("the listing cannot be begun: {0}")]
    Runtime(#[from] io::Error),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl FilterCommandError {
    fn usage(text: &str) -> Self {
        Self::Usage(text.to_owned())
    }
}

/// `narthex filter`.
pub(super) fn run(arguments: &FilterArgs) -> ExitCode {
    let FilterCommand::Build(arguments) = &arguments.command;
    match build(arguments) {
        Ok((built, output)) => {
            let BuildSummary { given, keys, bytes } = built;
            say(format_args!(
                "{}: {keys} keys of {given}, {bytes} bytes; reload the edge to take it in\n",
                output.display()
            ));
            ExitCode::SUCCESS
        }
        Err(FilterCommandError::Config(error)) => report(&error),
        Err(error) => {
            complain(&error);
            let is_usage = matches!(error, FilterCommandError::Usage(_));
            if is_usage { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn build(arguments: &BuildArgs) -> Result<(BuildSummary, PathBuf), FilterCommandError> {
    let config = load(arguments.config.config.as_deref(), FlagOverrides::default())?.config;
    let site = site_of(&config, arguments.site.as_deref())?;
    let settings = site.absence_filter.as_ref().ok_or_else(|| {
        FilterCommandError::Usage(format!("the site {} has no [site.absence_filter]", site.name))
    })?;
    let output = arguments.output.clone().unwrap_or_else(|| settings.file.clone());
    let folder = arguments.temporary.clone().or_else(|| output.parent().map(Path::to_owned));
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = Builder::new(&folder.unwrap_or_else(|| PathBuf::from(".")))?;
    let bar = bar();
    bar.set_message("keys");
    let (begun, margin, source) = if let Some(path) = &arguments.inventory {
        let inventory = Inventory::open(path)?;
        if inventory.bucket != settings.bucket {
            let (found, expected) = (inventory.bucket, settings.bucket.clone());
            return Err(FilterCommandError::Bucket { inventory: path.clone(), found, expected });
        }
        inventory.read(|key| add(&mut builder, &bar, key))?;
        (inventory.begun, INVENTORY_MARGIN, format!("inventory {}", path.display()))
    } else if let Some(path) = &arguments.keys {
        let text = arguments.complete_up_to.as_deref().unwrap_or_default();
        let wrong =
            || FilterCommandError::usage("--complete-up-to takes a time like 2026-05-28T20:00:00Z");
        let begun = parse_moment(text).ok_or_else(wrong)?;
        read_keys(path, |key| add(&mut builder, &bar, key))?;
        (begun, MARGIN, format!("keys {}", path.display()))
    } else {
        let begun = Clock::System.wall();
        list(site, arguments.parallel, |key| add(&mut builder, &bar, key))?;
        (begun, MARGIN, format!("listing of {}", settings.bucket))
    };
    let margin = match &arguments.margin {
        None => margin,
        Some(text) => parse_duration(text)
            .map_err(|error| FilterCommandError::Usage(format!("--margin: {error}")))?,
    };
    let margin = i64::try_from(margin.as_millis()).unwrap_or(i64::MAX);
    let complete_up_to = Timestamp::from_millis(begun.millis().saturating_sub(margin));
    let bucket = settings.bucket.clone();
    let built = Clock::System.wall();
    bar.set_message(format!("keys; complete up to {}; parts", print_moment(complete_up_to)));
    let facts = FilterFacts { bucket, complete_up_to, source, built };
    let built = builder.finish(facts, &output, |parts| bar.set_position(parts));
    bar.finish_and_clear();
    Ok((built?, output))
}

/// The site that is named, or the only one with a filter.
fn site_of<'a>(
    config: &'a config::Config,
    name: Option<&str>,
) -> Result<&'a config::Site, FilterCommandError> {
    let mut fitting = config.sites.iter().filter(|site| match name {
        Some(name) => site.name == name,
        None => site.absence_filter.is_some(),
    });
    match (fitting.next(), fitting.next(), name) {
        (Some(site), None, _) => Ok(site),
        (None, _, Some(name)) => Err(FilterCommandError::Usage(format!("no site is named {name}"))),
        (None, _, None) => Err(FilterCommandError::usage(
            "no site of the config has a [site.absence_filter]; add one",
        )),
        (Some(_), Some(_), _) => Err(FilterCommandError::usage(
            "several sites have an absence filter; say which with --site",
        )),
    }
}

fn add(builder: &mut Builder, bar: &ProgressBar, key: &str) -> Result<(), FilterCommandError> {
    builder.add(key)?;
    if builder.given().is_multiple_of(10_000) {
        bar.set_position(builder.given());
    }
    Ok(())
}

fn bar() -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template(TEMPLATE);
    // A test holds the template against this.
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

/// Calls `each` with every key of the site's bucket. If the first page is not all, stretches of
/// the keys are listed at once; they cover all keys, whatever those are.
fn list(
    site: &config::Site,
    parallel: usize,
    mut each: impl FnMut(&str) -> Result<(), FilterCommandError>,
) -> Result<(), FilterCommandError> {
    let position = site.origins.iter().position(|origin| matches!(origin.url, OriginUrl::S3(_)));
    let position = position.ok_or_else(|| {
        FilterCommandError::usage(
            "--list needs an s3:// origin; give the keys with --inventory or --keys",
        )
    })?;
    let runtime = tokio::runtime::Runtime::new()?;
    let listed = runtime.block_on(async {
        let (metrics, tasks, mut trusts) = (Metrics::new()?, Tasks::new(), Trusts::default());
        let origins = Origins::new(site, Clock::System, metrics, tasks, &mut trusts)?;
        let lister = Lister { origins: &origins, position };
        let first = lister.page("").await?;
        for key in &first.keys {
            each(key)?;
        }
        if !first.has_more {
            return Ok(());
        }
        let stretches = stream::iter(stretches(first.keys.last().map_or("", String::as_str)))
            .map(|stretch| lister.pages(stretch))
            .flatten_unordered(parallel.clamp(1, 256));
        let mut pages = std::pin::pin!(stretches);
        while let Some(keys) = pages.try_next().await? {
            for key in &keys {
                each(key)?;
            }
        }
        Ok(())
    });
    runtime.shutdown_background();
    listed
}

/// The keys behind `after`, up to and with `last`; without one, up to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyStretch {
    after: String,
    last: Option<String>,
}

/// Stretches that together are all keys behind `after`, about as long as each other in a binary
/// cache.
fn stretches(after: &str) -> Vec<KeyStretch> {
    let pair = |one: &u8, two: &u8| String::from_utf8_lossy(&[*one, *two]).into_owned();
    let pairs = || NIX32.iter().flat_map(move |one| NIX32.iter().map(move |two| pair(one, two)));
    let mut bounds: Vec<String> = ["", "log/", "nar/"]
        .into_iter()
        .flat_map(|folder| pairs().map(move |pair| format!("{folder}{pair}")))
        .filter(|bound| bound.as_str() > after)
        .collect();
    bounds.sort_unstable();
    let mut stretches = Vec::with_capacity(bounds.len() + 1);
    let mut begin = after.to_owned();
    for bound in bounds {
        stretches.push(KeyStretch { after: begin, last: Some(bound.clone()) });
        begin = bound;
    }
    stretches.push(KeyStretch { after: begin, last: None });
    stretches
}

/// Asks for pages.
#[derive(Debug, Clone, Copy)]
struct Lister<'a> {
    origins: &'a Origins,
    position: usize,
}

impl<'a> Lister<'a> {
    /// One page; asked for again, after ever longer waits, if an error permits it.
    async fn page(self, after: &str) -> Result<Page, FetchError> {
        let mut tries = 1;
        loop {
            match self.origins.page(self.position, after).await {
                Err(error) if error.may_retry() && tries < TRIES_MAX => {
                    tokio::time::sleep(Duration::from_millis(200) * 2_u32.pow(tries)).await;
                    tries += 1;
                }
                page => return page,
            }
        }
    }

    /// The keys of a stretch, page by page.
    fn pages(self, stretch: KeyStretch) -> stream::BoxStream<'a, Result<Vec<String>, FetchError>> {
        let begin = Some(stretch.after);
        let last = stretch.last;
        let pages = stream::try_unfold((begin, last), move |(after, last)| async move {
            let Some(after) = after else { return Ok(None) };
            let Page { mut keys, has_more } = self.page(&after).await?;
            let next = keys.last().filter(|_| has_more).cloned();
            let given = keys.len();
            keys.retain(|key| last.as_ref().is_none_or(|last| key <= last));
            let is_passed = keys.len() < given;
            let next = next.filter(|_| !is_passed);
            Ok(Some((keys, (next, last))))
        });
        pages.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::proptest;

    #[test]
    fn the_template_is_one() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }

    proptest! {
        #[test]
        fn every_key_is_in_one_stretch(
            key in "\\PC{0,6}|nar/[0-9a-z]{3}|[0-9a-z]{4}",
            after in "[a-z/]{0,5}",
        ) {
            let stretches = stretches(&after);
            let holds = |stretch: &&KeyStretch| {
                key > stretch.after && stretch.last.as_ref().is_none_or(|last| key <= *last)
            };
            assert_eq!(stretches.iter().filter(holds).count(), usize::from(key > after));
            assert!(stretches.windows(2).all(|two| two[0].last.as_ref() == Some(&two[1].after)));
        }
    }
}
