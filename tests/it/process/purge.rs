//! `narthex purge` against a running edge: what it says, and its exit code.

use super::edge::{Edge, Settings, complaint, narthex, run, site};
use super::origin::{Origin, nar_path, noise};
use std::process::Command;

struct Scene {
    settings: Settings,
    origin: Origin,
    edge: Edge,
    path: String,
}

/// An edge with a token that holds one NAR.
fn scene() -> Scene {
    let mut settings = Settings::new();
    let token = settings.folder().join("token");
    std::fs::write(&token, "a-token-of-the-tests-of-32-bytes\n").unwrap();
    let with_token = format!("[admin]\ntoken_file = \"{}\"\n", token.display());
    settings.process = settings.process.replace("[admin]\n", &with_token);
    let origin = Origin::start();
    let body = noise(100_000, 4);
    let path = nar_path(&body);
    origin.put(&path, body);
    let edge = settings.start(&site(origin.url()));
    assert_eq!(edge.get(&path).status, 200);
    Scene { settings, origin, edge, path }
}

impl Scene {
    fn purge(&self, arguments: &[&str]) -> Command {
        let mut command = narthex(self.settings.folder());
        command.args(["purge", "--config"]).arg(self.settings.file());
        command.args(["--admin", &self.edge.admin.to_string()]).args(arguments);
        command
    }

    /// Until the object is published: its last byte arrives shortly before.
    fn until_hit(&self) {
        let is_hit = || {
            let reply = self.edge.get(&self.path);
            reply.value("cache-status").unwrap().starts_with("narthex; hit")
        };
        assert!((0..10_000).any(|_| is_hit()), "never a hit");
    }

    fn purged(&self, arguments: &[&str]) -> String {
        let output = run(self.purge(arguments));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn what_is_purged_is_fetched_again() {
    let scene = scene();
    scene.until_hit();
    for (arguments, requests) in
        [(vec![scene.path.as_str()], 2), (vec!["--prefix", "/nar/"], 3), (vec!["--all"], 4)]
    {
        assert!(scene.purged(&arguments).contains('1') || arguments[0] == "--all");
        assert_eq!(scene.edge.get(&scene.path).status, 200);
        assert_eq!(scene.origin.requests_for(&scene.path), requests, "{arguments:?}");
        scene.until_hit();
    }
    assert_eq!(
        scene.purged(&["--key", "nobody", "--key", "none"]).trim(),
        "{\"lasting\":true,\"purged\":0}"
    );
    assert_eq!(
        scene.purged(&["--soft", "--key", "nobody"]).trim(),
        "{\"lasting\":true,\"purged\":0}"
    );
    // Softly: asked for again, not gone.
    scene.purged(&["--soft", &scene.path]);
    assert_eq!(scene.edge.get(&scene.path).status, 200);
    assert_eq!(scene.origin.requests_for(&scene.path), 5);
    scene.origin.stop();
    scene.purged(&["--soft", &scene.path]);
    assert_eq!(scene.edge.get(&scene.path).status, 200);
    scene.purged(&[&scene.path]);
    assert_eq!(scene.edge.get(&scene.path).status, 502);
}

#[test]
fn a_purge_that_cannot_be_says_why() {
    let scene = scene();
    let wrong = scene.settings.folder().join("wrong");
    std::fs::write(&wrong, "another-token-of-the-tests-of-32").unwrap();
    let wrong = wrong.display().to_string();
    for (arguments, code, words) in [
        (vec!["--token-file", &wrong, &scene.path], 1, "401"),
        (vec!["--token-file", "/absent/token", &scene.path], 1, "/absent/token"),
        (vec!["--site", "nowhere", &scene.path], 1, "nowhere"),
        (vec!["/../etc/passwd"], 1, "400"),
        (vec!["--soft", "--all"], 2, "--soft"),
        (vec!["--key", "a b"], 1, "each key by itself"),
        (vec!["--key", "a", "--all"], 2, "--all"),
    ] {
        let (ended, said) = complaint(scene.purge(&arguments));
        assert_eq!(ended, code, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    assert_eq!(scene.edge.get(&scene.path).status, 200);
    assert_eq!(scene.origin.requests_for(&scene.path), 1);
    let mut command = narthex(scene.settings.folder());
    command.args(["purge", "--admin", "127.0.0.1:1", "/x", "--token-file"]);
    let (code, said) = complaint({
        command.arg(scene.settings.folder().join("token"));
        command
    });
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("127.0.0.1:1") && said.contains("is the edge running?"), "{said}");
    let mut command = narthex(scene.settings.folder());
    command.args(["purge", "--admin", "127.0.0.1:1", "/x"]);
    let (code, said) = complaint(command);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("--token-file"), "{said}");
}
