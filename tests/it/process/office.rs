//! `narthex serve` without a config, as the cache of an office; what flags, variables and the
//! file have to say, and which of them wins.

use super::edge::{Edge, narthex};
use super::origin::{CACHE_INFO, Origin};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

fn home() -> Arc<TempDir> {
    Arc::new(TempDir::new().unwrap())
}

/// `serve` on ports of the system's choice.
fn serve(home: &Path, origin: &str) -> Command {
    let mut command = narthex(home);
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--origin", origin]);
    command
}

/// Whether the disk tier is there.
fn holds_a_store(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

#[test]
fn without_a_config_the_disk_is_where_the_environment_says() {
    let origin = Origin::start();
    for (variable, below) in
        [("HOME", ".cache/narthex"), ("XDG_CACHE_HOME", "narthex"), ("CACHE_DIRECTORY", "")]
    {
        let (home, place) = (home(), TempDir::new().unwrap());
        let mut command = serve(home.path(), &origin.url());
        command.env(variable, place.path());
        let edge = Edge::start(&mut command, &home);
        let answer = edge.get("/nix-cache-info");
        assert_eq!(answer.text(), CACHE_INFO);
        assert!(holds_a_store(&place.path().join(below)), "{variable}");
        if variable != "HOME" {
            assert!(!home.path().join(".cache").exists(), "{variable}");
        }
    }
}

#[test]
fn nowhere_to_put_the_disk_is_a_wrong_config() {
    let home = home();
    let mut command = serve(home.path(), "http://127.0.0.1:1");
    command.env_remove("HOME");
    let (code, said) = super::edge::complaint(command);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("disk.path"), "{said}");
}

#[test]
fn a_flag_wins_over_a_variable_and_that_over_the_file() {
    let origins = [Origin::start(), Origin::start(), Origin::start()];
    let [by_file, by_variable, by_flag] = &origins;
    let home = home();
    let file = home.path().join("c.toml");
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:1\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [disk]\npath = {:?}\n[[site]]\nname = \"of-the-file\"\n[[site.origin]]\nurl = {:?}\n",
        home.path().join("by-file"),
        by_file.url()
    );
    std::fs::write(&file, text).unwrap();
    let command = || {
        let mut command = narthex(home.path());
        command.arg("serve").env("NARTHEX_CONFIG", &file);
        command.env("NARTHEX_SERVER_LISTEN", "127.0.0.1:0,127.0.0.1:0");
        command
    };
    let edge = Edge::start(&mut command(), &home);
    assert_eq!(edge.addresses.len(), 2);
    assert_eq!(edge.get("/nix-cache-info").status, 200);
    edge.process.stdout.wait(0, &["\"of-the-file\""]);
    assert!(holds_a_store(&home.path().join("by-file")));
    drop(edge);

    let with_variables = || {
        let mut command = command();
        command.env("NARTHEX_ORIGIN", by_variable.url());
        command.env("NARTHEX_DISK_PATH", home.path().join("by-variable"));
        command
    };
    let edge = Edge::start(&mut with_variables(), &home);
    assert_eq!(edge.get("/nix-cache-info").status, 200);
    assert!(holds_a_store(&home.path().join("by-variable")));
    drop(edge);

    let mut with_flags = with_variables();
    with_flags.args(["--origin", &by_flag.url(), "--listen", "127.0.0.1:0", "--disk"]);
    let edge = Edge::start(with_flags.arg(home.path().join("by-flag")), &home);
    assert_eq!(edge.addresses.len(), 1);
    assert_eq!(edge.get("/nix-cache-info").status, 200);
    assert!(holds_a_store(&home.path().join("by-flag")));
    // The first request is the start's probe, the second the client's.
    for origin in &origins {
        assert!((1..=2).contains(&origin.requests_for("/nix-cache-info")));
    }
}

#[test]
fn the_memory_alone_serves_where_the_disk_is_off() {
    let (home, origin) = (home(), Origin::start());
    let mut command = serve(home.path(), &origin.url());
    let edge = Edge::start(command.args(["--disk-size", "0"]), &home);
    assert_eq!(edge.get("/nix-cache-info").text(), CACHE_INFO);
    let again = edge.get("/nix-cache-info");
    assert!(again.value("cache-status").unwrap().contains("hit"), "{again:?}");
    assert!(!home.path().join(".cache").exists());
    assert_eq!(edge.process.stderr.so_far().matches("ERROR").count(), 0);
}

#[test]
fn an_office_behind_a_proxy_is_told_so_by_the_environment() {
    let (proxy, home) = (Origin::start(), home());
    proxy.put("http://cache.test/nix-cache-info", CACHE_INFO);
    let mut command = serve(home.path(), "http://cache.test");
    command.env("http_proxy", proxy.url().replace("http://", "http://edge:hush@"));
    let edge = Edge::start(&mut command, &home);
    assert_eq!(edge.get("/nix-cache-info").text(), CACHE_INFO);
    let told = edge.process.stderr.wait(0, &["origin is asked through a proxy"]);
    let place = proxy.url().replace("http://", "");
    assert!(told.contains(&place), "{told}");
    assert!(!edge.process.stderr.so_far().contains("hush"), "{}", edge.process.stderr.so_far());
}
