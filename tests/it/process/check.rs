//! `narthex check` and `narthex config`: every problem at once, with its place; exit 0 or 2.

use super::edge::{Settings, complaint, narthex, run};
use rustix::process::Signal;
use tempfile::TempDir;

fn check(config: &str) -> (i32, String) {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("c.toml"), config).unwrap();
    let mut command = narthex(folder.path());
    command.args(["check", "--config", "c.toml"]);
    complaint(command)
}

#[test]
fn every_problem_is_told_with_its_path_and_line() {
    let (code, said) = check(
        "[server]\nlisten = [\"nowhere\"]\n[disk]\nsize = \"lots\"\n[log]\nlevel = \"inof\"\n\
         [[site]]\nsignatures = \"perhaps\"\n[[site.origin]]\nurl = \"ftp://x\"\n",
    );
    assert_eq!(code, 2, "{said}");
    for (line, path) in [
        (2, "server.listen[0]"),
        (4, "disk.size"),
        (6, "log.level"),
        (8, "site[0].signatures"),
        (10, "site[0].origin[0].url"),
    ] {
        let start = format!("narthex: c.toml:{line}: {path}: ");
        assert!(said.lines().any(|said| said.starts_with(&start)), "{start} in\n{said}");
    }
    assert_eq!(said.lines().count(), 5, "{said}");
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let (code, said) = check("[server]\nlisen = []\n[disk]\nsizes = 1\n");
    assert_eq!(code, 2);
    assert!(said.contains("c.toml:2: server.lisen: ") && said.contains("server.listen"), "{said}");
    assert!(said.contains("c.toml:4: disk.sizes: ") && said.contains("disk.size"), "{said}");
}

#[test]
fn what_is_no_toml_and_what_is_not_there_is_told() {
    let (code, said) = check("[server\n");
    assert_eq!(code, 2);
    assert!(said.contains("c.toml:1"), "{said}");
    let folder = TempDir::new().unwrap();
    let mut command = narthex(folder.path());
    command.args(["check", "--config", "absent.toml"]);
    let (code, said) = complaint(command);
    assert_eq!(code, 2);
    assert!(said.contains("absent.toml") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_good_config_is_good() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("c.toml"), "[server]\nlisten = [\"127.0.0.1:0\"]\n").unwrap();
    let mut command = narthex(folder.path());
    command.args(["check", "--config", "c.toml"]);
    let output = run(command);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap().trim(), "");
    assert!(String::from_utf8(output.stdout).unwrap().contains("good"));
}

#[test]
fn the_environment_is_checked_too() {
    let folder = TempDir::new().unwrap();
    let mut command = narthex(folder.path());
    command.arg("check").env("NARTHEX_DISK_SIZE", "lots");
    let (code, said) = complaint(command);
    assert_eq!(code, 2);
    assert!(said.contains("NARTHEX_DISK_SIZE: disk.size: \"lots\""), "{said}");
    // Another program's, or a newer version's, is no reason not to start.
    let mut command = narthex(folder.path());
    command.arg("check").env("NARTHEX_DISK_SIEZ", "1GiB");
    let (code, said) = complaint(command);
    assert_eq!(code, 0);
    assert!(said.contains("warning: NARTHEX_DISK_SIEZ"), "{said}");
    assert!(said.contains("the nearest is NARTHEX_DISK_SIZE"), "{said}");
}

#[test]
fn the_reference_of_the_metrics_is_printed_as_it_is() {
    let folder = TempDir::new().unwrap();
    let mut command = narthex(folder.path());
    command.args(["config", "--metrics"]);
    let output = run(command);
    assert_eq!(output.status.code(), Some(0));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, include_str!("../../../deploy/METRICS.md"));
}

#[test]
fn the_reference_is_printed_as_it_is_and_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let mut command = narthex(folder.path());
    command.arg("config");
    let output = run(command);
    assert_eq!(output.status.code(), Some(0));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.trim_end(), include_str!("../../../config/reference.toml").trim_end());
    assert_eq!(check(&printed), (0, "\n".to_owned()));
}

#[test]
fn a_wrong_call_is_told_with_code_2() {
    let folder = TempDir::new().unwrap();
    for arguments in [&["serve", "--lisen", "x"][..], &["unknown"], &["purge"], &[]] {
        let mut command = narthex(folder.path());
        command.args(arguments);
        let (code, said) = complaint(command);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains("Usage") || said.contains("narthex"), "{said}");
    }
}

/// FAULTS.md G17.
#[test]
fn no_secret_of_a_url_is_told_by_a_check_a_start_or_a_reload() {
    let origin = |url: &str| format!("[[site]]\n[[site.origin]]\nurl = \"{url}\"\n");
    let good = Settings::new();
    let edge = good.start(&origin("http://127.0.0.1:1"));
    for url in [
        "s3://b?endpoint=http://u:hush@h",
        "https://u:hush/x@h",
        "http://h/?token=hush",
        "http://u:hush@h:99999",
        "ftp://u:hush@h/a",
    ] {
        let (code, said) = check(&origin(url));
        assert!(code == 2 && said.contains("url") && !said.contains("hush"), "{url}: {said}");
        let bad = Settings::new();
        bad.write(&origin(url));
        let mut command = narthex(bad.folder());
        command.args(["serve", "--config"]).arg(bad.file());
        let (code, said) = complaint(command);
        assert!(code == 2 && said.contains("url") && !said.contains("hush"), "{url}: {said}");
        good.write(&origin(url));
        let before = edge.process.stderr.count();
        edge.process.signal(Signal::HUP);
        edge.process.stderr.wait(before, &["reload refused", "url"]);
    }
    assert!(!edge.process.stderr.so_far().contains("hush"));
}
