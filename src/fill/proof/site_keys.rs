//! The keys that are trusted for narinfos of each origin, and the marks that stored objects keep of
//! them. Made with the site, then only read.
//!
//! A narinfo is stored with a mark of the origin that it came from and of the key that has signed
//! it. It serves as long as that key is still trusted for that origin: a configuration that takes a
//! key away, or gives it to another origin, makes what it signed unknown, to be fetched and checked
//! anew; one that adds keys or moves origins about costs nothing. The claim of its NAR carries the
//! mark of the origin alone, and so does a narinfo of an origin that need not sign.

use crate::config::{self, Signatures};
use crate::nix::narinfo::NarInfo;
use crate::nix::signature::{KeyError, PublicKey, SignatureError, TrustedKeys};
use crate::object::Proof;

/// The trusted keys of a site's origins.
#[derive(Debug)]
pub struct SiteKeys(Vec<OriginKeys>);

#[derive(Debug)]
struct OriginKeys {
    keys: TrustedKeys,
    /// One for each key.
    marks: Vec<u32>,
    source: u32,
    signatures: Signatures,
}

impl SiteKeys {
    /// Those of `site`.
    pub fn of(site: &config::Site) -> Result<Self, KeyError> {
        let of_origin = |origin: &config::Origin| {
            let keys = origin.trusted_public_keys.iter();
            let marks = keys.clone().map(|key| origin.trust_mark(key)).collect();
            let keys = keys.map(|key| PublicKey::parse(key)).collect::<Result<Vec<_>, _>>()?;
            Ok(OriginKeys {
                keys: TrustedKeys::new(keys),
                marks,
                source: origin.source_mark(),
                signatures: origin.signatures.unwrap_or(site.signatures),
            })
        };
        Ok(Self(site.origins.iter().map(of_origin).collect::<Result<_, _>>()?))
    }

    /// Whether a stored narinfo proves what is required now of the origin that it came from: a
    /// signature by a key that is trusted for it, or nothing.
    pub fn accepts(&self, proof: Proof) -> bool {
        let requires = |origin: &OriginKeys| origin.signatures == Signatures::Require;
        if !self.0.iter().any(requires) {
            return true;
        }
        match proof {
            Proof::SignedBy(mark) => self.0.iter().any(|origin| origin.marks.contains(&mark)),
            Proof::ParsedFrom(mark) => {
                self.0.iter().any(|origin| origin.source == mark && !requires(origin))
            }
            Proof::ContentAddress => true,
            Proof::Length | Proof::FileHash | Proof::Parsed | Proof::Signature => false,
        }
    }

    /// What is required of a narinfo with bytes of the origins at `positions`: what the strictest
    /// of them requires.
    pub(in crate::fill) fn signatures(&self, positions: &[usize]) -> Signatures {
        let of = |position: &usize| self.0.get(*position).map(|origin| origin.signatures);
        let rules: Vec<_> = positions.iter().filter_map(of).collect();
        if rules.is_empty() || rules.contains(&Signatures::Require) {
            Signatures::Require
        } else if rules.contains(&Signatures::Warn) {
            Signatures::Warn
        } else {
            Signatures::Off
        }
    }

    /// The mark of the first of the origins at `positions`, and of its key that has signed
    /// `narinfo`. These origins gave its bytes, so a key of each of them must have signed it.
    pub(in crate::fill) fn verify(
        &self,
        positions: &[usize],
        narinfo: &NarInfo,
    ) -> Result<u32, SignatureError> {
        let mut marks = Vec::new();
        for origin in positions.iter().filter_map(|position| self.0.get(*position)) {
            let signer = origin.keys.signer(narinfo)?;
            let at = origin.keys.keys().iter().position(|key| std::ptr::eq(key, signer));
            marks.extend(at.and_then(|at| origin.marks.get(at)).copied());
        }
        marks.first().copied().ok_or(SignatureError::Untrusted { signed_by: Vec::new() })
    }

    /// What the origin at `position` is known by.
    pub(in crate::fill) fn source(&self, position: usize) -> Option<u32> {
        self.0.get(position).map(|origin| origin.source)
    }

    pub(in crate::fill) fn position(&self, source: u32) -> Option<usize> {
        self.0.iter().position(|origin| origin.source == source)
    }
}
