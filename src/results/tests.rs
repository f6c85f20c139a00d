//! Promises of the results.
