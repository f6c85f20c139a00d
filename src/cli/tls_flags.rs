//! Flags for encrypted connections.
//!
//! Must never know what they are for beside that.

use std::path::PathBuf;

use crate::tls;
use crate::tls::Identity;
use crate::tls::VerificationMode;

/// How a command proves its server. The names are those of other clients, not of spoolbeat.toml.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Encryption")]
pub struct TlsFlags {
    /// Encrypt, and check the server against the authorities of this machine; the other flags imply it
    #[arg(long)]
    pub tls: bool,
    /// PEM file of an authority to check the server against, instead of those of this machine
    #[arg(long, value_name = "FILE")]
    pub ca: Vec<PathBuf>,
    /// PEM file of a certificate to show to the server
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Encrypt, but take any server: whoever is in between can read and change everything
    #[arg(long)]
    pub insecure: bool,
}

impl TlsFlags {
    /// What they ask for; `None`: a plain connection.
    pub(super) fn settings(&self) -> Option<tls::Settings> {
        let identity = match (&self.cert, &self.key) {
            (Some(certificate), Some(key)) => Some(Identity {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            _ => None,
        };
        let wanted = self.tls || self.insecure || !self.ca.is_empty() || identity.is_some();
        wanted.then(|| tls::Settings {
            certificate_authorities: self.ca.clone(),
            identity,
            verification_mode: match self.insecure {
                true => VerificationMode::None,
                false => VerificationMode::Full,
            },
            ..tls::Settings::default()
        })
    }
}
