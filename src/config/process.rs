//! From values to `[server]`, `[admin]`, `[memory]`, `[disk]` and `[log]` of the model, and what
//! is wrong between values. Pure; called once for each configuration that is read.

use super::model::{
    AccessLogForm, AdminSettings, CertificateFiles, Disk, Limits, Log, MemorySettings,
    PieceSettings, Server, ServerTimeouts, Tls,
};
use super::problem::{ProblemReport, Spot, Spotted};
use super::scope::{self, TableValues};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

/// The least disk tier, in bytes; below it there is none.
const DISK_SIZE_MIN: u64 = 1 << 20;
/// Folders of the disk tier.
const DISKS_MAX: usize = 64;

/// `[server]`.
pub(super) fn server(root: &TableValues, report: &mut ProblemReport) -> Server {
    let listen = root.addresses("server.listen");
    let tls = root.has_table("server.tls").then(|| tls(root, report));
    if listen.is_empty() && tls.as_ref().is_none_or(|tls| tls.listen.is_empty()) {
        let message = "leaves no listener; write listen = [\"[::]:8080\"], or add [server.tls]";
        report.problem(root.spot_of("server.listen").problem(message));
    }
    Server {
        listen: values(&listen),
        name: server_name(root, report),
        http2: root.is_true("server.http2"),
        tls,
        limits: limits(root, report),
        timeouts: ServerTimeouts {
            tls_handshake: root.duration("server.timeouts.tls_handshake"),
            request_head: root.duration("server.timeouts.request_head"),
            idle: root.duration("server.timeouts.idle"),
            write_stall: root.duration("server.timeouts.write_stall"),
            lame_duck: root.duration("server.timeouts.lame_duck"),
            drain: root.duration("server.timeouts.drain"),
        },
    }
}

/// `[admin]`.
pub(super) fn admin(root: &TableValues) -> AdminSettings {
    AdminSettings {
        listen: root.addresses("admin.listen").first().map(|address| address.value),
        token_file: root.path("admin.token_file"),
    }
}

/// `[memory]`.
pub(super) fn memory(root: &TableValues) -> MemorySettings {
    MemorySettings {
        size: root.count("memory.size"),
        absent_size: root.count("memory.absent_size"),
    }
}

/// `[disk]`; `environment` gives the default folder. None if the tier is switched off.
pub(super) fn disks(
    root: &TableValues,
    environment: &[(String, String)],
    report: &mut ProblemReport,
) -> Vec<Disk> {
    let sizes = root.sizes("disk.size");
    if let [Spotted { value: 0, .. }] = sizes.as_slice() {
        return Vec::new();
    }
    for size in sizes.iter().filter(|size| size.value < DISK_SIZE_MIN) {
        let message = match sizes.len() {
            1 => "is too small; write at least \"1MiB\", or 0 for no disk tier",
            _ => "is too small; write at least \"1MiB\", or leave this folder out of disk.path",
        };
        report.problem(size.spot.problem(message));
    }
    let mut paths = root.paths("disk.path");
    if paths.is_empty() && !root.is_given("disk.path") {
        let spot = root.spot_of("disk.path");
        let Some(value) = default_folder(environment) else {
            let message = "is not set, and none of $CACHE_DIRECTORY, $XDG_CACHE_HOME and $HOME \
                 names an absolute folder; write path = \"/var/cache/narthex\", or size = 0 for \
                 no disk tier";
            report.problem(spot.problem(message));
            return Vec::new();
        };
        paths.push(Spotted { value, spot });
    }
    check_folders(&paths, report);
    if sizes.len() > 1 && !paths.is_empty() && sizes.len() != paths.len() {
        let message = format!(
            "has {} sizes for {} folders; write one size for each folder in disk.path, or one \
             for all",
            sizes.len(),
            paths.len()
        );
        report.problem(root.spot_of("disk.size").problem(message));
    }
    let last = sizes.last().map_or(0, |size| size.value);
    let sizes = sizes.iter().map(|size| size.value).chain(std::iter::repeat(last));
    let (scrub_pass, scrub_rate) =
        (root.duration("disk.scrub_pass"), root.count("disk.scrub_rate"));
    let disk = |(path, size): (Spotted<PathBuf>, u64)| Disk {
        path: path.value,
        size,
        scrub_pass,
        scrub_rate,
    };
    paths.into_iter().zip(sizes).map(disk).collect()
}

/// Tells of every folder that is another one, or lies in another one; and of too many.
fn check_folders(paths: &[Spotted<PathBuf>], report: &mut ProblemReport) {
    for (position, path) in paths.iter().enumerate() {
        let text = path.value.display().to_string();
        if position == DISKS_MAX {
            let message = format!("is one folder too many; write at most {DISKS_MAX}");
            report.problem(path.spot.problem_with(&text, message));
        }
        for other in paths.iter().take(position) {
            let name = other.value.display();
            let message = if path.value == other.value {
                "stands there twice; write each folder once".to_owned()
            } else if path.value.starts_with(&other.value) {
                format!("lies in {name}, which is another folder of disk.path; move one of them")
            } else if other.value.starts_with(&path.value) {
                format!("holds {name}, which is another folder of disk.path; move one of them")
            } else {
                continue;
            };
            report.problem(path.spot.problem_with(&text, message));
            break;
        }
    }
}

/// `[log]`.
pub(super) fn log(root: &TableValues, report: &mut ProblemReport) -> Log {
    let access = match root.text("log.access").as_ref().map(|access| access.value.as_str()) {
        Some("combined") => AccessLogForm::Combined,
        Some("off") => AccessLogForm::Off,
        Some(_) | None => AccessLogForm::Json,
    };
    let level = root.text("log.level");
    if let Some(level) = &level
        && let Some(message) = fault_of_level(&level.value)
    {
        report.problem(level.spot.problem_with(&level.value, message));
    }
    Log { access, level: level.map(|level| level.value).unwrap_or_default() }
}

/// Tells every address that two listeners share. Port 0 is never shared.
pub(super) fn check_listeners(root: &TableValues, report: &mut ProblemReport) {
    let mut taken: BTreeMap<SocketAddr, Spot> = BTreeMap::new();
    let mut listeners = root.addresses("server.listen");
    if root.has_table("server.tls") {
        listeners.extend(root.addresses("server.tls.listen"));
    }
    listeners.extend(root.addresses("admin.listen"));
    for Spotted { value: address, spot } in listeners {
        if address.port() == 0 {
            continue;
        }
        if let Some(first) = taken.get(&address) {
            let message = format!("is taken by {first}; write another address or port");
            report.problem(spot.problem_with(&address.to_string(), message));
        } else {
            taken.insert(address, spot);
        }
    }
}

fn tls(root: &TableValues, report: &mut ProblemReport) -> Tls {
    let listen = root.addresses("server.tls.listen");
    if listen.is_empty() && !root.is_given("server.tls.listen") {
        let message = "is empty; write listen = [\"[::]:8443\"], or leave [server.tls] out";
        report.problem(root.spot_of("server.tls.listen").problem(message));
    }
    let scopes = root.scopes("server.tls.certificates");
    if !root.has_table("server.tls.certificates") {
        let message = "are missing; write [[server.tls.certificates]] with certificate = \
             \"FILE\" and key = \"FILE\", or leave [server.tls] out";
        report.problem(root.spot_of("server.tls.certificates").problem(message));
    }
    let certificates = scopes.iter().map(|scope| CertificateFiles {
        certificate: required_file(scope, "server.tls.certificates.certificate", report),
        key: required_file(scope, "server.tls.certificates.key", report),
    });
    Tls { listen: values(&listen), certificates: certificates.collect() }
}

/// The path at `path`; empty if it is missing, which is reported.
pub(super) fn required_file(
    scope: &TableValues,
    path: &str,
    report: &mut ProblemReport,
) -> PathBuf {
    if !scope.is_given(path) {
        let key = path.rsplit('.').next().unwrap_or(path);
        report.problem(scope.spot_of(path).problem(format!("is missing; write {key} = \"FILE\"")));
    }
    scope.path(path).unwrap_or_default()
}

fn server_name(root: &TableValues, report: &mut ProblemReport) -> String {
    const BYTES_MAX: usize = 64;
    let Some(name) = root.text("server.name") else {
        return String::new();
    };
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.value.len() > BYTES_MAX || !name.value.chars().all(is_part) {
        let message = "cannot stand in CDN-Loop; write at most 64 letters, digits, '.', '-', '_', \
             such as \"pop-fra-1\"";
        report.problem(name.spot.problem_with(&name.value, message));
    }
    name.value
}

fn limits(root: &TableValues, report: &mut ProblemReport) -> Limits {
    let limits = Limits {
        connections_max: root.count("server.limits.connections_max"),
        connections_per_address_max: root.count("server.limits.connections_per_address_max"),
        request_headers_max: root.count("server.limits.request_headers_max"),
        request_head_bytes_max: root.count("server.limits.request_head_bytes_max"),
        path_bytes_max: root.count("server.limits.path_bytes_max"),
        streams_max: root.count("server.limits.streams_max"),
        fills_max: root.count("server.limits.fills_max"),
        completion_size_max: root.count("server.limits.completion_size_max"),
        completions_max: root.count("server.limits.completions_max"),
        pieces: PieceSettings {
            size: root.count("server.pieces.size"),
            per_fill_max: root.count("server.pieces.per_fill_max"),
            max: root.count("server.pieces.max"),
            after: root.duration("server.pieces.after"),
        },
    };
    if limits.path_bytes_max >= limits.request_head_bytes_max {
        let message = "is not less than request_head_bytes_max, which the path is part of; lower \
             it or raise the other";
        report.problem(root.spot_of("server.limits.path_bytes_max").problem(message));
    }
    limits
}

/// `$CACHE_DIRECTORY` (systemd gives several with colons between: the first), else the XDG
/// folder, else the one in the home folder. Relative ones do not count, as XDG has it.
fn default_folder(environment: &[(String, String)]) -> Option<PathBuf> {
    let folder = |name: &str| {
        let (_, text) = environment.iter().rev().find(|(known, _)| known == name)?;
        let first = if name == "CACHE_DIRECTORY" { text.split(':').next()? } else { text };
        Some(PathBuf::from(first)).filter(|path| path.is_absolute())
    };
    folder("CACHE_DIRECTORY")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("narthex")))
        .or_else(|| Some(folder("HOME")?.join(".cache/narthex")))
}

/// What is wrong with a filter of the diagnostic log. A bare word is a level: to the library it
/// may also be a module, so that a mistyped level would silence the log.
fn fault_of_level(level: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let wanted = "write \"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\", or \
         MODULE=LEVEL with commas between";
    let is_level = |text: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text));
    for part in level.split(',').map(str::trim) {
        if !part.contains('=') && !is_level(part) {
            return Some(match scope::near(part, &LEVELS) {
                Some((nearest, _)) => format!("is not a level; the nearest is {nearest:?}"),
                None => format!("is not a level; {wanted}"),
            });
        }
    }
    EnvFilter::try_new(level).err().map(|error| format!("is not a filter: {error}; {wanted}"))
}

fn values(addresses: &[Spotted<SocketAddr>]) -> Vec<SocketAddr> {
    addresses.iter().map(|address| address.value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_default_folder_is_the_first_absolute_one() {
        let folder = |variables: &[(&str, &str)]| {
            let variables: Vec<_> =
                variables.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
            default_folder(&variables)
        };
        let all = [("HOME", "/root"), ("XDG_CACHE_HOME", "/x"), ("CACHE_DIRECTORY", "/a:/b")];
        assert_eq!(folder(&all).as_deref(), Some(Path::new("/a")));
        assert_eq!(folder(&all[..2]).as_deref(), Some(Path::new("/x/narthex")));
        assert_eq!(folder(&all[..1]).as_deref(), Some(Path::new("/root/.cache/narthex")));
        let relative = [("HOME", "/root"), ("XDG_CACHE_HOME", "x"), ("CACHE_DIRECTORY", "")];
        assert_eq!(folder(&relative).as_deref(), Some(Path::new("/root/.cache/narthex")));
        assert_eq!(folder(&[]), None);
    }

    #[test]
    fn a_mistyped_level_is_not_taken_for_a_module() {
        assert_eq!(fault_of_level("info"), None);
        assert_eq!(fault_of_level("WARN"), None);
        assert_eq!(fault_of_level("info,narthex::origin=debug"), None);
        assert!(fault_of_level("inof").unwrap().contains("the nearest is \"info\""));
        assert!(fault_of_level("narthex=loud").unwrap().contains("is not a filter"));
        assert!(fault_of_level("").unwrap().contains("is not a level"));
    }
}
