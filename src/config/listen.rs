//! Tables of what listens for Beats: `[source.lumberjack]` of a job and `[receiver]` of the root.
//!
//! Must never know what becomes of the events.

use std::net::IpAddr;
use std::time::Duration;

use super::reader::Leaf;
use super::reader::Table;
use super::ssl;
use crate::process;
use crate::process::User;
use crate::protocol::frame::WINDOW_EVENTS_MAX;
use crate::protocol::server::FRAME_BYTES_MAX;
use crate::protocol::server::WINDOW_BYTES_MAX;
use crate::source::lumberjack::Settings;
use crate::units;

const LISTEN_EXAMPLE: &str = "listen = \"0.0.0.0:5044\"";

/// Smallest limits of bytes: below, hardly an event fits.
const BYTES_MIN: u64 = 1 << 10;

/// Most connections that may be set: each costs a file descriptor and a buffer of 16 KiB.
const CONNECTIONS_MAX: u32 = 10_000;

/// Shortest limit of silence: below, it would cut into a client's own pauses between windows.
const INACTIVITY_MIN: Duration = Duration::from_secs(1);

/// Reads the keys of a listener, but does not finish the table. `usual`: where it listens when
/// nothing is said; without it, `listen` has to be there. `user`: with whose rights; `None` when
/// those are not known. The place of `listen` comes with it.
pub(super) fn read(
    table: &mut Table<'_, '_>,
    files: &mut ssl::Files<'_>,
    usual: Option<&str>,
    user: Option<&User>,
) -> (Settings, Option<Leaf<String>>) {
    let as_whom = user.cloned().unwrap_or_else(User::own);
    let mut settings = Settings::new(usual.unwrap_or_default(), as_whom);
    if usual.is_none() && !table.has("listen") {
        table.lacks("listen", format!("is missing; write {LISTEN_EXAMPLE}"));
    }
    let mut listen = table.text("listen", LISTEN_EXAMPLE);
    if let Some(leaf) = &listen {
        match units::parse_address(&leaf.value, None) {
            Ok(address) => settings.listen = address,
            Err(message) => {
                table.refuse(leaf, format!("{message}; write {LISTEN_EXAMPLE}"));
                listen = None;
            }
        }
    }
    settings.tls = ssl::read_server(table, files, user);
    let number = |table: &mut Table<'_, '_>, key, most: u32, example| {
        table.number(key, 1..most + 1, example)
    };
    let limits = &mut settings.limits;
    if let Some(events) = number(table, "max_window", WINDOW_EVENTS_MAX, "max_window = 2048") {
        limits.window_events = events;
    }
    let mut size = |key, most: usize, example, value: &mut usize| {
        if let Some(leaf) = table.bytes(key, BYTES_MIN..most as u64 + 1, example) {
            *value = usize::try_from(leaf.value).unwrap_or(most);
        }
    };
    size(
        "max_frame",
        FRAME_BYTES_MAX,
        "max_frame = \"1MiB\"",
        &mut limits.frame_bytes,
    );
    let example = "max_inflated = \"16MiB\"";
    size(
        "max_inflated",
        WINDOW_BYTES_MAX,
        example,
        &mut limits.window_bytes,
    );
    let example = "max_connections = 1024";
    if let Some(connections) = number(table, "max_connections", CONNECTIONS_MAX, example) {
        settings.connections = connections as usize;
    }
    let example = "max_connections_per_peer = 256";
    if let Some(connections) = number(table, "max_connections_per_peer", CONNECTIONS_MAX, example) {
        settings.connections_per_peer = connections as usize;
    }
    let example = "client_inactivity_timeout = \"60s\"";
    let idle = table.duration("client_inactivity_timeout", INACTIVITY_MIN, example);
    settings.idle_timeout = idle.map(|leaf| leaf.value);
    (settings, listen)
}

/// Whether who connects to `host` reaches what listens on `listen`, both `host:port`, as far as
/// that can be known without asking a name server.
pub(super) fn reaches(host: &str, listen: &str) -> bool {
    let (Some((host, port)), Some((listen, listen_port))) =
        (host.rsplit_once(':'), listen.rsplit_once(':'))
    else {
        return false;
    };
    let host = address(host);
    let listen = address(listen);
    if port != listen_port {
        return false;
    }
    let own_name = process::hostname();
    let is_own_name = |name: &str| {
        let short = |name: &str| name.split('.').next().unwrap_or_default().to_lowercase();
        short(name) == short(&own_name)
    };
    match (host, listen) {
        (Ok(host), Ok(listen)) if listen.is_unspecified() => process::is_own_address(host),
        (Ok(host), Ok(listen)) => host == listen || host.is_unspecified() && listen.is_loopback(),
        (Err("localhost"), Ok(listen)) => listen.is_unspecified() || listen.is_loopback(),
        (Err(name), Ok(listen)) => listen.is_unspecified() && is_own_name(name),
        (Ok(host), Err("localhost")) => host.is_loopback() || host.is_unspecified(),
        (Ok(_), Err(_)) => false,
        (Err(name), Err(listen)) => name.eq_ignore_ascii_case(listen),
    }
}

/// Whether not both can listen, on `one` and on `other`, both `host:port`, as far as that can be known
/// without asking a name server.
pub(super) fn collide(one: &str, other: &str) -> bool {
    let (Some((one, port)), Some((other, other_port))) =
        (one.rsplit_once(':'), other.rsplit_once(':'))
    else {
        return false;
    };
    if port != other_port || port == "0" {
        return false;
    }
    match (address(one), address(other)) {
        // The unspecified address of IPv6 takes those of IPv4 too.
        (Ok(one), Ok(other)) => {
            let takes =
                |all: IpAddr, it: IpAddr| all.is_unspecified() && (all.is_ipv6() || it.is_ipv4());
            one == other || takes(one, other) || takes(other, one)
        }
        (Err(one), Err(other)) => one.eq_ignore_ascii_case(other),
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

/// The address that a host is, or its name.
fn address(host: &str) -> Result<IpAddr, &str> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>()
        .map(|address| address.to_canonical())
        .map_err(|_| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_cannot_listen_at_once_are_seen_by_their_addresses() {
        for (one, other, expected) in [
            ("127.0.0.1:5044", "127.0.0.1:5044", true),
            ("127.0.0.1:5044", "0.0.0.0:5044", true),
            ("127.0.0.1:5044", "[::]:5044", true),
            ("0.0.0.0:5044", "[::]:5044", true),
            ("[::1]:5044", "[::]:5044", true),
            ("LOCALHOST:5044", "localhost:5044", true),
            ("[::1]:5044", "0.0.0.0:5044", false),
            ("127.0.0.1:5044", "127.0.0.2:5044", false),
            ("127.0.0.1:5044", "127.0.0.1:5045", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            assert_eq!(collide(one, other), expected, "{one} and {other}");
            assert_eq!(collide(other, one), expected, "{other} and {one}");
        }
    }

    #[test]
    fn an_output_to_ourselves_is_seen_by_its_address() {
        let own = format!("{}:5044", process::hostname());
        for (host, listen, is_own) in [
            ("127.0.0.1:5044", "127.0.0.1:5044", true),
            ("127.0.0.1:5044", "0.0.0.0:5044", true),
            ("127.0.0.1:5044", "[::]:5044", true),
            ("[::1]:5044", "[::1]:5044", true),
            ("localhost:5044", "0.0.0.0:5044", true),
            ("localhost:5044", "127.0.0.1:5044", true),
            ("0.0.0.0:5044", "127.0.0.1:5044", true),
            (&own, "0.0.0.0:5044", true),
            ("127.0.0.1:5045", "127.0.0.1:5044", false),
            ("127.0.0.1:5044", "127.0.0.2:5044", false),
            // Set aside for documentation, so no machine has it.
            ("192.0.2.1:5044", "0.0.0.0:5044", false),
            ("logstash-1.example:5044", "0.0.0.0:5044", false),
            (&own, "127.0.0.1:5044", false),
        ] {
            assert_eq!(reaches(host, listen), is_own, "{host} to {listen}");
        }
    }
}
