//! The server's side: lays TLS over a stream that a client opened.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::sign::SingleCertAndKey;

use super::ClientAuthentication;
use super::Problem;
use super::ServerSettings;
use super::fault;
use super::fault::Fault;
use super::pem;
use super::provider;
use super::stream::Sniffed;
use super::stream::Stream;
use super::watched::Watched;
use crate::clock;
use crate::process::User;
use crate::process::as_user;
use crate::units::Timestamp;

/// How long to read on after a handshake has failed: closing with bytes unread would reset the
/// connection, and a reset destroys the alert that tells the client why.
const LINGER: Duration = Duration::from_secs(1);

/// A server's TLS. A clone is the same one.
#[derive(Clone)]
pub struct Acceptor {
    settings: Arc<ServerSettings>,
    reader: Arc<User>,
    config: Arc<Watched<ServerConfig>>,
    /// Held while the files are looked at.
    turn: Arc<Mutex<()>>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl ServerSettings {
    /// Reads all files with the rights of `reader`.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn check(&self, reader: &User) -> Result<(), Vec<Problem>> {
        let read = as_user(reader, || self.read().map(drop));
        read.unwrap_or_else(|error| {
            Err(vec![Problem {
                key: "certificate",
                index: 0,
                message: no_rights(reader, &error),
            }])
        })
    }

    /// What somebody who may read the files as `reader` should look at some day, at the time `now`.
    #[must_use]
    pub fn warnings(&self, reader: &User, now: Timestamp) -> Vec<String> {
        as_user(reader, || self.identity.warnings(now))
            .unwrap_or_else(|error| vec![no_rights(reader, &error)])
    }

    fn read(&self) -> Result<ServerConfig, Vec<Problem>> {
        let provider = provider();
        let mut problems = Vec::new();
        let certified = pem::identity(&self.identity, &provider, &mut problems);
        let authorities = pem::authorities(&self.certificate_authorities, &mut problems);
        let Some(certified) = certified.filter(|_| problems.is_empty()) else {
            return Err(problems);
        };
        let problem = |key, message| {
            vec![Problem {
                key,
                index: 0,
                message,
            }]
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&self.supported_protocols.list())
            .map_err(|error| problem("supported_protocols", error.to_string()))?;
        let builder = if self.client_authentication == ClientAuthentication::None {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(authorities);
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match self.client_authentication {
                ClientAuthentication::Optional => verifier.allow_unauthenticated(),
                ClientAuthentication::Required | ClientAuthentication::None => verifier,
            };
            let verifier = verifier
                .build()
                .map_err(|error| problem("certificate_authorities", error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        };
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let mut config = builder.with_cert_resolver(resolver);
        // A session that is taken up again would pass by authorities that have changed since, and
        // connections live for hours: a handshake costs nothing here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

fn no_rights(reader: &User, error: &io::Error) -> String {
    format!("cannot be read as user {}: {error}", reader.name)
}

impl Acceptor {
    /// TLS by these settings; the files are read when the first client comes, and again whenever
    /// they have changed.
    #[must_use]
    pub fn new(settings: ServerSettings) -> Self {
        Self::of(settings, User::own())
    }

    /// The same; the files are looked at and read with the rights of `reader`, and with no others.
    #[must_use]
    pub fn of(settings: ServerSettings, reader: User) -> Self {
        let identity = &settings.identity;
        let mut files = vec![identity.certificate.clone(), identity.key.clone()];
        files.extend(settings.certificate_authorities.iter().cloned());
        Self {
            settings: Arc::new(settings),
            reader: Arc::new(reader),
            config: Arc::new(Watched::new(files)),
            turn: Arc::default(),
        }
    }

    /// Reads all files.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn check(&self) -> Result<(), Vec<Problem>> {
        self.settings.check(&self.reader)
    }

    /// Lays TLS over a stream. Sets no limit of time.
    ///
    /// # Errors
    /// Why it failed, in words for the person who runs the client.
    pub async fn accept<T>(&self, stream: T) -> Result<Stream<T>, Fault>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config().await.map_err(Fault::configuration)?;
        let handshake = TlsAcceptor::from(config).accept(Sniffed::new(stream));
        match handshake.into_fallible().await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream.into()))),
            Err((error, mut stream)) => {
                let fault = fault::of_accept(&error, stream.head(), &self.settings);
                let read_out = async {
                    if stream.shutdown().await.is_ok() {
                        drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
                    }
                };
                if clock::within(LINGER, read_out).await.is_none() {
                    tracing::debug!("client goes on sending, resetting the connection");
                }
                Err(fault)
            }
        }
    }

    /// What the files hold. They may lie where reading hangs: then this server's own clients wait, and
    /// one thread.
    async fn config(&self) -> Result<Arc<ServerConfig>, String> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let this = self.clone();
        let look = move || {
            let _turn = turn;
            as_user(&this.reader, || this.config.get(|| this.settings.read()))
                .unwrap_or_else(|error| Err(no_rights(&this.reader, &error)))
        };
        let looked = tokio::task::spawn_blocking(look).await;
        looked.unwrap_or_else(|error| Err(error.to_string()))
    }
}
