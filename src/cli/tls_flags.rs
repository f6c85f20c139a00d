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
    /// What they ask for, with its files checked; `None`: a plain connection.
    ///
    /// # Errors
    /// Everything that is wrong with the files, by the flags that name them.
    pub(super) fn checked(&self) -> Result<Option<tls::Settings>, String> {
        let Some(settings) = self.settings() else {
            return Ok(None);
        };
        let told = |problem: &tls::Problem| {
            let flag = match problem.key {
                "certificate" => "--cert",
                "key" => "--key",
                _ => "--ca",
            };
            let example = "write certificate_authorities = [\"ca.pem\"]";
            let message = problem.message.replace(example, "give --ca ca.pem");
            format!("{flag}: {message}")
        };
        settings.check().map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(told).collect();
            problems.join("; ")
        })?;
        Ok(Some(settings))
    }

    fn settings(&self) -> Option<tls::Settings> {
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_is_told_by_its_flag() {
        let flags = TlsFlags {
            tls: false,
            ca: vec!["/absent/ca.pem".into()],
            cert: Some("/absent/cert.pem".into()),
            key: Some("/absent/key.pem".into()),
            insecure: false,
        };
        let why = flags.checked().unwrap_err();
        for flag in [
            "--ca: /absent/ca",
            "--cert: /absent/cert",
            "--key: /absent/key",
        ] {
            assert!(why.contains(flag), "{why}");
        }
    }
}
