//! Tests against the real program and real processes.

mod first_light;
mod harness;
mod process;
