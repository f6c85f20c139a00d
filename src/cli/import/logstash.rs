//! A Beat's `output.logstash`: what belongs under `[output.lumberjack]`.
//!
//! Most keys have the same names there. Must never know which Beat it is.

use serde_json::Value;

use super::draft::duration;
use super::draft::list;
use super::draft::quoted;
use super::draft::text;
use super::draft::texts;
use super::draft::truth;
use super::keys::Keys;

/// The protocols that are spoken.
const PROTOCOLS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];

/// The tables that say what `yaml` does. `host` stands for hosts that are not named, `tls` for an
/// `ssl.enabled` that is not.
pub(super) fn output(
    yaml: &Keys,
    host: &str,
    tls: Option<bool>,
    notes: &mut Vec<String>,
) -> String {
    let mut out = "[output.lumberjack]\n".to_owned();
    let mut hosts = yaml
        .read("output.logstash.hosts", texts)
        .unwrap_or_default();
    if hosts.is_empty() {
        notes.push(format!(
            "output.logstash.hosts names no host; {host} is written, which was the default: look whether it is right"
        ));
        hosts.push(host.to_owned());
    }
    let mut line = |key: &str, value: String| out.push_str(&format!("{key} = {value}\n"));
    line("hosts", list(&hosts));
    if yaml.read("output.logstash.enabled", truth) == Some(false) {
        notes.push("output.logstash.enabled = false: an output that is here is on".to_owned());
    }
    let at = |key: &str| format!("output.logstash.{key}");
    if let Some(loadbalance) = yaml.read(&at("loadbalance"), truth) {
        line("loadbalance", loadbalance.to_string());
    }
    for key in ["bulk_max_size", "compression_level", "pipelining"] {
        if let Some(number) = yaml.read(&at(key), whole) {
            line(key, number.to_string());
        }
    }
    for key in ["timeout", "ttl"] {
        if let Some(value) = yaml.read(&at(key), duration) {
            line(key, quoted(&value));
        }
    }
    let waits = ["init", "max"].into_iter().filter_map(|key| {
        let value = yaml.read(&at(&format!("backoff.{key}")), duration)?;
        Some(format!("{key} = {}", quoted(&value)))
    });
    let waits: Vec<String> = waits.collect();
    if !waits.is_empty() {
        line("backoff", format!("{{ {} }}", waits.join(", ")));
    }
    out.push_str(&ssl(yaml, tls, notes));
    out
}

/// With this table a connection is encrypted, there and here.
fn ssl(yaml: &Keys, tls: Option<bool>, notes: &mut Vec<String>) -> String {
    let at = |key: &str| format!("output.logstash.ssl.{key}");
    let mut lines = String::new();
    let mut line = |key: &str, value: String| lines.push_str(&format!("{key} = {value}\n"));
    let enabled = yaml.read(&at("enabled"), truth).or(tls);
    if let Some(enabled) = enabled {
        line("enabled", enabled.to_string());
    }
    let mut named = Vec::new();
    for key in ["certificate_authorities", "certificate", "key"] {
        let Some(names) = yaml.read(&at(key), texts).filter(|names| !names.is_empty()) else {
            continue;
        };
        // Beats take the text of a file as well.
        if names.iter().any(|name| name.contains("-----BEGIN")) {
            notes.push(format!(
                "{}: PEM text; write it to a file and name that",
                at(key)
            ));
            continue;
        }
        line(
            key,
            match key {
                "certificate_authorities" => list(&names),
                _ => quoted(&names[0]),
            },
        );
        named.extend(names);
    }
    if named.iter().any(|name| !name.starts_with('/')) {
        notes.push(
            "files of output.logstash.ssl are looked for beside spoolbeat.toml, unless they begin with /"
                .to_owned(),
        );
    }
    let modes = |value: &Value| {
        text(value).filter(|mode| ["full", "certificate", "none"].contains(&mode.as_str()))
    };
    if let Some(mode) = yaml.read(&at("verification_mode"), modes) {
        line("verification_mode", quoted(&mode));
    }
    if let Some(prints) = yaml.read(&at("ca_trusted_fingerprint"), texts) {
        line("ca_trusted_fingerprint", list(&prints));
    }
    if let Some(protocols) = yaml.read(&at("supported_protocols"), texts) {
        let (known, others): (Vec<String>, Vec<String>) = protocols
            .into_iter()
            .partition(|name| PROTOCOLS.contains(&name.as_str()));
        if !others.is_empty() {
            notes.push(format!(
                "output.logstash.ssl.supported_protocols: {} is never spoken",
                others.join(", ")
            ));
        }
        if !known.is_empty() {
            line("supported_protocols", list(&known));
        }
    }
    let there = yaml.is_table("output.logstash.ssl");
    match there || tls == Some(true) {
        true => format!("\n[output.lumberjack.ssl]\n{lines}"),
        false => String::new(),
    }
}

fn whole(value: &Value) -> Option<u64> {
    text(value)?.parse().ok()
}
