//! Certificates good and bad, in a folder of their own.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertifiedIssuer;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::date_time_ymd;
use spoolbeat::tls::Identity;

/// An authority: it signs certificates, and its own lies in `<name>.pem`.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    name: String,
}

/// What a certificate shall be.
pub(crate) struct Wanted<'w> {
    /// Host names and addresses.
    pub(crate) names: &'w [&'w str],
    /// First and last year.
    pub(crate) years: (i32, i32),
    /// What it may be used for.
    pub(crate) purpose: ExtendedKeyUsagePurpose,
}

impl Default for Wanted<'_> {
    /// Good for a server on this machine, under its name and its address.
    fn default() -> Self {
        Self {
            names: &["localhost", "127.0.0.1"],
            years: (2020, 2090),
            purpose: ExtendedKeyUsagePurpose::ServerAuth,
        }
    }
}

impl Wanted<'_> {
    /// Good for a client.
    pub(crate) fn client() -> Self {
        Self {
            names: &[],
            purpose: ExtendedKeyUsagePurpose::ClientAuth,
            ..Self::default()
        }
    }

    fn params(&self, name: &str) -> CertificateParams {
        let names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(self.years.0, 1, 1);
        params.not_after = date_time_ymd(self.years.1, 1, 1);
        params.extended_key_usages = vec![self.purpose.clone()];
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    /// An authority that signed itself.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(authority_params(name), key).unwrap();
        Self::kept(issuer, folder, name)
    }

    /// An authority below this one.
    pub(crate) fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority_params(name);
        let issuer = CertifiedIssuer::signed_by(params, key, &self.issuer).unwrap();
        Self::kept(issuer, &self.folder, name)
    }

    fn kept(issuer: CertifiedIssuer<'static, KeyPair>, folder: &Path, name: &str) -> Self {
        let authority = Self {
            issuer,
            folder: folder.to_path_buf(),
            name: name.to_owned(),
        };
        replace(&authority.file(), authority.issuer.pem().as_bytes());
        authority
    }

    /// The file with its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    /// A certificate signed by it, in files of this name; what was there before is replaced.
    pub(crate) fn signs(&self, name: &str, wanted: &Wanted<'_>) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = wanted.params(name).signed_by(&key, &self.issuer).unwrap();
        keep(&self.folder, name, &certificate.pem(), &key)
    }

    /// The same, with the authority's own certificate behind it in the file.
    pub(crate) fn signs_and_shows_itself(&self, name: &str, wanted: &Wanted<'_>) -> Identity {
        let identity = self.signs(name, wanted);
        let mut chain = fs::read_to_string(&identity.certificate).unwrap();
        chain.push_str(&self.issuer.pem());
        fs::write(&identity.certificate, chain).unwrap();
        identity
    }
}

/// A certificate that nobody else has signed; as an authority, as `openssl req -x509` makes it.
pub(crate) fn self_signed(folder: &Path, name: &str, wanted: &Wanted<'_>, is_ca: IsCa) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = wanted.params(name);
    params.is_ca = is_ca;
    let certificate = params.self_signed(&key).unwrap();
    keep(folder, name, &certificate.pem(), &key)
}

fn keep(folder: &Path, name: &str, certificate: &str, key: &KeyPair) -> Identity {
    let identity = Identity {
        certificate: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    };
    replace(&identity.certificate, certificate.as_bytes());
    replace(&identity.key, key.serialize_pem().as_bytes());
    identity
}

/// Puts a file in the place of another, as tools that renew certificates do. Written in place, one of the
/// same size could have the time of the former one, as the system's clock of files is coarse.
pub(crate) fn replace(path: &Path, bytes: &[u8]) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, bytes).unwrap();
    fs::rename(fresh, path).unwrap();
}
