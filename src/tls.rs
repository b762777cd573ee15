//! Certificates of the TLS listeners, chosen by the name that the client asks for. Loaded at
//! start and again on SIGHUP; a handshake sees the old set or the new one, never a mixture. Lives
//! as long as the listeners; lock-free; called by the assembly and, through rustls, by the doors.

use crate::clock::{Clock, Timestamp};
use crate::config::{CertificateFiles, Tls};
use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{
    ClientHello, ParsedCertificate, ResolvesServerCert, ServerSessionMemoryCache,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, Error as RustlsError, InconsistentKeys, RootCertStore, ServerConfig, version,
};
use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// TLS 1.2 sessions kept for clients that resume by id; the others carry tickets.
const SESSIONS_MAX: usize = 8 * 1024;
/// Bytes of a certificate or key file that are read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// A certificate that ends within this is warned of.
const EXPIRY_WARNING: Duration = Duration::from_hours(14 * 24);

/// Which protocols a TLS listener offers by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    /// `h2`, then `http/1.1`.
    Http2AndHttp1,
    /// `http/1.1` only.
    Http1,
}

/// Why certificates could not be loaded. Each names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No `[[server.tls.certificates]]`.
    #[error("server.tls.certificates: none given; a TLS listener needs a certificate and its key")]
    None,
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}; give a file that the service's user can read",
        file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Larger than any certificate chain or key.
    #[error("{}: larger than 1 MiB; give a PEM file", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// The file holds no PEM certificate.
    #[error("{}: holds no certificate; give a PEM file with BEGIN CERTIFICATE, leaf first",
        file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// The file holds no PEM key that can be used.
    #[error("{}: holds no private key; give a PEM file with BEGIN PRIVATE KEY, not encrypted",
        file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// A PEM section that is broken.
    #[error("{}: broken PEM: {source}; write the file again", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What the reader said.
        source: PemError,
    },
    /// The certificate's contents do not parse.
    #[error("{}: not a usable certificate: {source}; the leaf stands first", file.display())]
    BadCertificate {
        /// The file.
        file: PathBuf,
        /// What rustls said.
        source: RustlsError,
    },
    /// A kind of key that cannot sign.
    #[error("{}: not a usable key: {source}; use an ECDSA, Ed25519 or RSA (2048 bit or more) key",
        file.display())]
    BadKey {
        /// The file.
        file: PathBuf,
        /// What rustls said.
        source: RustlsError,
    },
    /// The key is another certificate's.
    #[error("{}: this key does not belong to the first certificate in {}; pair them",
        key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// rustls refused the settings, or the system gave no random bytes.
    #[error("TLS cannot be set up: {source}")]
    Setup {
        /// What rustls said.
        #[from]
        source: RustlsError,
    },
}

/// The certificates in use.
#[derive(Debug, Clone)]
pub struct Certificates {
    current: Arc<ArcSwap<LoadedCertificates>>,
    provider: Arc<CryptoProvider>,
}

/// The certificates of one loading, in the order of the config; never empty.
#[derive(Debug)]
struct LoadedCertificates {
    first: Arc<CertifiedKey>,
    others: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Reads every certificate and key that `tls` names. Blocks on the file system.
    pub fn load(tls: &Tls) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = LoadedCertificates::load(tls, &provider)?;
        Ok(Self { current: Arc::new(ArcSwap::from_pointee(chain)), provider })
    }

    /// Reads them again; if anything is wrong, those in use stay. Blocks on the file system.
    pub fn reload(&self, tls: &Tls) -> Result<(), TlsError> {
        let chain = LoadedCertificates::load(tls, &self.provider)?;
        self.current.store(Arc::new(chain));
        Ok(())
    }

    /// The listeners' settings: TLS 1.2 and 1.3, resumption by ticket and by session id, no
    /// early data. Later reloads show in it.
    pub fn server_config(&self, protocols: Protocols) -> Result<Arc<ServerConfig>, TlsError> {
        let resolver = Resolver { current: Arc::clone(&self.current) };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        config.alpn_protocols = match protocols {
            Protocols::Http2AndHttp1 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Protocols::Http1 => vec![b"http/1.1".to_vec()],
        };
        Ok(Arc::new(config))
    }
}

/// What rustls asks for a certificate in each handshake.
#[derive(Debug)]
struct Resolver {
    current: Arc<ArcSwap<LoadedCertificates>>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().choose(hello.server_name()))
    }
}

impl LoadedCertificates {
    fn load(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let mut keys = Vec::with_capacity(tls.certificates.len());
        for files in &tls.certificates {
            let key = Arc::new(certified_key(files, provider)?);
            warn_of_expiry(files, &key, provider);
            keys.push(key);
        }
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or(TlsError::None)?;
        Ok(Self { first, others: keys.collect() })
    }

    /// The first certificate that covers the name (RFC 6125, wildcards included), else the first
    /// of all.
    fn choose(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let others = || self.others.iter();
        let wanted = name.filter(|_| !self.others.is_empty()).and_then(|name| {
            let name = ServerName::try_from(name).ok()?;
            std::iter::once(&self.first).chain(others()).find(|key| covers(key, &name))
        });
        Arc::clone(wanted.unwrap_or(&self.first))
    }
}

fn covers(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let Ok(leaf) = key.end_entity_cert() else { return false };
    let Ok(parsed) = ParsedCertificate::try_from(leaf) else { return false };
    rustls::client::verify_server_name(&parsed, name).is_ok()
}

fn certified_key(
    files: &CertificateFiles,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let CertificateFiles { certificate, key } = files;
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { file: certificate.clone(), source })?;
    let Some(leaf) = chain.first() else {
        return Err(TlsError::NoCertificate { file: certificate.clone() });
    };
    if let Err(source) = ParsedCertificate::try_from(leaf) {
        return Err(TlsError::BadCertificate { file: certificate.clone(), source });
    }
    let private = match PrivateKeyDer::from_pem_slice(&read(key)?) {
        Ok(private) => private,
        Err(PemError::NoItemsFound) => return Err(TlsError::NoKey { file: key.clone() }),
        Err(source) => return Err(TlsError::Pem { file: key.clone(), source }),
    };
    CertifiedKey::from_der(chain, private, provider).map_err(|source| {
        if source == RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) {
            return TlsError::Mismatch { certificate: certificate.clone(), key: key.clone() };
        }
        TlsError::BadKey { file: key.clone(), source }
    })
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|source| TlsError::Read { file: file.to_owned(), source })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::TooLarge { file: file.to_owned() });
    }
    Ok(bytes)
}

fn warn_of_expiry(files: &CertificateFiles, key: &CertifiedKey, provider: &Arc<CryptoProvider>) {
    let certificate = files.certificate.display();
    let now = Clock::System.wall().since(Timestamp::from_secs(0));
    match validity(key, now, provider) {
        Validity::Expired => tracing::warn!(
            %certificate, "certificate has expired; renew it"
        ),
        Validity::NotYet => tracing::warn!(
            %certificate, "certificate is not valid yet; check it and the clock"
        ),
        Validity::Current => {
            if validity(key, now + EXPIRY_WARNING, provider) == Validity::Expired {
                tracing::warn!(%certificate, "this certificate expires within 14 days: renew it");
            }
        }
    }
}

/// What a certificate's dates say of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Validity {
    Current,
    Expired,
    NotYet,
}

/// Asks a verifier that trusts the leaf itself, at `at` after the epoch: it looks at the dates
/// before anything else, and no other public interface shows them. Other faults of the chain
/// count as current, since the clients' trust is not known here.
fn validity(key: &CertifiedKey, at: Duration, provider: &Arc<CryptoProvider>) -> Validity {
    let asked = || {
        let leaf = key.end_entity_cert()?;
        let mut roots = RootCertStore::empty();
        roots.add(leaf.clone().into_owned())?;
        let provider = Arc::clone(provider);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| RustlsError::General(error.to_string()))?;
        let name = ServerName::try_from("invalid").map_err(|_| RustlsError::UnsupportedNameType)?;
        let at = UnixTime::since_unix_epoch(at);
        verifier.verify_server_cert(leaf, &[], &name, &[], at)
    };
    match asked() {
        Err(RustlsError::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => Validity::Expired,
        Err(RustlsError::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Validity::NotYet,
        Ok(_) | Err(_) => Validity::Current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tempfile::TempDir;

    /// Writes a certificate for `names` that is valid until `year`, and its key.
    fn issue(folder: &TempDir, file: &str, names: &[&str], year: i32) -> CertificateFiles {
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(1990, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let files = CertificateFiles {
            certificate: folder.path().join(format!("{file}.crt")),
            key: folder.path().join(format!("{file}.key")),
        };
        std::fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn tls(certificates: Vec<CertificateFiles>) -> Tls {
        Tls { listen: Vec::new(), certificates }
    }

    fn leaf(key: &CertifiedKey) -> Vec<u8> {
        key.end_entity_cert().unwrap().to_vec()
    }

    fn on_disk(files: &CertificateFiles) -> Vec<u8> {
        CertificateDer::from_pem_file(&files.certificate).unwrap().to_vec()
    }

    #[test]
    fn the_name_chooses_and_the_first_serves_the_rest() {
        let folder = TempDir::new().unwrap();
        let one = issue(&folder, "one", &["one.example"], 2099);
        let two = issue(&folder, "two", &["two.example", "*.pop.example"], 2099);
        let certificates = Certificates::load(&tls(vec![one.clone(), two.clone()])).unwrap();
        let chosen = |name| leaf(&certificates.current.load().choose(name));
        assert_eq!(chosen(Some("two.example")), on_disk(&two));
        assert_eq!(chosen(Some("ams.pop.example")), on_disk(&two));
        for name in [Some("one.example"), Some("a.b.pop.example"), Some("pop.example"), None] {
            assert_eq!(chosen(name), on_disk(&one), "{name:?}");
        }
    }

    #[test]
    fn a_reload_swaps_and_a_bad_reload_changes_nothing() {
        let folder = TempDir::new().unwrap();
        let files = issue(&folder, "one", &["one.example"], 2099);
        let setting = tls(vec![files.clone()]);
        let certificates = Certificates::load(&setting).unwrap();
        let before = on_disk(&files);
        issue(&folder, "one", &["one.example"], 2099);
        assert_ne!(on_disk(&files), before);
        certificates.reload(&setting).unwrap();
        let chosen = || leaf(&certificates.current.load().choose(None));
        assert_eq!(chosen(), on_disk(&files));
        let good = chosen();
        std::fs::write(&files.certificate, "junk").unwrap();
        assert!(matches!(certificates.reload(&setting), Err(TlsError::NoCertificate { .. })));
        assert_eq!(chosen(), good);
    }

    #[test]
    fn every_fault_names_its_file() {
        let folder = TempDir::new().unwrap();
        let good = issue(&folder, "good", &["one.example"], 2099);
        let other = issue(&folder, "other", &["two.example"], 2099);
        let missing = folder.path().join("missing");
        let broken = folder.path().join("broken");
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n")
            .unwrap();
        let nonsense = folder.path().join("nonsense");
        std::fs::write(&nonsense, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .unwrap();
        let fault = |certificate: &Path, key: &Path| {
            let pair = CertificateFiles { certificate: certificate.into(), key: key.into() };
            Certificates::load(&tls(vec![pair])).unwrap_err()
        };
        for (error, file, word) in [
            (fault(&missing, &good.key), &missing, "cannot be read"),
            (fault(&good.certificate, &missing), &missing, "cannot be read"),
            (fault(&good.key, &good.key), &good.key, "no certificate"),
            (fault(&good.certificate, &good.certificate), &good.certificate, "no private key"),
            (fault(&good.certificate, &other.key), &other.key, "does not belong"),
            (fault(&broken, &good.key), &broken, "broken PEM"),
            (fault(&nonsense, &good.key), &nonsense, "not a usable certificate"),
        ] {
            let text = error.to_string();
            assert!(text.contains(&*file.to_string_lossy()) && text.contains(word), "{text}");
        }
        assert!(matches!(Certificates::load(&tls(Vec::new())), Err(TlsError::None)));
    }

    #[test]
    fn an_expired_certificate_loads_and_is_known_to_be() {
        let folder = TempDir::new().unwrap();
        let files = issue(&folder, "old", &["one.example"], 2001);
        let certificates = Certificates::load(&tls(vec![files])).unwrap();
        let key = certificates.current.load().choose(None);
        let at = |secs| validity(&key, Duration::from_secs(secs), &certificates.provider);
        assert_eq!(at(1_000_000_000), Validity::Expired);
        assert_eq!(at(900_000_000), Validity::Current);
        assert_eq!(at(100), Validity::NotYet);
    }

    #[test]
    fn the_protocols_offered_follow_the_setting() {
        let folder = TempDir::new().unwrap();
        let files = issue(&folder, "one", &["one.example"], 2099);
        let certificates = Certificates::load(&tls(vec![files])).unwrap();
        let both = certificates.server_config(Protocols::Http2AndHttp1).unwrap();
        assert_eq!(both.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        let one = certificates.server_config(Protocols::Http1).unwrap();
        assert_eq!(one.alpn_protocols, [b"http/1.1".to_vec()]);
    }
}
