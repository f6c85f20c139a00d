//! What is in a certificate, for people: whose it is, who signed it, for which names, how long.
//!
//! Nothing is decided here; whether a certificate is good is the verifier's matter.

use std::fmt;
use std::net::IpAddr;

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::units::Timestamp;

/// Most names that are kept of a certificate; a record of TLS has room for thousands.
const NAMES_MAX: usize = 16;

/// Longest name that is kept, in characters.
const NAME_CHARS_MAX: usize = 200;

/// A certificate as people look at it. All text in it is the peer's: escape it for a terminal.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Certificate {
    /// Whose it is, like `CN=logstash-1,O=Example`.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Host names and addresses that it is for; of very many, the first ones.
    pub names: Vec<String>,
    /// From when it is good: milliseconds since 1970.
    #[serde(serialize_with = "as_text")]
    pub not_before: Timestamp,
    /// Until when it is good: milliseconds since 1970.
    #[serde(serialize_with = "as_text")]
    pub not_after: Timestamp,
    /// SHA-256 of all of it.
    pub fingerprint: Fingerprint,
}

fn as_text<S: serde::Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(at)
}

impl Certificate {
    /// Reads a certificate; what cannot be read of it is empty.
    #[must_use]
    pub fn read(der: &CertificateDer<'_>) -> Self {
        let fingerprint = Fingerprint::of(der);
        let Ok(read) = x509_cert::Certificate::from_der(der) else {
            return Self {
                subject: String::new(),
                issuer: String::new(),
                names: Vec::new(),
                not_before: Timestamp(i64::MIN),
                not_after: Timestamp(i64::MAX),
                fingerprint,
            };
        };
        let tbs = read.tbs_certificate();
        let alternative = tbs.get_extension::<SubjectAltName>().ok().flatten();
        let names = alternative.map_or_else(Vec::new, |(_, names)| names.0);
        Self {
            subject: bounded(&tbs.subject().to_string()),
            issuer: bounded(&tbs.issuer().to_string()),
            names: names.iter().filter_map(show_name).take(NAMES_MAX).collect(),
            not_before: timestamp(tbs.validity().not_before),
            not_after: timestamp(tbs.validity().not_after),
            fingerprint,
        }
    }

    /// Whether nobody but itself has signed it, by what it says.
    #[must_use]
    pub fn is_self_signed(&self) -> bool {
        self.subject == self.issuer
    }

    /// What to call it in a message.
    #[must_use]
    pub fn called(&self) -> String {
        match (self.subject.as_str(), self.names.first()) {
            ("", Some(name)) => format!("`{name}`"),
            ("", None) => format!("with SHA-256 {}", self.fingerprint),
            (subject, _) => format!("`{subject}`"),
        }
    }
}

fn bounded(text: &str) -> String {
    text.chars().take(NAME_CHARS_MAX).collect()
}

fn show_name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(bounded(name.as_str())),
        GeneralName::IpAddress(address) => {
            let bytes = address.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            let any = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
            any.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

fn timestamp(time: x509_cert::time::Time) -> Timestamp {
    let since = time.to_unix_duration();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// SHA-256 of a certificate in DER form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of this certificate.
    #[must_use]
    pub fn of(der: &CertificateDer<'_>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = String;

    /// Takes 64 hexadecimal digits, in either case, with or without `:` between pairs (as
    /// `openssl x509 -fingerprint -sha256` and Elasticsearch print them).
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            "is not a SHA-256 in 64 hexadecimal digits; get it by: openssl x509 -in ca.pem -noout -fingerprint -sha256".to_owned()
        };
        let digits: Vec<u8> = text
            .bytes()
            .filter(|byte| *byte != b':')
            .map(|byte| {
                (byte as char)
                    .to_digit(16)
                    .and_then(|d| u8::try_from(d).ok())
            })
            .collect::<Option<_>>()
            .ok_or_else(refuse)?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|d| d.iter().fold(0, |n, d| n << 4 | d))
            .collect();
        match <[u8; 32]>::try_from(bytes) {
            Ok(bytes) if digits.len() == 64 => Ok(Self(bytes)),
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_fingerprint_is_taken_as_openssl_and_elasticsearch_print_it() {
        let der = CertificateDer::from(Vec::new());
        // SHA-256 of nothing.
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Fingerprint::of(&der).to_string(), text);
        let pairs: Vec<&str> = text
            .as_bytes()
            .chunks(2)
            .map(|p| str::from_utf8(p).unwrap())
            .collect();
        for form in [
            text.to_owned(),
            text.to_uppercase(),
            pairs.join(":").to_uppercase(),
        ] {
            assert_eq!(form.parse(), Ok(Fingerprint::of(&der)), "{form}");
        }
        for bad in [
            "",
            "e3",
            &text[1..],
            &format!("{text}00"),
            &text.replace('e', "g"),
        ] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_names_and_is_still_called_something() {
        let read = Certificate::read(&CertificateDer::from(vec![1, 2, 3]));
        assert!(read.names.is_empty() && read.called().starts_with("with SHA-256 "));
    }
}
