//! Which certificate authorities an origin's certificate may come from. Read once when the
//! configuration is taken into use, however many origins and sites it has: the system's take some
//! 200 KiB. Shared afterwards; no locks.

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A TLS client set-up: TLS 1.2 and 1.3, ALPN for HTTP/2 and HTTP/1.1, and the authorities.
#[derive(Debug, Clone)]
pub struct Trust(Arc<ClientConfig>);

/// Why the authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file cannot be read.
    #[error("cannot read the certificate authorities in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file has no certificate, or one that is not PEM.
    #[error("{}: certificate {position}: {detail}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Which certificate of the file, from 1.
        position: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// The TLS library refused its set-up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl Trust {
    /// The system's authorities (those built in where it has none), and those of `ca_file`.
    ///
    /// Reads files: not for the runtime's threads.
    pub fn load(ca_file: Option<&Path>) -> Result<Self, TrustError> {
        let mut roots = system_roots();
        if let Some(path) = ca_file {
            add_file(&mut roots, path)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(tls)))
    }

    /// The set-up for rustls.
    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

/// The authorities of one configuration by their file, so that each is read once.
#[derive(Debug, Default)]
pub struct Trusts(HashMap<Option<PathBuf>, Trust>);

impl Trusts {
    /// As [`Trust::load`], or what that gave for the same file before.
    pub fn load(&mut self, ca_file: Option<&Path>) -> Result<Trust, TrustError> {
        let file = ca_file.map(Path::to_path_buf);
        if let Some(trust) = self.0.get(&file) {
            return Ok(trust.clone());
        }
        let trust = Trust::load(ca_file)?;
        self.0.insert(file, trust.clone());
        Ok(trust)
    }
}

fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a system certificate authority was left out");
    }
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::info!(ignored, "no system certificate authorities: using those built in");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TrustError> {
    let text = std::fs::read(path)
        .map_err(|source| TrustError::Read { path: path.to_path_buf(), source })?;
    let wrong = |position, detail: String| TrustError::Certificate {
        path: path.to_path_buf(),
        position,
        detail,
    };
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        count += 1;
        let certificate =
            certificate.map_err(|error| wrong(count, format!("not PEM: {error:?}")))?;
        roots
            .add(certificate)
            .map_err(|error| wrong(count, format!("not a usable authority: {error}")))?;
    }
    if count == 0 {
        let detail = "missing: the file has no `-----BEGIN CERTIFICATE-----` block";
        return Err(wrong(1, detail.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Trust, TrustError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, text).unwrap();
        Trust::load(Some(&path))
    }

    #[test]
    fn an_authority_file_is_taken_or_said_to_be_wrong() {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        assert!(load(&key.cert.pem()).is_ok());
        let empty = load("no certificate here\n").unwrap_err().to_string();
        assert!(empty.contains("ca.pem") && empty.contains("BEGIN CERTIFICATE"), "{empty}");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let text = load(broken).unwrap_err().to_string();
        assert!(text.contains("certificate 1: not a usable authority"), "{text}");
        let missing = Trust::load(Some(Path::new("/does/not/exist.pem"))).unwrap_err();
        assert!(matches!(missing, TrustError::Read { .. }));
    }

    #[test]
    fn a_file_is_read_once_for_all_that_name_it() {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, key.cert.pem()).unwrap();
        let mut trusts = Trusts::default();
        let (own, system) = (trusts.load(Some(&path)).unwrap(), trusts.load(None).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(Arc::ptr_eq(&own.tls(), &trusts.load(Some(&path)).unwrap().tls()));
        assert!(Arc::ptr_eq(&system.tls(), &trusts.load(None).unwrap().tls()));
        assert!(!Arc::ptr_eq(&own.tls(), &system.tls()));
    }

    #[test]
    fn without_a_file_there_are_still_authorities() {
        assert!(Trust::load(None).is_ok());
    }
}
