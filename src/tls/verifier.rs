//! Decides whether a server is the one that is meant, and says in words why not.
//!
//! The checks themselves are webpki's; here is which of them apply, and what else is trusted: the
//! pinned authorities, and certificates that are trusted as they are.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::DigitallySignedStruct;
use tokio_rustls::rustls::Error;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::client::danger::ServerCertVerified;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::WebPkiSupportedAlgorithms;
use tokio_rustls::rustls::crypto::verify_tls12_signature;
use tokio_rustls::rustls::crypto::verify_tls13_signature;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::server::ParsedCertificate;

use super::VerificationMode;
use super::certificate::Certificate;
use super::certificate::Fingerprint;
use super::fault;

/// Whom a client trusts.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) mode: VerificationMode,
    /// Authorities.
    pub(super) roots: RootCertStore,
    /// The same as they were given, for servers whose own certificate is among them.
    pub(super) given: Vec<CertificateDer<'static>>,
    /// Authorities that are known by their fingerprint and come from the server.
    pub(super) pinned: Vec<Fingerprint>,
    /// What all of these are called in a message.
    pub(super) named: String,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// The verifier of one connection.
pub(super) struct Verifier {
    trust: Arc<Trust>,
    refusal: Mutex<Option<String>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trust.fmt(f)
    }
}

impl Verifier {
    pub(super) fn new(trust: Arc<Trust>) -> Self {
        Self {
            trust,
            refusal: Mutex::new(None),
        }
    }

    /// Why the server was refused, if it was.
    pub(super) fn refusal(&self) -> Option<String> {
        let refusal = self.refusal.lock();
        refusal.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Trust {
    fn judge(
        &self,
        server: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.mode == VerificationMode::None {
            return Ok(());
        }
        let parsed = ParsedCertificate::try_from(server)?;
        let is_given = |one: &CertificateDer<'_>| self.given.iter().any(|given| given == one);
        let is_pinned = |one: &CertificateDer<'_>| self.pinned.contains(&Fingerprint::of(one));
        if is_given(server) || is_pinned(server) {
            in_time(server, now)?;
        } else {
            let mut roots = self.roots.clone();
            let pinned = others.iter().filter(|one| is_pinned(one));
            roots.add_parsable_certificates(pinned.cloned());
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &roots, others, now, algorithms)?;
        }
        match self.mode {
            VerificationMode::Full => verify_server_name(&parsed, name),
            VerificationMode::Certificate | VerificationMode::None => Ok(()),
        }
    }
}

/// Checks the dates of a certificate that is trusted as it is.
fn in_time(der: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let read = Certificate::read(der);
    let now = i64::try_from(now.as_secs())
        .unwrap_or(i64::MAX)
        .saturating_mul(1000);
    if now < read.not_before.0 {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > read.not_after.0 {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.trust
            .judge(server, others, name, now)
            .inspect_err(|error| {
                let words = fault::of_certificate(error, server, others, name, &self.trust.named);
                let refusal = &mut *self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
                *refusal = Some(words);
            })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.trust.mode == VerificationMode::None {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, certificate, signed, &self.trust.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.trust.mode == VerificationMode::None {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, certificate, signed, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}
