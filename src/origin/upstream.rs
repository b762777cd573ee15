//! One origin of a site: whether it is asked, how often and how fast, and its state. As long
//! lived as the site; no lock across an await. Called by `Origins`.
//!
//! Each request passes, in this order: a slot (`slots`), the breaker (`breaker`), the pace
//! (`pace`). What keeps it from leaving is a failure of this origin for this request, never an
//! absence. It is sent again only before anything was promised: if no head has come, and the budget
//! allows it.

use super::breaker::{Breaker, BreakerPermit, Caller, SLOW};
use super::budget::Budget;
use super::cost::{FailureCost, cost};
use super::exchange::{Ask, FetchError, FetchReason, OriginAnswer, RequestPurpose, Retries};
use super::file::FolderOrigin;
use super::first_bytes::FirstBytes;
use super::forward::{self, ForwardRequest, ForwardedGet};
use super::health::{HealthRecord, OriginHealth};
use super::http::HttpOrigin;
use super::jitter::jittered;
use super::meters::{HoldReason, OriginMeters, RetryFate};
use super::pace::{OriginPacer, PaceExceeded};
use super::response::Response;
use super::s3::S3Origin;
use super::silence::{PROBE_EVERY, Silence};
use super::slots::{Slot, SlotLoad, Slots};
use super::upload_body::ClientBody;
use super::verdict::Absence;
use super::watch::OriginWatch;
use super::wire::{OriginReply, ResponseHead};
use crate::client::OutboundBody;
use crate::clock::Clock;
use crate::config::{AbsenceOf, BreakerSettings, OriginNecessity, OriginTurns};
use crate::nix::Class;
use crate::sync::Mutex;
use http::StatusCode;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// Further tries after the first, if an error permits them.
const RETRIES_MAX: u32 = 2;
/// The longest wait before the first further try; doubled for each.
const BACKOFF_FIRST: Duration = Duration::from_millis(150);
/// What is read of the probe's answer.
const PROBE_BYTES_MAX: usize = 64 * 1024;

/// One origin.
#[derive(Debug)]
pub(super) struct Upstream {
    pub name: Arc<str>,
    pub position: usize,
    pub priority: u32,
    pub weight: u32,
    pub absence: AbsenceOf,
    pub necessity: OriginNecessity,
    /// What it is asked for, and when.
    pub turns: OriginTurns,
    pub kind: OriginKind,
    pub slots: Slots,
    /// What a probe asks for.
    pub probing: ProbeTarget,
    pub breaker_settings: BreakerSettings,
    pub breaker: Breaker,
    pub pacer: OriginPacer,
    /// How long a request waits for its turn.
    pub turn_deadline: Duration,
    pub retries: Budget,
    pub hedges: Budget,
    pub first_bytes: FirstBytes,
    pub silence: Silence,
    pub watch: OriginWatch,
    pub asked_at: Mutex<Instant>,
    pub health: HealthRecord,
    pub meters: OriginMeters,
    pub clock: Clock,
}

/// What a probe of an origin asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeTarget {
    /// An object that every binary cache has.
    CacheInfo,
    /// The head of this path, of which any answer shows that the origin is there.
    Head(&'static str),
}

/// How an origin is asked.
#[derive(Debug)]
pub(super) enum OriginKind {
    S3(Box<S3Origin>),
    Http(Box<HttpOrigin>),
    Folder(Box<FolderOrigin>),
}

impl OriginKind {
    async fn ask(&self, ask: &Ask) -> Result<OriginReply, FetchError> {
        match self {
            Self::S3(origin) => origin.ask(ask).await,
            Self::Http(origin) => origin.ask(ask).await,
            Self::Folder(origin) => origin.ask(ask).await,
        }
    }
}

impl Upstream {
    /// Asks, again if the error permits it, and remembers how it went.
    pub(super) async fn ask(
        self: &Arc<Self>,
        ask: &Ask,
    ) -> Result<OriginAnswer<Response>, FetchError> {
        let slot = self.slot(SlotLoad::Object(ask.class), Caller::Request).await?;
        self.ask_in(ask, slot).await
    }

    /// The same, in a slot that is had.
    pub(super) async fn ask_in(
        self: &Arc<Self>,
        ask: &Ask,
        slot: Slot,
    ) -> Result<OriginAnswer<Response>, FetchError> {
        let mut tries = Tries::new(match ask.retries {
            Retries::Usual => RETRIES_MAX,
            Retries::None => 0,
        });
        self.retries.earn();
        let mut again = None;
        let reply = loop {
            let asked = self.attempt(again.as_ref().unwrap_or(ask), Caller::Request).await;
            match self.may_retry(&mut tries, asked).await {
                RetryStep::Done(reply) => break reply,
                RetryStep::Again => {
                    again.get_or_insert_with(|| Ask {
                        reason: Some(FetchReason::Retry),
                        ..ask.clone()
                    });
                }
            }
        };
        self.remember(&reply);
        reply.map(|reply| self.answer(reply, slot))
    }

    /// Sends a client's request on, again if it may be repeated and the error permits it, and
    /// remembers how it went.
    pub(super) async fn forward(
        self: &Arc<Self>,
        mut forward: ForwardRequest,
    ) -> Result<Response, FetchError> {
        let caller = if forward.body.is_some() { Caller::Upload } else { Caller::Request };
        let slot = self.slot_for(&mut forward.body, caller).await?;
        let may_retry = forward.may_repeat() && forward.retries == Retries::Usual;
        let mut tries = Tries::new(if may_retry { RETRIES_MAX } else { 0 });
        self.retries.earn();
        let mut purpose = forward.purpose();
        let mut next = Some(forward);
        let response = loop {
            let Some(forward) = next.take() else {
                return Err(FetchError::Protocol {
                    origin: Arc::clone(&self.name),
                    detail: "a request that was sent already".to_owned(),
                });
            };
            next = forward.may_repeat().then(|| forward.again());
            let asked = self.forward_once(forward, purpose, caller).await;
            match self.may_retry(&mut tries, asked).await {
                RetryStep::Done(response) => break response,
                RetryStep::Again => purpose.reason = FetchReason::Retry,
            }
        };
        match &response {
            Ok(_) => self.health.usable(),
            Err(error) => self.health.failed(error),
        }
        let slot = slot.answered();
        response.map(|response| Response { body: response.body.slotted(slot), ..response })
    }

    /// Asks once, if it may.
    async fn attempt(
        self: &Arc<Self>,
        ask: &Ask,
        caller: Caller,
    ) -> Result<OriginReply, FetchError> {
        let leave = self.leave(ask.class, caller).await?;
        let timer = Timer::start(is_small(ask).then_some(&self.first_bytes));
        let reply = self.kind.ask(ask).await;
        let took = timer.ended(&reply);
        match &reply {
            Ok(_) => leave.answered(),
            Err(error) => self.failed(leave, error, took, ask.purpose().reason),
        }
        reply
    }

    async fn forward_once(
        self: &Arc<Self>,
        forward: ForwardRequest,
        purpose: RequestPurpose,
        caller: Caller,
    ) -> Result<Response, FetchError> {
        let leave = self.leave(Class::Other, caller).await?;
        let started = Instant::now();
        let answered = self.forward_by_kind(forward, purpose).await;
        match &answered {
            // Whatever it says is about the path: an application that fails there, or asks for
            // fewer requests of it, may be as good as ever elsewhere.
            Ok(_) => {
                leave.answered();
                self.see_to_breaker();
            }
            Err(error) => {
                // So may one that hangs or breaks off there, unless it does for the prober too.
                let is_of_path =
                    matches!(error, FetchError::FirstByte { .. } | FetchError::Broken { .. });
                let took = if is_of_path { Duration::ZERO } else { started.elapsed() };
                self.failed(leave, error, took, purpose.reason);
            }
        }
        answered
    }

    async fn forward_by_kind(
        &self,
        forward: ForwardRequest,
        purpose: RequestPurpose,
    ) -> Result<Response, FetchError> {
        if let OriginKind::Http(origin) = &self.kind {
            return origin.forward(forward, purpose).await;
        }
        let now = self.clock.moment();
        match forward.ask() {
            ForwardedGet::Object(ask) => {
                let ask = Ask { reason: Some(purpose.reason), ..*ask };
                let reply = self.kind.ask(&ask).await?;
                Ok(forward::as_response(&ask, reply, now, self.position, &self.name))
            }
            ForwardedGet::Nothing => Ok(forward::nowhere(now, self.position, &self.name)),
            ForwardedGet::Write => Ok(forward::read_only(now, self.position, &self.name)),
        }
    }

    /// The leave of the breaker, then of the pace.
    async fn leave(&self, class: Class, caller: Caller) -> Result<BreakerPermit<'_>, FetchError> {
        let Some(leave) = self.breaker.admit(caller) else {
            return Err(self.is_open());
        };
        let deadline = Instant::now() + self.turn_deadline;
        if let Err(PaceExceeded(wait)) = self.pacer.pass(class, deadline).await {
            self.meters.held(HoldReason::Throttled);
            let origin = Arc::clone(&self.name);
            // A part of a second is a second: 0 would mean now.
            return Err(FetchError::Throttled { origin, seconds: wait.as_secs() + 1 });
        }
        self.note_asked();
        Ok(leave)
    }

    fn failed(
        self: &Arc<Self>,
        leave: BreakerPermit<'_>,
        error: &FetchError,
        took: Duration,
        reason: FetchReason,
    ) {
        if let FetchError::Status { status, retry_after_seconds, .. } = error {
            self.note_throttle(*status, *retry_after_seconds);
        }
        match cost(error, took) {
            FailureCost::None => leave.answered(),
            FailureCost::Nothing => drop(leave),
            // A body that waits for its origin knocks in rounds of its own, and a refusal costs
            // it nothing: that is no reason to turn clients away when the origin is back.
            FailureCost::Failures(_) if reason == FetchReason::Resume && took < SLOW => {
                leave.failed(0, took);
            }
            FailureCost::Failures(cost) => leave.failed(cost, took),
        }
        self.see_to_breaker();
    }

    fn see_to_breaker(self: &Arc<Self>) {
        if !self.breaker.is_closed() {
            self.watch.mend(mend(Arc::downgrade(self)));
        }
    }

    /// 429 asks for fewer requests; so does 503 with a time to come back, and S3's, which is
    /// `SlowDown` or means the same.
    fn note_throttle(&self, status: StatusCode, retry_after_seconds: Option<u64>) {
        let is_s3 = matches!(self.kind, OriginKind::S3(_));
        let is_throttle = match status {
            StatusCode::TOO_MANY_REQUESTS => true,
            StatusCode::SERVICE_UNAVAILABLE => is_s3 || retry_after_seconds.is_some(),
            _ => false,
        };
        if is_throttle {
            self.pacer.throttled(retry_after_seconds.map(Duration::from_secs));
        }
    }

    /// Whether to ask again, after a wait; not if this origin itself held the request back.
    async fn may_retry<T>(
        &self,
        tries: &mut Tries,
        asked: Result<T, FetchError>,
    ) -> RetryStep<Result<T, FetchError>> {
        let error = match asked {
            Ok(answer) => return RetryStep::Done(Ok(answer)),
            Err(error) => error,
        };
        if matches!(error, FetchError::Open { .. } | FetchError::Throttled { .. }) {
            return RetryStep::Done(Err(tries.last.take().unwrap_or(error)));
        }
        if !error.may_retry() || tries.left == 0 || !self.breaker.is_closed() {
            return RetryStep::Done(Err(error));
        }
        // What another request has told of has its place in the budget already.
        if !error.is_told() {
            if !self.retries.spend() {
                self.meters.retried(RetryFate::Refused);
                return RetryStep::Done(Err(error));
            }
            self.meters.retried(RetryFate::Spent);
        }
        tries.left -= 1;
        tracing::debug!(origin = %self.name, %error, left = tries.left, "origin asked again");
        let wait = tries.wait;
        tries.wait = wait.saturating_mul(2);
        tries.last = Some(error);
        sleep(jittered(wait)).await;
        RetryStep::Again
    }

    /// Tests this origin's address and credentials by one request. Takes no slot, so that requests
    /// that hang do not keep it from being seen that it is back.
    pub(super) async fn probe(self: &Arc<Self>) -> Result<(), FetchError> {
        match self.probing {
            ProbeTarget::CacheInfo => self.probe_cache_info().await,
            ProbeTarget::Head(path) => self.probe_head(path).await,
        }
    }

    /// Asks for the head of `path`; any answer is a good one.
    async fn probe_head(self: &Arc<Self>, path: &'static str) -> Result<(), FetchError> {
        let purpose = RequestPurpose { class: Class::Other, reason: FetchReason::Probe };
        match self.forward_once(ForwardRequest::probe(path), purpose, Caller::Prober).await {
            Ok(response) => {
                self.health.usable();
                drain(response).await;
                Ok(())
            }
            Err(error) => {
                self.health.failed(&error);
                Err(error)
            }
        }
    }

    /// Asks for `nix-cache-info`. `AccessDenied` is an error here: every binary cache has that
    /// object.
    async fn probe_cache_info(self: &Arc<Self>) -> Result<(), FetchError> {
        let ask = &Ask::probe();
        let reply = match self.attempt(ask, Caller::Prober).await {
            Ok(OriginReply::Absent(_, Absence::Denied)) => Err(FetchError::Credentials {
                origin: Arc::clone(&self.name),
                code: "AccessDenied".to_owned(),
                detail: format!(
                    "{} may not be read: check the keys and the bucket's policy",
                    ask.path
                ),
            }),
            reply => reply,
        };
        self.remember(&reply);
        match reply? {
            OriginReply::Found(response) => drain(*response).await,
            OriginReply::Absent(..) => {
                tracing::debug!(origin = %self.name, path = %ask.path, "origin has no such object");
            }
            OriginReply::NotModified(_) | OriginReply::Changed => {}
        }
        Ok(())
    }

    /// Sees to it that it is probed when it was not asked for long, if it is to be.
    pub(super) fn watch_idle(self: &Arc<Self>) {
        if !self.breaker_settings.probe_idle.is_zero() {
            self.watch.watch(watch(Arc::downgrade(self)));
        }
    }

    /// Another origin has answered a request that this one says nothing to: it is probed until it
    /// answers.
    pub(super) fn is_silent(self: &Arc<Self>) {
        if self.silence.begin() {
            tracing::warn!(origin = %self.name, "origin is silent: asked last");
            self.watch.listen(listen(Arc::downgrade(self)));
        }
    }

    /// The state now.
    pub(super) fn health(&self) -> OriginHealth {
        self.health.now()
    }

    /// It is asked now, or was to be.
    fn note_asked(&self) {
        *self.asked_at.lock() = Instant::now();
    }

    /// Until when it counts as in use.
    fn idle_until(&self) -> Instant {
        *self.asked_at.lock() + self.breaker_settings.probe_idle
    }

    /// A slot for a request with this body, of which a little is read while it waits.
    async fn slot_for(
        &self,
        body: &mut Option<ClientBody>,
        caller: Caller,
    ) -> Result<Slot, FetchError> {
        let Some(sent) = body.take() else {
            return self.slot(SlotLoad::Object(Class::Other), caller).await;
        };
        let mut upload = self.slots.upload(sent);
        let slot = self.slot(SlotLoad::Upload(&mut upload), caller).await?;
        let client = upload.client();
        *body = Some(ClientBody { client, content: OutboundBody::new(*upload) });
        Ok(slot)
    }

    /// A slot for a request that may leave: a request that the breaker would refuse waits for none.
    async fn slot(&self, load: SlotLoad<'_>, caller: Caller) -> Result<Slot, FetchError> {
        if self.breaker.refuses(caller) {
            return Err(self.is_open());
        }
        let slot = self.slots.wait(load).await;
        if matches!(slot, Err(FetchError::Busy { .. })) {
            self.meters.held(HoldReason::Busy);
        }
        slot
    }

    fn is_open(&self) -> FetchError {
        self.breaker.wanted();
        self.meters.held(HoldReason::Open);
        let last = self.health.now().last_error;
        let last = last.unwrap_or_else(|| "it answered with errors".to_owned());
        FetchError::Open { origin: Arc::clone(&self.name), last }
    }

    /// `AccessDenied` proves nothing: S3 answers so for an absent key if the bucket may not be
    /// listed, and for every key under a wrong policy.
    fn remember(&self, reply: &Result<OriginReply, FetchError>) {
        match reply {
            Ok(OriginReply::Absent(_, Absence::Denied)) => {}
            Ok(_) => self.health.usable(),
            Err(error) => self.health.failed(error),
        }
    }

    fn answer(&self, reply: OriginReply, slot: Slot) -> OriginAnswer<Response> {
        let origin = self.position;
        match reply {
            OriginReply::Found(response) => {
                let response = *response;
                OriginAnswer::Found(Response { body: response.body.slotted(slot), ..response })
            }
            OriginReply::NotModified(ResponseHead { headers, request_time, response_time }) => {
                OriginAnswer::NotModified { headers, origin, request_time, response_time }
            }
            OriginReply::Absent(ResponseHead { headers, request_time, response_time }, _) => {
                OriginAnswer::Absent { headers, origin, request_time, response_time }
            }
            OriginReply::Changed => OriginAnswer::Changed,
        }
    }
}

/// Probes an origin that is left alone, until it is not. A reload ends it, since it holds the
/// origin weakly.
async fn mend(upstream: Weak<Upstream>) {
    while let Some((next, sooner)) = next_probe(&upstream) {
        tokio::select! {
            biased;
            () = sleep_until(next) => {}
            () = sooner.notified() => continue,
        }
        if let Some(upstream) = upstream.upgrade() {
            // Its outcome is in the breaker and in the log.
            let _ = upstream.probe().await;
        }
    }
}

/// When to probe next, and what tells that it is sooner; none if the origin is no longer left
/// alone, or is gone.
fn next_probe(upstream: &Weak<Upstream>) -> Option<(Instant, Arc<Notify>)> {
    let upstream = upstream.upgrade()?;
    let sooner = upstream.breaker.sooner();
    if let Some(next) = upstream.breaker.next_probe() {
        return Some((next, sooner));
    }
    upstream.watch.mended();
    // It may have opened again just before that, and found that mending goes on.
    let next = upstream.breaker.next_probe()?;
    upstream.watch.mends_on().then_some((next, sooner))
}

/// Probes an origin that was not asked for long. A reload ends it too.
async fn listen(upstream: Weak<Upstream>) {
    loop {
        sleep(PROBE_EVERY).await;
        let Some(upstream) = upstream.upgrade() else { return };
        if upstream.silence.holds() && upstream.probe().await.is_ok() {
            upstream.silence.end();
            tracing::info!(origin = %upstream.name, "origin answers again");
        }
        if !upstream.silence.holds() {
            upstream.watch.listened();
            // It may have fallen silent again just before that, and found that this goes on.
            if !upstream.silence.holds() {
                return;
            }
        }
    }
}

async fn watch(upstream: Weak<Upstream>) {
    loop {
        let Some(due) = upstream.upgrade().map(|upstream| upstream.idle_until()) else { return };
        if due > Instant::now() {
            sleep_until(due).await;
            continue;
        }
        let Some(upstream) = upstream.upgrade() else { return };
        let _ = upstream.probe().await;
        // Asked or refused by its breaker, the next time is another wait away.
        upstream.note_asked();
    }
}

/// Whether the time to an answer tells of the origin rather than of the object: for hedges.
pub(super) fn is_small(ask: &Ask) -> bool {
    ask.class.is_small() && ask.range.is_none()
}

/// What is left of the tries of one request.
struct Tries {
    left: u32,
    wait: Duration,
    last: Option<FetchError>,
}

impl Tries {
    fn new(left: u32) -> Self {
        Self { left, wait: BACKOFF_FIRST, last: None }
    }
}

enum RetryStep<T> {
    Done(T),
    Again,
}

/// Notes the time to an answer, or until the request was dropped.
struct Timer<'a> {
    started: Instant,
    window: Option<&'a FirstBytes>,
}

impl<'a> Timer<'a> {
    fn start(window: Option<&'a FirstBytes>) -> Self {
        Self { started: Instant::now(), window }
    }

    /// How long it took; what failed says nothing of how long answers take.
    fn ended(mut self, reply: &Result<OriginReply, FetchError>) -> Duration {
        if reply.is_err() {
            self.window = None;
        }
        self.started.elapsed()
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        if let Some(window) = self.window {
            window.note(self.started.elapsed());
        }
    }
}

/// Reads a small body to its end, so that its connection can be used again.
async fn drain(mut response: Response) {
    let mut read = 0;
    while read < PROBE_BYTES_MAX
        && let Ok(Some(piece)) = response.body.chunk().await
    {
        read += piece.len();
    }
}
