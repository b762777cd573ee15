//! The leader of a fill: asks, decides, writes, verifies, publishes. One task per fill; owns its
//! response and its pending object, so that its end, however it comes, leaves no trace of what
//! was not published. Locks nothing across an await. Called through `Fills`, and for ranges that
//! turn out to need the whole.
//!
//! The rules of the site decide whether an answer is stored. If it may be stored and no disk takes
//! it, its readers share it in memory (see `relay`). If it may not be stored, it passes to one
//! reader, and the others ask for themselves. On a generic site, no request waits for another
//! answer of that object for a while then (hit for miss).

use super::body_origins::BodyOrigins;
use super::checked_body::CheckedBody;
use super::contents_check::ContentsCheck;
use super::doubt::doubt_narinfo;
use super::error::{FillError, JoinError, Rejection};
use super::fetched_body::{BodyCheck, FetchedBody};
use super::flight::{EndOnDrop, FillOutcome, Flight, FlightReader, Provenance};
use super::memory_window::WindowExtent;
use super::parallel::{ParallelBody, ParallelStart, RangeSupport};
use super::pass_through::PassThroughBody;
use super::proof::{self, Advice, ExpectedBody, TRIES_MAX, better_lifetime};
use super::ranges::salvage;
use super::registry::{FillEpoch, FillRole, JoinRequest, LeadGuard, Registry};
use super::request::{FillRequest, FillStart, OriginChoice, OriginQuestion};
use super::resources::{Resources, RunningCount};
use super::resumable_body::ResumableBody;
use super::rules::{AdmittedAnswer, BodyRemains, Keep, UnstoredBody, unstored_head};
use super::small_body::SmallBody;
use crate::cache::{
    CachedObject, ClaimOf, FenceEpoch, PublishError, Purging, SMALL_BYTES_MAX, Scope,
};
use crate::memory::Hot;
use crate::nix::Class;
use crate::nix::nar_file::NarVerdict;
use crate::object::{Meta, Proof, Sha256};
use crate::origin::{FetchError, OriginAnswer, Response};
use crate::policy::response::{Coding, Times};
use crate::policy::revalidation::{self, Conditions};
use crate::policy::rules::{AfterPass, AnswerHead, ConfirmationVerdict, ConfirmedHead};
use crate::rfc::Validators;
use crate::store::{EndedObject, ObjectWriter};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use std::sync::Arc;

/// The longest body that is checked whole in memory, in bytes.
const WHOLE_BYTES_MAX: u64 = 1 << 20;

struct Fill<'a> {
    resources: &'a Arc<Resources>,
    flight: &'a Flight,
    request: &'a FillRequest,
    keep: Keep,
}

/// A body that has begun to come, and what is known of it.
struct BegunBody<'a> {
    meta: Meta,
    response: Response,
    coding: Coding,
    keep: Keep,
    expected: ExpectedBody,
    choice: &'a OriginChoice,
    body_origins: &'a BodyOrigins,
    shown: BodyShown,
}

/// When readers get a body that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyShown {
    /// While it comes, but for what is withheld.
    AsItComes,
    /// When it is proven: its length is not the one that its narinfo says.
    Proven,
}

/// Joins the fill of `request`, or begins one, with what is here before: see `Fills::join`.
pub(super) fn join(
    registry: &Arc<Registry>,
    request: FillRequest,
    looked: Option<FillEpoch>,
    start: FillStart,
) -> Result<(FillRole, FlightReader), JoinError> {
    let (key, resources) = (request.key.clone(), &registry.resources);
    if resources.hit_for_miss.holds(&key, resources.clock.now(), &resources.cache) {
        return Ok((FillRole::Lead, begin_alone(resources, request, start)?));
    }
    let advised = || match resources.rejected_bodies.advice(&key, &resources.cache) {
        Advice::Ask { avoid } => Ok(avoid),
        Advice::Refuse { seconds } => {
            resources.metrics.fills_spared.inc();
            Err(JoinError::Wrong { seconds })
        }
    };
    let (demand, ticket) = (Some(request.demand()), start.ticket());
    let wish = JoinRequest { key: &key, demand, looked, ticket };
    registry.join_or_begin(wish, advised, |avoid, landing: LeadGuard| async move {
        let (resources, flight) = (landing.resources(), &landing.flight);
        let fill = Fill { resources, flight, request: &request, keep: Keep::IfVerified };
        Box::pin(fill.run(start, avoid)).await;
    })
}

/// Begins a fill that no other request joins.
pub(super) fn begin_alone(
    resources: &Arc<Resources>,
    request: FillRequest,
    start: FillStart,
) -> Result<FlightReader, JoinError> {
    let reader = FlightReader::first(start.ticket().unwrap_or_else(|| resources.cache.ticket()));
    let flight = Arc::clone(&reader.flight);
    let demand = request.demand();
    let place = resources.places.admit(&demand, &flight.readers).ok_or(JoinError::NoRoom)?;
    let for_task = Arc::clone(resources);
    resources.tasks.spawn("fill", async move {
        let resources = &for_task;
        let _running = RunningCount::begin(&resources.metrics);
        let EndOnDrop(flight) = &EndOnDrop(flight);
        let avoid = resources.avoided(&request.key);
        let fill = Fill { resources, flight, request: &request, keep: Keep::IfVerified };
        place.hold(&demand, &flight.readers, Box::pin(fill.run(start, avoid))).await;
    });
    Ok(reader)
}

/// Fetches for one reader alone, keeping nothing; the outcome is told by a flight that no other
/// request joins.
pub(super) async fn pass(resources: &Arc<Resources>, request: &FillRequest) -> Flight {
    let flight = Flight::new(resources.cache.ticket());
    let avoid = resources.avoided(&request.key);
    let fill = Fill { resources, flight: &flight, request, keep: Keep::Never };
    Box::pin(fill.run(FillStart::Stale(None), avoid)).await;
    flight
}

/// Keeps the small answer to a write: see `Fills::keep`.
pub(super) async fn keep(
    resources: &Arc<Resources>,
    request: &FillRequest,
    given: Response,
    ticket: FenceEpoch,
) -> FlightReader {
    let flight = FlightReader::first(ticket);
    let fill = Fill { resources, flight: &flight, request, keep: Keep::IfVerified };
    let (choice, body_origins) = (OriginChoice::default(), BodyOrigins::default());
    if let Err(error) = fill.found(given, &choice, &body_origins).await {
        flight.announce(FillOutcome::Failed(Arc::new(error)));
    }
    flight.end();
    flight
}

impl Fill<'_> {
    async fn run(&self, start: FillStart, avoid: Vec<usize>) {
        let class = self.request.class();
        let trying = Box::pin(self.try_and_retry(start, avoid));
        let result = trying.await.unwrap_or_else(|error| {
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
        start: FillStart,
        mut avoid: Vec<usize>,
    ) -> Result<&'static str, FillError> {
        let Resources { cache, rejected_bodies, metrics, .. } = &**self.resources;
        let key = &self.request.key;
        let (mut stale, mut given) = match start {
            FillStart::Stale(stale) => (cache.unpurged(stale), None),
            FillStart::Given(given, _) => (None, Some(*given)),
        };
        let basis = rejected_bodies.basis(self.flight.ticket, key, cache);
        let (mut tries, mut rejected, mut sources) = (0, 0, Vec::new());
        loop {
            tries += 1;
            let body_origins = BodyOrigins::default();
            let choice = self.request.choice(cache).await;
            let choice = OriginChoice { avoid: avoid.clone(), ..choice };
            let answered = match given.take() {
                Some(response) => self.found(response, &choice, &body_origins).await,
                None => self.try_once(stale.take(), choice, &body_origins).await,
            };
            let error = match answered {
                Ok(result) => {
                    if matches!(result, "stored" | "not_stored" | "confirmed") {
                        rejected_bodies.right(key, &body_origins.positions());
                    }
                    return Ok(result);
                }
                Err(error) => error,
            };
            if let Some((origin, rejection)) = error.rejected() {
                body_origins.reject(metrics, key, origin, rejection);
                if rejection.is_lasting() {
                    rejected += 1;
                    sources.extend(body_origins.positions());
                }
            }
            let may_retry = matches!(error, FillError::Rejected { .. } | FillError::Body(_));
            if tries >= self.tries_max() || !may_retry {
                self.resources.note_rejected(key, basis, sources, rejected);
                if rejected > 0 {
                    // The narinfo that it was held against may be an old one.
                    let (upstream, class) = (&self.request.upstream, self.request.class());
                    doubt_narinfo(self.resources, upstream, key, class).await;
                }
                return Err(error);
            }
            tracing::info!(site = key.site(), path = key.path(), "refetching after a failed body");
            avoid.extend(body_origins.positions());
            self.flight.retract();
        }
    }

    /// A body that is checked whole may be asked of each origin in turn: if the narinfo of one
    /// fails the check, the next is asked. A large body is not downloaded so often, and one that
    /// nothing proves not twice.
    fn tries_max(&self) -> u32 {
        let origins = u32::try_from(self.request.upstream.origins.len()).unwrap_or(u32::MAX);
        match self.request.bodies().unstored {
            UnstoredBody::AsItComes => 1,
            UnstoredBody::Checked if self.request.class().is_small() => TRIES_MAX.max(origins),
            UnstoredBody::Checked => TRIES_MAX,
        }
    }

    async fn try_once(
        &self,
        stale: Option<CachedObject>,
        choice: OriginChoice,
        body_origins: &BodyOrigins,
    ) -> Result<&'static str, FillError> {
        let mut question = self.request.question(choice);
        let known = stale.as_ref().map(CachedObject::meta);
        // An origin that is avoided confirms nothing: another body than its own is looked for.
        let known = known.filter(|meta| !self.is_avoided(meta, &question.choice));
        let conditions = known.and_then(|meta| revalidation::conditions(&meta));
        question.conditions = conditions.unwrap_or_default();
        let mut answer = self.fetch(&question).await?;
        if let OriginAnswer::NotModified { headers, request_time, response_time, .. } = &answer
            && let Some(stale) = &stale
        {
            let times = Times { request: *request_time, response: *response_time };
            if self.confirmed(stale, headers, times).await {
                return Ok("confirmed");
            }
            // It speaks of another object than the stored one.
            question.conditions = Conditions::default();
            answer = self.fetch(&question).await?;
        }
        match answer {
            OriginAnswer::Found(response) => {
                if let Some(stale) = stale.filter(|stale| self.bridges(response.status, stale)) {
                    let provenance = Provenance::Bridged;
                    self.flight.announce(FillOutcome::Whole { found: stale, provenance });
                    return Ok("failed");
                }
                self.found(response, &question.choice, body_origins).await
            }
            OriginAnswer::Absent { headers, origin, request_time, response_time } => {
                let times = Times { request: request_time, response: response_time };
                let (meta, keep) = self.request.absence(&headers, origin, times);
                let keep = if self.keep == Keep::Never { Keep::Never } else { keep };
                let meta = self.resources.absent(self.flight.ticket, meta, keep).await;
                let (key, class) = (&self.request.key, self.request.class());
                doubt_narinfo(self.resources, &self.request.upstream, key, class).await;
                self.flight.announce(FillOutcome::Absent(meta));
                Ok("absent")
            }
            OriginAnswer::NotModified { origin, .. } => {
                Err(self.protocol(origin, "304 to a request without conditions"))
            }
            OriginAnswer::Changed => {
                Err(self.protocol(0, "412 or 416 to a request for the whole object"))
            }
        }
    }

    async fn fetch(&self, question: &OriginQuestion) -> Result<OriginAnswer<Response>, FillError> {
        let fetching = self.request.fetch(question);
        Ok(self.flight.readers.while_open(fetching).await??)
    }

    /// Whether what is stored came from an origin that is asked after the others.
    fn is_avoided(&self, meta: &Meta, choice: &OriginChoice) -> bool {
        let names =
            choice.avoid.iter().map(|position| self.request.upstream.origins.name(*position));
        names.into_iter().any(|name| name == meta.origin)
    }

    /// Whether what is stored takes the place of an answer of `status`.
    fn bridges(&self, status: StatusCode, stale: &CachedObject) -> bool {
        self.request.rules().bridges(status, &stale.meta(), self.resources.clock.now())
    }

    /// Renews what a 304 confirmed; false if it speaks of another object than the stored one.
    async fn confirmed(&self, stale: &CachedObject, headers: &HeaderMap, times: Times) -> bool {
        let (old, cache) = (stale.meta(), &self.resources.cache);
        let head = AnswerHead { status: old.status, headers, times, is_framed: true };
        let (found, provenance, own) = match self.request.rules().confirm(&old, &head) {
            ConfirmationVerdict::OtherObject => return false,
            ConfirmationVerdict::Renewed(ConfirmedHead { meta, own }) => {
                let found = cache.touch(self.flight.ticket, stale.clone(), meta).await;
                (found, Provenance::Confirmed, own)
            }
            ConfirmationVerdict::ForOne(ConfirmedHead { meta, own }) => {
                (stale.with_meta(Arc::new(meta)), Provenance::ConfirmedForOne, own)
            }
            ConfirmationVerdict::Withdrawn(ConfirmedHead { meta, own }) => {
                cache.purge(Scope::Key(old.key.clone()), Purging::Soft).await;
                (stale.with_meta(Arc::new(meta)), Provenance::NotStored, own)
            }
        };
        self.flight.set_own(own);
        self.flight.announce(FillOutcome::Whole { found, provenance });
        true
    }

    async fn found(
        &self,
        mut response: Response,
        choice: &OriginChoice,
        body_origins: &BodyOrigins,
    ) -> Result<&'static str, FillError> {
        let (request, resources) = (self.request, self.resources);
        body_origins.add(response.origin, &response.origin_name);
        let AdmittedAnswer { meta, keep, coding, own, upstream_status, after } =
            request.admit(&response)?;
        self.flight.set_upstream_status(upstream_status);
        // Nothing proves what a NAR holds under a coding, so each client gets it from the origin.
        let is_coded = coding == Coding::Encoded && request.class() == Class::Nar;
        let keep = if is_coded || self.keep == Keep::Never { Keep::Never } else { keep };
        let has_others = request.upstream.origins.len() > 1;
        if is_coded && has_others && !choice.avoid.contains(&response.origin) {
            let detail = "a NAR under a Content-Encoding".to_owned();
            return Err(rejected(&meta, Rejection::Head { detail }));
        }
        self.note_sharing(keep, after, &response);
        if keep == Keep::Never && request.bodies().unstored == UnstoredBody::AsItComes {
            self.flight.announce_pass_through(self.as_it_comes(meta, response));
            return Ok("passed");
        }
        self.flight.set_own(own);
        if coding == Coding::Encoded && choice.prefer.is_some_and(|it| it != response.origin) {
            // A body without proof comes from the origin of its narinfo, or not at all.
            let detail = "it comes under a Content-Encoding, and not from its narinfo's origin";
            return Err(rejected(&meta, Rejection::Head { detail: detail.to_owned() }));
        }
        let mut expected = request.expected(&resources.cache, coding).await;
        // A NAR that its origin gets cut ends there as if it were whole.
        expected.is_framed |= response.is_framed && request.class() != Class::Nar;
        let mut shown = BodyShown::AsItComes;
        // Nix does not look at `FileSize`. No origin has what it says if this one is asked again.
        let is_second = choice.avoid.contains(&response.origin) && expected.contents.is_some();
        let fits = match response.content_length {
            Some(length) => expected.check_length(length),
            None => Ok(()),
        };
        let is_guess = response.content_length.is_none() && expected.length().is_some();
        match fits {
            Err(rejection) if !is_second => return Err(rejected(&meta, rejection)),
            Ok(()) if !(is_second && is_guess) => {}
            Ok(()) | Err(_) => (shown, expected.file_size) = (BodyShown::Proven, None),
        }
        // What the narinfo says is checked at the end like the hash; known from the start, it gives
        // readers a length and ranges, and tells whether the disk has room.
        response.content_length = response.content_length.or_else(|| expected.length());
        let length = response.content_length;
        let is_small = length.is_some_and(|length| length <= SMALL_BYTES_MAX);
        let begun =
            BegunBody { meta, response, coding, keep, expected, choice, body_origins, shown };
        if is_small || request.class().is_small() {
            return self.whole(begun).await;
        }
        let writer = if keep == Keep::IfVerified && expected.is_provable(length) {
            let withhold = request.bodies().withhold;
            resources.cache.begin(&begun.meta.key, length, withhold).await
        } else {
            None
        };
        match writer {
            Some(writer) => Box::pin(self.stream(begun, writer)).await,
            None if shown == BodyShown::Proven => {
                let detail = "its length is not the narinfo's FileSize, and no disk takes it";
                Err(rejected(&begun.meta, Rejection::Head { detail: detail.to_owned() }))
            }
            None => Ok(Box::pin(self.unwritten(begun)).await),
        }
    }

    /// Remembers whether other requests may share the answers of this object.
    fn note_sharing(&self, keep: Keep, after: AfterPass, response: &Response) {
        let (key, hit_for_miss) = (&self.request.key, &self.resources.hit_for_miss);
        match (keep, after) {
            (Keep::IfVerified, _) => hit_for_miss.end(key),
            (Keep::Never, AfterPass::AskAlone) => {
                hit_for_miss.begin(key, response.response_time.edge, self.flight.ticket);
            }
            (Keep::Never, AfterPass::Nothing) => {}
        }
    }

    /// An answer for one client; if its entity tag tells what may continue it, it is resumed when
    /// it breaks off.
    fn as_it_comes(&self, meta: Meta, response: Response) -> PassThroughBody {
        let is_tagged = Validators::of(&response.headers).etag.is_some_and(|tag| tag.is_strong());
        let is_identified = response.status == StatusCode::OK && is_tagged;
        if response.content_length.is_none() || !is_identified {
            return PassThroughBody::plain(Arc::new(meta), response);
        }
        let (choice, body_origins) = (&OriginChoice::default(), &BodyOrigins::default());
        let (coding, keep, expected) = (Coding::Identity, Keep::Never, ExpectedBody::framed());
        let shown = BodyShown::AsItComes;
        let begun =
            BegunBody { meta, response, coding, keep, expected, choice, body_origins, shown };
        let (meta, body) = self.resumable(begun);
        PassThroughBody::lasting(Arc::new(meta), body)
    }

    /// The body of an answer, which is resumed when it breaks off.
    fn resumable(&self, begun: BegunBody<'_>) -> (Meta, ResumableBody) {
        let BegunBody { meta, response, expected, choice, body_origins, .. } = begun;
        let mut headers = meta.headers.clone();
        if response.status != StatusCode::OK {
            // Only of a 200 there are ranges.
            headers.remove(header::ETAG);
        }
        let source = FetchedBody {
            request: self.request.clone(),
            choice: choice.clone(),
            metrics: self.resources.metrics.clone(),
            body_origins: body_origins.clone(),
        };
        let check = BodyCheck::of(&expected);
        (meta, ResumableBody::new(source, response, headers, check))
    }

    /// A body that no reader sees before all of it is here and checked.
    async fn whole(&self, begun: BegunBody<'_>) -> Result<&'static str, FillError> {
        let BegunBody { coding, keep, expected, body_origins, .. } = begun;
        let origin = begun.response.origin;
        let (mut meta, mut body) = self.resumable(begun);
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
        let arrived = SmallBody { bytes: collected.freeze(), coding };
        let arrived = arrived.decoded(&self.resources.tasks, &mut meta).await?;
        let arrived = arrived.with_own_url(&self.request.upstream, origin, &mut meta);
        let SmallBody { bytes: collected, coding } = arrived;
        let is_provable = expected.is_provable(body.total());
        let contents = match expected.contents {
            Some(contents) if !expected.is_file(Sha256::of(&collected)) => {
                Some(self.resources.decoders.verdict_of(contents, &collected).await?)
            }
            Some(_) | None => None,
        };
        let contents = contents.map(|it| it.of_parts(body.doubtful_from()));
        let is_unreadable = contents == Some(NarVerdict::Unreadable);
        let judged = self.judge(&meta, expected, body_origins, &collected, coding, contents);
        let (proof, claim) = judged.map_err(|rejection| rejected(&meta, rejection))?;
        let is_signed = matches!(proof, Proof::SignedBy(_) | Proof::ContentAddress);
        let is_whole = (is_provable && !is_unreadable) || is_signed;
        meta.proof = proof;
        better_lifetime(&mut meta);
        if keep == Keep::IfVerified && is_whole {
            let (ticket, cache) = (self.flight.ticket, &self.resources.cache);
            if let Some(claim) = &claim {
                Box::pin(cache.drop_contradicted(&meta.key, claim)).await;
            }
            match cache.publish_small(ticket, meta.clone(), collected.clone(), claim).await {
                Ok(found) => {
                    let provenance = Provenance::Stored;
                    self.flight.announce(FillOutcome::Whole { found, provenance });
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
        expected: ExpectedBody,
        body_origins: &BodyOrigins,
        body: &Bytes,
        coding: Coding,
        contents: Option<NarVerdict>,
    ) -> Result<(Proof, Option<ClaimOf>), Rejection> {
        if meta.class == Class::CacheInfo && coding == Coding::Identity {
            proof::cache_info(body)?;
        }
        if meta.class == Class::Narinfo {
            return proof::narinfo(&self.request.upstream, body_origins, &meta.key, body, coding);
        }
        let (sha256, length) = (Sha256::of(body), body.len() as u64);
        expected.check(sha256, length, contents).map(|proof| (proof, None))
    }

    /// A body that readers follow while it is written. Judged when its last byte has come, shown
    /// to the end, and only then published: a disk that fails costs no reader anything.
    async fn stream(
        &self,
        begun: BegunBody<'_>,
        mut writer: ObjectWriter,
    ) -> Result<&'static str, FillError> {
        let (ranges, expected, shown) = (self.range_support(&begun), begun.expected, begun.shown);
        let (mut meta, body) = self.resumable(begun);
        let (growing, must_be) = (writer.growing(), expected.must_be());
        let streaming = FillOutcome::Streaming {
            meta: Arc::new(meta.clone()),
            growing: growing.clone(),
            must_be,
        };
        if shown == BodyShown::AsItComes {
            self.flight.announce(streaming.clone());
        }
        let Resources { limits, tasks, .. } = &**self.resources;
        let parallel = ParallelStart { limits, asker: self.request.asker, tasks };
        let mut body = ParallelBody::new(body, ranges, &parallel);
        let alongside = expected.needs_contents().map(|contents| {
            ContentsCheck::begin(&self.resources.decoders, contents, writer.judge())
        });
        if let Err(error) = self.take_in(&mut body, &mut writer).await {
            if self.request.bodies().remains == BodyRemains::Part
                && error.is_broken_off()
                && let Some(length) = body.total()
            {
                let salvaging = salvage(self.resources, self.flight.ticket, meta, length, &growing);
                Box::pin(salvaging).await;
            }
            return Err(error);
        }
        let ended = writer.end().await?;
        let contents = self.contents_of(&ended, &expected, alongside).await?;
        let contents = contents.map(|it| it.of_parts(growing.doubtful_from()));
        let is_unreadable = contents == Some(NarVerdict::Unreadable);
        let judged = expected.check(ended.sha256, ended.length, contents);
        meta.proof = judged.map_err(|rejection| rejected(&meta, rejection))?;
        better_lifetime(&mut meta);
        let proven = ended.prove();
        if shown == BodyShown::Proven {
            self.flight.announce(streaming);
        }
        let Ok(proven) = proven else { return Ok("not_stored") };
        if is_unreadable {
            tracing::debug!(path = meta.key.path(), "unknown compression: not stored");
            return Ok("not_stored");
        }
        let published = self.resources.cache.publish(self.flight.ticket, proven, meta.clone());
        match published.await {
            Ok(_) => Ok("stored"),
            Err(error) => {
                log_not_kept(&meta, &error);
                Ok("not_stored")
            }
        }
    }

    /// What turned out of the NAR in a body that has ended, if it was looked at: alongside, or now
    /// if the file is not the one that its narinfo names, which Nix would not notice.
    async fn contents_of(
        &self,
        ended: &EndedObject,
        expected: &ExpectedBody,
        alongside: Option<ContentsCheck>,
    ) -> Result<Option<NarVerdict>, FillError> {
        let check = match (alongside, expected.contents) {
            (Some(check), _) => check,
            (None, Some(contents)) if !expected.is_file(ended.sha256) => {
                ContentsCheck::begin(&self.resources.decoders, contents, ended.judge())
            }
            (None, _) => return Ok(None),
        };
        check.verdict().await.map(Some)
    }

    /// Takes in a body to its end: then all of its bytes are here, if it has said how many it has.
    async fn take_in(
        &self,
        body: &mut ParallelBody,
        writer: &mut ObjectWriter,
    ) -> Result<(), FillError> {
        let (readers, mut received) = (&self.flight.readers, 0);
        while let Some(piece) = readers.while_open(body.chunk(writer)).await?? {
            if let Some(from) = body.doubtful_from() {
                writer.doubt_from(from);
            }
            writer.append(piece).await?;
            readers.came(writer.received() - received);
            received = writer.received();
        }
        Ok(())
    }

    /// Whether the origin of a body knows ranges of it. A page may change at any time.
    fn range_support(&self, begun: &BegunBody<'_>) -> RangeSupport {
        let BegunBody { response, coding, .. } = begun;
        if *coding == Coding::Encoded || self.request.bodies().unstored == UnstoredBody::AsItComes {
            return RangeSupport::Unknown;
        }
        let origins = &self.request.upstream.site.origins;
        RangeSupport::of(response, origins.get(response.origin).map(|origin| &origin.url))
    }

    /// A body that no disk takes, or that may not be stored: its readers share it if they may, else
    /// it passes to one of them.
    async fn unwritten(&self, begun: BegunBody<'_>) -> &'static str {
        let (keep, window) = (begun.keep, self.request.bodies().window);
        // Nothing comes behind a body that is shared.
        let has_trailer = begun.response.headers.contains_key(header::TRAILER);
        let is_open = begun.response.content_length.is_none() || has_trailer;
        if window == WindowExtent::Whole && is_open {
            // The fields for one client are in the head that this reader gets.
            self.flight.set_own(HeaderMap::new());
            let meta = unstored_head(&self.request.key, &begun.response);
            self.flight.announce_pass_through(self.as_it_comes(meta, begun.response));
            return "passed";
        }
        let expected = begun.expected;
        // A reader that fell behind could not look at the contents from their start.
        let may_share = expected.needs_contents().is_none();
        let (meta, body) = self.resumable(begun);
        let (resources, ticket) = (Arc::clone(self.resources), self.flight.ticket);
        let body = CheckedBody::new(Arc::new(meta), body, expected, resources, ticket);
        let is_shared = window == WindowExtent::Whole || (may_share && body.is_identified());
        if keep == Keep::IfVerified && is_shared {
            return self.flight.share(body, self.request.demand(), window).await;
        }
        self.flight.announce_pass_through(PassThroughBody::checked(body));
        "passed"
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
