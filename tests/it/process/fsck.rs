//! `narthex fsck`, at rest and against a running edge: what it says, and its exit code.

use super::edge::{Edge, Settings, complaint, narthex, run, site};
use super::origin::{Origin, nar_path, noise};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

struct Scene {
    settings: Settings,
    origin: Origin,
    path: String,
}

/// Settings with a token, and an origin with one NAR.
fn scene() -> Scene {
    let mut settings = Settings::new();
    let token = settings.folder().join("token");
    std::fs::write(&token, "a-token-of-the-tests-of-32-bytes\n").unwrap();
    let with_token = format!("[admin]\ntoken_file = \"{}\"\n", token.display());
    settings.process = settings.process.replace("[admin]\n", &with_token);
    let origin = Origin::start();
    let body = noise(300_000, 4);
    let path = nar_path(&body);
    origin.put(&path, body);
    Scene { settings, origin, path }
}

impl Scene {
    /// An edge that holds the NAR.
    fn edge(&self) -> Edge {
        let edge = self.settings.start(&site(self.origin.url()));
        let is_hit = || {
            let reply = edge.get(&self.path);
            reply.value("cache-status").unwrap().starts_with("narthex; hit")
        };
        assert!((0..10_000).any(|_| is_hit()), "never a hit");
        edge
    }

    /// The exit code, and what stands on standard output and on standard error.
    fn fsck(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = narthex(self.settings.folder());
        command.args(["fsck", "--config"]).arg(self.settings.file()).args(arguments);
        let output = run(command);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn disk(&self) -> PathBuf {
        self.settings.folder().join("disk")
    }

    fn damage(&self) {
        let mut files = Vec::new();
        list(&self.disk().join("objects"), &mut files);
        let file = File::options().write(true).open(&files[0]).unwrap();
        file.write_all_at(b"damage", 123_456).unwrap();
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { list(&path, files) } else { files.push(path) }
    }
}

#[test]
fn a_folder_at_rest_is_checked_and_repaired() {
    let scene = scene();
    assert_eq!(scene.edge().terminate(), Some(0));
    let (code, said, _) = scene.fsck(&[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("1 files: clean"), "{said}");
    scene.damage();
    for arguments in [&[][..], &["--repair"]] {
        let (code, said, _) = scene.fsck(arguments);
        assert_eq!(code, 1, "{said}");
        assert!(said.starts_with(&format!("body {}: its body is another", scene.path)), "{said}");
        assert_eq!(said.contains("(repaired)"), !arguments.is_empty(), "{said}");
    }
    let (code, said, _) = scene.fsck(&[]);
    assert_eq!(
        (code, said.as_str()),
        (0, "checked 0 objects, 0 bytes, 0 claims, 0 files: clean\n")
    );
    scene.edge();
    assert_eq!(scene.origin.requests_for(&scene.path), 2);
}

#[test]
fn a_running_edge_checks_itself() {
    let scene = scene();
    let edge = scene.edge();
    let admin = edge.admin.to_string();
    let (code, said, _) = scene.fsck(&["--admin", &admin]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("1 files: clean"), "{said}");
    scene.damage();
    for (arguments, word) in [
        (&["--admin", &admin][..], "1 problem(s); --repair"),
        (&["--admin", &admin, "--repair", "--rate", "1GiB"], "1 repaired"),
    ] {
        let (code, said, _) = scene.fsck(arguments);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("body {}:", scene.path)) && said.contains(word), "{said}");
    }
    assert_eq!(scene.fsck(&["--admin", &admin]).0, 0);
    assert!(edge.metric("narthex_checked_objects_total", &["fsck"]) >= 3);
}

#[test]
fn a_lost_index_is_named_at_the_start_and_made_again() {
    let scene = scene();
    assert_eq!(scene.edge().terminate(), Some(0));
    std::fs::remove_dir_all(scene.disk().join("index")).unwrap();
    let mut command = narthex(scene.settings.folder());
    command.args(["serve", "--config"]).arg(scene.settings.file());
    let (code, said) = complaint(command);
    assert_eq!(code, 1);
    assert!(said.contains("narthex fsck --repair"), "{said}");
    let (code, said, _) = scene.fsck(&[]);
    assert_eq!(code, 1);
    assert!(said.starts_with("index index:") && said.contains("broken off"), "{said}");
    let (code, said, _) = scene.fsck(&["--repair"]);
    assert_eq!(code, 1);
    assert!(said.contains("a new index was made of 1 bodies"), "{said}");
    assert_eq!(scene.fsck(&[]).0, 0);
    scene.edge();
}

#[test]
fn what_cannot_be_checked_is_named() {
    let scene = scene();
    let edge = scene.edge();
    let empty = scene.settings.folder().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.display().to_string();
    let admin = edge.admin.to_string();
    for (arguments, word) in [
        (vec!["--disk", &empty], "no store in it"),
        (vec!["--disk", "/absent"], "no store in it"),
        (vec!["--admin", "127.0.0.1:1"], "is the edge running?"),
        (vec!["--admin", &admin, "--token-file", "/absent/token"], "/absent/token"),
        (vec!["--rate", "fast"], "--rate fast"),
    ] {
        let (code, said, complaint) = scene.fsck(&arguments);
        assert_eq!((code, said.trim()), (2, ""), "{arguments:?}: {complaint}");
        assert!(complaint.contains(word), "{arguments:?}: {complaint}");
    }
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "left as it was");
}

#[test]
fn every_folder_of_the_config_is_checked_and_the_worst_one_counts() {
    let mut scene = scene();
    let (one, other) = (scene.disk(), scene.settings.folder().join("other"));
    let one_disk = format!("path = \"{}\"", one.display());
    let two_disks = format!("path = [\"{}\", \"{}\"]", one.display(), other.display());
    scene.settings.process = scene.settings.process.replace(&one_disk, &two_disks);
    let mut edge = scene.edge();
    let (code, said, _) = scene.fsck(&["--admin", &edge.admin.to_string()]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said.matches("clean").count(), 1, "the edge checks all it has: {said}");
    assert_eq!(edge.terminate(), Some(0));
    let (code, said, _) = scene.fsck(&[]);
    assert_eq!(code, 0, "{said}");
    for folder in [&one, &other] {
        assert!(said.contains(&format!("{}:\n", folder.display())), "{said}");
    }
    assert_eq!(said.matches("clean").count(), 2, "{said}");
    let holder =
        if one.join("objects").read_dir().unwrap().next().is_some() { &one } else { &other };
    let mut files = Vec::new();
    list(&holder.join("objects"), &mut files);
    File::options().write(true).open(&files[0]).unwrap().write_all_at(b"damage", 9).unwrap();
    let (code, said, _) = scene.fsck(&[]);
    assert_eq!((code, said.matches("clean").count()), (1, 1), "{said}");
    std::fs::remove_file(one.join("NARTHEX-STORE")).unwrap();
    let (code, said, complaint) = scene.fsck(&[]);
    assert_eq!(code, 2, "{said}{complaint}");
    assert!(said.contains(&other.display().to_string()), "the others are checked: {said}");
}
