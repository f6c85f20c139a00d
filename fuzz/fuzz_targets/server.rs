//! Fuzzes `entries::server`, which says what that is.

#![no_main]

#[path = "../entries.rs"]
#[expect(dead_code, reason = "each target takes one entry")]
mod entries;

libfuzzer_sys::fuzz_target!(|input: &[u8]| entries::server(input));
