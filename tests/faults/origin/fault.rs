//! What can go wrong with an origin, and what each of it does to an answer. Pure.

use super::pieces::{Gap, Pieces, Size};
use super::reply::{Asked, Cut, Gate, Head, Reply};
use narthex::clock::Clock;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// Bytes that are too many, if there are too many.
const SURPLUS_BYTES: u64 = 100;

/// The time between two pieces.
const PIECES_GAP: Duration = Duration::from_micros(100);

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Refuse,
    ResetBeforeHead,
    ResetAfterHead,
    Cut(Place),
    Reset(Place),
    Hang,
    Stall(Place),
    /// So many bytes come one a second.
    Drip(u64),
    /// The body comes in pieces of so many bytes, else of drawn sizes.
    Pieces(Option<u64>),
    Status {
        status: u16,
        retry_after: Option<u64>,
    },
    SlowDown,
    Shorter,
    Longer,
    Overclaimed,
    WrongRange,
    ChangedTag,
    Flip(Place),
    Replaced(Place),
    ExpiredToken,
    TimeTooSkewed,
    /// `Date` is so many seconds behind.
    DateBehind(u64),
    /// `Date` is so many seconds ahead.
    DateAhead(u64),
    Redirect,
    Garbage,
}

/// Where in a body it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before this byte of the object, so that no client ever gets beyond it.
    Object(u64),
    /// Drawn for each answer.
    Anywhere,
}

/// The names of the faults.
pub(crate) const HELP: &str = "\
refuse             connections are reset as soon as they stand
reset-before-head  the request is read, the connection reset
reset-after-head   the connection is reset before the body
cut[:N]            the connection is closed before byte N of the object; without N, anywhere
reset[:N]          the same with a reset
hang               the request is read, nothing is ever said
stall[:N]          nothing comes any more from byte N of the object on
drip[:N]           the first N bytes of an object, else all, come one a second
pieces[:N]         the body comes in pieces of N bytes, 0.1 ms apart; without N, of drawn sizes
500, 503[:S] ...   this status, with Retry-After: S where given
slow-down          503 with the error document SlowDown of S3
shorter            a body of half the length, well framed
longer             a body with 100 bytes more, well framed
overclaimed        a length that claims 100 bytes more than come
wrong-range        206 with a Content-Range that is off by one
changed-tag        another entity tag on the same bytes, whatever the conditions
flip[:N]           one bit of byte N is turned, the tag is the same; without N, anywhere
replaced[:N]       one bit is turned, and the tag is another
expired-token      400 with the error document ExpiredToken of S3
time-too-skewed    403 RequestTimeTooSkewed, Date an hour ahead, until signatures are dated by it
date-behind[:S]    Date is S seconds behind; without S, an hour
date-ahead[:S]     Date is S seconds ahead; without S, an hour
redirect           302 to another host
garbage            something that is no HTTP, in place of the head
";

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = match text.split_once(':') {
            None => (text, None),
            Some((name, number)) => {
                let parsed = number.parse::<u64>();
                (name, Some(parsed.map_err(|error| format!("{text:?}: {number:?}: {error}"))?))
            }
        };
        let place = number.map_or(Place::Anywhere, Place::Object);
        let (fault, takes_number) = match name {
            "refuse" => (Self::Refuse, false),
            "reset-before-head" => (Self::ResetBeforeHead, false),
            "reset-after-head" => (Self::ResetAfterHead, false),
            "cut" => (Self::Cut(place), true),
            "reset" => (Self::Reset(place), true),
            "hang" => (Self::Hang, false),
            "stall" => (Self::Stall(place), true),
            "drip" => (Self::Drip(number.unwrap_or(u64::MAX)), true),
            "pieces" => (Self::Pieces(number), true),
            "slow-down" => (Self::SlowDown, false),
            "shorter" => (Self::Shorter, false),
            "longer" => (Self::Longer, false),
            "overclaimed" => (Self::Overclaimed, false),
            "wrong-range" => (Self::WrongRange, false),
            "changed-tag" => (Self::ChangedTag, false),
            "flip" => (Self::Flip(place), true),
            "replaced" => (Self::Replaced(place), true),
            "expired-token" => (Self::ExpiredToken, false),
            "time-too-skewed" => (Self::TimeTooSkewed, false),
            "date-behind" => (Self::DateBehind(number.unwrap_or(3600)), true),
            "date-ahead" => (Self::DateAhead(number.unwrap_or(3600)), true),
            "redirect" => (Self::Redirect, false),
            "garbage" => (Self::Garbage, false),
            status => match status.parse() {
                Ok(status @ 200..=599) => (Self::Status { status, retry_after: number }, true),
                Ok(_) | Err(_) => return Err(format!("no fault is called {name:?}")),
            },
        };
        if number.is_some() && !takes_number {
            return Err(format!("{text:?}: {name} takes no number"));
        }
        Ok(fault)
    }
}

impl fmt::Display for Fault {
    /// As it is parsed, but for drawn places and defaults, which are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let placed = |f: &mut fmt::Formatter<'_>, name, place: &Place| match place {
            Place::Object(at) => write!(f, "{name}:{at}"),
            Place::Anywhere => f.write_str(name),
        };
        match self {
            Self::Refuse => f.write_str("refuse"),
            Self::ResetBeforeHead => f.write_str("reset-before-head"),
            Self::ResetAfterHead => f.write_str("reset-after-head"),
            Self::Cut(place) => placed(f, "cut", place),
            Self::Reset(place) => placed(f, "reset", place),
            Self::Hang => f.write_str("hang"),
            Self::Stall(place) => placed(f, "stall", place),
            Self::Drip(u64::MAX) => f.write_str("drip"),
            Self::Drip(bytes) => write!(f, "drip:{bytes}"),
            Self::Pieces(None) => f.write_str("pieces"),
            Self::Pieces(Some(bytes)) => write!(f, "pieces:{bytes}"),
            Self::Status { status, retry_after: None } => write!(f, "{status}"),
            Self::Status { status, retry_after: Some(after) } => write!(f, "{status}:{after}"),
            Self::SlowDown => f.write_str("slow-down"),
            Self::Shorter => f.write_str("shorter"),
            Self::Longer => f.write_str("longer"),
            Self::Overclaimed => f.write_str("overclaimed"),
            Self::WrongRange => f.write_str("wrong-range"),
            Self::ChangedTag => f.write_str("changed-tag"),
            Self::Flip(place) => placed(f, "flip", place),
            Self::Replaced(place) => placed(f, "replaced", place),
            Self::ExpiredToken => f.write_str("expired-token"),
            Self::TimeTooSkewed => f.write_str("time-too-skewed"),
            Self::DateBehind(seconds) => write!(f, "date-behind:{seconds}"),
            Self::DateAhead(seconds) => write!(f, "date-ahead:{seconds}"),
            Self::Redirect => f.write_str("redirect"),
            Self::Garbage => f.write_str("garbage"),
        }
    }
}

impl Fault {
    /// Whether the answer to be spoilt is the one to a request without preconditions.
    pub(crate) fn ignores_conditions(self) -> bool {
        matches!(self, Self::ChangedTag | Self::Flip(_) | Self::Replaced(_))
    }

    /// Whether this request is none to go wrong with: its signature is dated by the clock that is
    /// an hour ahead, to the hour.
    pub(crate) fn is_content_with(self, asked: &Asked, clock: &Clock) -> bool {
        let dated = asked.field("x-amz-date").and_then(|at| at.get(..HOUR_CHARS));
        self == Self::TimeTooSkewed && dated.is_some_and(|at| at == hour(&date(clock, 3600)))
    }

    /// Spoils an answer; `drawn` says where, in the places that are drawn.
    pub(crate) fn spoil(self, reply: &mut Reply, drawn: u64, clock: &Clock) {
        let length = reply.content.length().unwrap_or(u64::MAX);
        match self {
            Self::Refuse | Self::ResetBeforeHead => reply.manner.head = Head::Reset,
            Self::Hang => reply.manner.head = Head::Never,
            Self::Garbage => reply.manner.head = Head::Garbage,
            Self::ResetAfterHead => reply.manner.cut_at = Some((0, Cut::Reset)),
            Self::Cut(place) => reply.manner.cut_at = Some((place.of(reply, drawn), Cut::Closed)),
            Self::Reset(place) => reply.manner.cut_at = Some((place.of(reply, drawn), Cut::Reset)),
            Self::Stall(place) => {
                let at = place.of(reply, drawn);
                // Behind the end there is nothing to wait for.
                if at < length {
                    reply.manner.hold_at = Some((at, Gate::default()));
                }
            }
            // A client that does not wait for the body of an absence ends it after any number of
            // bytes.
            Self::Drip(bytes) if is_found(reply) => reply.manner.drip = bytes,
            Self::Drip(_) => {}
            Self::Pieces(bytes) => {
                let size = bytes.map_or(Size::Drawn(drawn), Size::Fixed);
                let gap = Gap::Apart(PIECES_GAP);
                reply.manner.pieces = Some(Pieces { size, gap, count_max: u64::MAX });
            }
            Self::Status { status, retry_after } => {
                *reply = Reply::bare(status, format!("{status}\n"));
                if let Some(seconds) = retry_after {
                    reply.set("retry-after", &seconds.to_string());
                }
            }
            Self::SlowDown => {
                *reply = document(503, "SlowDown", "Please reduce your request rate.");
            }
            Self::ExpiredToken => {
                let message = "The provided token has expired.";
                *reply = document(400, "ExpiredToken", message);
            }
            Self::TimeTooSkewed => {
                let message = "The difference between the request time and the current time is \
                               too large.";
                *reply = document(403, "RequestTimeTooSkewed", message);
                reply.set("date", &date(clock, 3600));
            }
            Self::Shorter => reply.content.truncate(length / 2),
            Self::Longer => reply.manner.longer_by = SURPLUS_BYTES,
            Self::Overclaimed => reply.manner.overclaimed = SURPLUS_BYTES,
            Self::WrongRange => wrong_range(reply, length),
            Self::ChangedTag => change_tag(reply),
            Self::Flip(place) => flip(reply, place, drawn),
            Self::Replaced(place) => {
                change_tag(reply);
                flip(reply, place, drawn);
            }
            Self::DateBehind(seconds) => {
                reply.set("date", &date(clock, -i64::try_from(seconds).unwrap_or(0)));
            }
            Self::DateAhead(seconds) => {
                reply.set("date", &date(clock, i64::try_from(seconds).unwrap_or(0)));
            }
            Self::Redirect => {
                *reply = Reply::bare(302, "elsewhere\n");
                reply.set("location", "http://elsewhere.test/");
            }
        }
    }
}

impl Place {
    /// The place in what is sent; the middle of what is no object.
    fn of(self, reply: &Reply, drawn: u64) -> u64 {
        let length = reply.content.length().unwrap_or(1 << 16);
        match self {
            Self::Object(_) if !is_found(reply) => length / 2,
            Self::Object(at) => at.saturating_sub(reply.first()),
            Self::Anywhere => drawn % length.max(1),
        }
    }
}

/// An error document of S3.
fn document(status: u16, code: &str, message: &str) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let mut reply = Reply::bare(status, body);
    reply.set("content-type", "application/xml");
    reply
}

fn is_found(reply: &Reply) -> bool {
    matches!(reply.status, 200 | 206)
}

/// An object that is there has another tag.
fn change_tag(reply: &mut Reply) {
    if is_found(reply) {
        reply.set("etag", "\"changed\"");
    }
}

/// A bit is turned, if its byte is sent.
fn flip(reply: &mut Reply, place: Place, drawn: u64) {
    let is_before = matches!(place, Place::Object(at) if at < reply.first());
    if is_found(reply) && !is_before {
        reply.manner.flip_at = Some(place.of(reply, drawn));
    }
}

/// The part is said to lie one byte further back.
fn wrong_range(reply: &mut Reply, length: u64) {
    if is_found(reply) {
        let first = reply.first() + 1;
        let end = first.saturating_add(length.max(1));
        reply.status = 206;
        reply.set("content-range", &format!("bytes {first}-{}/{end}", end - 1));
    }
}

/// Characters of `YYYYMMDDTHH`.
const HOUR_CHARS: usize = 11;

/// `Sun, 06 Nov 1994 08:49:37 GMT` as `19941106T08`.
fn hour(date: &str) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut parts = date.split([' ', ':']).skip(1);
    let mut next = || parts.next().unwrap_or_default();
    let (day, month, year, hour) = (next(), next(), next(), next());
    let month = MONTHS.find(month).map_or(0, |at| at / 3 + 1);
    format!("{year}{month:02}{day}T{hour}")
}

/// The field `Date` as a clock that is `ahead` seconds off would have it.
fn date(clock: &Clock, ahead: i64) -> String {
    let now = clock.wall().to_system_time();
    let off = Duration::from_secs(ahead.unsigned_abs());
    let at = if ahead < 0 { now.checked_sub(off) } else { now.checked_add(off) };
    httpdate::fmt_http_date(at.unwrap_or(SystemTime::UNIX_EPOCH))
}
