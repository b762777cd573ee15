//! Content addresses: the `CA` field of a narinfo, from which its store path follows (Nix:
//! `src/libstore/content-address.cc`, `ValidPathInfo::isContentAddressed`). Pure. If the path that
//! follows is the path of the narinfo, Nix wants no signature.

use super::hash::{HashError, NixHash};
use super::narinfo::NarInfo;
use super::store_path::{Ingestion, SelfReference, StorePath, StorePathError};

/// What a store path follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentAddress {
    method: Method,
    hash: NixHash,
}

/// What the hash is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// `text:`, of the bytes of a file that may have references.
    Text,
    /// `fixed:` or `fixed:r:`.
    Fixed(Ingestion),
}

/// Why a store path does not follow from its content address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentAddressError {
    /// There is no `CA` field.
    #[error("there is no content address")]
    Missing,
    /// A form that is not known here. Nix knows `git` too, as an experiment.
    #[error(
        "the content address is none of 'text:', 'fixed:' and 'fixed:r:' with 'ALGORITHM:HASH'"
    )]
    Form,
    /// Its hash is none.
    #[error("the content address: {0}")]
    Hash(#[from] HashError),
    /// Nix permits only a SHA-256 of a text.
    #[error("the content address of a text is not a SHA-256")]
    TextAlgorithm,
    /// Nix permits references of a text, and of a NAR by its SHA-256, and only the NAR may refer to
    /// itself.
    #[error("a store path with this form of content address has no such references")]
    References,
    /// No path follows.
    #[error("no store path follows from the content address: {0}")]
    Path(#[from] StorePathError),
    /// The path is another one.
    #[error("the content address leads to {follows}")]
    OtherPath {
        /// The path that follows from it.
        follows: StorePath,
    },
    /// `NarHash` is of other contents.
    #[error("the content address and NarHash are of different contents")]
    NarHash,
}

impl ContentAddress {
    /// Reads a `CA` field, such as `fixed:r:sha256:<base 32>`.
    pub fn parse(text: &str) -> Result<Self, ContentAddressError> {
        let (prefix, rest) = text.split_once(':').ok_or(ContentAddressError::Form)?;
        let (method, hash) = match prefix {
            "text" => (Method::Text, rest),
            "fixed" => match rest.strip_prefix("r:") {
                Some(rest) => (Method::Fixed(Ingestion::Nar), rest),
                None => (Method::Fixed(Ingestion::Flat), rest),
            },
            _ => return Err(ContentAddressError::Form),
        };
        // SRI is not permitted here.
        if !hash.contains(':') {
            return Err(ContentAddressError::Form);
        }
        let hash = NixHash::parse(hash)?;
        if method == Method::Text && hash.sha256().is_none() {
            return Err(ContentAddressError::TextAlgorithm);
        }
        Ok(Self { method, hash })
    }

    /// The store path that follows, under the name and with the references of `narinfo`.
    fn store_path(&self, narinfo: &NarInfo) -> Result<StorePath, ContentAddressError> {
        let (store_dir, name) = (&narinfo.store_dir, narinfo.store_path.name());
        let (own, others): (Vec<_>, Vec<_>) = narinfo
            .references
            .iter()
            .cloned()
            .partition(|reference| *reference == narinfo.store_path);
        let self_reference =
            if own.is_empty() { SelfReference::Absent } else { SelfReference::Present };
        let path = match (self.method, self.hash.sha256()) {
            (Method::Text, Some(sha256)) if self_reference == SelfReference::Absent => {
                StorePath::text(store_dir, name, sha256, &others)?
            }
            (Method::Fixed(Ingestion::Nar), Some(nar_sha256)) => {
                StorePath::source(store_dir, name, nar_sha256, &others, self_reference)?
            }
            (Method::Fixed(ingestion), _) if narinfo.references.is_empty() => {
                StorePath::fixed_output(store_dir, name, &self.hash, ingestion)?
            }
            (Method::Text | Method::Fixed(_), _) => return Err(ContentAddressError::References),
        };
        Ok(path)
    }
}

impl NarInfo {
    /// Checks that the store path follows from the content address, so that no signature is needed.
    /// Nix compares the contents with it when it has them. What can be compared without them is
    /// compared here: the SHA-256 of a NAR that does not refer to itself is its `NarHash`.
    pub fn check_content_address(&self) -> Result<(), ContentAddressError> {
        let text = self.content_address.as_deref().ok_or(ContentAddressError::Missing)?;
        let address = ContentAddress::parse(text)?;
        let follows = address.store_path(self)?;
        if follows != self.store_path {
            return Err(ContentAddressError::OtherPath { follows });
        }
        let is_of_nar = address.method == Method::Fixed(Ingestion::Nar)
            && !self.references.contains(&self.store_path);
        match address.hash.sha256() {
            Some(sha256) if is_of_nar && sha256 != self.nar_sha256 => {
                Err(ContentAddressError::NarHash)
            }
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::store_path::StoreDir;
    use proptest::prelude::proptest;

    /// SHA-256 of the NAR of a folder with the file `a`, which has `a` and a line feed.
    const TREE: &str = "sha256:1f1layi40aar7sfj6mbwpp9r02pp8i0zzcv9nxb15zhkdag66bv4";
    const OTHER: &str = "sha256:1r3v22qkypccqifzbww5lrn6hf1chi23m6zzkyvb8bvg457nxslq";

    fn narinfo(path: &str, address: &str, nar_hash: &str, references: &[&str]) -> NarInfo {
        let path_of = |text: &str| StorePath::from_base_name(text).unwrap();
        NarInfo {
            store_dir: StoreDir::new("/srv/store").unwrap(),
            store_path: path_of(path),
            url: "nar/a.nar".to_owned(),
            compression: "none".to_owned(),
            file_hash: None,
            file_size: None,
            nar_sha256: NixHash::parse(nar_hash).unwrap().sha256().unwrap(),
            nar_size: 1,
            references: references.iter().map(|text| path_of(text)).collect(),
            deriver: None,
            system: None,
            signatures: Vec::new(),
            content_address: Some(address.to_owned()),
        }
    }

    fn check(
        path: &str,
        address: &str,
        nar_hash: &str,
        references: &[&str],
    ) -> Result<(), ContentAddressError> {
        narinfo(path, address, nar_hash, references).check_content_address()
    }

    /// Printed by `nix-store --add-fixed` and `nix path-info` of Nix 2.8.0 in a store at
    /// `/srv/store`.
    #[test]
    fn fixed_outputs_of_nix_are_content_addressed() {
        for (path, address) in [
            ("7ylda8bycn3i8chs84ic8dwljnbnsy3m-leaf.txt", "fixed:md5:4yplxll7378zdi27ns7n4glkkn"),
            (
                "2gmq2660fygxjlb7fcajx8ri111cfrbi-leaf.txt",
                "fixed:sha1:fd540npwk7x370s4s2jzpx74wf365jjm",
            ),
            (
                "hqb26ifkfsb3bisr9r7rai5agl3dirzl-leaf.txt",
                "fixed:sha256:1r3v22qkypccqifzbww5lrn6hf1chi23m6zzkyvb8bvg457nxslq",
            ),
            (
                "cmm6p3char928z1h0n2rzhxllzzrv8xf-leaf.txt",
                "fixed:sha512:2n0zm9j591idxv29lvrybrcrgncih9hfdrk2sj3i36cby9pkqwhc3j1j4xr7mhjq8x\
                 0979n5wxc1nihq84iclh48zwnas3k882vp2np",
            ),
            ("vi9a898aszry606yga0l5saj0d6bn626-tree", "fixed:r:md5:7qzdkzyri6pm7qm2d63j0mk9rs"),
            (
                "41li5k9b5xfaldwl1mkibl0q8ryi0vky-tree",
                "fixed:r:sha1:wky5hhdjb1ljygf1vczhk08wika96rbr",
            ),
            (
                "zbkwxzl1zm4h24fm9s1ybr7czhadwpxw-tree",
                "fixed:r:sha256:1f1layi40aar7sfj6mbwpp9r02pp8i0zzcv9nxb15zhkdag66bv4",
            ),
            (
                "fxxymjgyz7fnyrgsg7zs4bh0pzjkls54-tree",
                "fixed:r:sha512:1yy6zgrpl7m8vja2q4hn0aq72m5ci6gswx7v2wh7zqs04mmgplwb0llapf2si0v0\
                 s5jahnar9i7dbs7pwlxnl3sf6vy980ps6vbq96n",
            ),
        ] {
            assert_eq!(check(path, address, TREE, &[]), Ok(()), "{path} {address}");
            let renamed = format!("{path}-2");
            let other = check(&renamed, address, TREE, &[]);
            assert!(matches!(other, Err(ContentAddressError::OtherPath { .. })), "{renamed}");
        }
    }

    /// Computed by Nix 2.8.0: `builtins.toFile`, and `nix store make-content-addressed` of a path
    /// that refers to itself.
    #[test]
    fn references_count() {
        let leaf = "am1vbk4jlg1qwp4d2x6yd57cjvdg1b2p-leaf.txt";
        let address = "text:sha256:1r3v22qkypccqifzbww5lrn6hf1chi23m6zzkyvb8bvg457nxslq";
        assert_eq!(check(leaf, address, TREE, &[]), Ok(()));

        let refers = "jb9sf6l5z51gacvdxq4a8y0s5pngj1qb-refers.txt";
        let address = "text:sha256:0r5irkva13dzm6s4pvv0cz1ahpy00lcvnhaq7z0ij8m4spzdjzcr";
        assert_eq!(check(refers, address, TREE, &[leaf]), Ok(()));
        let bare = check(refers, address, TREE, &[]);
        assert!(matches!(bare, Err(ContentAddressError::OtherPath { .. })));
        let own = check(refers, address, TREE, &[leaf, refers]);
        assert_eq!(own, Err(ContentAddressError::References));

        let selfish = "vy6sf2fb0bx2bg1fh0ad2qj5yjvzx382-selfish";
        let address = "fixed:r:sha256:1n3javbbgkvwmbghnsmsgyz4cxqlqy7ki8ivlzjh7nys7iswwi51";
        let refers = "32gwjpfcqg797ccb71zrn4qh3b1w1w75-refers.txt";
        assert_eq!(check(selfish, address, TREE, &[refers, selfish]), Ok(()));
        let flat = "fixed:sha256:1n3javbbgkvwmbghnsmsgyz4cxqlqy7ki8ivlzjh7nys7iswwi51";
        assert_eq!(check(selfish, flat, TREE, &[refers]), Err(ContentAddressError::References));
    }

    #[test]
    fn a_nar_that_is_addressed_has_the_narhash() {
        let tree = "zbkwxzl1zm4h24fm9s1ybr7czhadwpxw-tree";
        let address = format!("fixed:r:{TREE}");
        assert_eq!(check(tree, &address, OTHER, &[]), Err(ContentAddressError::NarHash));
    }

    #[test]
    fn what_is_no_content_address_is_named() {
        let mut none = narinfo("zbkwxzl1zm4h24fm9s1ybr7czhadwpxw-tree", "", TREE, &[]);
        none.content_address = None;
        assert_eq!(none.check_content_address(), Err(ContentAddressError::Missing));
        for text in
            ["", "fixed", "fixed:", "text:", "fixed:r:", "r:sha256:x", "fixed:sha256-aaaa", TREE]
        {
            assert_eq!(ContentAddress::parse(text), Err(ContentAddressError::Form), "{text}");
        }
        let md5 = ContentAddress::parse("text:md5:4yplxll7378zdi27ns7n4glkkn");
        assert_eq!(md5, Err(ContentAddressError::TextAlgorithm));
        for text in ["fixed:git:sha1:fd540npwk7x370s4s2jzpx74wf365jjm", "fixed:r:sha256:x"] {
            let found = ContentAddress::parse(text);
            assert!(matches!(found, Err(ContentAddressError::Hash(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "(text|fixed)?:?(r:)?(sha256|md5)?:?\\PC{0,60}") {
            let _ = check("zbkwxzl1zm4h24fm9s1ybr7czhadwpxw-tree", &text, TREE, &[]);
        }
    }
}
