//! Which length and hash a body must turn out to have before it is kept. Pure; called by the
//! leaders of fills.

use crate::cache::ClaimUnknown;
use crate::fill::error::Rejection;
use crate::nix::nar_file::{NarContents, NarVerdict};
use crate::nix::{Class, class};
use crate::object::{Meta, NarClaim, Proof, Sha256};
use crate::policy;

/// What is known of a body before it comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::fill) struct ExpectedBody {
    /// SHA-256 of the file.
    pub(in crate::fill) file_hash: Option<[u8; 32]>,
    /// Another SHA-256 that proves it as well: what its name says beside a narinfo that says
    /// something else. NAR URLs are opaque, so such a name need not be a hash of the file; and
    /// clients do not look at `FileHash`, so one that is wrong must not make a path unusable.
    hash_by_name: Option<[u8; 32]>,
    /// Bytes of the file.
    pub(in crate::fill) file_size: Option<u64>,
    /// Whether a narinfo may say more that cannot be read now.
    pub(in crate::fill) is_unsure: bool,
    /// Whether its framing alone shows that it is whole.
    pub(in crate::fill) is_framed: bool,
    /// What a narinfo says of the NAR in it.
    pub(in crate::fill) contents: Option<NarContents>,
}

impl ExpectedBody {
    /// What the path itself and the narinfo that names it say.
    pub(in crate::fill) fn of(path: &str, claim: Option<&NarClaim>) -> Self {
        let claimed = claim.and_then(|claim| claim.file_hash).map(|hash| hash.0);
        let named = class::file_hash_of(path);
        Self {
            file_hash: claimed.or(named),
            hash_by_name: named,
            file_size: claim.and_then(|claim| claim.file_size),
            is_unsure: false,
            is_framed: false,
            contents: claim.and_then(|claim| claim.contents),
        }
    }

    /// A body under a content coding, which says nothing of a NAR behind it.
    pub(in crate::fill) fn coded(class: Class) -> Self {
        Self { is_unsure: class == Class::Nar, ..Self::default() }
    }

    /// A body of which nothing is known but that its framing shows its end.
    pub(in crate::fill) fn framed() -> Self {
        Self { is_framed: true, ..Self::default() }
    }

    /// What the path itself says, and the narinfo that names it, as far as that is known.
    pub(in crate::fill) fn as_known(
        path: &str,
        claim: Result<Option<NarClaim>, ClaimUnknown>,
    ) -> Self {
        let is_unsure = claim.is_err();
        Self { is_unsure, ..Self::of(path, claim.ok().flatten().as_ref()) }
    }

    /// Whether a body of this length, if that is known, can be proven well enough to be kept: by a
    /// hash, or by its length, if no narinfo may say more, or by its framing.
    pub(in crate::fill) fn is_provable(&self, length: Option<u64>) -> bool {
        self.has_hash() || self.is_framed || (length.is_some() && !self.is_unsure)
    }

    /// Whether a hash proves it: of the file, or of the NAR in it.
    pub(in crate::fill) fn has_hash(&self) -> bool {
        self.file_hash.is_some() || self.contents.is_some()
    }

    /// What it must hold, if nothing else proves it.
    pub(in crate::fill) fn needs_contents(&self) -> Option<NarContents> {
        self.contents.filter(|_| self.file_hash.is_none())
    }

    /// The one SHA-256 that a body must have; none if there is no such, or more than one.
    pub(in crate::fill) fn must_be(&self) -> Option<Sha256> {
        let is_one = self.hash_by_name.is_none() || self.hash_by_name == self.file_hash;
        self.file_hash.filter(|_| is_one).map(Sha256)
    }

    /// Whether a file with this SHA-256 is the one that its name or a narinfo says.
    pub(in crate::fill) fn is_file(&self, sha256: Sha256) -> bool {
        [self.file_hash, self.hash_by_name].contains(&Some(sha256.0))
    }

    /// The length that the body must have, if that is known: no `FileSize` counts beside a name
    /// that proves the body.
    pub(in crate::fill) fn length(&self) -> Option<u64> {
        self.file_size.filter(|_| self.file_hash.is_some() && self.hash_by_name.is_none())
    }

    /// Whether `length`, as declared or as counted, can be right. If the name proves the body,
    /// no `FileSize` speaks against it: clients do not look at that either.
    pub(in crate::fill) fn check_length(&self, length: u64) -> Result<(), Rejection> {
        match self.file_size {
            Some(expected) if expected != length && self.hash_by_name.is_none() => {
                Err(Rejection::FileSize { expected, actual: length })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a whole body with this SHA-256 and length is the right one; by what its contents
    /// turned out to be, if they were looked at. A `FileHash` that is wrong beside right contents
    /// does not count: Nix does not look at it.
    pub(in crate::fill) fn check(
        &self,
        actual: Sha256,
        length: u64,
        contents: Option<NarVerdict>,
    ) -> Result<Proof, Rejection> {
        self.check_length(length)?;
        if self.is_file(actual) {
            return Ok(Proof::FileHash);
        }
        match (self.file_hash, contents) {
            (_, Some(NarVerdict::Right)) => Ok(Proof::FileHash),
            (Some(expected), _) => Err(Rejection::FileHash { expected: Sha256(expected), actual }),
            (None, Some(NarVerdict::Wrong(error))) => Err(Rejection::Contents { error }),
            (None, Some(NarVerdict::Unreadable) | None) => Ok(Proof::Length),
        }
    }
}

/// What is proven stays fresh for longer.
pub(in crate::fill) fn better_lifetime(meta: &mut Meta) {
    if let Some(better) = policy::response::lifetime_when_proven(meta.class, meta.proof) {
        meta.lifetime = better;
    }
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
            contents: None,
        };
        for hash in [[1; 32], actual.0] {
            let expected = ExpectedBody::of(&path, Some(&claim(hash)));
            expected.check_length(4).unwrap();
            assert_eq!(expected.check(actual, 4, None).unwrap(), Proof::FileHash);
            assert!(expected.check(Sha256::of(b"other"), 5, None).is_err());
        }
        let unnamed = ExpectedBody::of("/nar/a.nar.zst", Some(&claim(actual.0)));
        assert!(unnamed.check_length(4).is_err() && unnamed.check(actual, 4, None).is_err());
    }
    #[test]
    fn a_length_alone_keeps_nothing_while_a_claim_may_say_more() {
        let (named, unnamed) = (format!("/nar/{}.nar.xz", "0".repeat(52)), "/nar/a.nar.zst");
        let claim = NarClaim {
            file_hash: Some(Sha256([1; 32])),
            file_size: Some(4),
            source: None,
            contents: None,
        };
        for (path, claim, with_length, without) in [
            (unnamed, Ok(None), true, false),
            (unnamed, Ok(Some(claim)), true, true),
            (unnamed, Err(ClaimUnknown), false, false),
            (&*named, Err(ClaimUnknown), true, true),
        ] {
            let expected = ExpectedBody::as_known(path, claim);
            assert_eq!(expected.is_provable(Some(4)), with_length, "{path} {expected:?}");
            assert_eq!(expected.is_provable(None), without, "{path} {expected:?}");
        }
    }
}
