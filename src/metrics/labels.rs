//! Every label of a metric, with the values that it takes. Constants only. A test of the style
//! finds a value that no code counts under; [`super::Metrics::text`] finds, with debug assertions,
//! one that is missing here.

use super::definition::{Label, LabelValue, LabelValues};
use crate::nix::Class;
use crate::outcome::Outcome;

pub(super) const SITE: Label = given("site", "the name of a site");
pub(super) const ORIGIN: Label = given("origin", "the name of an origin");
pub(super) const DISK: Label = given("disk", "the folder of a disk, as `[disk] path` names it");
pub(super) const STATUS: Label = given(
    "status",
    "the HTTP status; `error` if no answer came; `dropped` if nothing waited for it any more",
);
pub(super) const CLASS: Label = Label { name: "class", values: LabelValues::Shared(classes) };
pub(super) const OUTCOME: Label = Label { name: "outcome", values: LabelValues::Shared(outcomes) };

pub(super) const METHOD: Label = own("method", &[("get", ""), ("head", ""), ("other", "")]);
pub(super) const PURPOSE: Label = own(
    "reason",
    &[
        ("miss", ""),
        ("revalidation", ""),
        ("part", "a range of an object that is not stored whole"),
        ("resume", "the rest of a body"),
        ("completion", "the rest of a partial object"),
        ("heal", "an object that was damaged on disk"),
        ("retry", ""),
        ("hedge", ""),
        ("probe", ""),
        ("write", "a method of a client that is neither GET nor HEAD"),
    ],
);
pub(super) const COST: Label = own("part", &[("requests", ""), ("bytes", "")]);
pub(super) const BREAKER_STATE: Label =
    own("to", &[("closed", ""), ("half_open", ""), ("open", "")]);
pub(super) const HELD: Label = own(
    "reason",
    &[
        ("open", "the breaker is open"),
        ("throttled", "the origin asked for fewer requests"),
        ("busy", "`connections_max` requests are under way"),
    ],
);
pub(super) const RETRY: Label =
    own("result", &[("spent", "the retry was made"), ("refused", "the budget was empty")]);
pub(super) const HEDGE: Label = own(
    "event",
    &[("begun", ""), ("won", "the hedge answered first"), ("refused", "the budget was empty")],
);
pub(super) const CREDENTIALS: Label =
    own("result", &[("found", "other credentials than before"), ("failed", "none")]);
pub(super) const TIER: Label =
    own("tier", &[("memory", ""), ("absent", "remembered absences"), ("disk", "")]);
pub(super) const DAMAGED_TIER: Label = own("tier", &[("disk", "")]);
pub(super) const INDEX_PART: Label = own(
    "part",
    &[
        ("order", "the eviction order"),
        ("keys", "the filter of the keys that the index may have"),
        ("cache", "blocks that were read"),
        ("unwritten", "what is not on disk yet"),
    ],
);
pub(super) const PLACE: Label =
    own("place", &[("index", "a small body"), ("file", "a body with a file of its own")]);
pub(super) const EVICTION: Label = own(
    "reason",
    &[
        ("size", "the tier was full"),
        ("space", "the file system was full"),
        ("replaced", "of memory: by a newer copy"),
        ("removed", "of memory: by a purge or damage"),
    ],
);
pub(super) const FILL: Label = own(
    "result",
    &[
        ("stored", ""),
        ("not_stored", "received whole, but purged meanwhile or not taken by the store"),
        ("confirmed", "the stored object is still right"),
        ("absent", ""),
        ("passed", "not to be stored"),
        ("rejected", "a wrong body"),
        ("unread", "ended, since no reader was left"),
        ("failed", ""),
    ],
);
pub(super) const RESUME: Label =
    own("result", &[("continued", ""), ("changed", "another object"), ("failed", "")]);
pub(super) const PIECE: Label = own(
    "result",
    &[("joined", ""), ("unused", "the object was received without it"), ("failed", "")],
);
pub(super) const RESCUE: Label = own(
    "result",
    &[
        ("continued", "from an origin"),
        ("changed", "cut: the origin has another object"),
        ("failed", "cut: no origin answered"),
    ],
);
pub(super) const REJECTION: Label = own(
    "reason",
    &[
        ("short", ""),
        ("long", ""),
        ("continuation", "the rest does not continue the beginning"),
        ("head", ""),
        ("too_large", ""),
        ("file_size", "not the `FileSize` of the narinfo"),
        ("file_hash", "not the `FileHash` of the narinfo"),
        ("nar_hash", "not the NAR that the narinfo promises"),
        ("narinfo", "not a narinfo, or one of another path"),
        ("cache_info", "not a `nix-cache-info`"),
        ("content_address", "a narinfo with a path that its content address does not lead to"),
        ("signature", "no signature by a trusted key"),
    ],
);
pub(super) const CHECKER: Label = own("by", &[("scrub", ""), ("fsck", "")]);
pub(super) const CHECK_FAULT: Label = own(
    "kind",
    &[
        ("record", "a record that cannot be read"),
        ("body", "a body that is missing or wrong"),
        ("trailer", "a file that does not describe its object"),
        ("claim", "a claim that cannot be read or that no narinfo makes"),
        ("orphan", "a file or entry that no record names"),
        ("foreign", "a file that is not of the store"),
        ("totals", ""),
        ("index", "an index that cannot be opened"),
        ("unreadable", "an object that the disk could not read"),
    ],
);
pub(super) const HEAL: Label = own(
    "result",
    &[("stored", ""), ("present", "fetched by a request or held by memory"), ("failed", "")],
);
pub(super) const CHUNK: Label =
    own("result", &[("hit", "asked for and stored"), ("fetched", ""), ("damaged", "dropped")]);
pub(super) const RANGE: Label = own(
    "what",
    &[
        ("asked", "by clients"),
        ("held", "of these, stored"),
        ("fetched", "of these, from origins"),
        ("completed", "in the background"),
        ("passed", "to the client alone, not stored"),
    ],
);
pub(super) const PART_DROP: Label = own(
    "reason",
    &[("changed", "the origin has another object"), ("rejected", "the whole was wrong")],
);
pub(super) const COMPLETION: Label = own(
    "result",
    &[
        ("stored", ""),
        ("not_stored", "purged meanwhile or not taken by the store"),
        ("rejected", "the whole was wrong"),
        ("skipped", "a limit was reached, or the whole was already coming"),
        ("failed", ""),
    ],
);
pub(super) const OPERATION: Label = own(
    "operation",
    &[
        ("open", ""),
        ("look", "the check of the disk every few seconds"),
        ("watch", "a panic of that check"),
        ("probe", "a write to a disk that failed before"),
        ("space", "no space or no inode, or statvfs failed"),
        ("stall", "no answer in time"),
        ("create", ""),
        ("encode", ""),
        ("write", ""),
        ("sync", ""),
        ("link", ""),
        ("record", "the records of owed purges"),
        ("read", ""),
        ("remove", ""),
        ("index", ""),
        ("snapshot", "the file of the eviction order"),
    ],
);
pub(super) const DOOR: Label = own("door", &[("plain", ""), ("tls", ""), ("admin", "")]);
pub(super) const CONNECTION_REFUSAL: Label = own(
    "reason",
    &[
        ("connections_max", ""),
        ("connections_per_address_max", ""),
        ("accept", "the system accepted none"),
        ("tls_handshake", ""),
        ("tls_handshake_timeout", ""),
        ("preface", "neither HTTP/1.1 nor HTTP/2"),
        ("http2", "a broken rule of HTTP/2"),
        ("request_head", "too slow"),
        ("write_stall", "the client took no byte for too long"),
        ("abandoned_requests", "too many requests were reset"),
        ("control_frames", "too many PING, SETTINGS or other frames of HTTP/2"),
        ("drain", "cut at the end of the drain"),
    ],
);
pub(super) const REQUEST_REFUSAL: Label = own(
    "reason",
    &[
        ("malformed", ""),
        ("request_too_large", "the head"),
        ("request_headers_max", ""),
        ("request_body", ""),
        ("connect", ""),
        ("expectation", ""),
        ("method", ""),
        ("body", ""),
        ("transfer_coding", ""),
        ("body_broken", ""),
        ("body_slow", ""),
        ("host", "missing or malformed"),
        ("unknown_host", "of no site"),
        ("path", ""),
        ("path_too_long", ""),
        ("outside_cache", "no path of a binary cache"),
        ("outside_base", "not below the `base_path` of the site"),
        ("claim_unknown", "a disk that may know the path does not answer"),
        ("cdn_loop", "a malformed `CDN-Loop`"),
        ("loop", "the request came from this instance"),
        ("not_stored", "`only-if-cached`"),
        ("admin_off", ""),
        ("admin_token", ""),
        ("admin_token_file", ""),
        ("admin_token_guesses", ""),
        ("admin_cross_site", ""),
        ("admin_host", ""),
    ],
);
pub(super) const PURGE_SCOPE: Label = own(
    "scope",
    &[
        ("object", ""),
        ("prefix", ""),
        ("key", ""),
        ("all", ""),
        ("object_soft", ""),
        ("prefix_soft", ""),
        ("key_soft", ""),
    ],
);
pub(super) const VERDICT: Label = own(
    "result",
    &[
        ("absent", "answered 404"),
        ("maybe", "the origin is asked"),
        ("aside", "the filter does not answer"),
    ],
);
pub(super) const FILTER_KEYS: Label =
    own("part", &[("file", ""), ("noted", "uploads since the file was built")]);
pub(super) const FILTER_BYTES: Label =
    own("part", &[("file", "memory"), ("noted", "memory of uploads since"), ("journal", "disk")]);
pub(super) const NOTICE: Label = own(
    "result",
    &[
        ("noted", "an upload"),
        ("other", "a removal or a keep-alive"),
        ("foreign", "a bucket of no site"),
        ("refused", "to be sent again"),
        ("unreadable", ""),
    ],
);
pub(super) const LOG_DROP: Label = own(
    "reason",
    &[
        ("full", "the reader was too slow"),
        ("failed", "the reader is gone"),
        ("repeated", "more than 50 of a kind in 10 s"),
    ],
);

/// Labels that many metrics have; the documentation explains each once.
pub(super) const SHARED: [Label; 6] = [SITE, ORIGIN, DISK, STATUS, CLASS, OUTCOME];

const fn given(name: &'static str, what: &'static str) -> Label {
    Label { name, values: LabelValues::Given(what) }
}

const fn own(name: &'static str, values: &'static [LabelValue]) -> Label {
    Label { name, values: LabelValues::Own(values) }
}

fn classes() -> Vec<LabelValue> {
    Class::ALL.iter().map(|class| (class.as_str(), "")).collect()
}

fn outcomes() -> Vec<LabelValue> {
    Outcome::ALL.iter().map(|outcome| (outcome.as_str(), meaning(*outcome))).collect()
}

const fn meaning(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::HitMemory | Outcome::HitDisk | Outcome::Miss | Outcome::Absent => "",
        Outcome::HitStale => "a stale object",
        Outcome::HitAbsent => "a remembered 404",
        Outcome::Revalidated => "the origin confirmed the stored object",
        Outcome::Collapsed => "the request joined a fill under way",
        Outcome::Pass => "fetched, not stored",
        Outcome::AbsentFilter => "404 by the absence filter, without an origin request",
        Outcome::AbsentOptional => "404 while an optional origin is down, not remembered",
        Outcome::Local => "answered by Narthex itself",
        Outcome::Refused => "the fault of the client",
        Outcome::Shed => "a limit was reached",
        Outcome::OriginFailed => "no origin gave a usable answer",
        Outcome::Fault => "a fault of Narthex",
    }
}
