//! Origins of one site of which some sign their narinfos and others do not.

use crate::harness::{Edge, Origin, Package, Setup, says};

/// An origin called `name`, with these lines.
fn table(name: &str, origin: &Origin, lines: &str) -> String {
    format!("url = \"{}\"\nname = \"{name}\"\n{lines}", origin.url())
}

struct Two {
    signing: Origin,
    other: Origin,
}

impl Two {
    async fn start() -> Self {
        Self { signing: Origin::start().await, other: Origin::start().await }
    }

    /// An edge that requires signatures, but of the other origin none.
    async fn edge(&self) -> Edge {
        let tables = [
            table("signing", &self.signing, ""),
            table("other", &self.other, "signatures = \"off\""),
        ];
        Setup::default().start_before(&tables).await
    }
}

#[tokio::test]
async fn an_origin_that_does_not_sign_is_taken_at_its_word_and_the_other_is_not() {
    let two = Two::start().await;
    let mut edge = two.edge().await;
    let signed = Package::new(1, 10);
    let unsigned = Package::new(2, 10).signed_by(None);
    let missigned = Package::new(3, 10).signed_by(None);
    two.signing.say(&signed.narinfo_path, says(signed.narinfo()));
    two.other.say(&unsigned.narinfo_path, says(unsigned.narinfo()));
    two.signing.say(&missigned.narinfo_path, says(missigned.narinfo()));
    for package in [&signed, &unsigned] {
        edge.get(&package.narinfo_path).await.expect(200, "miss");
        edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
    }
    edge.get(&missigned.narinfo_path).await.expect(502, "origin_failed");
    edge.until_idle().await;
    edge.restart().await;
    for package in [&signed, &unsigned] {
        let said = edge.get(&package.narinfo_path).await;
        said.expect(200, "hit_disk").with(package.narinfo().as_bytes());
    }
    assert_eq!(two.other.count(&unsigned.narinfo_path), 1);
    // What one origin may not give unsigned, the other may.
    let both = Package::new(4, 10).signed_by(None);
    two.signing.say(&both.narinfo_path, says(both.narinfo()));
    two.other.say(&both.narinfo_path, says(both.narinfo()));
    edge.get(&both.narinfo_path).await.expect(200, "miss").with(both.narinfo().as_bytes());
}

#[tokio::test]
async fn a_stored_narinfo_without_a_signature_ends_with_the_rule_that_let_it_in() {
    let two = Two::start().await;
    let edge = two.edge().await;
    let unsigned = Package::new(1, 10).signed_by(None);
    let path = &unsigned.narinfo_path;
    two.other.say(path, says(unsigned.narinfo()));
    edge.get(path).await.expect(200, "miss");
    edge.until_idle().await;
    let text = edge.text.clone();
    edge.reload(&text.replace("\"off\"", "\"warn\"")).await.unwrap();
    edge.get(path).await.expect(200, "hit_memory");
    edge.reload(&text.replace("signatures = \"off\"", "")).await.unwrap();
    edge.get(path).await.expect(502, "origin_failed");
    assert!(two.other.count(path) > 1, "it was not fetched again");
    edge.pass_time(3_600);
    // The rule of one origin does not serve what another gave.
    let swapped = text.replace("signatures = \"off\"", "");
    let swapped = swapped.replace("\"signing\"", "\"signing\"\nsignatures = \"off\"");
    edge.reload(&swapped).await.unwrap();
    edge.get(path).await.expect(502, "origin_failed");
}
