//! Whose signature counts on what came from which origin, and how what is stored is known by that
//! later. Made with the site, then only read.
//!
//! A narinfo is stored with a mark of the origin that it came from and of the key that has signed
//! it. It serves as long as that key is still trusted for that origin: a configuration that takes a
//! key away, or gives it to another origin, makes what it signed unknown, to be fetched and checked
//! anew; one that adds keys or moves origins about costs nothing. The claim of its NAR carries the
//! mark of the origin alone.

use crate::cache::Cache;
use crate::config::{self, AskOrder};
use crate::fill::Wanted;
use crate::fill::verify::Expected;
use crate::nix::Class;
use crate::nix::narinfo::NarInfo;
use crate::nix::signature::{KeyError, PublicKey, SignatureError, TrustedKeys};
use crate::origin::Ask;

/// The trusted keys of a site's origins.
#[derive(Debug)]
pub struct Trusted(Vec<OfOrigin>);

#[derive(Debug)]
struct OfOrigin {
    keys: TrustedKeys,
    /// One for each key.
    marks: Vec<u32>,
    source: u32,
}

impl Trusted {
    /// Those of `site`.
    pub fn of(site: &config::Site) -> Result<Self, KeyError> {
        let of_origin = |origin: &config::Origin| {
            let keys = origin.trusted_public_keys.iter();
            let marks = keys.clone().map(|key| origin.trust_mark(key)).collect();
            let keys = keys.map(|key| PublicKey::parse(key)).collect::<Result<Vec<_>, _>>()?;
            Ok(OfOrigin { keys: TrustedKeys::new(keys), marks, source: origin.source_mark() })
        };
        Ok(Self(site.origins.iter().map(of_origin).collect::<Result<_, _>>()?))
    }

    /// Whether what is stored with `mark` is signed by a key that is trusted now for the origin
    /// that it came from.
    pub fn accepts(&self, mark: u32) -> bool {
        self.0.iter().any(|origin| origin.marks.contains(&mark))
    }

    /// The mark of the first of the origins at `positions` and of its key that has signed
    /// `narinfo`, whose bytes these origins gave: a key of each must have signed it.
    pub(super) fn verify(
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
    pub(super) fn source(&self, position: usize) -> Option<u32> {
        self.0.get(position).map(|origin| origin.source)
    }

    fn position(&self, source: u32) -> Option<usize> {
        self.0.iter().position(|origin| origin.source == source)
    }
}

/// `ask`, a question for `wanted`, put to the origin that the narinfo of a NAR came from: to it
/// first where the file's hash is known, which proves what any origin sends; to it alone where it
/// is not, since another origin may have another file by that name. A site whose rules never ask
/// that origin for the file wants it from others.
pub(super) async fn sourced(cache: &Cache, wanted: &Wanted, ask: Ask) -> Ask {
    let origins = &wanted.upstream.site.origins;
    if wanted.class != Class::Nar || origins.len() < 2 {
        return ask;
    }
    let Ok(Some(claim)) = cache.claim(&wanted.key).await else { return ask };
    let position = claim.source.and_then(|source| wanted.upstream.trusted.position(source));
    let Some(position) = position else { return ask };
    let turns = origins.get(position).map(|origin| &origin.turns);
    let is_asked =
        turns.is_some_and(|turns| turns.turn(wanted.class, &wanted.path) != AskOrder::Never);
    let is_proven = Expected::of(&wanted.path, Some(&claim)).file_hash.is_some();
    if is_proven || !is_asked {
        return Ask { prefer: Some(position), ..ask };
    }
    Ask { only: Some(position), ..ask }
}
