//! How the certificate of an origin is judged: by the authorities, as usual. Beside that, a
//! certificate that stands in the origin's `ca_file` is right if it is of the origin's name: a
//! server that signed its own certificate presents an authority, which curl and Nix accept. One for
//! each TLS set-up; no locks.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// Judges the certificates of origins.
#[derive(Debug)]
pub(super) struct OriginVerifier {
    usual: Arc<WebPkiServerVerifier>,
    /// The certificates of the origin's `ca_file`.
    own: Vec<CertificateDer<'static>>,
}

impl OriginVerifier {
    /// One that trusts these authorities, and the certificates `own` themselves.
    pub(super) fn new(
        roots: RootCertStore,
        own: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::client::VerifierBuilderError> {
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        Ok(Self { usual: usual.build()?, own })
    }
}

impl ServerCertVerifier for OriginVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match judged {
            // One that has expired, say, stays refused.
            Err(
                error @ Error::InvalidCertificate(
                    CertificateError::Other(_) | CertificateError::UnknownIssuer,
                ),
            ) if self.own.iter().any(|own| own == end_entity) => {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                let is_named = rustls::client::verify_server_name(&parsed, server_name);
                is_named.map(|()| ServerCertVerified::assertion()).map_err(|_| error)
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}
