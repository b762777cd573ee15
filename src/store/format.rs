//! The bytes on disk: records of the index, trailers of body files, claims, totals. Pure; never
//! panics on anything read back. Called by every other file of this module.
//!
//! Each encoding begins with a version byte, then postcard of a private form. What stands in a
//! body file beside the body is in `trailer` and `sums`.

use crate::clock::Timestamp;
use crate::nix::Class;
use crate::object::tags::{self, TagHash};
use crate::object::{
    Key, KeyHash, Lifetime, Meta, NarClaim, Proof, PurgeTags, Sha256, Variant, pack,
};
use crate::policy::{Challenge, take_of_one_client};
use crate::store::body::sums;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The version of everything on disk: the marker, the footers and the version bytes.
pub(crate) const VERSION: u32 = 3;
const VERSION_BYTE: u8 = 3;
/// Bodies below this many bytes, narinfos above all, stand behind their records: one read finds
/// both.
const WITHIN_BYTES_MAX: u64 = 4 * 1024;
/// Bodies below this many bytes live in the index, others in files.
pub(crate) const INLINE_BYTES_MAX: u64 = 64 * 1024;

/// What makes stored bytes unreadable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// Another version byte than this program's.
    #[error("format version {0}")]
    Version(u8),
    /// Not what the version byte promises.
    #[error("not decodable")]
    Encoding,
    /// A field has a value that was never written.
    #[error("bad {0}")]
    Field(&'static str),
    /// A 401 with a challenge for one client: none may be sent without a challenge (RFC 9110
    /// section 15.5.2), and a 304 would not bring it back.
    #[error("a 401 without a challenge for all clients")]
    Challenge,
}

/// The place of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BodyPlace {
    /// Behind the record.
    Within,
    /// In the keyspace `bodies`.
    Inline,
    /// In a file of its own.
    File,
}

impl BodyPlace {
    /// The place of a body of `length` bytes.
    pub(crate) const fn of(length: u64) -> Self {
        if length < WITHIN_BYTES_MAX {
            Self::Within
        } else if length < INLINE_BYTES_MAX {
            Self::Inline
        } else {
            Self::File
        }
    }

    /// Whether it is a file of its own.
    pub(crate) const fn is_file(self) -> bool {
        matches!(self, Self::File)
    }
}

/// The part of a record that the store itself needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordHead {
    /// Position in the order of all insertions; never used twice.
    pub(crate) sequence: u64,
    /// Bytes of the body.
    pub(crate) length: u64,
    /// SHA-256 of the body.
    pub(crate) sha256: Sha256,
    /// The place of the body.
    pub(crate) place: BodyPlace,
    /// The key hash of the NAR that this object's claim is about.
    pub(crate) claims: Option<[u8; 16]>,
    /// The key hash of the object that this is a variant of.
    pub(crate) variant_of: Option<[u8; 16]>,
}

impl RecordHead {
    /// Whether these bytes are the body.
    pub(crate) fn is_of(&self, body: &[u8]) -> bool {
        body.len() as u64 == self.length && Sha256::of(body) == self.sha256
    }

    /// Bytes that count against the limit.
    pub(crate) const fn charge(&self) -> u64 {
        charge(self.length)
    }
}

/// Bytes that an object with a body of `length` bytes counts against the limit: what it takes
/// on disk, rounded up. Always a multiple of 512; saturates.
pub const fn charge(length: u64) -> u64 {
    let (overhead, unit) = match BodyPlace::of(length) {
        BodyPlace::Within | BodyPlace::Inline => (512, CHARGE_UNIT),
        BodyPlace::File => (1024 + sums::sums_bytes(length), 4096),
    };
    match length.saturating_add(overhead).checked_next_multiple_of(unit) {
        Some(bytes) => bytes,
        None => u64::MAX - u64::MAX % CHARGE_UNIT,
    }
}

/// The unit of [`charge`] in bytes.
pub(crate) const CHARGE_UNIT: u64 = 512;

/// A stored object without its body.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// What the store needs.
    pub(crate) head: RecordHead,
    /// What all others need.
    pub(crate) meta: Meta,
}

#[derive(Serialize, Deserialize)]
struct MetaForm {
    key: String,
    class: String,
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    origin: String,
    request_time: Timestamp,
    response_time: Timestamp,
    age_at_response: u32,
    lifetime: Lifetime,
    is_invalidated: bool,
    proof: Proof,
    variant: VariantForm,
}

impl MetaForm {
    fn of(meta: &Meta) -> Self {
        let headers = meta.headers.iter();
        Self {
            key: meta.key.as_str().to_owned(),
            class: meta.class.as_str().to_owned(),
            status: meta.status.as_u16(),
            headers: headers.map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec())).collect(),
            origin: meta.origin.to_string(),
            request_time: meta.request_time,
            response_time: meta.response_time,
            age_at_response: meta.age_at_response,
            lifetime: meta.lifetime,
            is_invalidated: meta.is_invalidated,
            proof: meta.proof,
            variant: variant_form(&meta.variant),
        }
    }

    fn into_meta(self) -> Result<Meta, FormatError> {
        let too_many = |_| FormatError::Field("number of headers");
        let mut headers = HeaderMap::try_with_capacity(self.headers.len()).map_err(too_many)?;
        for (name, value) in self.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| FormatError::Field("header name"))?;
            let value =
                HeaderValue::from_bytes(&value).map_err(|_| FormatError::Field("header value"))?;
            headers.try_append(name, value).map_err(too_many)?;
        }
        let status = StatusCode::from_u16(self.status);
        let status = status.map_err(|_| FormatError::Field("status"))?;
        let challenge = take_of_one_client(&mut headers);
        if challenge == Challenge::ForOne && status == StatusCode::UNAUTHORIZED {
            return Err(FormatError::Challenge);
        }
        pack(&mut headers);
        let class = Class::ALL.into_iter().find(|class| class.as_str() == self.class);
        Ok(Meta {
            key: Key::from_stored(&self.key).ok_or(FormatError::Field("key"))?,
            class: class.ok_or(FormatError::Field("class"))?,
            status,
            headers,
            origin: Arc::from(self.origin),
            request_time: self.request_time,
            response_time: self.response_time,
            age_at_response: self.age_at_response,
            lifetime: self.lifetime,
            is_invalidated: self.is_invalidated || challenge == Challenge::ForOne,
            proof: self.proof,
            variant: variant_of_form(self.variant)?,
        })
    }
}

type VariantForm = Vec<(String, Option<Vec<u8>>)>;

fn variant_form(variant: &Variant) -> VariantForm {
    let fields = variant.fields().iter();
    let form = fields.map(|(name, value)| {
        (name.as_str().to_owned(), value.as_ref().map(|value| value.as_bytes().to_vec()))
    });
    form.collect()
}

fn variant_of_form(form: VariantForm) -> Result<Variant, FormatError> {
    let mut fields = Vec::with_capacity(form.len());
    for (name, value) in form {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| FormatError::Field("variant's field name"))?;
        let value = value.map(|value| HeaderValue::from_bytes(&value)).transpose();
        fields.push((name, value.map_err(|_| FormatError::Field("variant's field value"))?));
    }
    Ok(Variant::new(fields))
}

/// A form of this program's version as bytes.
pub(crate) fn encode<T: Serialize>(form: &T) -> Result<Vec<u8>, FormatError> {
    postcard::to_extend(form, vec![VERSION_BYTE]).map_err(|_| FormatError::Encoding)
}

/// What follows the version byte, if that is this program's.
pub(crate) fn versioned(bytes: &[u8]) -> Result<&[u8], FormatError> {
    match bytes.split_first() {
        Some((&VERSION_BYTE, rest)) => Ok(rest),
        Some((&version, _)) => Err(FormatError::Version(version)),
        None => Err(FormatError::Encoding),
    }
}

/// A record as bytes. Fails only where postcard does, which it does not on these forms.
pub(crate) fn encode_record(head: &RecordHead, meta: &Meta) -> Result<Vec<u8>, FormatError> {
    encode(&(head, MetaForm::of(meta)))
}

/// A record with the body that stands behind it, if that is its place.
pub(crate) fn with_body(mut record: Vec<u8>, place: BodyPlace, body: &[u8]) -> Vec<u8> {
    if place == BodyPlace::Within {
        record.extend_from_slice(body);
    }
    record
}

/// The head of a record: cheap, takes no allocation.
pub(crate) fn decode_head(bytes: &[u8]) -> Result<RecordHead, FormatError> {
    let (head, _) =
        postcard::take_from_bytes(versioned(bytes)?).map_err(|_| FormatError::Encoding)?;
    Ok(head)
}

/// The key of a record, without the rest of its metadata.
pub(crate) fn decode_key(bytes: &[u8]) -> Result<Key, FormatError> {
    let ((_, key), _): ((RecordHead, &str), _) =
        postcard::take_from_bytes(versioned(bytes)?).map_err(|_| FormatError::Encoding)?;
    Key::from_stored(key).ok_or(FormatError::Field("key"))
}

/// The tags of a record, as the index has them; none if it cannot be read.
pub(crate) fn tags_of(record: &[u8]) -> Vec<TagHash> {
    let Some((key, lines)) = tag_lines(record) else { return Vec::new() };
    tags::hashes(key.site(), lines.into_iter()).collect()
}

/// Whether a purge of `site` by `tags` means the object of a record: whether it has any. One
/// that cannot be read might be meant, and is never served.
pub(crate) fn is_tagged(record: &[u8], site: &str, tags: &PurgeTags) -> bool {
    let lines = tag_lines(record);
    lines.is_none_or(|(key, lines)| key.site() == site && tags.covers(lines.into_iter()))
}

/// A record up to its fields.
type RecordFields<'a> = (RecordHead, &'a str, &'a str, u16, Vec<(&'a str, &'a [u8])>);

/// The key of a record, and the values of its field of tags.
fn tag_lines(record: &[u8]) -> Option<(Key, Vec<&[u8]>)> {
    let fields: (RecordFields<'_>, _) = postcard::take_from_bytes(versioned(record).ok()?).ok()?;
    let (_, key, _, _, fields) = fields.0;
    let lines = fields.into_iter().filter(|(name, _)| *name == tags::TAG_FIELD.as_str());
    Some((Key::from_stored(key)?, lines.map(|(_, value)| value).collect()))
}

/// A whole record, whatever stands behind it.
pub(crate) fn decode_record(bytes: &[u8]) -> Result<Record, FormatError> {
    decode_row(bytes).map(|(record, _)| record)
}

/// A whole record and what stands behind it: its body, if that is its place.
pub(crate) fn decode_row(bytes: &[u8]) -> Result<(Record, &[u8]), FormatError> {
    let ((head, form), rest): ((RecordHead, MetaForm), _) =
        postcard::take_from_bytes(versioned(bytes)?).map_err(|_| FormatError::Encoding)?;
    Ok((Record { head, meta: form.into_meta()? }, rest))
}

#[derive(Serialize, Deserialize)]
struct ClaimForm {
    owner: [u8; 16],
    key: String,
    claim: NarClaim,
}

/// A claim about the NAR `key`, with the key hash of the object that makes it.
pub(crate) fn encode_claim(
    owner: KeyHash,
    key: &Key,
    claim: &NarClaim,
) -> Result<Vec<u8>, FormatError> {
    let form = ClaimForm { owner: owner.0, key: key.as_str().to_owned(), claim: claim.clone() };
    let mut bytes = encode(&form)?;
    // Behind what older versions read and wrote, which look no further.
    if let Some(source) = claim.source {
        let source = postcard::to_stdvec(&source).map_err(|_| FormatError::Encoding)?;
        bytes.extend_from_slice(&source);
        if let Some(contents) = claim.contents {
            let contents = postcard::to_stdvec(&contents).map_err(|_| FormatError::Encoding)?;
            bytes.extend_from_slice(&contents);
        }
    }
    Ok(bytes)
}

/// A claim: the object that makes it, its NAR, and what it says.
pub(crate) fn decode_claim(bytes: &[u8]) -> Result<(KeyHash, Key, NarClaim), FormatError> {
    let (form, rest): (ClaimForm, _) =
        postcard::take_from_bytes(versioned(bytes)?).map_err(|_| FormatError::Encoding)?;
    let key = Key::from_stored(&form.key).ok_or(FormatError::Field("key"))?;
    let (source, rest) = match rest {
        [] => (None, rest),
        rest => {
            let taken = postcard::take_from_bytes(rest);
            let (source, rest) = taken.map_err(|_| FormatError::Field("source"))?;
            (Some(source), rest)
        }
    };
    let contents = match rest {
        [] => None,
        rest => Some(postcard::from_bytes(rest).map_err(|_| FormatError::Field("contents"))?),
    };
    Ok((KeyHash(form.owner), key, NarClaim { source, contents, ..form.claim }))
}

#[derive(Serialize, Deserialize)]
struct VariantRowForm {
    sequence: u64,
    key: String,
    variant: VariantForm,
}

/// The row that says that an object has this variant, inserted with this sequence.
pub(crate) fn encode_variant(
    sequence: u64,
    key: &Key,
    variant: &Variant,
) -> Result<Vec<u8>, FormatError> {
    let (key, variant) = (key.as_str().to_owned(), variant_form(variant));
    encode(&VariantRowForm { sequence, key, variant })
}

/// A variant of an object: its sequence, its own key, and what it is selected by.
pub(crate) fn decode_variant(bytes: &[u8]) -> Result<(u64, Key, Variant), FormatError> {
    let form: VariantRowForm =
        postcard::from_bytes(versioned(bytes)?).map_err(|_| FormatError::Encoding)?;
    let key = Key::from_stored(&form.key).ok_or(FormatError::Field("key"))?;
    Ok((form.sequence, key, variant_of_form(form.variant)?))
}

/// What the store was like at its last commit: a start value until the index is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// The sequence that the next insertion gets.
    pub(crate) next_sequence: u64,
    /// Bytes counted against the limit.
    pub(crate) bytes: u64,
    /// Objects.
    pub(crate) objects: u64,
}

/// Totals as bytes.
pub(crate) fn encode_totals(totals: &Totals) -> Result<Vec<u8>, FormatError> {
    encode(totals)
}

/// Totals read back.
pub(crate) fn decode_totals(bytes: &[u8]) -> Result<Totals, FormatError> {
    postcard::from_bytes(versioned(bytes)?).map_err(|_| FormatError::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Tag;
    use crate::store::body::trailer;
    use proptest::prelude::proptest;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }

    fn head() -> RecordHead {
        RecordHead {
            sequence: 7,
            length: 70_000,
            sha256: Sha256([0xab; 32]),
            place: BodyPlace::File,
            claims: Some([0xcd; 16]),
            variant_of: None,
        }
    }

    fn meta() -> Meta {
        let mut headers = HeaderMap::new();
        headers.append("content-type", HeaderValue::from_static("text/x-nix-narinfo"));
        headers.append("link", HeaderValue::from_static("a"));
        headers.append("link", HeaderValue::from_bytes(b"b\xff").unwrap());
        Meta {
            key: Key::new("main", "/nar/a.nar.xz", None),
            class: Class::Nar,
            status: StatusCode::OK,
            headers,
            origin: Arc::from("s3"),
            request_time: Timestamp::from_secs(1_700_000_000),
            response_time: Timestamp::from_secs(1_700_000_001),
            age_at_response: 3,
            lifetime: Lifetime::Seconds(86_400),
            is_invalidated: false,
            proof: Proof::FileHash,
            variant: Variant::new([
                (HeaderName::from_static("accept"), Some(HeaderValue::from_static("text/*"))),
                (HeaderName::from_static("accept-encoding"), None),
            ]),
        }
    }

    #[test]
    fn the_golden_record_stays_readable() {
        let golden = include_str!("golden/record-3.hex").trim();
        assert_eq!(hex(&encode_record(&head(), &meta()).unwrap()), golden);
        let bytes: Vec<u8> = (0..golden.len() / 2)
            .map(|at| u8::from_str_radix(golden.get(2 * at..2 * at + 2).unwrap(), 16).unwrap())
            .collect();
        assert_eq!(decode_record(&bytes).unwrap().head, head());
    }

    #[test]
    fn what_is_for_one_client_is_not_read_back() {
        let sound = meta();
        let mut stored = sound.clone();
        stored.headers.insert("x-csrf-token", HeaderValue::from_static("1"));
        let read = |meta: &Meta| {
            let record = encode_record(&head(), meta).unwrap();
            let Meta { headers, is_invalidated, .. } = decode_record(&record).unwrap().meta;
            (headers, is_invalidated)
        };
        assert_eq!(read(&stored), (sound.headers.clone(), false));
        let challenge = HeaderValue::from_static("Digest realm=\"a\", nonce=\"1\"");
        stored.headers.insert("www-authenticate", challenge);
        assert_eq!(read(&stored), (sound.headers, true), "it is confirmed before its next use");
        stored.status = StatusCode::UNAUTHORIZED;
        let record = encode_record(&head(), &stored).unwrap();
        assert_eq!(decode_record(&record).map(|_| ()), Err(FormatError::Challenge));
    }

    #[test]
    fn the_golden_trailer_claim_and_totals_stay_readable() {
        let key = Key::new("main", "/nar/a.nar.xz", None);
        let record = encode_record(&head(), &meta()).unwrap();
        let mut sums = sums::Sums::new(key.hash());
        sums.update(&vec![7; 70_000]);
        let trailer = trailer::encode(key.hash(), &head(), &sums.encode(), &record).unwrap();
        assert_eq!(hex(&trailer), include_str!("golden/trailer-3.hex").trim());
        let claim = NarClaim {
            file_hash: Some(Sha256([1; 32])),
            file_size: Some(300),
            source: None,
            contents: None,
        };
        assert_eq!(
            hex(&encode_claim(KeyHash([2; 16]), &key, &claim).unwrap()),
            include_str!("golden/claim-3.hex").trim()
        );
        for source in [None, Some(0), Some(u32::MAX)] {
            let claim = NarClaim { source, ..claim.clone() };
            let bytes = encode_claim(KeyHash([2; 16]), &key, &claim).unwrap();
            assert_eq!(decode_claim(&bytes), Ok((KeyHash([2; 16]), key.clone(), claim)));
        }
        let totals = Totals { next_sequence: 300, bytes: 2, objects: 1 };
        assert_eq!(hex(&encode_totals(&totals).unwrap()), "03ac020201");
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let bytes = encode_record(&head(), &meta()).unwrap();
        let record = decode_record(&bytes).unwrap();
        assert_eq!(record.head, head());
        assert_eq!(decode_head(&bytes), Ok(head()));
        assert_eq!(decode_key(&bytes), Ok(meta().key));
        assert_eq!(format!("{:?}", record.meta), format!("{:?}", meta()));
    }

    #[test]
    fn the_tags_of_a_record_are_read_without_the_rest() {
        let mut tagged = meta();
        tagged.headers.append(tags::TAG_FIELD, HeaderValue::from_static("a b"));
        tagged.headers.append(tags::TAG_FIELD, HeaderValue::from_static("c"));
        let record =
            with_body(encode_record(&head(), &tagged).unwrap(), BodyPlace::Within, b"body");
        assert_eq!(tags_of(&record).len(), 3);
        for (site, name, expected) in
            [("main", "a", true), ("main", "c", true), ("main", "d", false), ("other", "a", false)]
        {
            let tag = PurgeTags::new([Tag::parse(name).unwrap()]);
            assert_eq!(is_tagged(&record, site, &tag), expected, "{site} {name}");
            let found = tag.hashes(site).iter().any(|hash| tags_of(&record).contains(hash));
            assert_eq!(found, expected, "{site} {name}");
        }
        assert!(tags_of(&encode_record(&head(), &meta()).unwrap()).is_empty());
        assert!(tags_of(b"torn").is_empty());
        assert!(is_tagged(b"torn", "main", &PurgeTags::new([Tag::parse("a").unwrap()])));
    }

    #[test]
    fn a_small_body_stands_behind_its_record_and_no_other_does() {
        let record = encode_record(&head(), &meta()).unwrap();
        let row = with_body(record.clone(), BodyPlace::Within, b"body");
        let (found, body) = decode_row(&row).unwrap();
        assert_eq!((found.head, body), (head(), &b"body"[..]));
        assert_eq!(decode_head(&row), Ok(head()));
        assert_eq!(decode_key(&row), Ok(meta().key));
        for place in [BodyPlace::Inline, BodyPlace::File] {
            assert_eq!(with_body(record.clone(), place, b"body"), record);
        }
        let places = [0, 4095, 4096, 65_535, 65_536].map(BodyPlace::of);
        let expected = [
            BodyPlace::Within,
            BodyPlace::Within,
            BodyPlace::Inline,
            BodyPlace::Inline,
            BodyPlace::File,
        ];
        assert_eq!(places, expected);
    }

    #[test]
    fn another_version_is_named_and_refused() {
        let mut bytes = encode_record(&head(), &meta()).unwrap();
        *bytes.first_mut().unwrap() = 9;
        assert_eq!(decode_head(&bytes), Err(FormatError::Version(9)));
        assert_eq!(decode_record(&[]).map(|_| ()), Err(FormatError::Encoding));
    }

    /// A map of fields panics if it is to hold more than it can.
    #[test]
    fn more_headers_than_a_response_can_have_are_refused() {
        let mut form = MetaForm::of(&meta());
        form.headers = vec![("a".to_owned(), Vec::new()); 40_000];
        let bytes = encode(&(head(), form)).unwrap();
        let refused = decode_record(&bytes).map(|_| ());
        assert_eq!(refused, Err(FormatError::Field("number of headers")));
    }

    #[test]
    fn a_charge_is_never_below_the_body_and_fits_its_unit() {
        assert_eq!(charge(0), 512);
        assert_eq!(charge(INLINE_BYTES_MAX - 1), 66_048);
        assert_eq!(charge(INLINE_BYTES_MAX), 69_632);
        assert_eq!(charge(u64::MAX) % CHARGE_UNIT, 0);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_cleanly(bytes: Vec<u8>) {
            let mut versioned = vec![VERSION_BYTE];
            versioned.extend(bytes);
            let _ = decode_record(&versioned);
            let _ = decode_claim(&versioned);
            let _ = decode_totals(&versioned);
            let _ = decode_variant(&versioned);
        }

        #[test]
        fn charges_grow_with_the_body(length in 0..u64::MAX / 2, more in 0..1_u64 << 40) {
            assert!(charge(length) >= length);
            assert!(charge(length + more) >= charge(length));
            assert_eq!(charge(length) % CHARGE_UNIT, 0);
        }
    }
}
