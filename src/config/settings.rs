//! The one definition of each setting. What the parser knows, every default, the environment
//! names, the flags and `config/reference.toml` come from these tables. Constants only.

mod caching;
mod process;
mod setting;
mod site;

pub use setting::{Fallback, Setting, SettingKind, SettingTable, Shape};

/// Variables with our prefix that name no key: they are read elsewhere.
pub(super) const OTHER_VARIABLES: [&str; 1] = ["NARTHEX_CONFIG"];

/// Every setting, in the order of the reference.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    process::SETTINGS.iter().chain(site::SETTINGS).chain(caching::SETTINGS)
}

/// Every table, in the order of the reference; each stands behind the one it is part of.
pub fn tables() -> impl Iterator<Item = &'static SettingTable> {
    process::TABLES.iter().chain(site::TABLES).chain(caching::TABLES)
}

/// The setting at `path`, which has no positions.
pub fn setting(path: &str) -> Option<&'static Setting> {
    settings().find(|setting| setting.path == path)
}

/// The table at `path`, which has no positions.
pub fn table(path: &str) -> Option<&'static SettingTable> {
    tables().find(|table| table.path == path)
}

impl Setting {
    /// The environment variable: `NARTHEX_` and the path in capitals, for keys that stand in the
    /// file at most once, and `NARTHEX_ORIGIN`.
    pub fn variable(&self) -> Option<String> {
        if let Some(name) = self.variable {
            return Some(name.to_owned());
        }
        let is_repeated = |table: &SettingTable| {
            table.shape == Shape::Repeated
                && self.path.strip_prefix(table.path).is_some_and(|rest| rest.starts_with('.'))
        };
        if tables().any(is_repeated) {
            return None;
        }
        Some(format!("NARTHEX_{}", self.path.replace('.', "_").to_ascii_uppercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::Class;
    use std::collections::BTreeSet;

    #[test]
    fn every_setting_is_documented_and_stands_in_a_table() {
        for setting in settings() {
            assert!(setting.doc.ends_with('.'), "{}: no sentence", setting.path);
            assert!(!setting.example.is_empty(), "{}: no example", setting.path);
            assert!(table(setting.table()).is_some(), "{}: no table", setting.path);
            if let Fallback::Derived(what) = setting.fallback {
                assert!(!what.is_empty(), "{}: no word on its default", setting.path);
            }
        }
        for table in tables() {
            assert!(table.doc.ends_with('.'), "{}: no sentence", table.path);
            assert!(settings().any(|setting| setting.table() == table.path), "{}", table.path);
        }
    }

    #[test]
    fn paths_variables_and_flags_are_unique() {
        let count = settings().count();
        let paths: BTreeSet<_> =
            settings().map(|s| s.path).chain(tables().map(|t| t.path)).collect();
        assert_eq!(paths.len(), count + tables().count());
        let variables: Vec<_> = settings().filter_map(Setting::variable).collect();
        assert_eq!(variables.iter().collect::<BTreeSet<_>>().len(), variables.len());
        let flags: Vec<_> = settings().filter_map(|setting| setting.flag).collect();
        assert_eq!(flags.iter().collect::<BTreeSet<_>>().len(), flags.len());
    }

    #[test]
    fn the_variables_of_the_contract_are_there() {
        for (flag, variable) in [
            ("--listen", "NARTHEX_SERVER_LISTEN"),
            ("--admin", "NARTHEX_ADMIN_LISTEN"),
            ("--origin", "NARTHEX_ORIGIN"),
            ("--disk", "NARTHEX_DISK_PATH"),
            ("--disk-size", "NARTHEX_DISK_SIZE"),
            ("--memory-size", "NARTHEX_MEMORY_SIZE"),
        ] {
            let setting = settings().find(|setting| setting.flag == Some(flag)).unwrap();
            assert_eq!(setting.variable().as_deref(), Some(variable));
        }
        assert_eq!(setting("site.hosts").unwrap().variable(), None);
        assert_eq!(setting("server.tls.certificates.key").unwrap().variable(), None);
    }

    #[test]
    fn every_class_has_a_lifetime() {
        for class in Class::ALL {
            assert!(setting(&format!("site.lifetimes.{}", class.as_str())).is_some());
        }
    }
}
