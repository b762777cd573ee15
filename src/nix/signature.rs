//! Ed25519 signatures of store paths, as Nix makes and checks them (Nix:
//! `src/libutil/signature/`). Pure. Keys are read once, from the config or by the demo; nothing
//! here ever prints a secret.

use super::narinfo::NarInfo;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, ParsedPublicKey};
use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use std::fmt;

/// The key of cache.nixos.org.
pub const CACHE_NIXOS_ORG: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Bytes of an Ed25519 public key, and of the seed of a secret one.
const KEY_LEN: usize = 32;

/// Bytes of an Ed25519 signature.
const SIGNATURE_LEN: usize = 64;

/// The name in front of a key or a signature, such as `cache.nixos.org-1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName(Box<str>);

/// A key that checks signatures.
#[derive(Debug, Clone)]
pub struct PublicKey {
    name: KeyName,
    bytes: [u8; KEY_LEN],
    parsed: ParsedPublicKey,
}

/// A key that signs.
pub struct SecretKey {
    name: KeyName,
    seed: [u8; KEY_LEN],
    pair: Ed25519KeyPair,
}

/// A signature with the name of the key that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    name: KeyName,
    bytes: [u8; SIGNATURE_LEN],
}

/// Why a text is not a key or a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No name, or nothing after the colon.
    #[error("'name:base64' is needed; the name or the colon is missing")]
    Name,
    /// Not base 64 with padding, or of another length.
    #[error("the part after 'name:' is not base 64 of {expected} bytes")]
    Base64 {
        /// Bytes that are needed.
        expected: usize,
    },
    /// The bytes are no Ed25519 key, or the halves of a secret key belong to different keys.
    #[error("the bytes are not a valid Ed25519 key")]
    Invalid,
}

/// Base 64 as Nix reads it: what is behind the last whole byte says nothing, be it bits or padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why no trusted key vouches for a store path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The narinfo has no `Sig` line.
    #[error("the narinfo carries no signature")]
    Unsigned,
    /// Every signature is by a key that is not trusted, or is no signature at all.
    #[error("no trusted key has signed; signed by {}", names(.signed_by))]
    Untrusted {
        /// The keys of its signatures; empty if none can be read.
        signed_by: Vec<KeyName>,
    },
    /// A signature bears a trusted key's name, and the key says it is wrong.
    #[error(
        "the signature by {key} is wrong: something was changed, \
         or another key of that name has signed"
    )]
    Wrong {
        /// The key.
        key: KeyName,
    },
}

/// The keys that a site trusts. Any one of them suffices.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys(Vec<PublicKey>);

impl KeyName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PublicKey {
    /// Reads `name:base64`, as in `trusted-public-keys`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = read(text)?;
        Self::from_bytes(name, bytes)
    }

    /// The key's name.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// Whether `signature` is this key's, of `message`.
    pub fn is_signer_of(&self, message: &[u8], signature: &Signature) -> bool {
        self.name == signature.name && self.parsed.verify_sig(message, &signature.bytes).is_ok()
    }

    fn from_bytes(name: KeyName, bytes: [u8; KEY_LEN]) -> Result<Self, KeyError> {
        let parsed = ParsedPublicKey::new(&ED25519, bytes).map_err(|_| KeyError::Invalid)?;
        Ok(Self { name, bytes, parsed })
    }
}

/// `name:base64`.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, STANDARD.encode(self.bytes))
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.bytes) == (&other.name, &other.bytes)
    }
}

impl Eq for PublicKey {}

impl SecretKey {
    /// The key that follows from 32 random bytes.
    pub fn from_seed(name: &str, seed: [u8; KEY_LEN]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Invalid)?;
        Ok(Self { name: key_name(name)?, seed, pair })
    }

    /// Reads `name:base64` of the seed and the public key, as `nix key generate-secret` prints it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, bytes): (_, [u8; 2 * KEY_LEN]) = read(text)?;
        let (seed, public_key) = bytes.split_at(KEY_LEN);
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public_key)
            .map_err(|_| KeyError::Invalid)?;
        let seed = seed.try_into().map_err(|_| KeyError::Invalid)?;
        Ok(Self { name, seed, pair })
    }

    /// The key's name.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The key that checks what this one signs.
    pub fn public_key(&self) -> Result<PublicKey, KeyError> {
        let bytes = self.pair.public_key().as_ref().try_into().map_err(|_| KeyError::Invalid)?;
        PublicKey::from_bytes(self.name.clone(), bytes)
    }

    /// `name:base64`, as `nix-store --generate-binary-cache-key` writes it to its secret file.
    pub fn to_secret_text(&self) -> String {
        let bytes = [&self.seed, self.pair.public_key().as_ref()].concat();
        format!("{}:{}", self.name, STANDARD.encode(bytes))
    }

    /// Signs `message`, which is a path's fingerprint.
    pub fn sign(&self, message: &[u8]) -> Result<Signature, KeyError> {
        let bytes = self.pair.try_sign(message).map_err(|_| KeyError::Invalid)?;
        let bytes = bytes.as_ref().try_into().map_err(|_| KeyError::Invalid)?;
        Ok(Signature { name: self.name.clone(), bytes })
    }
}

/// The name only.
impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Signature {
    /// Reads `name:base64`, the value of a `Sig` line.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = read(text)?;
        Ok(Self { name, bytes })
    }

    /// The name of the key that made it, or so it says.
    pub fn key_name(&self) -> &KeyName {
        &self.name
    }
}

/// `name:base64`.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, STANDARD.encode(self.bytes))
    }
}

impl TrustedKeys {
    /// Trusts `keys`. Several may have one name, as while a key is being replaced.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self(keys)
    }

    /// Whether no key is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.0
    }

    /// The name of the trusted key that has signed `narinfo`.
    pub fn verify(&self, narinfo: &NarInfo) -> Result<&KeyName, SignatureError> {
        self.signer(narinfo).map(|key| &key.name)
    }

    /// The trusted key that has signed `narinfo`.
    pub fn signer(&self, narinfo: &NarInfo) -> Result<&PublicKey, SignatureError> {
        if narinfo.signatures.is_empty() {
            return Err(SignatureError::Unsigned);
        }
        self.signer_of(
            narinfo.fingerprint().as_bytes(),
            narinfo.signatures.iter().map(String::as_str),
        )
    }

    /// The name of the trusted key that has made one of `signatures`, values of `Sig` lines, of
    /// `message`. A text that is no signature counts for nothing, as in Nix.
    pub fn verify_message<'s>(
        &self,
        message: &[u8],
        signatures: impl Iterator<Item = &'s str>,
    ) -> Result<&KeyName, SignatureError> {
        self.signer_of(message, signatures).map(|key| &key.name)
    }

    fn signer_of<'s>(
        &self,
        message: &[u8],
        signatures: impl Iterator<Item = &'s str>,
    ) -> Result<&PublicKey, SignatureError> {
        let mut signed_by = Vec::new();
        let mut wrong = None;
        for signature in signatures.filter_map(|text| Signature::parse(text).ok()) {
            for key in self.0.iter().filter(|key| key.name == signature.name) {
                if key.is_signer_of(message, &signature) {
                    return Ok(key);
                }
                wrong = Some(key.name.clone());
            }
            signed_by.push(signature.name);
        }
        Err(match wrong {
            Some(key) => SignatureError::Wrong { key },
            None => SignatureError::Untrusted { signed_by },
        })
    }
}

fn read<const N: usize>(text: &str) -> Result<(KeyName, [u8; N]), KeyError> {
    let (name, base64) = text.split_once(':').ok_or(KeyError::Name)?;
    let bytes = LENIENT.decode(base64).ok().and_then(|bytes| bytes.try_into().ok());
    Ok((key_name(name)?, bytes.ok_or(KeyError::Base64 { expected: N })?))
}

fn key_name(name: &str) -> Result<KeyName, KeyError> {
    let is_plain = !name.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control());
    if name.is_empty() || !is_plain { Err(KeyError::Name) } else { Ok(KeyName(name.into())) }
}

fn names(signed_by: &[KeyName]) -> String {
    if signed_by.is_empty() {
        return "no key: no Sig line can be read".to_owned();
    }
    signed_by.iter().map(KeyName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::proptest;

    /// Made by `nix key generate-secret` and `nix key convert-secret-to-public` of Nix 2.8.0.
    const SECRET: &str = "narthex-test-1:pMj4CoCpUw+HcRhSysCAoQge/8jgb1R6\
        tyRQd9rDaTKfaovk/JmoKGlU1gxBPZsViPFlarbxtHhslqqdGSq0Mg==";
    const PUBLIC: &str = "narthex-test-1:n2qL5PyZqChpVNYMQT2bFYjxZWq28bR4bJaqnRkqtDI=";

    /// Made by `nix store sign` of Nix 2.8.0 with that key.
    const FINGERPRINT: &str = "1;/srv/store/am1vbk4jlg1qwp4d2x6yd57cjvdg1b2p-leaf.txt;\
        sha256:1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h;120;";
    const SIGNATURE: &str = "narthex-test-1:5I4WMR0ftphHNi6aWQGr+2XhrLcORqeZ\
        RL0iVgnHBHwXL4h6zeJtgN1RJ7McR6VSzSihUYiHuXL3fmH7EHNDCw==";

    /// FAULTS.md G20b.
    #[test]
    fn bits_behind_the_last_byte_say_nothing() {
        let signer = SecretKey::from_seed("a", [1; 32]).unwrap();
        let strict = signer.sign(b"x").unwrap().to_string();
        let (begin, last) = strict.strip_suffix("==").unwrap().split_at(strict.len() - 3);
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let value = alphabet.iter().position(|digit| [*digit] == *last.as_bytes()).unwrap();
        let other = char::from(alphabet[value | 0b1111]);
        for text in [format!("{begin}{other}=="), format!("{begin}{other}")] {
            assert_eq!(Signature::parse(&text).unwrap(), Signature::parse(&strict).unwrap());
        }
    }

    #[test]
    fn keys_and_signatures_agree_with_nix() {
        let secret = SecretKey::parse(SECRET).unwrap();
        assert_eq!(secret.to_secret_text(), SECRET);
        assert_eq!(secret.public_key().unwrap().to_string(), PUBLIC);
        assert_eq!(secret.public_key(), PublicKey::parse(PUBLIC));
        assert_eq!(secret.sign(FINGERPRINT.as_bytes()).unwrap().to_string(), SIGNATURE);
        assert_eq!(Signature::parse(SIGNATURE).unwrap().to_string(), SIGNATURE);
    }

    #[test]
    fn the_key_of_the_public_cache_is_a_key() {
        let key = PublicKey::parse(CACHE_NIXOS_ORG).unwrap();
        assert_eq!(key.name().as_str(), "cache.nixos.org-1");
        assert_eq!(key.to_string(), CACHE_NIXOS_ORG);
    }

    #[test]
    fn two_keys_may_have_one_name() {
        let old = SecretKey::from_seed("cache-1", [1; 32]).unwrap();
        let new = SecretKey::from_seed("cache-1", [2; 32]).unwrap();
        let keys = vec![old.public_key().unwrap(), new.public_key().unwrap()];
        let signature = new.sign(b"text").unwrap().to_string();
        let keys = TrustedKeys::new(keys);
        assert!(keys.verify_message(b"text", [signature.as_str()].into_iter()).is_ok());
    }

    #[test]
    fn a_key_of_another_name_does_not_vouch() {
        let secret = SecretKey::from_seed("a", [1; 32]).unwrap();
        let renamed = SecretKey::from_seed("b", [1; 32]).unwrap().sign(b"text").unwrap();
        assert!(!secret.public_key().unwrap().is_signer_of(b"text", &renamed));
    }

    #[test]
    fn what_is_no_key_is_named() {
        let expected = KEY_LEN;
        for (text, error) in [
            ("", KeyError::Name),
            ("name", KeyError::Name),
            (":n2qL5PyZqChpVNYMQT2bFYjxZWq28bR4bJaqnRkqtDI=", KeyError::Name),
            ("a b:n2qL5PyZqChpVNYMQT2bFYjxZWq28bR4bJaqnRkqtDI=", KeyError::Name),
            ("name:", KeyError::Base64 { expected }),
            ("name:n2qL5PyZqChpVNYMQT2bFYjxZWq28bR4bJaqnRkqtD", KeyError::Base64 { expected }),
            (SECRET, KeyError::Base64 { expected }),
        ] {
            assert_eq!(PublicKey::parse(text), Err(error), "{text}");
        }
        let mixed = SECRET.replace("Mg==", "Mw==");
        assert!(SecretKey::parse(&mixed).is_err());
        let secret = SecretKey::parse(SECRET).unwrap();
        assert!(!format!("{secret:?}").contains("pMj4"));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,40}:?[A-Za-z0-9+/=]{0,100}") {
            let _ = (PublicKey::parse(&text), SecretKey::parse(&text));
            if let Ok(signature) = Signature::parse(&text) {
                assert_eq!(signature.to_string(), text);
            }
        }
    }
}
