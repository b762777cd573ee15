//! Whether a body of a binary cache that is read whole is what it must be: a narinfo that parses
//! and is signed, a `nix-cache-info`. Pure; called by the leader of a fill.

use crate::cache::ClaimOf;
use crate::config::Signatures;
use crate::fill::body_origins::BodyOrigins;
use crate::fill::error::Rejection;
use crate::fill::site_origins::SiteOrigins;
use crate::nix::cache_info::CacheInfo;
use crate::nix::class;
use crate::nix::content_address::ContentAddressError;
use crate::nix::narinfo::NarInfo;
use crate::object::{Key, NarClaim, Proof, Sha256};
use crate::policy::response::Coding;

/// Checks a narinfo: that it parses, answers the path it was asked for, and is signed as is wanted
/// of the origins in `body_origins`. Gives what it proves and what it claims of its
/// NAR.
pub(in crate::fill) fn narinfo(
    upstream: &SiteOrigins,
    body_origins: &BodyOrigins,
    key: &Key,
    body: &[u8],
    coding: Coding,
) -> Result<(Proof, Option<ClaimOf>), Rejection> {
    let positions = body_origins.positions();
    let signatures = upstream.trusted.signatures(&positions);
    let wants_signature = signatures == Signatures::Require;
    if coding == Coding::Encoded {
        // What cannot be read cannot be checked; if no check is asked for, it passes untouched.
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
    let source = positions.first().and_then(|position| upstream.trusted.source(*position));
    let parsed = source.map_or(Proof::Parsed, Proof::ParsedFrom);
    let proof = match signatures {
        Signatures::Off => parsed,
        Signatures::Require | Signatures::Warn => {
            match (vouched(upstream, &positions, &narinfo), wants_signature) {
                (Ok(proof), _) => proof,
                (Err(rejection), true) => return Err(rejection),
                (Err(rejection), false) => {
                    let error = rejection.to_string();
                    tracing::warn!(path = key.path(), error, "narinfo without a good signature");
                    parsed
                }
            }
        }
    };
    Ok((proof, claim_of(key, &narinfo, source)))
}

/// What vouches for a narinfo of the origins at `positions`: a key that is trusted for each of
/// them, or its content address. Nix too takes either of them, and one that is wrong spoils nothing
/// beside the other.
fn vouched(
    upstream: &SiteOrigins,
    positions: &[usize],
    narinfo: &NarInfo,
) -> Result<Proof, Rejection> {
    let unsigned = match upstream.trusted.verify(positions, narinfo) {
        Ok(mark) => return Ok(Proof::SignedBy(mark)),
        Err(error) => error,
    };
    match narinfo.check_content_address() {
        Ok(()) => Ok(Proof::ContentAddress),
        Err(ContentAddressError::Missing) => {
            Err(Rejection::Signature { detail: unsigned.to_string() })
        }
        Err(error) => Err(Rejection::ContentAddress { detail: format!("{error}; {unsigned}") }),
    }
}

/// Checks a `nix-cache-info`: a page with status 200 is an upstream fault.
pub(in crate::fill) fn cache_info(body: &[u8]) -> Result<(), Rejection> {
    let checked = CacheInfo::parse(body);
    checked.map(drop).map_err(|error| Rejection::CacheInfo { detail: error.to_string() })
}

fn claim_of(key: &Key, narinfo: &NarInfo, source: Option<u32>) -> Option<ClaimOf> {
    let location = narinfo.nar_location()?;
    let claim = NarClaim {
        file_hash: narinfo.file_sha256().map(Sha256),
        file_size: narinfo.file_bytes(),
        source,
        contents: Some(narinfo.contents()),
    };
    Some((Key::new(key.space(), &location.path, location.query.as_deref()), claim))
}
