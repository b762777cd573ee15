//! Environment variables and flags, laid over what the file gives. Pure: the environment is
//! handed in, never read.

use super::problem::{ConfigProblem, ProblemReport, SourcePlace, Spot};
use super::scope::{self, TableValues};
use super::settings::{OTHER_VARIABLES, Setting, settings};
use super::value;

/// The flags of `narthex serve` that are also settings, as text; `None` or empty if not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlagOverrides {
    /// `--listen`, each time it was given.
    pub listen: Vec<String>,
    /// `--admin`.
    pub admin: Option<String>,
    /// `--origin`: replaces all sites by one default site with this one origin.
    pub origin: Option<String>,
    /// `--disk`.
    pub disk: Vec<String>,
    /// `--disk-size`.
    pub disk_size: Vec<String>,
    /// `--memory-size`.
    pub memory_size: Option<String>,
}

impl FlagOverrides {
    /// The texts given for a flag.
    fn texts(&self, flag: &str) -> Vec<String> {
        let one = match flag {
            "--listen" => return self.listen.clone(),
            "--disk" => return self.disk.clone(),
            "--disk-size" => return self.disk_size.clone(),
            "--admin" => &self.admin,
            "--origin" => &self.origin,
            "--memory-size" => &self.memory_size,
            _ => &None,
        };
        one.iter().cloned().collect()
    }
}

/// Lays the variables with our prefix over `root`. An empty variable counts as unset, an unknown
/// one is a warning.
pub(super) fn environment(
    root: &mut TableValues,
    environment: &[(String, String)],
    report: &mut ProblemReport,
) {
    let known: Vec<(String, &'static Setting)> =
        settings().filter_map(|setting| Some((setting.variable()?, setting))).collect();
    let ours = environment.iter().filter(|(name, _)| name.starts_with("NARTHEX_"));
    for (name, text) in ours {
        let place = SourcePlace::Environment { name: name.clone() };
        if OTHER_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let Some((_, setting)) = known.iter().find(|(known, _)| known == name) else {
            let names = known.iter().map(|(name, _)| name.as_str()).chain(OTHER_VARIABLES);
            let message = match scope::near(name, &names.collect::<Vec<_>>()) {
                Some((nearest, _)) => format!("is not a setting; the nearest is {nearest}"),
                None => "is not a setting; narthex config lists all variables".to_owned(),
            };
            let message = format!("this variable {message}; it changes nothing");
            report.warning(ConfigProblem { place, path: String::new(), found: None, message });
            continue;
        };
        if !text.trim().is_empty() {
            set(root, setting, std::slice::from_ref(text), place, report);
        }
    }
}

/// Lays the flags over `root`.
pub(super) fn flags(root: &mut TableValues, overrides: &FlagOverrides, report: &mut ProblemReport) {
    for setting in settings() {
        let Some(flag) = setting.flag else { continue };
        let texts = overrides.texts(flag);
        if !texts.is_empty() {
            set(root, setting, &texts, SourcePlace::Flag { name: flag }, report);
        }
    }
}

fn set(
    root: &mut TableValues,
    setting: &'static Setting,
    texts: &[String],
    place: SourcePlace,
    report: &mut ProblemReport,
) {
    if setting.path == "site.origin.url" {
        return replace_sites(root, setting, texts, &place, report);
    }
    let spot = Spot { path: setting.path.to_owned(), place };
    let value = value::from_texts(setting, texts, &spot, report);
    root.set(setting, value, spot);
}

/// One default site with one origin, in place of all that the file has.
fn replace_sites(
    root: &mut TableValues,
    setting: &'static Setting,
    texts: &[String],
    place: &SourcePlace,
    report: &mut ProblemReport,
) {
    let spot = |path: &str| Spot { path: path.to_owned(), place: place.clone() };
    let replaced = root.scopes("site").len();
    let is_from_file = |scope: &TableValues| matches!(scope.spot().place, SourcePlace::File { .. });
    if root.scopes("site").iter().any(is_from_file) {
        let message = format!("replaces the sites of the file ({replaced})");
        report.warning(spot("site").problem(message));
    }
    let url = spot("site[0].origin[0].url");
    let value = value::from_texts(setting, texts, &url, report);
    let mut origin = TableValues::at("site.origin", spot("site[0].origin[0]"));
    origin.set(setting, value, url);
    let mut site = TableValues::at("site", spot("site[0]"));
    site.set_scopes("site.origin", vec![origin]);
    root.set_scopes("site", vec![site]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_the_settings_is_in_the_overrides_and_only_those() {
        let text = |flag: &str| Some(flag.to_owned());
        let all = FlagOverrides {
            listen: vec!["--listen".into()],
            admin: text("--admin"),
            origin: text("--origin"),
            disk: vec!["--disk".into()],
            disk_size: vec!["--disk-size".into()],
            memory_size: text("--memory-size"),
        };
        let flags: Vec<_> = settings().filter_map(|setting| setting.flag).collect();
        assert_eq!(flags.len(), 6);
        for flag in flags {
            assert_eq!(all.texts(flag), [flag]);
        }
    }

    #[test]
    fn an_unknown_variable_is_a_warning_that_names_the_nearest() {
        let mut report = ProblemReport::default();
        let variables = [
            ("NARTHEX_DISK_SIZ".to_owned(), "1".to_owned()),
            ("NARTHEX_CONFIG".to_owned(), "a.toml".to_owned()),
            ("NARTHEX_DISK_PATH".to_owned(), String::new()),
            ("PATH".to_owned(), "/bin".to_owned()),
        ];
        let mut root = TableValues::empty();
        environment(&mut root, &variables, &mut report);
        assert_eq!((report.problems.len(), report.warnings.len()), (0, 1));
        assert!(report.warnings[0].to_string().contains("the nearest is NARTHEX_DISK_SIZE"));
        assert!(!root.is_given("disk.path"));
    }
}
