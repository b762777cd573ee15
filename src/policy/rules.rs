//! What a site says of the answers to one request: which answer may be stored, what a 304 makes of
//! what is stored, and whether what is stored takes the place of an error. One value for both kinds
//! of site, made for each answer. Pure; `fill` asks.

use super::generic::fields::Divided;
use super::generic::request::Wishes;
use super::generic::reuse::{Outage, may_bridge};
use super::generic::storing::{
    self, Confirmation, GenericPassReason, GenericReply, StorableResponse, StoringVerdict,
};
use super::generic::{Directives, variant::Varies};
use super::response::{
    self, AdmittedHead, Coding, ObjectReply, ObjectVerdict, Times, UnusableAnswer,
};
use super::revalidation;
use crate::clock::Timestamp;
use crate::config::{Caching, CachingRule, LifetimeTerms};
use crate::object::{Lifetime, Meta, Variant};
use crate::rfc::age::initial_age;
use crate::rfc::conditional::Validators;
use crate::rfc::hop_by_hop;
use http::{HeaderMap, StatusCode};

/// What a site says of the answers to one request.
#[derive(Debug)]
pub enum Rules<'r> {
    /// A binary cache: the lifetimes of the class of the path.
    BinaryCache(LifetimeTerms),
    /// A generic site.
    Generic(GenericRules<'r>),
}

/// What a generic site says of the answers to one request.
#[derive(Debug)]
pub struct GenericRules<'r> {
    /// The settings of the site.
    pub caching: &'r Caching,
    /// Those of the path.
    pub rule: &'r CachingRule,
    /// The fields of the request, which select a variant.
    pub fields: &'r HeaderMap,
    /// What the client says of stored answers.
    pub wishes: &'r Wishes,
}

/// The head of an answer of an origin.
#[derive(Debug, Clone, Copy)]
pub struct AnswerHead<'a> {
    /// The status.
    pub status: StatusCode,
    /// The fields, as they came.
    pub headers: &'a HeaderMap,
    /// When.
    pub times: Times,
    /// Whether the end of the body shows that it is whole.
    pub is_framed: bool,
}

/// What an answer is worth.
#[derive(Debug)]
pub enum HeadVerdict {
    /// It may be stored, if its body is right.
    Store(AdmittedHead),
    /// It goes to a client, and is not stored.
    Pass {
        /// Why, for the log.
        reason: &'static str,
        /// What follows for other requests.
        after: AfterPass,
        /// Its head.
        head: AdmittedHead,
    },
    /// It is a fault of the origin: neither sent nor stored.
    Unusable(UnusableAnswer),
}

/// What follows for other requests from an answer that is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterPass {
    /// Nothing: the next answer may be one for all.
    Nothing,
    /// For a while each request asks for itself (hit for miss).
    AskAlone,
}

/// What a 304 makes of a stored object.
#[derive(Debug)]
pub enum ConfirmationVerdict {
    /// The stored object is renewed, for every client.
    Renewed(ConfirmedHead),
    /// The client that asked gets it with this head. What is stored stays as it is.
    ForOne(ConfirmedHead),
    /// The same, and what is stored must be confirmed again before its next use.
    Withdrawn(ConfirmedHead),
    /// It speaks of another object than the stored one: ask again without conditions.
    OtherObject,
}

/// The head of a stored object after a 304.
#[derive(Debug)]
pub struct ConfirmedHead {
    /// The head.
    pub meta: Meta,
    /// Fields for the client alone that caused the 304.
    pub own: HeaderMap,
}

impl Rules<'_> {
    /// Judges an answer to a request for a whole object, or the head of one of which a part came.
    pub fn admit(&self, head: &AnswerHead<'_>) -> HeadVerdict {
        match self {
            Self::BinaryCache(terms) => {
                let AnswerHead { status, headers, times, .. } = *head;
                match response::admit(&ObjectReply { status, headers, times }, terms) {
                    ObjectVerdict::Store(head) => HeadVerdict::Store(head),
                    ObjectVerdict::Pass(reason, head) => {
                        let after = AfterPass::Nothing;
                        HeadVerdict::Pass { reason: reason.as_str(), after, head }
                    }
                    ObjectVerdict::Unusable(fault) => HeadVerdict::Unusable(fault),
                }
            }
            Self::Generic(rules) => rules.admit(head),
        }
    }

    /// Decides what the 304 with this head makes of the object that is stored with the head
    /// `stored`.
    pub fn confirm(&self, stored: &Meta, head: &AnswerHead<'_>) -> ConfirmationVerdict {
        match self {
            Self::BinaryCache(terms) => {
                match revalidation::merge(stored, head.headers, head.times, terms) {
                    Some(meta) => {
                        ConfirmationVerdict::Renewed(ConfirmedHead { meta, own: HeaderMap::new() })
                    }
                    None => ConfirmationVerdict::OtherObject,
                }
            }
            Self::Generic(rules) => rules.confirm(stored, head),
        }
    }

    /// Whether an answer to a request for more of a stored part permits to store it.
    pub fn permits_part(&self, head: &AnswerHead<'_>) -> bool {
        match self {
            Self::BinaryCache(_) => true,
            Self::Generic(rules) => rules.permits_part(head),
        }
    }

    /// Whether the object that is stored with the head `stored` takes the place of an answer of
    /// `status`, at `now`.
    pub fn bridges(&self, status: StatusCode, stored: &Meta, now: Timestamp) -> bool {
        let is_trouble = matches!(status.as_u16(), 500 | 502 | 503 | 504);
        match self {
            // The origin layer makes errors of such answers.
            Self::BinaryCache(_) => false,
            Self::Generic(GenericRules { caching, rule, wishes, .. }) => {
                let directives = Directives::of(&stored.headers, &caching.targeted);
                is_trouble
                    && may_bridge(stored, &directives, wishes, rule, Outage::ServerError, now)
            }
        }
    }
}

impl GenericRules<'_> {
    fn storing(&self, status: StatusCode, head: &AnswerHead<'_>) -> StoringVerdict {
        let AnswerHead { headers, times, .. } = *head;
        let reply = GenericReply { status, headers, wishes: self.wishes, times };
        storing::admit(&reply, self.rule, &self.caching.targeted)
    }

    fn admit(&self, head: &AnswerHead<'_>) -> HeadVerdict {
        let StorableResponse { fields, lifetime, age_at_response, varies } =
            match self.storing(head.status, head) {
                StoringVerdict::Store(storable) => *storable,
                StoringVerdict::Pass(reason) => return pass(reason, head),
            };
        let Some(variant) = varies.select(self.fields) else {
            return pass(GenericPassReason::VaryAny, head);
        };
        if !head.is_framed {
            return pass(GenericPassReason::Unframed, head);
        }
        let Divided { shared, own } = fields;
        HeadVerdict::Store(AdmittedHead {
            coding: Coding::of(&shared),
            headers: shared,
            own,
            variant,
            lifetime,
            age_at_response,
            upstream_cache_status: Vec::new(),
        })
    }

    fn confirm(&self, stored: &Meta, head: &AnswerHead<'_>) -> ConfirmationVerdict {
        let tags = (Validators::of(&stored.headers).etag, Validators::of(head.headers).etag);
        if let (Some(own), Some(told)) = tags
            && !own.matches_weakly(&told)
        {
            return ConfirmationVerdict::OtherObject;
        }
        let AnswerHead { headers, times, .. } = *head;
        let reply = GenericReply { status: stored.status, headers, wishes: self.wishes, times };
        let targets = &self.caching.targeted;
        let confirmed = |fields: Divided, lifetime| ConfirmedHead {
            meta: Meta {
                request_time: times.request,
                response_time: times.response.edge,
                age_at_response: initial_age(headers, times.into()),
                headers: fields.shared,
                lifetime,
                is_invalidated: false,
                ..stored.clone()
            },
            own: fields.own,
        };
        let for_one = |fields| confirmed(fields, Lifetime::Seconds(0));
        match storing::confirmed(&stored.headers, &reply, self.rule, targets) {
            Confirmation::Renewed(StorableResponse { fields, lifetime, varies, .. }) => {
                if self.selects(&varies, &stored.variant) {
                    ConfirmationVerdict::Renewed(confirmed(fields, lifetime))
                } else if varies.is_by(&stored.variant) {
                    // A request that selects another variant by the same fields says nothing of
                    // this one.
                    ConfirmationVerdict::ForOne(for_one(fields))
                } else {
                    ConfirmationVerdict::Withdrawn(for_one(fields))
                }
            }
            Confirmation::ForOne(fields) => ConfirmationVerdict::ForOne(for_one(fields)),
            Confirmation::Withdrawn(fields) => ConfirmationVerdict::Withdrawn(for_one(fields)),
        }
    }

    /// Whether the request selects `variant` of a response that varies so.
    fn selects(&self, varies: &Varies, variant: &Variant) -> bool {
        varies.select(self.fields).is_some_and(|own| own == *variant)
    }

    fn permits_part(&self, head: &AnswerHead<'_>) -> bool {
        match self.storing(StatusCode::OK, head) {
            StoringVerdict::Store(storable) => self.selects(&storable.varies, &Variant::default()),
            // Stale as it comes, and nothing to confirm it by but the tag that ties the parts.
            StoringVerdict::Pass(reason) => reason == GenericPassReason::Useless,
        }
    }
}

/// An answer that goes to its client alone.
fn pass(reason: GenericPassReason, head: &AnswerHead<'_>) -> HeadVerdict {
    // What one request says about itself is no reason that other requests do not share an answer,
    // nor is an error: the next answer may be one for all.
    let is_of_request =
        matches!(reason, GenericPassReason::RequestNoStore | GenericPassReason::Authorization);
    let is_error = head.status.is_client_error() || head.status.is_server_error();
    let after = if is_of_request || is_error { AfterPass::Nothing } else { AfterPass::AskAlone };
    HeadVerdict::Pass { reason: reason.as_str(), after, head: unstored(head.headers, head.times) }
}

/// The head of an answer that goes to its client alone, as it came.
pub fn unstored(headers: &HeaderMap, times: Times) -> AdmittedHead {
    let mut kept = headers.clone();
    hop_by_hop::remove(&mut kept);
    AdmittedHead {
        headers: kept,
        own: HeaderMap::new(),
        variant: Variant::default(),
        lifetime: Lifetime::Seconds(0),
        age_at_response: initial_age(headers, times.into()),
        coding: Coding::Identity,
        upstream_cache_status: Vec::new(),
    }
}
