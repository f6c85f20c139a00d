//! Tables called `ssl`: TLS of an output, and of whatever listens.
//!
//! Keys are Filebeat's and Logstash's. Files that cannot be used are no problem of the text: they are
//! gathered apart, since who only asks for the status need not be able to read a private key.
//! Must never know what is sent.

use std::path::Path;
use std::path::PathBuf;

use super::Problem;
use super::Root;
use super::reader::Leaf;
use super::reader::Table;
use crate::clock;
use crate::process::User;
use crate::sink;
use crate::tls;
use crate::tls::ClientAuthentication;
use crate::tls::Fingerprint;
use crate::tls::Identity;
use crate::tls::VerificationMode;
use crate::tls::Versions;

const AUTHORITIES: &str = "certificate_authorities = [\"ca.pem\"]";
const CERTIFICATE: &str = "certificate = \"client.pem\"";
const KEY: &str = "key = \"client.key\"";
const SERVER_NAME: &str = "server_name = \"logstash-1.example.org\"";
const FINGERPRINT: &str = "ca_trusted_fingerprint = \"4f2a... (64 hexadecimal digits)\"";
const PROTOCOLS: &str = "supported_protocols = [\"TLSv1.2\", \"TLSv1.3\"]";

/// Where files are, and what was found wrong with them.
#[derive(Debug)]
pub(super) struct Files<'f> {
    /// What relative paths begin at: the folder of the configuration file.
    pub(super) folder: &'f Path,
    /// Files that cannot be used.
    pub(super) unusable: Vec<Problem>,
}

/// Where the settings that name files stand.
#[derive(Default)]
struct Places {
    authorities: Vec<Leaf<PathBuf>>,
    certificate: Option<Leaf<PathBuf>>,
    key: Option<Leaf<PathBuf>>,
}

/// Takes `ssl` of something that connects; `None` when it is not there, or off.
pub(super) fn read_client(of: &mut Table<'_, '_>, files: &mut Files<'_>) -> Option<tls::Settings> {
    const MODES: [(&str, VerificationMode); 3] = [
        ("full", VerificationMode::Full),
        ("certificate", VerificationMode::Certificate),
        ("none", VerificationMode::None),
    ];
    let mut table = of.table("ssl")?;
    let enabled = read_enabled(&mut table);
    let places = read_places(&mut table, files);
    let mode = table.choice("verification_mode", &MODES);
    let settings = tls::Settings {
        certificate_authorities: paths(&places.authorities),
        identity: identity(&table, &places),
        verification_mode: mode.unwrap_or_default(),
        server_name: read_server_name(&mut table),
        supported_protocols: read_protocols(&mut table),
        ca_trusted_fingerprint: read_fingerprints(&mut table, mode),
    };
    if enabled && let Err(problems) = settings.check() {
        places.report(&table, problems, files);
    }
    table.finish();
    enabled.then_some(settings)
}

/// Takes `ssl` of something that listens; `None` when it is not there, or off. Its files are looked at
/// with the rights of `reader`; without one they are not.
pub(super) fn read_server(
    of: &mut Table<'_, '_>,
    files: &mut Files<'_>,
    reader: Option<&User>,
) -> Option<tls::ServerSettings> {
    const CHOICES: [(&str, ClientAuthentication); 3] = [
        ("none", ClientAuthentication::None),
        ("optional", ClientAuthentication::Optional),
        ("required", ClientAuthentication::Required),
    ];
    let mut table = of.table("ssl")?;
    let enabled = read_enabled(&mut table);
    let places = read_places(&mut table, files);
    let asked = table.choice("client_authentication", &CHOICES);
    let client_authentication = asked.unwrap_or_default();
    let supported_protocols = read_protocols(&mut table);
    let identity = identity(&table, &places);
    if identity.is_none() && places.certificate.is_none() && places.key.is_none() {
        let message = "is missing; a server has to show one: write certificate = \"server.pem\" and key = \"server.key\"";
        table.lacks("certificate", message.to_owned());
    }
    let asks = client_authentication != ClientAuthentication::None;
    if asks && places.authorities.is_empty() {
        let message = format!(
            "is missing; client_authentication needs authorities that sign clients' certificates: write {AUTHORITIES}"
        );
        table.lacks("certificate_authorities", message);
    } else if let (false, Some(leaf)) = (asks, places.authorities.first()) {
        let message = "is there, but clients are not asked for a certificate; add client_authentication = \"required\", or remove it";
        table.refuse(leaf, message.to_owned());
    }
    let settings = identity.map(|identity| tls::ServerSettings {
        identity,
        certificate_authorities: paths(&places.authorities),
        client_authentication,
        supported_protocols,
    });
    if let (true, Some(settings), Some(reader)) = (enabled, &settings, reader)
        && let Err(problems) = settings.check(reader)
    {
        places.report(&table, problems, files);
    }
    table.finish();
    settings.filter(|_| enabled)
}

/// What is worth knowing of the TLS of a root, though nothing is wrong with it.
#[must_use]
pub fn ssl_warnings(root: &Root) -> Vec<String> {
    let now = clock::now();
    let mut warnings = Vec::new();
    let mut add = |of: &str, found: Vec<String>| {
        warnings.extend(found.into_iter().map(|one| format!("{of}.ssl: {one}")));
    };
    for output in &root.outputs {
        if let sink::Settings::Lumberjack(settings) = &output.kind
            && let Some(tls) = &settings.tls
        {
            add(&format!("output.{}", output.name), tls.warnings(now));
        }
    }
    if let Some(receiver) = &root.receiver {
        add("receiver", receiver.server.warnings(now));
    }
    warnings
}

impl Places {
    fn report(&self, table: &Table<'_, '_>, problems: Vec<tls::Problem>, files: &mut Files<'_>) {
        for tls::Problem {
            key,
            index,
            message,
        } in problems
        {
            let leaf = match key {
                "certificate" => self.certificate.as_ref(),
                "key" => self.key.as_ref(),
                _ => self.authorities.get(index),
            };
            let at = leaf.map_or_else(|| table.at.clone(), |leaf| leaf.at.clone());
            let problem = table.source.located(&at, &table.name(key), message);
            files.unusable.push(problem);
        }
    }
}

fn read_enabled(table: &mut Table<'_, '_>) -> bool {
    let leaf = table.truth("enabled", "enabled = true");
    leaf.is_none_or(|leaf| leaf.value)
}

fn read_places(table: &mut Table<'_, '_>, files: &Files<'_>) -> Places {
    let place = |leaf: Leaf<String>| {
        let path = files.folder.join(&leaf.value);
        let path = std::path::absolute(&path).unwrap_or(path);
        leaf.with(path)
    };
    let authorities = table.texts("certificate_authorities", AUTHORITIES);
    Places {
        authorities: authorities.into_iter().flatten().map(place).collect(),
        certificate: table.text("certificate", CERTIFICATE).map(place),
        key: table.text("key", KEY).map(place),
    }
}

fn paths(leaves: &[Leaf<PathBuf>]) -> Vec<PathBuf> {
    leaves.iter().map(|leaf| leaf.value.clone()).collect()
}

fn identity(table: &Table<'_, '_>, places: &Places) -> Option<Identity> {
    match (&places.certificate, &places.key) {
        (Some(certificate), Some(key)) => Some(Identity {
            certificate: certificate.value.clone(),
            key: key.value.clone(),
        }),
        (Some(leaf), None) => {
            table.refuse(leaf, format!("is there without its key; add {KEY}"));
            None
        }
        (None, Some(leaf)) => {
            let message = format!("is there without its certificate; add {CERTIFICATE}");
            table.refuse(leaf, message);
            None
        }
        (None, None) => None,
    }
}

fn read_server_name(table: &mut Table<'_, '_>) -> Option<String> {
    let leaf = table.text("server_name", SERVER_NAME)?;
    if let Err(message) = tls::server_name(&leaf.value) {
        table.refuse(&leaf, message);
        return None;
    }
    Some(leaf.value)
}

fn read_fingerprints(
    table: &mut Table<'_, '_>,
    mode: Option<VerificationMode>,
) -> Vec<Fingerprint> {
    // Filebeat has one; a list serves while authorities change.
    let leaves = if table.is_text("ca_trusted_fingerprint") {
        let leaf = table.text("ca_trusted_fingerprint", FINGERPRINT);
        leaf.into_iter().collect()
    } else {
        let leaves = table.texts("ca_trusted_fingerprint", FINGERPRINT);
        leaves.unwrap_or_default()
    };
    if let (Some(VerificationMode::None), Some(leaf)) = (mode, leaves.first()) {
        let message =
            "is there, but verification_mode = \"none\" looks at nothing; remove one of the two";
        table.refuse(leaf, message.to_owned());
    }
    let taken = leaves.iter().filter_map(|leaf| match leaf.value.parse() {
        Ok(fingerprint) => Some(fingerprint),
        Err(message) => {
            table.refuse(leaf, format!("`{}` {message}", leaf.value));
            None
        }
    });
    taken.collect()
}

fn read_protocols(table: &mut Table<'_, '_>) -> Versions {
    const NAMES: [(&str, Versions); 2] =
        [("TLSv1.2", Versions::Tls12), ("TLSv1.3", Versions::Tls13)];
    let Some(leaves) = table.texts("supported_protocols", PROTOCOLS) else {
        return Versions::default();
    };
    if leaves.is_empty() {
        table.lacks(
            "supported_protocols",
            format!("is empty; write {PROTOCOLS}"),
        );
    }
    let mut named: Vec<Versions> = leaves
        .iter()
        .filter_map(|leaf| table.pick(leaf, &NAMES))
        .collect();
    named.dedup();
    match named.as_slice() {
        [one] => *one,
        _ => Versions::Both,
    }
}
