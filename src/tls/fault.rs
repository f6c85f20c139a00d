//! Why TLS failed, in words that say what to do.
//!
//! TLS itself says it in alerts of one byte and in its library's terms; who reads the log has
//! neither.

use std::fmt;
use std::io;

use tokio_rustls::rustls::AlertDescription;
use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::Error;
use tokio_rustls::rustls::ExtendedKeyPurpose;
use tokio_rustls::rustls::PeerIncompatible;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::pki_types::UnixTime;

use super::ServerSettings;
use super::Settings;
use super::certificate::Certificate;
use crate::units::Timestamp;

/// Why TLS did not come about or is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What happened, and what to do.
    pub reason: String,
    /// What kind of trouble it is.
    pub kind: Kind,
}

/// What kind of trouble it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Comes back until somebody changes a setting, a certificate or a clock.
    Configuration,
    /// The way or the peer failed.
    Transport,
    /// The peer closed before it had said anything.
    Closed,
}

impl Fault {
    /// Somebody has to change something.
    pub(super) fn configuration(reason: String) -> Self {
        Self {
            reason,
            kind: Kind::Configuration,
        }
    }

    fn transport(reason: String) -> Self {
        Self {
            reason,
            kind: Kind::Transport,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Fault {}

/// The host of `host:port`, without the brackets of IPv6.
#[must_use]
pub fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// The name that a server is asked for and checked against.
///
/// # Errors
/// Says that it is neither a host name nor an address, and what would be one.
pub fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned()).map_err(|_| {
        format!("`{host}` is neither a host name nor an address; write one like logstash-1.example.org in server_name")
    })
}

fn inner(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Why a client's handshake failed for another reason than the server's certificate.
pub(super) fn of_connect(error: &io::Error, head: &[u8], settings: &Settings) -> Fault {
    let versions = settings.supported_protocols;
    match inner(error) {
        Some(Error::AlertReceived(alert)) => of_alert(*alert, settings),
        Some(Error::PeerIncompatible(what)) => Fault::configuration(match what {
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => too_old(settings),
            _ => format!(
                "server and client have no way of encryption in common ({what:?}); this client speaks {versions}"
            ),
        }),
        Some(_) if head.starts_with(b"HTTP") => Fault::configuration(
            "the server answers in HTTP: this is not a Beats port; use the port of Logstash's beats input, like logstash:5044".to_owned(),
        ),
        // 20 to 23 are TLS's types of records; its version begins with 3 since 1995.
        Some(error) if matches!(head, [20..=23, 3, ..]) => {
            Fault::transport(format!("the TLS handshake failed: {error}"))
        }
        Some(_) => Fault::configuration(format!(
            "the server does not speak TLS on this port (it began with `{}`); turn `ssl` on there, or off here by enabled = false",
            head.escape_ascii()
        )),
        // A plain server does so, but a balancer with no server behind it and a server without room do too.
        None if head.is_empty() && is_end(error) => Fault {
            reason: "the server closed the connection when the TLS handshake began: it takes no connection now, or does not speak TLS on this port; if that is so, turn `ssl` on there, or off here by enabled = false".to_owned(),
            kind: Kind::Closed,
        },
        None if is_end(error) => Fault::transport(
            "the server closed the connection in the middle of the TLS handshake; its log may say why".to_owned(),
        ),
        None => Fault::transport(format!("the TLS handshake failed: {error}")),
    }
}

/// Whether an error is the peer's end of the connection.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

fn too_old(settings: &Settings) -> String {
    format!(
        "the server speaks no version of TLS that is taken here ({}); TLS 1.1 and older are broken and never taken: update the server, or see supported_protocols",
        settings.supported_protocols
    )
}

/// Why the server ended TLS, by the alert it sent; under TLS 1.3 a client's certificate is only
/// judged after the handshake, so this comes where an answer was expected.
#[must_use]
pub fn explain_read(error: &io::Error, settings: &Settings) -> Option<Fault> {
    match inner(error)? {
        Error::AlertReceived(alert) => Some(of_alert(*alert, settings)),
        error => Some(Fault::transport(format!(
            "the encrypted connection broke: {error}"
        ))),
    }
}

fn of_alert(alert: AlertDescription, settings: &Settings) -> Fault {
    use AlertDescription as A;
    let said = alert.as_str().unwrap_or("unknown").to_owned();
    let said = format!("alert {said}");
    let demands = format!(
        "the server demands a client certificate ({said}); write certificate and key under ssl, signed by an authority that the server trusts"
    );
    let refused = |why: &str| match &settings.identity {
        Some(identity) => format!(
            "the server refuses the client certificate {} ({said}): {why}",
            identity.certificate.display()
        ),
        None => demands.clone(),
    };
    Fault::configuration(match alert {
        A::CertificateRequired => demands,
        A::UnknownCA => refused("the server does not trust the authority that signed it"),
        A::CertificateExpired => refused("it has expired; renew it"),
        A::CertificateRevoked => refused("it was revoked; have a new one made"),
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateUnknown
        | A::AccessDenied
        | A::DecryptError => refused(
            "the server's log says why; is it for client authentication, and signed by the right authority?",
        ),
        A::ProtocolVersion => too_old(settings),
        A::HandshakeFailure | A::InsufficientSecurity if settings.identity.is_none() => format!(
            "the server ended the TLS handshake ({said}): it may demand a client certificate (certificate and key under ssl), or has no cipher in common with {}",
            settings.supported_protocols
        ),
        A::HandshakeFailure | A::InsufficientSecurity => format!(
            "the server ended the TLS handshake ({said}): it refuses the client certificate, or has no cipher in common with {}",
            settings.supported_protocols
        ),
        A::UnrecognisedName => format!(
            "the server does not know the name it was asked for ({said}); write the one it knows as server_name"
        ),
        _ => {
            return Fault::transport(format!(
                "the server ended TLS ({said}); its log may say why"
            ));
        }
    })
}

/// Why a server's handshake with a client failed.
pub(super) fn of_accept(error: &io::Error, head: &[u8], settings: &ServerSettings) -> Fault {
    let versions = settings.supported_protocols;
    match inner(error) {
        Some(Error::NoCertificatesPresented) => Fault::configuration(
            "the client showed no certificate, which client_authentication = \"required\" demands; give it one, in Filebeat as ssl.certificate and ssl.key".to_owned(),
        ),
        Some(Error::InvalidCertificate(error)) => Fault::configuration(format!(
            "the client's certificate is refused: {}",
            of_client(error)
        )),
        Some(Error::AlertReceived(alert)) => Fault::configuration(format!(
            "the client refuses this server's certificate {} (alert {}): does it trust the authority, and is the certificate for the name it connects to?",
            settings.identity.certificate.display(),
            alert.as_str().unwrap_or("unknown")
        )),
        Some(Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        )) => Fault::configuration(format!(
            "the client speaks no version of TLS that is taken here ({versions}); TLS 1.1 and older are broken and never taken: update the client"
        )),
        Some(Error::PeerIncompatible(what)) => Fault::configuration(format!(
            "client and server have no way of encryption in common ({what:?}); this server speaks {versions}"
        )),
        Some(_) if matches!(head, [b'1' | b'2', b'W', ..]) => Fault::configuration(
            "the client speaks Lumberjack without TLS, but this port expects TLS; turn it on in the client, in Filebeat `ssl.enabled: true`".to_owned(),
        ),
        Some(_) if is_http(head) => Fault::configuration(
            "the client speaks HTTP without TLS, but this is a Beats port with TLS".to_owned(),
        ),
        Some(error) if matches!(head, [20..=23, 3, ..]) => {
            Fault::transport(format!("the TLS handshake failed: {error}"))
        }
        Some(_) => Fault::configuration(format!(
            "the client does not speak TLS (it began with `{}`), but this port expects it",
            head.escape_ascii()
        )),
        None if head.is_empty() && is_end(error) => Fault {
            reason: "the client closed the connection before it said anything".to_owned(),
            kind: Kind::Closed,
        },
        None if is_end(error) => Fault::transport(
            "the client closed the connection in the middle of the TLS handshake: it may not trust this server's certificate, its log says why".to_owned(),
        ),
        None => Fault::transport(format!("the TLS handshake failed: {error}")),
    }
}

fn is_http(head: &[u8]) -> bool {
    [
        "GET ", "PUT ", "POST", "HEAD", "PRI ", "OPTI", "DELE", "CONN", "PATC", "TRAC",
    ]
    .iter()
    .any(|method| head.starts_with(method.as_bytes()))
}

fn of_client(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "it is signed by none of certificate_authorities".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired; renew it".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; look at the clocks".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for client authentication (extended key usage)".to_owned()
        }
        error => error.to_string(),
    }
}

/// Why a server's certificate is refused. `trusted` names who is trusted.
pub(super) fn of_certificate(
    error: &Error,
    server: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    trusted: &str,
) -> String {
    let its = Certificate::read(server);
    let called = its.called();
    let Error::InvalidCertificate(error) = error else {
        return format!("the server's certificate {called} cannot be used: {error}");
    };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let not_after = |one: &Certificate| one.not_after;
            let all = [its]
                .into_iter()
                .chain(others.iter().map(Certificate::read));
            let which = all.min_by_key(not_after);
            let (called, at) = which
                .map(|one| (one.called(), one.not_after))
                .unwrap_or_default();
            format!(
                "the server's certificate {called} expired on {}; renew it on the server (this machine's clock says {})",
                date(at),
                date(now(error))
            )
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            let all = [its]
                .into_iter()
                .chain(others.iter().map(Certificate::read));
            let which = all.max_by_key(|one| one.not_before);
            let (called, at) = which
                .map(|one| (one.called(), one.not_before))
                .unwrap_or_default();
            format!(
                "the server's certificate {called} is not valid before {}; look at the clocks of both machines",
                date(at)
            )
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            wrong_name(&its, name)
        }
        CertificateError::UnknownIssuer if its.is_self_signed() => format!(
            "the server's certificate {called} is self-signed and not among {trusted}; if it is the right one (SHA-256 {}), put it into certificate_authorities",
            its.fingerprint
        ),
        CertificateError::UnknownIssuer => {
            let top = others
                .last()
                .map_or_else(|| its.issuer.clone(), |one| Certificate::read(one).issuer);
            format!(
                "the server's certificate {called} is signed by `{top}`, which is not trusted here (trusted: {trusted}); put the certificate of that authority into certificate_authorities, or let the server send its intermediate certificates"
            )
        }
        CertificateError::BadSignature => format!(
            "the server's certificate {called} was not signed by the `{}` that is trusted here; is {trusted} an older authority of the same name?",
            its.issuer
        ),
        CertificateError::InvalidPurposeContext {
            required: ExtendedKeyPurpose::ServerAuth,
            ..
        }
        | CertificateError::InvalidPurpose => format!(
            "the server's certificate {called} is not for servers (extended key usage has no serverAuth); have one made that is"
        ),
        CertificateError::Other(error) if error.to_string().contains("CaUsedAsEndEntity") => {
            format!(
                "the server shows the certificate of an authority, {called}, as its own; put it into certificate_authorities if it is the right one (SHA-256 {})",
                its.fingerprint
            )
        }
        CertificateError::Other(error) if error.to_string().contains("UnsupportedCertVersion") => {
            format!(
                "the server's certificate {called} is of X.509 version 1; have one made of version 3, which names its hosts"
            )
        }
        error => format!("the server's certificate {called} is not good: {error}"),
    }
}

fn wrong_name(its: &Certificate, name: &ServerName<'_>) -> String {
    let wanted = name.to_str();
    if its.names.is_empty() {
        return format!(
            "the server's certificate {} is for no host at all (it has no subjectAltName, and its CN does not count), so not for `{wanted}`; have one made that names its hosts, or set verification_mode = \"certificate\"",
            its.called()
        );
    }
    let names: Vec<String> = its.names.iter().map(|name| format!("`{name}`")).collect();
    let what = match name {
        ServerName::IpAddress(_) => "address",
        _ => "name",
    };
    format!(
        "the server's certificate is for {}, not for the {what} `{wanted}`; write one of these in hosts or as server_name, or have a certificate made for `{wanted}`",
        names.join(", ")
    )
}

fn now(error: &CertificateError) -> Timestamp {
    match error {
        CertificateError::ExpiredContext { time, .. }
        | CertificateError::NotValidYetContext { time, .. } => timestamp(*time),
        _ => crate::clock::now(),
    }
}

fn timestamp(time: UnixTime) -> Timestamp {
    Timestamp(
        i64::try_from(time.as_secs())
            .unwrap_or(i64::MAX)
            .saturating_mul(1000),
    )
}

/// A day, as people write it.
fn date(at: Timestamp) -> String {
    at.to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_address_is_what_a_certificate_names() {
        for (address, host) in [
            ("logstash:5044", "logstash"),
            ("10.0.0.1:1", "10.0.0.1"),
            ("[::1]:5044", "::1"),
        ] {
            assert_eq!(host_of(address), host);
            assert!(server_name(host).is_ok(), "{host}");
        }
        assert!(server_name("logs_1").is_ok(), "names of containers");
        assert!(server_name("a b").is_err());
    }
}
