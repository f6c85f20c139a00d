//! The real binary on real folders, against a Lumberjack server that does what a test tells it.

mod accounts;
mod aggregation;
mod attacks;
mod bad_servers;
mod bombs;
mod capture;
mod cut_points;
mod dead_letter;
mod files;
mod first_light;
mod fuzz;
mod harness;
mod library;
mod policy;
mod process;
mod race;
mod receive;
mod runs;
mod send;
mod slow;
mod steer;
mod test_output;
mod tidy;
mod tls;
mod words;
mod zoo;
