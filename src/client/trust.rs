//! Which certificate authorities an origin's certificate may come from, and the certificate that
//! the edge shows to it. Read once when the configuration is taken into use, however many origins
//! and sites it has: the system's take some 200 KiB. Shared afterwards; no locks.

use super::verifier::OriginVerifier;
use crate::config::{CertificateFiles, HttpVersion};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names a file of certificate authorities, as for Nix itself.
const NIX_CERTIFICATES: &str = "NIX_SSL_CERT_FILE";

/// A TLS client set-up: TLS 1.2 and 1.3, ALPN for HTTP/2 and HTTP/1.1, and the authorities.
#[derive(Debug, Clone)]
pub struct TlsTrust(Arc<ClientConfig>);

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
    /// The file has no private key that can be read.
    #[error("{}: no usable private key: {detail}; write it as PEM", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong, without anything of the key.
        detail: String,
    },
    /// A certificate and a private key do not serve together.
    #[error(
        "{} and {} cannot be shown to an origin: {detail}",
        certificate.display(),
        key.display()
    )]
    Identity {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the TLS library says.
        detail: String,
    },
    /// The TLS library refused its set-up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The TLS library takes no authority.
    #[error("TLS cannot be set up: {0}")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

impl TlsTrust {
    /// The system's authorities (those built in if it has none), and those of `ca_file`; origins
    /// that ask for a certificate are shown `identity`.
    ///
    /// Reads files: not for the runtime's threads.
    pub fn load(
        ca_file: Option<&Path>,
        identity: Option<&CertificateFiles>,
    ) -> Result<Self, TrustError> {
        let mut roots = system_roots();
        if let Some(path) = ca_file {
            add_file(&mut roots, path)?;
        }
        let own = ca_file.map(chain).transpose()?.unwrap_or_default();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = OriginVerifier::new(roots, own, Arc::clone(&provider))?;
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut tls = match identity {
            None => tls.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = (chain(&files.certificate)?, private_key(&files.key)?);
                tls.with_client_auth_cert(chain, key).map_err(|error| TrustError::Identity {
                    certificate: files.certificate.clone(),
                    key: files.key.clone(),
                    detail: error.to_string(),
                })?
            }
        };
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(tls)))
    }

    /// The same, with the versions of HTTP that `version` permits.
    pub(super) fn speaking(&self, version: HttpVersion) -> Self {
        let protocol = match version {
            HttpVersion::Auto => return self.clone(),
            HttpVersion::Http1 => b"http/1.1".to_vec(),
            HttpVersion::Http2 => b"h2".to_vec(),
        };
        let mut tls = ClientConfig::clone(&self.0);
        tls.alpn_protocols = vec![protocol];
        Self(Arc::new(tls))
    }

    /// The set-up for rustls.
    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

/// The set-ups of one configuration by their files, so that each is read once.
#[derive(Debug, Default)]
pub struct Trusts(HashMap<Files, TlsTrust>);

/// The authorities' file, and those of a certificate and its key.
type Files = (Option<PathBuf>, Option<(PathBuf, PathBuf)>);

impl Trusts {
    /// As [`TlsTrust::load`], or what that gave for the same files before.
    pub fn load(
        &mut self,
        ca_file: Option<&Path>,
        identity: Option<&CertificateFiles>,
    ) -> Result<TlsTrust, TrustError> {
        let own = identity.map(|files| (files.certificate.clone(), files.key.clone()));
        let files = (ca_file.map(Path::to_path_buf), own);
        if let Some(trust) = self.0.get(&files) {
            return Ok(trust.clone());
        }
        let trust = TlsTrust::load(ca_file, identity)?;
        self.0.insert(files, trust.clone());
        Ok(trust)
    }
}

fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "system certificate authority left out");
    }
    let mut roots = RootCertStore::empty();
    let (mut added, ignored) = roots.add_parsable_certificates(found.certs);
    if let Some(path) = std::env::var_os(NIX_CERTIFICATES).map(PathBuf::from) {
        match chain(&path) {
            Ok(certificates) => added += roots.add_parsable_certificates(certificates).0,
            Err(error) => tracing::warn!(%error, "{NIX_CERTIFICATES} not used"),
        }
    }
    if added == 0 {
        tracing::info!(ignored, "no system certificate authorities, using built-in ones");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TrustError> {
    for (certificate, position) in chain(path)?.into_iter().zip(1..) {
        roots.add(certificate).map_err(|error| TrustError::Certificate {
            path: path.to_path_buf(),
            position,
            detail: format!("not a usable authority: {error}"),
        })?;
    }
    Ok(())
}

/// The certificates of a PEM file: one at least.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let text = read(path)?;
    let wrong = |position, detail: String| TrustError::Certificate {
        path: path.to_path_buf(),
        position,
        detail,
    };
    let mut chain = Vec::new();
    for (certificate, position) in CertificateDer::pem_slice_iter(&text).zip(1..) {
        chain.push(certificate.map_err(|error| wrong(position, format!("not PEM: {error:?}")))?);
    }
    if chain.is_empty() {
        let detail = "missing: the file has no `-----BEGIN CERTIFICATE-----` block";
        return Err(wrong(1, detail.to_owned()));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TrustError> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|error| TrustError::Key { path: path.to_path_buf(), detail: error.to_string() })
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    std::fs::read(path).map_err(|source| TrustError::Read { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<TlsTrust, TrustError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, text).unwrap();
        TlsTrust::load(Some(&path), None)
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
        let missing = TlsTrust::load(Some(Path::new("/does/not/exist.pem")), None).unwrap_err();
        assert!(matches!(missing, TrustError::Read { .. }));
    }

    #[test]
    fn a_file_is_read_once_for_all_that_name_it() {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, key.cert.pem()).unwrap();
        let mut trusts = Trusts::default();
        let (own, system) =
            (trusts.load(Some(&path), None).unwrap(), trusts.load(None, None).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(Arc::ptr_eq(&own.tls(), &trusts.load(Some(&path), None).unwrap().tls()));
        assert!(Arc::ptr_eq(&system.tls(), &trusts.load(None, None).unwrap().tls()));
        assert!(!Arc::ptr_eq(&own.tls(), &system.tls()));
    }

    #[test]
    fn a_certificate_to_show_must_go_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let one = rcgen::generate_simple_self_signed(vec!["edge".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["edge".to_owned()]).unwrap();
        let certificate = write("client.pem", one.cert.pem());
        let files = |key| CertificateFiles { certificate: certificate.clone(), key };
        let good = files(write("key.pem", one.signing_key.serialize_pem()));
        assert!(TlsTrust::load(None, Some(&good)).is_ok());
        let strange = files(write("strange.pem", other.signing_key.serialize_pem()));
        let error = TlsTrust::load(None, Some(&strange)).unwrap_err();
        assert!(matches!(error, TrustError::Identity { .. }), "{error}");
        let text = TlsTrust::load(None, Some(&files(certificate.clone()))).unwrap_err().to_string();
        assert!(text.contains("client.pem: no usable private key"), "{text}");
        let mut trusts = Trusts::default();
        let (with, without) =
            (trusts.load(None, Some(&good)).unwrap(), trusts.load(None, None).unwrap());
        assert!(!Arc::ptr_eq(&with.tls(), &without.tls()));
    }

    #[test]
    fn without_a_file_there_are_still_authorities() {
        assert!(TlsTrust::load(None, None).is_ok());
    }
}
