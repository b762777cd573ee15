//! What a fill is asked to bring, and how origins are asked for it: for the whole, for a range, for
//! the head, or whether what is stored still holds. Values. Only this file asks the two kinds of
//! site in different ways.
//!
//! An object of a binary cache is asked for from scratch. A response of a generic site is asked for
//! as its client did, without conditions and ranges.

use super::proof::ExpectedBody;
use super::site_origins::{Demand, SiteOrigins};
use crate::cache::{Cache, FenceEpoch, Stale};
use crate::config::{AskOrder, Caching, OriginTurns};
use crate::nix::Class;
use crate::object::Key;
use crate::origin::{
    Ask, Asker, FetchError, FetchReason, ForwardRequest, InterimObserver, Method, OriginAnswer,
    RangeAsked, Response, Retries,
};
use crate::policy::generic::fields;
use crate::policy::generic::request::Wishes;
use crate::policy::response::{Coding, Times};
use crate::policy::revalidation::Conditions;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::fmt;
use std::sync::Arc;

/// What a fill is asked to bring.
#[derive(Debug, Clone)]
pub struct FillRequest {
    /// The origins of its site.
    pub upstream: Arc<SiteOrigins>,
    /// Its key, without a variant.
    pub key: Key,
    /// The path to ask for, with a leading `/`: of an object canonical and decoded, of a page as it
    /// stands in the request line.
    pub path: Arc<str>,
    /// The query to ask for.
    pub query: Option<Arc<str>>,
    /// The client that asks.
    pub asker: Asker,
    /// What is asked for.
    pub form: RequestForm,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub enum RequestForm {
    /// An object of a binary cache.
    Object(ObjectForm),
    /// A response of a generic site.
    Page(PageForm),
}

/// What is asked for of a binary cache.
#[derive(Debug, Clone)]
pub struct ObjectForm {
    /// The class of the path.
    pub class: Class,
    /// The whole `CDN-Loop` to send, this instance included.
    pub cdn_loop: HeaderValue,
    /// Why, if the request for it does not tell by itself.
    pub reason: Option<FetchReason>,
}

/// What is asked for of a generic site.
#[derive(Clone)]
pub struct PageForm {
    /// The settings of the site.
    pub caching: Arc<Caching>,
    /// The fields to ask with: no conditions, no ranges.
    pub headers: Arc<HeaderMap>,
    /// What the client says about stored answers.
    pub wishes: Wishes,
    /// What hears of interim answers.
    pub interim: Option<InterimObserver>,
}

impl fmt::Debug for PageForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageForm").field("wishes", &self.wishes).finish_non_exhaustive()
    }
}

/// What is here before anything is fetched.
#[derive(Debug)]
pub(super) enum FillStart {
    /// What is stored, to be confirmed.
    Stale(Option<Stale>),
    /// An answer to GET, and a ticket of the moment before it was asked for.
    Given(Box<Response>, FenceEpoch),
}

impl FillStart {
    /// The ticket that a fill has from what is here.
    pub(super) fn ticket(&self) -> Option<FenceEpoch> {
        match self {
            Self::Stale(_) => None,
            Self::Given(_, ticket) => Some(*ticket),
        }
    }
}

/// Which origins are asked, by their positions, and in which order.
#[derive(Debug, Clone, Default)]
pub(super) struct OriginChoice {
    /// The only one.
    pub(super) only: Option<usize>,
    /// The one to ask before those that have the same turn.
    pub(super) prefer: Option<usize>,
    /// Those to ask after all others: what they gave was wrong.
    pub(super) avoid: Vec<usize>,
}

impl OriginChoice {
    /// The origin at `position` alone.
    pub(super) fn of(position: usize) -> Self {
        Self { only: Some(position), ..Self::default() }
    }
}

/// One question to the origins.
#[derive(Debug, Clone)]
pub(super) struct OriginQuestion {
    /// For the object or for its head.
    pub(super) method: Method,
    /// For these bytes of it alone.
    pub(super) range: Option<RangeAsked>,
    /// Whether it is still the one that is stored.
    pub(super) conditions: Conditions,
    /// The strong entity tag that it must still have.
    pub(super) same: Option<HeaderValue>,
    /// To which origins.
    pub(super) choice: OriginChoice,
    /// Whether an origin that fails is asked again at once.
    pub(super) retries: Retries,
    /// Why, for metrics; `None` for what it looks like.
    pub(super) reason: Option<FetchReason>,
}

impl FillRequest {
    /// The class of its path.
    pub fn class(&self) -> Class {
        match &self.form {
            RequestForm::Object(form) => form.class,
            RequestForm::Page(_) => Class::Other,
        }
    }

    /// Whether it is for a response of a generic site.
    pub fn is_page(&self) -> bool {
        matches!(self.form, RequestForm::Page(_))
    }

    /// Whether the answer goes to its client alone.
    pub fn forbids_storing(&self) -> bool {
        match &self.form {
            RequestForm::Object(_) => false,
            RequestForm::Page(form) => form.wishes.forbids_storing(),
        }
    }

    /// What a fill of it is for.
    pub(super) fn demand(&self) -> Demand {
        let (asker, class, upstream) = (self.asker, self.class(), Arc::clone(&self.upstream));
        Demand { asker, class, upstream }
    }

    /// When an origin with these rules is asked for it.
    pub(super) fn turn(&self, turns: &OriginTurns) -> AskOrder {
        turns.turn(self.class(), &self.path)
    }

    /// Which origins are asked for it. If a narinfo names it, that is the one of the narinfo: first
    /// if the file's hash is known, which proves what any origin sends; alone if it is not, since
    /// another origin may have another file by that name. If the rules of the site never ask
    /// that origin for the file, others are asked.
    pub(super) async fn choice(&self, cache: &Cache) -> OriginChoice {
        let origins = &self.upstream.site.origins;
        if self.class() != Class::Nar || origins.len() < 2 {
            return OriginChoice::default();
        }
        let Ok(Some(claim)) = cache.claim(&self.key).await else { return OriginChoice::default() };
        let position = claim.source.and_then(|source| self.upstream.trusted.position(source));
        let Some(position) = position else { return OriginChoice::default() };
        let is_asked =
            origins.get(position).is_some_and(|origin| self.turn(&origin.turns) != AskOrder::Never);
        let is_proven = ExpectedBody::of(&self.path, Some(&claim)).file_hash.is_some();
        if is_proven || !is_asked {
            return OriginChoice { prefer: Some(position), ..OriginChoice::default() };
        }
        OriginChoice::of(position)
    }

    /// What proves the whole, if its head says that it is coded so.
    pub(super) async fn expected(&self, cache: &Cache, coding: Coding) -> ExpectedBody {
        match (&self.form, coding) {
            (RequestForm::Object(form), Coding::Identity) => {
                let claim = cache.claim_of_nar(&self.key, form.class).await;
                ExpectedBody::as_known(&self.path, claim)
            }
            (RequestForm::Object(form), Coding::Encoded) => ExpectedBody::coded(form.class),
            (RequestForm::Page(_), _) => ExpectedBody::framed(),
        }
    }

    /// The question for the whole.
    pub(super) fn question(&self, choice: OriginChoice) -> OriginQuestion {
        let reason = match &self.form {
            RequestForm::Object(form) => form.reason,
            RequestForm::Page(_) => None,
        };
        OriginQuestion {
            method: Method::Get,
            range: None,
            conditions: Conditions::default(),
            same: None,
            choice,
            retries: Retries::Usual,
            reason,
        }
    }

    /// Puts a question to the origins.
    ///
    /// Of a page, every status is an answer, unless the question names the object or one origin:
    /// then the answer must tell of that object.
    pub(super) async fn fetch(
        &self,
        question: &OriginQuestion,
    ) -> Result<OriginAnswer<Response>, FetchError> {
        match &self.form {
            RequestForm::Object(form) => {
                self.upstream.origins.fetch(&self.ask(form, question)).await
            }
            RequestForm::Page(form) => {
                let forward = self.forward(form, question);
                by_status(send_on(&self.upstream, forward).await?, question)
            }
        }
    }

    fn ask(&self, form: &ObjectForm, question: &OriginQuestion) -> Ask {
        let OriginQuestion { method, range, conditions, same, choice, retries, reason } =
            question.clone();
        Ask {
            method,
            path: Arc::clone(&self.path),
            query: self.query.clone(),
            class: form.class,
            range,
            if_none_match: conditions.if_none_match,
            if_modified_since: conditions.if_modified_since,
            if_match: same,
            cdn_loop: Some(form.cdn_loop.clone()),
            only: choice.only,
            prefer: choice.prefer,
            avoid: choice.avoid,
            retries,
            reason,
        }
    }

    fn forward(&self, form: &PageForm, question: &OriginQuestion) -> ForwardRequest {
        let mut headers = HeaderMap::clone(&form.headers);
        let mut add = |name: HeaderName, value: Option<HeaderValue>| {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        };
        let Conditions { if_none_match, if_modified_since } = question.conditions.clone();
        add(header::RANGE, question.range.as_ref().and_then(RangeAsked::field));
        add(header::IF_RANGE, question.same.clone());
        add(header::IF_NONE_MATCH, if_none_match);
        add(header::IF_MODIFIED_SINCE, if_modified_since);
        ForwardRequest {
            method: question.method.as_http(),
            path: Arc::clone(&self.path),
            query: self.query.clone(),
            headers,
            body: None,
            interim: form.interim.clone().filter(|_| question.range.is_none()),
            only: question.choice.only,
            retries: question.retries,
        }
    }
}

/// When an answer was asked for and when it came.
pub(super) fn times_of(response: &Response) -> Times {
    Times { request: response.request_time, response: response.response_time }
}

/// Sends a request of a client on, and dates its answer.
pub(super) async fn send_on(
    upstream: &SiteOrigins,
    forward: ForwardRequest,
) -> Result<Response, FetchError> {
    let mut response = upstream.origins.forward(forward).await?;
    let times = times_of(&response);
    fields::dated(&mut response.headers, times);
    Ok(response)
}

/// What the answer to a question for a page means.
fn by_status(
    response: Response,
    question: &OriginQuestion,
) -> Result<OriginAnswer<Response>, FetchError> {
    let is_open = question.same.is_none() && question.choice.only.is_none();
    let is_conditional = question.conditions != Conditions::default();
    let Times { request: request_time, response: response_time } = times_of(&response);
    Ok(match response.status {
        StatusCode::NOT_MODIFIED if is_conditional || !is_open => OriginAnswer::NotModified {
            headers: response.headers,
            origin: response.origin,
            request_time,
            response_time,
        },
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => OriginAnswer::Found(response),
        _ if is_open => OriginAnswer::Found(response),
        StatusCode::NOT_FOUND | StatusCode::GONE => OriginAnswer::Absent {
            headers: response.headers,
            origin: response.origin,
            request_time,
            response_time,
        },
        StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {
            OriginAnswer::Changed
        }
        status => {
            let origin = response.origin_name;
            return Err(FetchError::Status { origin, status, retry_after_seconds: None });
        }
    })
}
