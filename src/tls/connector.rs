//! The client's side: lays TLS over a stream to a server.

use std::fmt;
use std::sync::Arc;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::ClientConnection;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::sign::SingleCertAndKey;

use super::Certificate;
use super::Problem;
use super::Secured;
use super::Settings;
use super::VerificationMode;
use super::fault;
use super::fault::Fault;
use super::pem;
use super::provider;
use super::stream::Sniffed;
use super::stream::Stream;
use super::verifier::Trust;
use super::verifier::Verifier;
use super::watched::Watched;

/// A client's TLS. A clone is the same one.
#[derive(Clone)]
pub struct Connector {
    settings: Arc<Settings>,
    files: Arc<Watched<Files>>,
}

/// What the files held when they were last good.
struct Files {
    trust: Arc<Trust>,
    config: ClientConfig,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl Settings {
    /// Reads all files.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn check(&self) -> Result<(), Vec<Problem>> {
        self.read().map(drop)
    }

    fn read(&self) -> Result<Files, Vec<Problem>> {
        let provider = provider();
        let mut problems = Vec::new();
        let identity = self
            .identity
            .as_ref()
            .and_then(|identity| pem::identity(identity, &provider, &mut problems));
        let trust = self.trust(provider.signature_verification_algorithms, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let trust = Arc::new(trust);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.supported_protocols.list())
            .map_err(|error| {
                vec![Problem {
                    key: "supported_protocols",
                    index: 0,
                    message: error.to_string(),
                }]
            })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(Arc::clone(&trust))));
        let mut config = match identity {
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
            }
            None => builder.with_no_client_auth(),
        };
        // Each connection checks its server anew.
        config.resumption = Resumption::disabled();
        Ok(Files { trust, config })
    }

    fn trust(
        &self,
        algorithms: tokio_rustls::rustls::crypto::WebPkiSupportedAlgorithms,
        problems: &mut Vec<Problem>,
    ) -> Trust {
        let given = pem::authorities(&self.certificate_authorities, problems);
        let mut roots = RootCertStore::empty();
        let system = given.is_empty()
            && self.certificate_authorities.is_empty()
            && self.ca_trusted_fingerprint.is_empty()
            && self.verification_mode != VerificationMode::None;
        let named = if system {
            let found = rustls_native_certs::load_native_certs();
            if roots.add_parsable_certificates(found.certs).0 == 0 {
                problems.push(Problem {
                    key: "certificate_authorities",
                    index: 0,
                    message: "is not set, and this machine has no authorities of its own; install ca-certificates, or write certificate_authorities = [\"ca.pem\"]".to_owned(),
                });
            }
            "the authorities of this machine".to_owned()
        } else {
            roots.add_parsable_certificates(given.iter().cloned());
            let files = self.certificate_authorities.iter();
            let files = files.map(|file| file.display().to_string());
            let pins = self.ca_trusted_fingerprint.iter();
            let pins = pins.map(|pin| format!("ca_trusted_fingerprint {pin}"));
            files.chain(pins).collect::<Vec<_>>().join(", ")
        };
        Trust {
            mode: self.verification_mode,
            roots,
            given,
            pinned: self.ca_trusted_fingerprint.clone(),
            named,
            algorithms,
        }
    }
}

impl Connector {
    /// TLS by these settings; the files are read at the first connection, and again whenever they
    /// have changed.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut files = settings.certificate_authorities.clone();
        if let Some(identity) = &settings.identity {
            files.extend([identity.certificate.clone(), identity.key.clone()]);
        }
        Self {
            settings: Arc::new(settings),
            files: Arc::new(Watched::new(files)),
        }
    }

    /// By which settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Lays TLS over a stream to `host`, a name or an address without port. Sets no limit of time.
    ///
    /// # Errors
    /// Why it failed and what to do.
    pub async fn connect<T>(&self, host: &str, stream: T) -> Result<(Stream<T>, Secured), Fault>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let name = fault::server_name(self.settings.server_name.as_deref().unwrap_or(host))
            .map_err(Fault::configuration)?;
        let files = self
            .files
            .get(|| self.settings.read())
            .map_err(Fault::configuration)?;
        if self.settings.verification_mode == VerificationMode::None {
            tracing::warn!(
                host,
                "the server's certificate is not verified (verification_mode = \"none\"): anybody in between can read and change the events"
            );
        }
        let verifier = Arc::new(Verifier::new(Arc::clone(&files.trust)));
        let mut config = files.config.clone();
        let its = Arc::clone(&verifier);
        config.dangerous().set_certificate_verifier(its);
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, Sniffed::new(stream));
        match handshake.into_fallible().await {
            Ok(stream) => {
                let secured = self.secured(stream.get_ref().1);
                Ok((Stream::Tls(Box::new(stream.into())), secured))
            }
            Err((error, stream)) => Err(match verifier.refusal() {
                Some(reason) => Fault::configuration(reason),
                None => fault::of_connect(&error, stream.head(), &self.settings),
            }),
        }
    }

    fn secured(&self, tls: &ClientConnection) -> Secured {
        let version = tls.protocol_version().and_then(|version| version.as_str());
        let suite = tls.negotiated_cipher_suite().map(|suite| suite.suite());
        let chain = tls.peer_certificates().unwrap_or_default();
        Secured {
            version: version.unwrap_or_default().replace("_", "."),
            cipher: suite
                .and_then(|suite| suite.as_str())
                .unwrap_or_default()
                .to_owned(),
            verification_mode: self.settings.verification_mode.name(),
            chain: chain.iter().map(Certificate::read).collect(),
        }
    }
}
