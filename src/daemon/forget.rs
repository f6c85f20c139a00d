//! Forgetting an output that left the configuration, with a daemon and without one.
//!
//! First the log knows of it, durably, then the cursor goes: a death between leaves an output that is
//! still frozen and may be forgotten again. Whoever calls has seen that it is not configured.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock;
use crate::config;
use crate::daemon::Error;
use crate::daemon::claim;
use crate::daemon::herald::Letter;
use crate::disk::OsDisk;
use crate::queue::Intake;
use crate::queue::Marks;
use crate::queue::Refused;
use crate::queue::batch::Batch;
use crate::queue::locked;
use crate::queue::readers;
use crate::queue::writer::Writer;
use crate::status::Answer;

/// Forgets `output` while the queue in `dir` is served; `frozen` are the cursors of its like, `letter`
/// says what it has missed.
pub(super) async fn live(
    dir: PathBuf,
    intake: Intake,
    frozen: Marks,
    output: String,
    letter: Option<Letter>,
) -> Answer {
    // First, so that nothing more is noted of it.
    let cursor = locked(&frozen).remove(&output);
    let forgotten = async {
        let captured = intake.submit(readers::forgotten(&output)).await?;
        captured.await.unwrap_or(Err(Refused::Closed)).map(drop)
    };
    let done = match forgotten.await {
        Ok(()) => readers::remove_cursor(&OsDisk, &dir, &output).map_err(|error| {
            format!("no file waits for it any more, but its cursor cannot be removed: {error}")
        }),
        Err(Refused::Closed) => Err("the daemon is leaving".to_owned()),
        Err(Refused::Broken(why)) => Err(why),
    };
    match done {
        Ok(()) => {
            tracing::info!(output, "the output is forgotten");
            if let Some(letter) = letter {
                letter.send();
            }
            Answer::Accepted
        }
        Err(reason) => {
            locked(&frozen).extend(cursor.map(|cursor| (output, cursor)));
            Answer::Refused { reason }
        }
    }
}

/// Forgets `output` where no daemon runs.
///
/// # Errors
/// See [`Error`].
pub fn stopped(root: &config::Root, output: &str) -> Result<(), Error> {
    let held = claim(&root.dir)?;
    let done = in_queue(&root.dir.join("queue"), root, output);
    drop(held);
    done
}

fn in_queue(dir: &Path, root: &config::Root, output: &str) -> Result<(), Error> {
    let failed = |error| Error::Disk {
        path: dir.to_path_buf(),
        error,
    };
    let now = clock::now();
    let opened = Writer::open(Arc::new(OsDisk), dir, root.queue.clone(), now);
    let (mut writer, _) = opened.map_err(Error::Queue)?;
    let mut batch = Batch::default();
    batch.add(readers::forgotten(output));
    let draft = batch.close(root.queue.compression_level);
    let appended = writer.append(&draft, now);
    appended.map_err(|refused| failed(io::Error::other(refused.to_string())))?;
    writer.commit(now).map_err(failed)?;
    readers::remove_cursor(&OsDisk, dir, output).map_err(failed)
}
