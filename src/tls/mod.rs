//! TLS for both ends of a connection: whom to trust, who we are, and in plain words why a
//! handshake failed and what to do about it.
//!
//! Works on any stream of bytes. Names of settings are those of Filebeat and Logstash. Must never
//! know sockets, Lumberjack, or the text of configuration files.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::SupportedProtocolVersion;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::version::TLS12;
use tokio_rustls::rustls::version::TLS13;

use crate::disk;
use crate::units::Timestamp;

mod acceptor;
mod certificate;
mod connector;
mod fault;
mod pem;
mod stream;
mod verifier;
mod watched;

pub use acceptor::Acceptor;
pub use certificate::Certificate;
pub use certificate::Fingerprint;
pub use connector::Connector;
pub use fault::Fault;
pub use fault::Kind;
pub use fault::explain_read;
pub use fault::host_of;
pub use fault::server_name;
pub use stream::Stream;

/// How a client proves its server. `certificate_authorities` replace the system's authorities.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// PEM files of authorities that are trusted; none: the system's. A server's own certificate may be
    /// among them, also one that nobody but itself has signed.
    pub certificate_authorities: Vec<PathBuf>,
    /// SHA-256 of authorities that are trusted when the server sends them. They replace the system's, too.
    pub ca_trusted_fingerprint: Vec<Fingerprint>,
    /// What the client shows of itself.
    pub identity: Option<Identity>,
    /// How much of the server's certificate is checked.
    pub verification_mode: VerificationMode,
    /// Name to ask for and to check, instead of the host's.
    pub server_name: Option<String>,
    /// Versions that are spoken.
    pub supported_protocols: Versions,
}

/// How a server shows itself, and what it asks of its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// Certificate and key.
    pub identity: Identity,
    /// PEM files of authorities that sign clients' certificates.
    pub certificate_authorities: Vec<PathBuf>,
    /// Whether clients must show a certificate.
    pub client_authentication: ClientAuthentication,
    /// Versions that are spoken.
    pub supported_protocols: Versions,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, behind it the intermediate ones if there are any.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
}

/// How long before its end a certificate is worth a word.
const EXPIRY_NOTICE: Duration = Duration::from_secs(14 * 24 * 3600);

impl Identity {
    /// What somebody should look at some day, at the time `now`.
    #[must_use]
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        let mut warnings = Vec::new();
        let key = self.key.display();
        if let Ok(stamp) = disk::stamp(&self.key)
            && stamp.mode & 0o007 != 0
        {
            warnings.push(format!(
                "the private key {key} may be read by everybody on this machine (mode {:04o}); run chmod o= {key}",
                stamp.mode
            ));
        }
        let chain = pem::certificates(&self.certificate).unwrap_or_default();
        if let Some(own) = chain.first().map(Certificate::read)
            && own.not_after < now.after(EXPIRY_NOTICE)
        {
            let word = if own.not_after < now {
                "expired"
            } else {
                "expires"
            };
            warnings.push(format!(
                "the certificate {} {word} on {}; renew it",
                self.certificate.display(),
                own.not_after
            ));
        }
        warnings
    }
}

impl Settings {
    /// What somebody should look at some day, at the time `now`.
    #[must_use]
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        let identity = self.identity.as_ref();
        let mut warnings = identity.map_or_else(Vec::new, |identity| identity.warnings(now));
        if self.verification_mode == VerificationMode::None {
            warnings.push(
                "verification_mode = \"none\": anybody in between can read and change the events"
                    .to_owned(),
            );
        }
        warnings
    }
}

/// What is checked of a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VerificationMode {
    /// That a trusted authority signed it, its dates, and that it is for the host's name or address.
    #[default]
    Full,
    /// All but the name.
    Certificate,
    /// Nothing: whoever is in between can read and change everything.
    None,
}

impl VerificationMode {
    /// As it is written in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Certificate => "certificate",
            Self::None => "none",
        }
    }
}

/// Whether a server asks its clients for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuthentication {
    /// It does not ask.
    #[default]
    None,
    /// Clients may show none; one that is shown must be good.
    Optional,
    /// Clients must show a good one.
    Required,
}

/// The versions of TLS that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versions {
    /// 1.2 and 1.3.
    #[default]
    Both,
    /// 1.2 only.
    Tls12,
    /// 1.3 only.
    Tls13,
}

impl Versions {
    fn list(self) -> Vec<&'static SupportedProtocolVersion> {
        match self {
            Self::Both => vec![&TLS13, &TLS12],
            Self::Tls12 => vec![&TLS12],
            Self::Tls13 => vec![&TLS13],
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "TLS 1.2 and 1.3",
            Self::Tls12 => "TLS 1.2 only",
            Self::Tls13 => "TLS 1.3 only",
        })
    }
}

/// Something that is wrong with a file of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Name of the setting, like `certificate`.
    pub key: &'static str,
    /// The file among those of a list, from 0.
    pub index: usize,
    /// The file, what is wrong with it and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// What was agreed on with the peer, for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Secured {
    /// Like `TLSv1.3`.
    pub version: String,
    /// Like `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// What was checked of the peer's certificate: `full`, `certificate` or `none`.
    pub verification_mode: &'static str,
    /// What the peer sent, its own certificate first.
    pub chain: Vec<Certificate>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}
