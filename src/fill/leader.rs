//! The leader of a fill: asks, decides, writes, verifies, publishes. One task per fill; owns its
//! response and its pending object, so that its end, however it comes, leaves no trace of what
//! was not published. Locks nothing across an await.

use super::flight::{Flight, How, Landed};
use super::passing::{Checked, Passing};
use super::pieces::{Begin, Pieces, Ranges};
use super::relay::Kept;
use super::steady::{self, Question, Source, Steady};
use super::trail::Trail;
use super::trusted::sourced;
use super::verify::{self, Expected};
use super::{Admitted, Before, FillError, Keep, Landing, Rejection, Shared, Wanted, relay};
use crate::cache::{CachedObject, ClaimOf, PublishError, SMALL_BYTES_MAX};
use crate::memory::Hot;
use crate::nix::Class;
use crate::object::{Meta, Proof, Sha256};
use crate::origin::{Ask, FetchError, Method, OriginAnswer, Response};
use crate::policy;
use crate::policy::response::{Coding, Times};
use crate::store::{ObjectWriter, Withhold};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::sync::Arc;

/// The longest body that is checked whole in memory, in bytes.
const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// Tries of one fill: the first, and one refetch of a body that was not what was promised.
pub(super) const TRIES_MAX: u32 = 2;

struct Fill<'a> {
    shared: &'a Arc<Shared>,
    flight: &'a Flight,
    wanted: &'a Wanted,
    keep: Keep,
}

/// Runs the fill of `landing` to its end; the origins in `avoid` are asked last.
pub(super) async fn lead(landing: &Landing, wanted: Wanted, before: Before, avoid: Vec<usize>) {
    let fill = Fill {
        shared: &landing.shared,
        flight: &landing.flight,
        wanted: &wanted,
        keep: Keep::IfVerified,
    };
    fill.run(before, avoid).await;
}

/// Fetches for one reader alone; the result is told to `flight`, which nobody else knows.
pub(super) async fn pass(
    shared: &Arc<Shared>,
    flight: &Flight,
    wanted: &Wanted,
    avoid: Vec<usize>,
) {
    let fill = Fill { shared, flight, wanted, keep: Keep::Never };
    fill.run(Before::Stale(None), avoid).await;
}

impl Fill<'_> {
    async fn run(&self, before: Before, avoid: Vec<usize>) {
        let class = self.wanted.class;
        let result = self.try_and_retry(before, avoid).await.unwrap_or_else(|error| {
            let result = if error.rejected().is_some() {
                // That is logged with all that is known of it.
                "rejected"
            } else {
                error.log(&self.wanted.key)
            };
            self.flight.land(Landed::Failed(Arc::new(error)));
            result
        });
        self.shared.metrics.fills.with_label_values(&[class.as_str(), result]).inc();
    }

    /// Fetches, and once more where the body was not what was promised: from another origin, if
    /// there is one. A body that was asked for in vain after it broke off is not fetched again.
    async fn try_and_retry(
        &self,
        before: Before,
        mut avoid: Vec<usize>,
    ) -> Result<&'static str, FillError> {
        let key = &self.wanted.key;
        let (mut stale, mut given) = match before {
            Before::Stale(stale) => (self.shared.cache.unpurged(stale), None),
            Before::Given(given, _) => (None, Some(*given)),
        };
        let basis = self.shared.wrong.basis(self.flight.ticket, key, &self.shared.cache);
        let (mut tries, mut wrong, mut sources) = (0, 0, Vec::new());
        loop {
            tries += 1;
            let trail = Trail::default();
            let ask = sourced(&self.shared.cache, self.wanted, self.wanted.ask(Method::Get)).await;
            let ask = Ask { avoid: avoid.clone(), ..ask };
            let answered = match given.take() {
                Some(response) => self.found(ask, response, &trail).await,
                None => self.try_once(stale.take(), ask, &trail).await,
            };
            let error = match answered {
                Ok(result) => {
                    if matches!(result, "stored" | "not_stored" | "confirmed") {
                        self.shared.wrong.right(key, &trail.positions());
                    }
                    return Ok(result);
                }
                Err(error) => error,
            };
            if let Some((origin, rejection)) = error.rejected() {
                trail.reject(&self.shared.metrics, key, origin, rejection);
                if rejection.is_lasting() {
                    wrong += 1;
                    sources.extend(trail.positions());
                }
            }
            let may_retry = matches!(error, FillError::Rejected { .. } | FillError::Body(_));
            if tries >= self.tries_max() || !may_retry {
                self.shared.note_wrong(key, basis, sources, wrong);
                return Err(error);
            }
            tracing::info!(site = key.site(), path = key.path(), "fetching once more");
            avoid.extend(trail.positions());
            self.flight.silence();
        }
    }

    /// What is checked whole may be asked of each origin in turn: one whose narinfo fails the
    /// check has failed, and the next is asked. A large body is not downloaded so often.
    fn tries_max(&self) -> u32 {
        let origins = u32::try_from(self.wanted.upstream.origins.len()).unwrap_or(u32::MAX);
        let is_small = verify::is_checked_whole(self.wanted.class);
        if is_small { TRIES_MAX.max(origins) } else { TRIES_MAX }
    }

    async fn try_once(
        &self,
        stale: Option<CachedObject>,
        mut ask: Ask,
        trail: &Trail,
    ) -> Result<&'static str, FillError> {
        if let Some(conditions) =
            stale.as_ref().and_then(|stale| policy::revalidation::conditions(&stale.meta()))
        {
            ask.if_none_match = conditions.if_none_match;
            ask.if_modified_since = conditions.if_modified_since;
        }
        let answer = self.fetch(&ask).await?;
        match (answer, stale) {
            (OriginAnswer::Found(response), _) => self.found(ask, response, trail).await,
            (OriginAnswer::Absent { headers, origin, request_time, response_time }, _) => {
                let times = Times { request: request_time, response: response_time };
                Ok(self.absent(&headers, origin, times).await)
            }
            (
                OriginAnswer::NotModified { headers, origin, request_time, response_time },
                Some(stale),
            ) => {
                let times = Times { request: request_time, response: response_time };
                self.confirmed(stale, &headers, (origin, times), trail).await
            }
            (OriginAnswer::NotModified { origin, .. }, None) => {
                Err(self.protocol(origin, "304 to a request without conditions"))
            }
            (OriginAnswer::Changed, _) => {
                Err(self.protocol(0, "412 or 416 to a request for the whole object"))
            }
        }
    }

    async fn fetch(&self, ask: &Ask) -> Result<OriginAnswer<Response>, FillError> {
        let fetching = self.wanted.upstream.origins.fetch(ask);
        Ok(self.flight.readers.while_open(fetching).await??)
    }

    async fn confirmed(
        &self,
        stale: CachedObject,
        headers: &HeaderMap,
        (origin, times): (usize, Times),
        trail: &Trail,
    ) -> Result<&'static str, FillError> {
        let terms = self.wanted.terms();
        let merged = policy::revalidation::merge(&stale.meta(), headers, times, &terms);
        let Some(meta) = merged else {
            // The 304 speaks of another object than the stored one: ask without conditions.
            let ask = sourced(&self.shared.cache, self.wanted, self.wanted.ask(Method::Get)).await;
            return match self.fetch(&ask).await? {
                OriginAnswer::Found(response) => self.found(ask, response, trail).await,
                OriginAnswer::Absent { headers, origin, request_time, response_time } => {
                    let times = Times { request: request_time, response: response_time };
                    Ok(self.absent(&headers, origin, times).await)
                }
                OriginAnswer::NotModified { .. } | OriginAnswer::Changed => {
                    Err(self.protocol(origin, "304 to a request without conditions"))
                }
            };
        };
        let found = self.shared.cache.touch(self.flight.ticket, stale, meta).await;
        self.flight.land(Landed::Whole { found, how: How::Confirmed });
        Ok("confirmed")
    }

    async fn absent(&self, headers: &HeaderMap, origin: usize, times: Times) -> &'static str {
        let (meta, keep) = self.wanted.absence(headers, origin, times);
        let keep = if self.keep == Keep::Never { Keep::Never } else { keep };
        let meta = self.shared.absent(self.flight.ticket, meta, keep).await;
        self.flight.land(Landed::Absent(meta));
        "absent"
    }

    async fn found(
        &self,
        ask: Ask,
        mut response: Response,
        trail: &Trail,
    ) -> Result<&'static str, FillError> {
        let wanted = self.wanted;
        trail.add(response.origin, &response.origin_name);
        let Admitted { meta, keep, coding, upstream_status } = wanted.admit(&response)?;
        self.flight.set_upstream_status(upstream_status);
        let keep = if self.keep == Keep::Never { Keep::Never } else { keep };
        let expected = match coding {
            Coding::Identity => {
                let claim = self.shared.cache.claim_of_nar(&wanted.key, wanted.class).await;
                Expected::as_known(&wanted.path, claim)
            }
            Coding::Encoded if ask.prefer.is_some_and(|source| source != response.origin) => {
                // What nothing proves comes from where its narinfo came from, or not at all.
                let detail = "it comes under a Content-Encoding, and not from its narinfo's origin";
                return Err(rejected(&meta, Rejection::Head { detail: detail.to_owned() }));
            }
            Coding::Encoded => Expected::default(),
        };
        if let Some(length) = response.content_length {
            expected.check_length(length).map_err(|rejection| rejected(&meta, rejection))?;
        }
        // What the narinfo says is checked at the end like the hash; known from the start, it gives
        // readers a length and ranges, and tells whether the disk has room.
        response.content_length = response.content_length.or_else(|| expected.length());
        let is_small = response.content_length.is_some_and(|length| length < SMALL_BYTES_MAX);
        let checked = if expected.file_hash.is_some() {
            steady::Checked::ByHash
        } else {
            steady::Checked::ByLength
        };
        let source = Source {
            upstream: Arc::clone(&wanted.upstream),
            metrics: self.shared.metrics.clone(),
            key: wanted.key.clone(),
            question: Question::Object(ask),
            trail: trail.clone(),
        };
        let url = wanted.upstream.site.origins.get(response.origin).map(|origin| &origin.url);
        let ranges = match coding {
            Coding::Identity => Ranges::of(&response, url),
            Coding::Encoded => Ranges::Unknown,
        };
        let body = Steady::new(source, response, meta.headers.clone(), checked);
        if is_small || verify::is_checked_whole(wanted.class) {
            return self.whole(meta, body, (expected, trail), (keep, coding)).await;
        }
        let is_provable = expected.is_provable(body.total());
        let writer = if keep == Keep::IfVerified && is_provable {
            self.shared.cache.begin(&wanted.key, body.total(), Withhold::LastBytes).await
        } else {
            None
        };
        let Some(writer) = writer else {
            let (shared, flight) = (Arc::clone(self.shared), self.flight);
            let body = Checked::new(Arc::new(meta), body, expected, shared, flight.ticket);
            if keep == Keep::IfVerified && body.is_identified() {
                return Ok(
                    Box::pin(relay::share(body, flight, wanted.demand(), Kept::Stretch)).await
                );
            }
            flight.land_passing(Passing::checked(body));
            return Ok("passed");
        };
        let Shared { lots, tasks, .. } = &**self.shared;
        let begin = Begin { lots, asker: wanted.asker, tasks };
        let body = Pieces::new(body, ranges, &begin);
        Box::pin(self.stream(meta, body, expected, writer)).await
    }

    /// A body that no reader sees before all of it is here and checked.
    async fn whole(
        &self,
        mut meta: Meta,
        mut body: Steady,
        (expected, trail): (Expected, &Trail),
        (keep, coding): (Keep, Coding),
    ) -> Result<&'static str, FillError> {
        let mut collected = BytesMut::new();
        let readers = &self.flight.readers;
        while let Some(piece) = readers.while_open(body.chunk()).await?? {
            readers.came(piece.len() as u64);
            let actual = (collected.len() + piece.len()) as u64;
            if actual > WHOLE_BYTES_MAX {
                let rejection = Rejection::TooLarge { limit: WHOLE_BYTES_MAX, actual };
                return Err(rejected(&meta, rejection));
            }
            collected.extend_from_slice(&piece);
        }
        let collected = collected.freeze();
        let is_provable = expected.is_provable(body.total());
        let (proof, claim) = self.judge(&meta, (expected, trail), &collected, coding)?;
        let is_whole = is_provable || matches!(proof, Proof::SignedBy(_));
        meta.proof = proof;
        better_lifetime(&mut meta);
        if keep == Keep::IfVerified && is_whole {
            let ticket = self.flight.ticket;
            let kept =
                self.shared.cache.publish_small(ticket, meta.clone(), collected.clone(), claim);
            match kept.await {
                Ok(found) => {
                    self.flight.land(Landed::Whole { found, how: How::Stored });
                    return Ok("stored");
                }
                Err(error) => log_not_kept(&meta, &error),
            }
        }
        let found = CachedObject::Hot(Arc::new(Hot::new(&meta, &collected)));
        self.flight.land(Landed::Whole { found, how: How::NotStored });
        Ok("not_stored")
    }

    fn judge(
        &self,
        meta: &Meta,
        (expected, trail): (Expected, &Trail),
        body: &Bytes,
        coding: Coding,
    ) -> Result<(Proof, Option<ClaimOf>), FillError> {
        if meta.class == Class::CacheInfo && coding == Coding::Identity {
            verify::cache_info(body).map_err(|rejection| rejected(meta, rejection))?;
        }
        let judged = if meta.class == Class::Narinfo {
            verify::narinfo((&self.wanted.upstream, trail), &meta.key, body, coding)
        } else {
            expected.check(Sha256::of(body), body.len() as u64).map(|proof| (proof, None))
        };
        judged.map_err(|rejection| rejected(meta, rejection))
    }

    /// A body that readers follow while it is written. Judged when its last byte has come, shown
    /// to the end, and only then published: a disk that fails costs no reader anything.
    async fn stream(
        &self,
        mut meta: Meta,
        mut body: Pieces,
        expected: Expected,
        mut writer: ObjectWriter,
    ) -> Result<&'static str, FillError> {
        let (growing, must_be) = (writer.growing(), expected.must_be());
        self.flight.land(Landed::Streaming { meta: Arc::new(meta.clone()), growing, must_be });
        let (readers, mut received) = (&self.flight.readers, 0);
        while let Some(piece) = readers.while_open(body.chunk(&mut writer)).await?? {
            writer.append(piece).await?;
            readers.came(writer.received() - received);
            received = writer.received();
        }
        let ended = writer.end().await?;
        let judged = expected.check(ended.sha256, ended.length);
        meta.proof = judged.map_err(|rejection| rejected(&meta, rejection))?;
        better_lifetime(&mut meta);
        let Ok(proven) = ended.prove() else { return Ok("not_stored") };
        let published = self.shared.cache.publish(self.flight.ticket, proven, meta.clone());
        match published.await {
            Ok(_) => Ok("stored"),
            Err(error) => {
                log_not_kept(&meta, &error);
                Ok("not_stored")
            }
        }
    }

    fn protocol(&self, origin: usize, detail: &str) -> FillError {
        let origin = self.wanted.upstream.origins.name(origin);
        FillError::Fetch(FetchError::Protocol { origin, detail: detail.to_owned() })
    }
}

/// What is proven stays fresh for longer.
pub(super) fn better_lifetime(meta: &mut Meta) {
    if let Some(better) = policy::response::lifetime_when_proven(meta.class, meta.proof) {
        meta.lifetime = better;
    }
}

fn rejected(meta: &Meta, rejection: Rejection) -> FillError {
    FillError::Rejected { origin: Arc::clone(&meta.origin), rejection }
}

fn log_not_kept(meta: &Meta, error: &PublishError) {
    tracing::info!(site = meta.key.site(), path = meta.key.path(), %error, "not kept");
}
