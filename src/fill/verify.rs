//! What must hold before an object is kept: lengths, hashes, narinfos that parse and are signed.
//! Pure; called by the leader of a fill.

use super::trail::Trail;
use super::{Rejection, Upstream};
use crate::cache::{ClaimOf, ClaimUnknown};
use crate::config::Signatures;
use crate::nix::cache_info::CacheInfo;
use crate::nix::narinfo::NarInfo;
use crate::nix::{Class, class};
use crate::object::{Key, NarClaim, Proof, Sha256};
use crate::policy::response::Coding;

/// What is known of a body before it comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// SHA-256 of the file.
    pub(super) file_hash: Option<[u8; 32]>,
    /// Another SHA-256 that proves it as well: what its name says beside a narinfo that says
    /// something else. NAR URLs are opaque, so such a name need not be a hash of the file; and
    /// clients do not look at `FileHash`, so one that is wrong must not make a path unusable.
    hash_by_name: Option<[u8; 32]>,
    /// Bytes of the file.
    pub(super) file_size: Option<u64>,
    /// Whether a narinfo may say more that cannot be read now.
    pub(super) is_unsure: bool,
}

impl Expected {
    /// What the path itself and the narinfo that names it say.
    pub(super) fn of(path: &str, claim: Option<&NarClaim>) -> Self {
        let claimed = claim.and_then(|claim| claim.file_hash).map(|hash| hash.0);
        let named = class::file_hash_of(path);
        Self {
            file_hash: claimed.or(named),
            hash_by_name: named,
            file_size: claim.and_then(|claim| claim.file_size),
            is_unsure: false,
        }
    }

    /// What the path itself says, and the narinfo that names it, as far as that is known.
    pub(super) fn as_known(path: &str, claim: Result<Option<NarClaim>, ClaimUnknown>) -> Self {
        let is_unsure = claim.is_err();
        Self { is_unsure, ..Self::of(path, claim.ok().flatten().as_ref()) }
    }

    /// Whether a body of this length, if that is known, can be proven well enough to be kept: by a
    /// hash, or by its length, if no narinfo may say more.
    pub(super) fn is_provable(&self, length: Option<u64>) -> bool {
        self.file_hash.is_some() || (length.is_some() && !self.is_unsure)
    }

    /// The one SHA-256 that a body must have; none where there is no such, or more than one.
    pub(super) fn must_be(&self) -> Option<Sha256> {
        let is_one = self.hash_by_name.is_none() || self.hash_by_name == self.file_hash;
        self.file_hash.filter(|_| is_one).map(Sha256)
    }

    /// The length that the body must have, if that is known: no `FileSize` counts beside a name
    /// that proves the body.
    pub(super) fn length(&self) -> Option<u64> {
        self.file_size.filter(|_| self.file_hash.is_some() && self.hash_by_name.is_none())
    }

    /// Whether `length`, as declared or as counted, can be right. Where the name proves the body,
    /// no `FileSize` speaks against it: clients do not look at that either.
    pub(super) fn check_length(&self, length: u64) -> Result<(), Rejection> {
        match self.file_size {
            Some(expected) if expected != length && self.hash_by_name.is_none() => {
                Err(Rejection::FileSize { expected, actual: length })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a whole body with this SHA-256 and length is the right one.
    pub(super) fn check(&self, actual: Sha256, length: u64) -> Result<Proof, Rejection> {
        self.check_length(length)?;
        let Some(expected) = self.file_hash else { return Ok(Proof::Length) };
        if actual.0 == expected || self.hash_by_name == Some(actual.0) {
            return Ok(Proof::FileHash);
        }
        Err(Rejection::FileHash { expected: Sha256(expected), actual })
    }
}

/// Checks a narinfo: that it parses, answers the path it was asked for, and is signed as the site
/// wants it of the origins on its `trail`. Gives what it proves and what it claims of its NAR.
pub(super) fn narinfo(
    (upstream, trail): (&Upstream, &Trail),
    key: &Key,
    body: &[u8],
    coding: Coding,
) -> Result<(Proof, Option<ClaimOf>), Rejection> {
    let wants_signature = upstream.site.signatures == Signatures::Require;
    if coding == Coding::Encoded {
        // What cannot be read cannot be checked; where no check is asked for, it passes untouched.
        let detail = "it comes under a Content-Encoding".to_owned();
        let unread = if wants_signature { Err(Rejection::Narinfo { detail }) } else { Ok(()) };
        return unread.map(|()| (Proof::Length, None));
    }
    let narinfo =
        NarInfo::parse(body).map_err(|error| Rejection::Narinfo { detail: error.to_string() })?;
    if !class::hash_part_of(key.path()).is_some_and(|asked| narinfo.matches_hash_part(asked)) {
        let detail = format!("is about {}", narinfo.store_path.hash_part());
        return Err(Rejection::Narinfo { detail });
    }
    let positions = trail.positions();
    let proof = match (upstream.site.signatures, upstream.trusted.verify(&positions, &narinfo)) {
        (Signatures::Off, _) => Proof::Parsed,
        (Signatures::Require | Signatures::Warn, Ok(mark)) => Proof::SignedBy(mark),
        (Signatures::Warn, Err(error)) => {
            tracing::warn!(path = key.path(), %error, "narinfo without a good signature");
            Proof::Parsed
        }
        (Signatures::Require, Err(error)) => {
            return Err(Rejection::Signature { detail: error.to_string() });
        }
    };
    let source = positions.first().and_then(|position| upstream.trusted.source(*position));
    Ok((proof, claim_of(key, &narinfo, source)))
}

/// Checks a `nix-cache-info`: a page with status 200 is an upstream fault.
pub(super) fn cache_info(body: &[u8]) -> Result<(), Rejection> {
    let checked = CacheInfo::parse(body);
    checked.map(drop).map_err(|error| Rejection::CacheInfo { detail: error.to_string() })
}

fn claim_of(key: &Key, narinfo: &NarInfo, source: Option<u32>) -> Option<ClaimOf> {
    let location = narinfo.nar_location()?;
    let claim = NarClaim {
        file_hash: narinfo.file_sha256().map(Sha256),
        file_size: narinfo.file_bytes(),
        source,
    };
    Some((Key::new(key.space(), &location.path, location.query.as_deref()), claim))
}

/// Whether a body of `class` is checked as a whole before a reader sees any of it.
pub(super) fn is_checked_whole(class: Class) -> bool {
    matches!(class, Class::Narinfo | Class::CacheInfo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::base32;

    #[test]
    fn a_name_that_proves_a_body_makes_up_for_a_wrong_claim() {
        let actual = Sha256::of(b"body");
        let path = format!("/nar/{}.nar.xz", base32::encode(&actual.0));
        let claim = |hash| NarClaim {
            file_hash: Some(Sha256(hash)),
            file_size: Some(b"body".len() as u64 + 1),
            source: None,
        };
        for hash in [[1; 32], actual.0] {
            let expected = Expected::of(&path, Some(&claim(hash)));
            expected.check_length(4).unwrap();
            assert_eq!(expected.check(actual, 4).unwrap(), Proof::FileHash);
            assert!(expected.check(Sha256::of(b"other"), 5).is_err());
        }
        let unnamed = Expected::of("/nar/a.nar.zst", Some(&claim(actual.0)));
        assert!(unnamed.check_length(4).is_err() && unnamed.check(actual, 4).is_err());
    }
    #[test]
    fn a_length_alone_keeps_nothing_while_a_claim_may_say_more() {
        let (named, unnamed) = (format!("/nar/{}.nar.xz", "0".repeat(52)), "/nar/a.nar.zst");
        let claim = NarClaim { file_hash: Some(Sha256([1; 32])), file_size: Some(4), source: None };
        for (path, claim, with_length, without) in [
            (unnamed, Ok(None), true, false),
            (unnamed, Ok(Some(claim)), true, true),
            (unnamed, Err(ClaimUnknown), false, false),
            (&*named, Err(ClaimUnknown), true, true),
        ] {
            let expected = Expected::as_known(path, claim);
            assert_eq!(expected.is_provable(Some(4)), with_length, "{path} {expected:?}");
            assert_eq!(expected.is_provable(None), without, "{path} {expected:?}");
        }
    }
}
