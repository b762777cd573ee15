//! Fuzzes `nix::signature`: keys and signatures that are printed read as the same; what a key signs
//! it verifies, and nothing else; no line beside a good signature takes its effect away.
#![no_main]

use libfuzzer_sys::fuzz_target;
use narthex::nix::signature::{PublicKey, SecretKey, Signature, SignatureError, TrustedKeys};

fuzz_target!(|data: &[u8]| {
    if let Some(text) = narthex_fuzz::text(data) {
        text.lines().for_each(check_texts);
        check_trust(text);
    }
    if let Some((seed, message)) = data.split_first_chunk::<32>() {
        check_signing(seed, message);
    }
});

fn check_texts(text: &str) {
    // What Nix accepts may be written in other ways than the one that is printed.
    if let Ok(signature) = Signature::parse(text) {
        let printed = signature.to_string();
        assert_eq!(Signature::parse(&printed).unwrap().to_string(), printed);
        check_name(signature.key_name().as_str());
    }
    if let Ok(key) = PublicKey::parse(text) {
        assert_eq!(PublicKey::parse(&key.to_string()).as_ref(), Ok(&key));
        check_name(key.name().as_str());
    }
    if let Ok(key) = SecretKey::parse(text) {
        let printed = key.to_secret_text();
        assert_eq!(SecretKey::parse(&printed).unwrap().to_secret_text(), printed);
        assert_eq!(key.public_key().unwrap().name(), key.name());
    }
}

fn check_name(name: &str) {
    assert!(!name.is_empty() && !name.contains([':', ' ', '\t', '\r', '\n']));
}

/// The lines of `text` as signatures of something, without a good one and with it.
fn check_trust(text: &str) {
    let key = SecretKey::from_seed("key-1", [7; 32]).unwrap();
    let trusted = TrustedKeys::new(vec![key.public_key().unwrap()]);
    let message = b"1;/nix/store/x;y;1;";
    match trusted.verify_message(message, text.lines()) {
        Ok(name) => panic!("{name} never signed"),
        Err(SignatureError::Untrusted { signed_by }) => assert!(!signed_by.contains(key.name())),
        Err(SignatureError::Wrong { key: wrong }) => assert_eq!(wrong, *key.name()),
        Err(SignatureError::Unsigned) => panic!("said of a narinfo only"),
    }
    let good = key.sign(message).unwrap().to_string();
    let lines = text.lines().chain([good.as_str()]);
    assert_eq!(trusted.verify_message(message, lines), Ok(key.name()));
}

fn check_signing(seed: &[u8; 32], message: &[u8]) {
    let secret = SecretKey::from_seed("k", *seed).unwrap();
    let public = secret.public_key().unwrap();
    assert!(!format!("{secret:?}").contains(&secret.to_secret_text()[2..]));
    assert_eq!(PublicKey::parse(&public.to_string()).as_ref(), Ok(&public));
    let again = SecretKey::parse(&secret.to_secret_text()).unwrap();
    let signature = again.sign(message).unwrap();
    assert!(public.is_signer_of(message, &signature));
    assert!(!public.is_signer_of(&[message, b"x"].concat(), &signature));
}
