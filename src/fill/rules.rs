//! What the rules of a site make of the answers to a request: heads that may be sent and stored,
//! and how their bodies reach readers. Values; `policy` decides.

use super::error::{FillError, Rejection};
use super::memory_window::WindowExtent;
use super::request::{FillRequest, RequestForm, times_of};
use crate::config::LifetimeTerms;
use crate::nix::Class;
use crate::object::{Key, Meta, Proof};
use crate::origin::Response;
use crate::policy;
use crate::policy::response::{AdmittedHead, Coding, Times};
use crate::policy::rules::{AfterPass, AnswerHead, GenericRules, HeadVerdict, Rules, unstored};
use crate::store::Withhold;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::sync::Arc;

/// A response that may be sent to a client.
#[derive(Debug, Clone)]
pub struct AdmittedAnswer {
    /// Its head.
    pub meta: Meta,
    /// Whether it may be stored.
    pub keep: Keep,
    /// Whether its bytes are the file itself, so that hashes and grammars apply to them.
    pub(super) coding: Coding,
    /// Fields for the client alone that caused it.
    pub(super) own: HeaderMap,
    /// `Cache-Status` of the caches on the way.
    pub(super) upstream_status: Vec<HeaderValue>,
    /// What follows for other requests if it is not stored.
    pub(super) after: AfterPass,
}

impl AdmittedAnswer {
    /// Whether it may be stored for every client.
    pub(super) fn is_for_all(&self) -> bool {
        self.keep == Keep::IfVerified && self.own.is_empty() && self.meta.variant.is_empty()
    }
}

/// Whether a response may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It may.
    IfVerified,
    /// It may not.
    Never,
}

/// How the bodies of a kind of site reach readers.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyRules {
    /// What readers do not get before the body is proven.
    pub(super) withhold: Withhold,
    /// What readers share of a body that no disk takes.
    pub(super) window: WindowExtent,
    /// How a body that is not stored reaches its one reader.
    pub(super) unstored: UnstoredBody,
    /// What becomes of a body that breaks off and that no origin continues.
    pub(super) remains: BodyRemains,
}

/// How a body that is not stored reaches its one reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnstoredBody {
    /// It is checked at its end as if it were stored.
    Checked,
    /// As it comes, with what comes behind it.
    AsItComes,
}

/// What becomes of a body that breaks off and that no origin continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyRemains {
    /// Nothing of it stays.
    Dropped,
    /// A part of it may stay, for the next request for the whole.
    Part,
}

const OBJECT_BODIES: BodyRules = BodyRules {
    withhold: Withhold::LastBytes,
    window: WindowExtent::Stretch,
    unstored: UnstoredBody::Checked,
    remains: BodyRemains::Dropped,
};

const PAGE_BODIES: BodyRules = BodyRules {
    withhold: Withhold::End,
    // It may change at any time.
    window: WindowExtent::Whole,
    unstored: UnstoredBody::AsItComes,
    remains: BodyRemains::Part,
};

impl FillRequest {
    /// How long what is wanted stays fresh, and serves when it is not, as the site says.
    pub fn terms(&self) -> LifetimeTerms {
        self.upstream.site.lifetimes.of(self.class(), self.key.path())
    }

    /// What the site says of the answers.
    pub(super) fn rules(&self) -> Rules<'_> {
        match &self.form {
            RequestForm::Object(_) => Rules::BinaryCache(self.terms()),
            RequestForm::Page(form) => Rules::Generic(GenericRules {
                caching: &form.caching,
                rule: form.caching.rule(self.key.path()),
                fields: &form.headers,
                wishes: &form.wishes,
            }),
        }
    }

    /// How its body reaches readers.
    pub(super) fn bodies(&self) -> &'static BodyRules {
        match &self.form {
            RequestForm::Object(_) => &OBJECT_BODIES,
            RequestForm::Page(_) => &PAGE_BODIES,
        }
    }

    /// The head of an answer, and what may be done with it.
    pub(super) fn admit(&self, response: &Response) -> Result<AdmittedAnswer, FillError> {
        let (status, headers) = (response.status, &response.headers);
        let (times, is_framed) = (times_of(response), response.is_framed);
        self.admit_head(response, &AnswerHead { status, headers, times, is_framed })
    }

    /// The head of the whole of `length` bytes that a 206 is a part of.
    pub(super) fn admit_part(
        &self,
        response: &Response,
        length: u64,
    ) -> Result<AdmittedAnswer, FillError> {
        let mut headers = response.headers.clone();
        headers.remove(header::CONTENT_RANGE);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        let (status, headers, times) = (StatusCode::OK, &headers, times_of(response));
        self.admit_head(response, &AnswerHead { status, headers, times, is_framed: true })
    }

    /// Whether a 206 about what is stored in part permits to store it.
    pub(super) fn permits_part(&self, response: &Response) -> bool {
        let (headers, times) = (&response.headers, times_of(response));
        let head = AnswerHead { status: StatusCode::OK, headers, times, is_framed: true };
        self.rules().permits_part(&head)
    }

    fn admit_head(
        &self,
        response: &Response,
        head: &AnswerHead<'_>,
    ) -> Result<AdmittedAnswer, FillError> {
        let (keep, after, admitted) = match self.rules().admit(head) {
            HeadVerdict::Store(admitted) => (Keep::IfVerified, AfterPass::Nothing, admitted),
            HeadVerdict::Pass { reason, after, head } => {
                tracing::debug!(path = self.key.path(), reason, "response not storable");
                (Keep::Never, after, head)
            }
            HeadVerdict::Unusable(fault) => {
                return Err(FillError::Rejected {
                    origin: Arc::clone(&response.origin_name),
                    rejection: Rejection::Head { detail: fault.to_string() },
                });
            }
        };
        let AdmittedHead { coding, .. } = admitted;
        let (own, upstream_status) = (admitted.own.clone(), admitted.upstream_cache_status.clone());
        let meta = self.meta(head.status, &response.origin_name, head.times, admitted);
        Ok(AdmittedAnswer { meta, keep, coding, own, upstream_status, after })
    }

    /// The head of an absence that every origin agreed on, the last of them at position `origin`,
    /// and whether it may be remembered.
    pub(super) fn absence(&self, headers: &HeaderMap, origin: usize, times: Times) -> (Meta, Keep) {
        let admitted = policy::response::admit_absence(headers, times, &self.terms());
        let keep = if admitted.is_some() { Keep::IfVerified } else { Keep::Never };
        let unkept = || AdmittedHead { age_at_response: 0, ..unstored(&HeaderMap::new(), times) };
        let admitted = admitted.unwrap_or_else(unkept);
        let origin = self.upstream.origins.name(origin);
        (self.meta(StatusCode::NOT_FOUND, &origin, times, admitted), keep)
    }

    fn meta(
        &self,
        status: StatusCode,
        origin: &Arc<str>,
        times: Times,
        head: AdmittedHead,
    ) -> Meta {
        let key = match &head.variant {
            variant if variant.is_empty() => self.key.clone(),
            variant => self.key.variant(variant),
        };
        Meta { status, class: self.class(), ..meta_of(key, origin, times, head) }
    }
}

/// The head of an answer that goes to its client alone, as it came.
pub(super) fn unstored_head(key: &Key, response: &Response) -> Meta {
    let times = times_of(response);
    let head = unstored(&response.headers, times);
    Meta { status: response.status, ..meta_of(key.clone(), &response.origin_name, times, head) }
}

fn meta_of(key: Key, origin: &Arc<str>, times: Times, head: AdmittedHead) -> Meta {
    let AdmittedHead { headers, variant, lifetime, age_at_response, .. } = head;
    Meta {
        key,
        class: Class::Other,
        status: StatusCode::OK,
        headers,
        origin: Arc::clone(origin),
        request_time: times.request,
        response_time: times.response.edge,
        age_at_response,
        lifetime,
        is_invalidated: false,
        proof: Proof::Length,
        variant,
    }
}
