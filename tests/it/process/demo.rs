//! `narthex demo --once`: both journeys, to the end.

use super::edge::{narthex, run};
use tempfile::TempDir;

#[test]
fn the_demo_comes_to_its_end() {
    let home = TempDir::new().unwrap();
    let mut command = narthex(home.path());
    command.args([
        "demo",
        "--once",
        "--small",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    command.env("TMPDIR", home.path());
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("cold") && told.contains("warm"), "{told}");
    // Nothing is left behind.
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}
