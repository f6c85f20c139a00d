//! Certificates and keys as they lie in PEM files, and what is wrong with a file that holds none.

use std::path::Path;
use std::path::PathBuf;

use tokio_rustls::rustls::Error;
use tokio_rustls::rustls::InconsistentKeys;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::PrivatePkcs1KeyDer;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::pki_types::PrivateSec1KeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::pem::SectionKind;
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::sign::CertifiedKey;

use super::Identity;
use super::Problem;
use crate::disk;

/// Largest file: the system's own bundle of all authorities has a quarter of a MiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Most certificates in one file; the system's bundle has 150.
const CERTIFICATES_MAX: usize = 2_000;

/// Reads all authorities of these files; every problem is added to `problems`.
pub(super) fn authorities(
    paths: &[PathBuf],
    problems: &mut Vec<Problem>,
) -> Vec<CertificateDer<'static>> {
    let mut all = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        match certificates(path).and_then(|found| usable(path, found)) {
            Ok(mut found) => all.append(&mut found),
            Err(message) => problems.push(Problem {
                key: "certificate_authorities",
                index,
                message,
            }),
        }
    }
    all
}

/// Reads a certificate and its key, which must belong together; every problem is added to `problems`.
pub(super) fn identity(
    identity: &Identity,
    provider: &CryptoProvider,
    problems: &mut Vec<Problem>,
) -> Option<CertifiedKey> {
    let problem = |key, message| Problem {
        key,
        index: 0,
        message,
    };
    let chain = certificates(&identity.certificate)
        .and_then(|found| usable(&identity.certificate, found))
        .map_err(|message| problems.push(problem("certificate", message)));
    let key = private_key(&identity.key).map_err(|message| problems.push(problem("key", message)));
    certified(identity, chain.ok()?, key.ok()?, provider)
        .map_err(|message| problems.push(problem("key", message)))
        .ok()
}

fn certified(
    identity: &Identity,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let shown = identity.key.display();
    let key = provider.key_provider.load_private_key(key).map_err(|error| {
        format!(
            "the key in {shown} cannot be used ({error}); make one like: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
        )
    })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(format!(
            "the key in {shown} does not belong to the certificate in {}; name the two that were made together",
            identity.certificate.display()
        )),
        _ => Ok(certified),
    }
}

/// All certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let sections = sections(path)?;
    let found: Vec<_> = sections
        .iter()
        .filter(|(kind, _)| *kind == SectionKind::Certificate)
        .map(|(_, der)| CertificateDer::from(der.clone()))
        .collect();
    let shown = path.display();
    if found.is_empty() {
        let has = match sections.first() {
            Some((kind, _)) => format!("{}, and no certificate", show(*kind)),
            None => "no certificate".to_owned(),
        };
        return Err(format!(
            "{shown} holds {has}; it has to have a part between -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----"
        ));
    }
    if found.len() > CERTIFICATES_MAX {
        return Err(format!(
            "{shown} holds {} certificates; the most is {CERTIFICATES_MAX}",
            found.len()
        ));
    }
    Ok(found)
}

/// The certificates, if every one of them is one.
fn usable(
    path: &Path,
    found: Vec<CertificateDer<'static>>,
) -> Result<Vec<CertificateDer<'static>>, String> {
    for (number, certificate) in (1..).zip(&found) {
        let as_peer = ParsedCertificate::try_from(certificate).map(|_| ());
        // Authorities may be of version 1, of which no peer may be.
        if let Err(error) = as_peer
            && RootCertStore::empty().add(certificate.clone()).is_err()
        {
            return Err(format!(
                "certificate {number} in {} is damaged ({error}); copy it again",
                path.display()
            ));
        }
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let sections = sections(path)?;
    let key = sections.iter().find_map(|(kind, der)| match kind {
        SectionKind::PrivateKey => Some(PrivatePkcs8KeyDer::from(der.clone()).into()),
        SectionKind::RsaPrivateKey => Some(PrivatePkcs1KeyDer::from(der.clone()).into()),
        SectionKind::EcPrivateKey => Some(PrivateSec1KeyDer::from(der.clone()).into()),
        _ => None,
    });
    let shown = path.display();
    key.ok_or_else(|| {
        let has = match sections.first() {
            Some((kind, _)) => format!("{}, and no private key", show(*kind)),
            None => "no private key".to_owned(),
        };
        format!(
            "{shown} holds {has}; it has to have a part between -----BEGIN PRIVATE KEY----- and -----END PRIVATE KEY-----"
        )
    })
}

const fn show(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::Certificate => "a certificate",
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
            "a private key"
        }
        SectionKind::PublicKey => "a public key",
        SectionKind::Csr => "a request for a certificate",
        _ => "something else",
    }
}

fn sections(path: &Path) -> Result<Vec<(SectionKind, Vec<u8>)>, String> {
    let shown = path.display();
    let bytes = disk::read_plain(path, FILE_BYTES_MAX)
        .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(format!(
            "the key in {shown} is encrypted, and nobody could type its passphrase; write it decrypted: openssl pkey -in {shown} -out plain.key"
        ));
    }
    if bytes.starts_with(&[0x30, 0x82]) {
        return Err(format!(
            "{shown} is in DER form, not PEM; convert it: openssl x509 -inform der -in {shown} -out {shown}.pem"
        ));
    }
    <(SectionKind, Vec<u8>)>::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{shown} is a damaged PEM file ({error}); copy it again"))
}
