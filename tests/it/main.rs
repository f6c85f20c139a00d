//! The real binary on real folders, against a Lumberjack server that does what a test tells it.

mod accounts;
mod capture;
mod bombs;
mod cut_points;
mod first_light;
mod fuzz;
mod harness;
mod library;
mod process;
mod runs;
mod slow;
mod tidy;
mod words;
