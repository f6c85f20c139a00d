//! Files that are read again when they have changed, at the moment somebody needs what is in them.
//!
//! What was good stays in use while the new files are broken: a certificate that is being
//! renewed is often written in two steps.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use super::Problem;
use crate::clock;
use crate::clock::Tick;
use crate::disk;
use crate::disk::Stamp;

/// The system's authorities lie in files that are not known here; they are read again after this long.
const SYSTEM_AGE_MAX: Duration = Duration::from_secs(3600);

/// A value made from files.
#[derive(Debug)]
pub(super) struct Watched<T> {
    files: Vec<PathBuf>,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    /// Of the files when they were last read; `None` in it: could not be looked at.
    stamps: Option<Vec<Option<Stamp>>>,
    read_at: Tick,
    good: Option<Arc<T>>,
    problem: String,
}

impl<T> Watched<T> {
    /// A value of these files, which are not read yet.
    pub(super) fn new(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            state: Mutex::new(State {
                stamps: None,
                read_at: Tick::default(),
                good: None,
                problem: String::new(),
            }),
        }
    }

    /// The value; `read` is called when the files have changed.
    ///
    /// # Errors
    /// What is wrong with them, if they have never been good.
    pub(super) fn get(
        &self,
        read: impl FnOnce() -> Result<T, Vec<Problem>>,
    ) -> Result<Arc<T>, String> {
        let stamps = self
            .files
            .iter()
            .map(|file| disk::stamp(file).ok())
            .collect();
        // A panic while it was held would leave the last good value, which may be used.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::tick();
        let fresh =
            state.stamps.as_ref() == Some(&stamps) && now.since(state.read_at) < SYSTEM_AGE_MAX;
        if !fresh {
            match read() {
                Ok(value) => {
                    if state.good.is_some() && state.stamps.as_ref() != Some(&stamps) {
                        tracing::info!(files = ?self.files, "certificates or keys have changed and are in use");
                    }
                    state.good = Some(Arc::new(value));
                }
                Err(problems) => {
                    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    state.problem = problems.join("; ");
                    if state.good.is_some() {
                        let error = &state.problem;
                        tracing::warn!(%error, "certificates or keys have changed and are not good; the former ones stay in use");
                    }
                }
            }
            state.stamps = Some(stamps);
            state.read_at = now;
        }
        state.good.clone().ok_or_else(|| state.problem.clone())
    }
}
