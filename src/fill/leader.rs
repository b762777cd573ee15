//! The leader of a fill: asks, decides, writes, verifies, publishes. One task per fill; owns its
//! response and its pending object, so that its end, however it comes, leaves no trace of what
//! was not published. Locks nothing across an await.

use super::body_origins::BodyOrigins;
use super::checked_body::CheckedBody;
use super::error::{FillError, JoinError, Rejection};
use super::flight::{FillOutcome, Flight, FlightReader, Provenance};
use super::object_request::{AdmittedObject, Keep, ObjectRequest};
use super::parallel::{ParallelBody, ParallelStart, RangeSupport};
use super::pass_through::PassThroughBody;
use super::proof::{self, Advice, ExpectedBody, TRIES_MAX, better_lifetime};
use super::registry::{FillEpoch, FillRole, JoinRequest, LeadGuard, Registry};
use super::relay::WindowExtent;
use super::request::FillStart;
use super::resources::Resources;
use super::resumable_body::{self, BodyRequest, FetchedBody, ResumableBody};
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

struct ObjectFill<'a> {
    resources: &'a Arc<Resources>,
    flight: &'a Flight,
    request: &'a ObjectRequest,
    keep: Keep,
}

/// Joins the fill of `request`, or begins one, with what is here before: see `Fills::join`.
pub(super) fn join(
    registry: &Arc<Registry>,
    request: ObjectRequest,
    looked: Option<FillEpoch>,
    before: FillStart,
) -> Result<(FillRole, FlightReader), JoinError> {
    let (key, resources) = (request.key.clone(), &registry.resources);
    let advised = || match resources.rejected_bodies.advice(&key, &resources.cache) {
        Advice::Ask { avoid } => Ok(avoid),
        Advice::Refuse { seconds } => {
            resources.metrics.fills_spared.inc();
            Err(JoinError::Wrong { seconds })
        }
    };
    let (demand, ticket) = (Some(request.demand()), before.ticket());
    let wish = JoinRequest { key: &key, demand, looked, ticket };
    registry.join_or_begin(wish, advised, |avoid, landing| async move {
        lead(&landing, request, before, avoid).await;
    })
}

/// Runs the fill of `landing` to its end; the origins in `avoid` are asked last.
async fn lead(landing: &LeadGuard, request: ObjectRequest, before: FillStart, avoid: Vec<usize>) {
    let fill = ObjectFill {
        resources: landing.resources(),
        flight: &landing.flight,
        request: &request,
        keep: Keep::IfVerified,
    };
    fill.run(before, avoid).await;
}

/// Fetches for one reader alone, keeping nothing; the outcome is told by a flight that no other
/// request joins.
pub(super) async fn pass(resources: &Arc<Resources>, request: &ObjectRequest) -> Flight {
    let flight = Flight::new(resources.cache.ticket());
    let avoid = resources.avoided(&request.key);
    let fill = ObjectFill { resources, flight: &flight, request, keep: Keep::Never };
    Box::pin(fill.run(FillStart::Stale(None), avoid)).await;
    flight
}

impl ObjectFill<'_> {
    async fn run(&self, before: FillStart, avoid: Vec<usize>) {
        let class = self.request.class;
        let result = self.try_and_retry(before, avoid).await.unwrap_or_else(|error| {
            let result = if error.rejected().is_some() {
                // That is logged with all that is known of it.
                "rejected"
            } else {
                error.log(&self.request.key)
            };
            self.flight.announce(FillOutcome::Failed(Arc::new(error)));
            result
        });
        self.resources.metrics.fills.with_label_values(&[class.as_str(), result]).inc();
    }

    /// Fetches, and once more if the body was not what was promised: from another origin, if there
    /// is one. A body that broke off and that no origin continued is not fetched again.
    async fn try_and_retry(
        &self,
        before: FillStart,
        mut avoid: Vec<usize>,
    ) -> Result<&'static str, FillError> {
        let key = &self.request.key;
        let (mut stale, mut given) = match before {
            FillStart::Stale(stale) => (self.resources.cache.unpurged(stale), None),
            FillStart::Given(given, _) => (None, Some(*given)),
        };
        let basis =
            self.resources.rejected_bodies.basis(self.flight.ticket, key, &self.resources.cache);
        let (mut tries, mut rejected, mut sources) = (0, 0, Vec::new());
        loop {
            tries += 1;
            let body_origins = BodyOrigins::default();
            let ask =
                self.request.sourced(&self.resources.cache, self.request.ask(Method::Get)).await;
            let ask = Ask { avoid: avoid.clone(), ..ask };
            let answered = match given.take() {
                Some(response) => self.found(ask, response, &body_origins).await,
                None => self.try_once(stale.take(), ask, &body_origins).await,
            };
            let error = match answered {
                Ok(result) => {
                    if matches!(result, "stored" | "not_stored" | "confirmed") {
                        self.resources.rejected_bodies.right(key, &body_origins.positions());
                    }
                    return Ok(result);
                }
                Err(error) => error,
            };
            if let Some((origin, rejection)) = error.rejected() {
                body_origins.reject(&self.resources.metrics, key, origin, rejection);
                if rejection.is_lasting() {
                    rejected += 1;
                    sources.extend(body_origins.positions());
                }
            }
            let may_retry = matches!(error, FillError::Rejected { .. } | FillError::Body(_));
            if tries >= self.tries_max() || !may_retry {
                self.resources.note_rejected(key, basis, sources, rejected);
                return Err(error);
            }
            tracing::info!(site = key.site(), path = key.path(), "refetching after a failed body");
            avoid.extend(body_origins.positions());
            self.flight.retract();
        }
    }

    /// A body that is checked whole may be asked of each origin in turn: if the narinfo of one
    /// fails the check, the next is asked. A large body is not downloaded so often.
    fn tries_max(&self) -> u32 {
        let origins = u32::try_from(self.request.upstream.origins.len()).unwrap_or(u32::MAX);
        let is_small = proof::is_checked_whole(self.request.class);
        if is_small { TRIES_MAX.max(origins) } else { TRIES_MAX }
    }

    async fn try_once(
        &self,
        stale: Option<CachedObject>,
        mut ask: Ask,
        body_origins: &BodyOrigins,
    ) -> Result<&'static str, FillError> {
        if let Some(conditions) =
            stale.as_ref().and_then(|stale| policy::revalidation::conditions(&stale.meta()))
        {
            ask.if_none_match = conditions.if_none_match;
            ask.if_modified_since = conditions.if_modified_since;
        }
        let answer = self.fetch(&ask).await?;
        match (answer, stale) {
            (OriginAnswer::Found(response), _) => self.found(ask, response, body_origins).await,
            (OriginAnswer::Absent { headers, origin, request_time, response_time }, _) => {
                let times = Times { request: request_time, response: response_time };
                Ok(self.absent(&headers, origin, times).await)
            }
            (
                OriginAnswer::NotModified { headers, origin, request_time, response_time },
                Some(stale),
            ) => {
                let times = Times { request: request_time, response: response_time };
                self.confirmed(stale, &headers, (origin, times), body_origins).await
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
        let fetching = self.request.upstream.origins.fetch(ask);
        Ok(self.flight.readers.while_open(fetching).await??)
    }

    async fn confirmed(
        &self,
        stale: CachedObject,
        headers: &HeaderMap,
        (origin, times): (usize, Times),
        body_origins: &BodyOrigins,
    ) -> Result<&'static str, FillError> {
        let terms = self.request.terms();
        let merged = policy::revalidation::merge(&stale.meta(), headers, times, &terms);
        let Some(meta) = merged else {
            // The 304 speaks of another object than the stored one: ask without conditions.
            let ask =
                self.request.sourced(&self.resources.cache, self.request.ask(Method::Get)).await;
            return match self.fetch(&ask).await? {
                OriginAnswer::Found(response) => self.found(ask, response, body_origins).await,
                OriginAnswer::Absent { headers, origin, request_time, response_time } => {
                    let times = Times { request: request_time, response: response_time };
                    Ok(self.absent(&headers, origin, times).await)
                }
                OriginAnswer::NotModified { .. } | OriginAnswer::Changed => {
                    Err(self.protocol(origin, "304 to a request without conditions"))
                }
            };
        };
        let found = self.resources.cache.touch(self.flight.ticket, stale, meta).await;
        self.flight.announce(FillOutcome::Whole { found, provenance: Provenance::Confirmed });
        Ok("confirmed")
    }

    async fn absent(&self, headers: &HeaderMap, origin: usize, times: Times) -> &'static str {
        let (meta, keep) = self.request.absence(headers, origin, times);
        let keep = if self.keep == Keep::Never { Keep::Never } else { keep };
        let meta = self.resources.absent(self.flight.ticket, meta, keep).await;
        self.flight.announce(FillOutcome::Absent(meta));
        "absent"
    }

    async fn found(
        &self,
        ask: Ask,
        mut response: Response,
        body_origins: &BodyOrigins,
    ) -> Result<&'static str, FillError> {
        let request = self.request;
        body_origins.add(response.origin, &response.origin_name);
        let AdmittedObject { meta, keep, coding, upstream_status } = request.admit(&response)?;
        self.flight.set_upstream_status(upstream_status);
        let keep = if self.keep == Keep::Never { Keep::Never } else { keep };
        let expected = match coding {
            Coding::Identity => {
                let claim = self.resources.cache.claim_of_nar(&request.key, request.class).await;
                ExpectedBody::as_known(&request.path, claim)
            }
            Coding::Encoded if ask.prefer.is_some_and(|source| source != response.origin) => {
                // A body without proof comes from the origin of its narinfo, or not at all.
                let detail = "it comes under a Content-Encoding, and not from its narinfo's origin";
                return Err(rejected(&meta, Rejection::Head { detail: detail.to_owned() }));
            }
            Coding::Encoded => ExpectedBody::default(),
        };
        if let Some(length) = response.content_length {
            expected.check_length(length).map_err(|rejection| rejected(&meta, rejection))?;
        }
        // What the narinfo says is checked at the end like the hash; known from the start, it gives
        // readers a length and ranges, and tells whether the disk has room.
        response.content_length = response.content_length.or_else(|| expected.length());
        let is_small = response.content_length.is_some_and(|length| length < SMALL_BYTES_MAX);
        let checked = resumable_body::BodyCheck::of(&expected);
        let source = FetchedBody {
            upstream: Arc::clone(&request.upstream),
            metrics: self.resources.metrics.clone(),
            key: request.key.clone(),
            request: BodyRequest::Object(ask),
            body_origins: body_origins.clone(),
        };
        let url = request.upstream.site.origins.get(response.origin).map(|origin| &origin.url);
        let ranges = match coding {
            Coding::Identity => RangeSupport::of(&response, url),
            Coding::Encoded => RangeSupport::Unknown,
        };
        let body = ResumableBody::new(source, response, meta.headers.clone(), checked);
        if is_small || proof::is_checked_whole(request.class) {
            return self.whole(meta, body, (expected, body_origins), (keep, coding)).await;
        }
        let is_provable = expected.is_provable(body.total());
        let writer = if keep == Keep::IfVerified && is_provable {
            self.resources.cache.begin(&request.key, body.total(), Withhold::LastBytes).await
        } else {
            None
        };
        let Some(writer) = writer else {
            let (resources, flight) = (Arc::clone(self.resources), self.flight);
            let body = CheckedBody::new(Arc::new(meta), body, expected, resources, flight.ticket);
            if keep == Keep::IfVerified && body.is_identified() {
                let sharing = flight.share(body, request.demand(), WindowExtent::Stretch);
                return Ok(Box::pin(sharing).await);
            }
            flight.announce_pass_through(PassThroughBody::checked(body));
            return Ok("passed");
        };
        let Resources { limits, tasks, .. } = &**self.resources;
        let begin = ParallelStart { limits, asker: request.asker, tasks };
        let body = ParallelBody::new(body, ranges, &begin);
        Box::pin(self.stream(meta, body, expected, writer)).await
    }

    /// A body that no reader sees before all of it is here and checked.
    async fn whole(
        &self,
        mut meta: Meta,
        mut body: ResumableBody,
        (expected, body_origins): (ExpectedBody, &BodyOrigins),
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
        let (proof, claim) = self.judge(&meta, (expected, body_origins), &collected, coding)?;
        let is_whole = is_provable || matches!(proof, Proof::SignedBy(_));
        meta.proof = proof;
        better_lifetime(&mut meta);
        if keep == Keep::IfVerified && is_whole {
            let ticket = self.flight.ticket;
            let kept =
                self.resources.cache.publish_small(ticket, meta.clone(), collected.clone(), claim);
            match kept.await {
                Ok(found) => {
                    self.flight
                        .announce(FillOutcome::Whole { found, provenance: Provenance::Stored });
                    return Ok("stored");
                }
                Err(error) => log_not_kept(&meta, &error),
            }
        }
        let found = CachedObject::Hot(Arc::new(Hot::new(&meta, &collected)));
        self.flight.announce(FillOutcome::Whole { found, provenance: Provenance::NotStored });
        Ok("not_stored")
    }

    fn judge(
        &self,
        meta: &Meta,
        (expected, body_origins): (ExpectedBody, &BodyOrigins),
        body: &Bytes,
        coding: Coding,
    ) -> Result<(Proof, Option<ClaimOf>), FillError> {
        if meta.class == Class::CacheInfo && coding == Coding::Identity {
            proof::cache_info(body).map_err(|rejection| rejected(meta, rejection))?;
        }
        let judged = if meta.class == Class::Narinfo {
            proof::narinfo((&self.request.upstream, body_origins), &meta.key, body, coding)
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
        mut body: ParallelBody,
        expected: ExpectedBody,
        mut writer: ObjectWriter,
    ) -> Result<&'static str, FillError> {
        let (growing, must_be) = (writer.growing(), expected.must_be());
        self.flight.announce(FillOutcome::Streaming {
            meta: Arc::new(meta.clone()),
            growing,
            must_be,
        });
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
        let published = self.resources.cache.publish(self.flight.ticket, proven, meta.clone());
        match published.await {
            Ok(_) => Ok("stored"),
            Err(error) => {
                log_not_kept(&meta, &error);
                Ok("not_stored")
            }
        }
    }

    fn protocol(&self, origin: usize, detail: &str) -> FillError {
        let origin = self.request.upstream.origins.name(origin);
        FillError::Fetch(FetchError::Protocol { origin, detail: detail.to_owned() })
    }
}

fn rejected(meta: &Meta, rejection: Rejection) -> FillError {
    FillError::Rejected { origin: Arc::clone(&meta.origin), rejection }
}

fn log_not_kept(meta: &Meta, error: &PublishError) {
    tracing::info!(site = meta.key.site(), path = meta.key.path(), %error, "not kept");
}
