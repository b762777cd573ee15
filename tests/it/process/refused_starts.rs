//! What keeps `narthex serve` from starting: one clear line on standard error, and the exit code
//! that tells a wrong config (2) from a failure (1).

use super::edge::{Settings, complaint, narthex, site};
use super::origin::Origin;
use std::net::TcpListener;

/// The code and the only line of a start that fails.
fn refused(settings: &Settings, sites: &str) -> (i32, String) {
    settings.write(sites);
    let mut command = narthex(settings.folder());
    command.args(["serve", "--config"]).arg(settings.file());
    let (code, said) = complaint(command);
    let complaints = said.lines().filter(|line| line.starts_with("narthex: ")).collect::<Vec<_>>();
    assert_eq!(complaints.len(), 1, "{said}");
    (code, complaints[0].to_owned())
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let origin = Origin::start();
    let mut settings = Settings::new();
    settings.process = settings.process.replacen("127.0.0.1:0", &address, 1);
    let (code, said) = refused(&settings, &site(origin.url()));
    assert_eq!(code, 1);
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn an_admin_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut settings = Settings::new();
    let (before, after) = settings.process.split_once("[admin]").unwrap();
    let after = after.replacen("127.0.0.1:0", &address, 1);
    settings.process = format!("{before}[admin]{after}");
    let (code, said) = refused(&settings, &site("http://127.0.0.1:1"));
    assert_eq!(code, 1);
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
}

#[test]
fn a_disk_folder_that_cannot_be() {
    let settings = Settings::new();
    // The folder's place is below a regular file: not even root can make it.
    std::fs::write(settings.folder().join("disk"), "a file").unwrap();
    let mut below = settings.clone();
    below.process = settings.process.replace("/disk\"", "/disk/below\"");
    for settings in [settings, below] {
        let (code, said) = refused(&settings, &site("http://127.0.0.1:1"));
        assert_eq!(code, 1);
        assert!(said.contains("/disk"), "{said}");
    }
}

#[test]
fn a_disk_folder_of_another_instance() {
    let settings = Settings::new();
    let first = settings.start(&site("http://127.0.0.1:1"));
    let (code, said) = refused(&settings, &site("http://127.0.0.1:1"));
    assert_eq!(code, 1);
    assert!(said.contains(&first.disk().display().to_string()), "{said}");
    assert_eq!(super::client::get(first.admin, "/healthz").status, 200);
}

#[test]
fn certificates_that_are_none() {
    let settings = Settings::new();
    let (certificate, key) = (settings.folder().join("c.pem"), settings.folder().join("k.pem"));
    let mut with_tls = settings.clone();
    with_tls.process = format!(
        "{}\n[server.tls]\nlisten = [\"127.0.0.1:0\"]\n\
         [[server.tls.certificates]]\ncertificate = {certificate:?}\nkey = {key:?}\n",
        settings.process
    );
    let (code, said) = refused(&with_tls, &site("http://127.0.0.1:1"));
    assert!(matches!(code, 1 | 2), "{said}");
    assert!(said.contains("c.pem"), "{said}");
    std::fs::write(&certificate, "no certificate").unwrap();
    std::fs::write(&key, "no key").unwrap();
    let (code, said) = refused(&with_tls, &site("http://127.0.0.1:1"));
    assert!(matches!(code, 1 | 2), "{said}");
    assert!(said.contains("c.pem"), "{said}");
}

#[test]
fn a_bad_config() {
    let settings = Settings::new();
    let (code, said) = refused(&settings, &site("ftp://x"));
    assert_eq!(code, 2);
    assert!(said.contains("site[0].origin[0].url"), "{said}");
}
