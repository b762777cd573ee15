//! What came of a body that broke off, kept as a part: see [`salvage`]. Called by the leader of a
//! fill of a generic site.

use super::identity::PartIdentity;
use crate::cache::FenceEpoch;
use crate::fill::resources::Resources;
use crate::object::Meta;
use crate::store::{CHUNK_BYTES, Growing};
use http::StatusCode;

/// Bytes that are copied at a time of a body that broke off.
const SALVAGED_BYTES: u64 = 256 << 10;

/// Keeps the chunks of a body of so many bytes that broke off and that no origin continues now, if
/// its entity tag tells later what may continue it. Its readers wait meanwhile; the bytes are
/// copied within the page cache.
pub(in crate::fill) async fn salvage(
    resources: &Resources,
    ticket: FenceEpoch,
    meta: Meta,
    length: u64,
    growing: &Growing,
) {
    let come = growing.visible() - growing.visible() % CHUNK_BYTES;
    let is_tied = PartIdentity::new(&meta, length).ties_parts();
    let is_read_in_part = resources.keys_in_part.lock().contains(&meta.key);
    let may_be_part = meta.status == StatusCode::OK && meta.variant.is_empty();
    if come == 0 || !is_tied || is_read_in_part || !may_be_part {
        return;
    }
    let (site, path) = (meta.key.site().to_owned(), meta.key.path().to_owned());
    let Some(part) = resources.cache.begin_part(meta, length).await else { return };
    let Some(mut run) = part.claim(0, come) else { return };
    while run.received() < come {
        let at = run.received();
        let left = (CHUNK_BYTES - at % CHUNK_BYTES).min(SALVAGED_BYTES);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let Ok(bytes) = growing.read(at, left).await else { break };
        if bytes.is_empty() || run.append(bytes).await.is_err() {
            break;
        }
    }
    let finished = run.finish().await;
    drop(run);
    match (finished, resources.cache.keep_part(ticket, &part).await) {
        (Ok(()), Ok(())) => tracing::info!(site, path, come, length, "partial body stored"),
        (Err(error), _) => tracing::debug!(site, path, %error, "partial body not stored"),
        (_, Err(error)) => tracing::debug!(site, path, %error, "partial body not stored"),
    }
}
