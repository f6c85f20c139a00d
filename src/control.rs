//! The local socket by which commands talk to a running daemon: `ROOT/state/control.sock`.
//!
//! One JSON request a line, one JSON answer a line, as `status` defines them. Whoever may open
//! the socket (mode 0600: its owner and root) may ask anything. Knows no job, no queue and not
//! who answers. Works for roots of any length (see [`Folder`]).

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::clock;
use crate::disk;
use crate::disk::Disk;
use crate::disk::Folder;
use crate::disk::OsDisk;
use crate::files;
use crate::status::Answer;
use crate::status::Request;

/// Name of the socket in `ROOT/state`.
const SOCKET: &str = "control.sock";

/// The socket while it is being made; renamed over [`SOCKET`] when its mode is right, so that a
/// dead daemon's socket is replaced at once and nobody meets a half-made one.
const SOCKET_NEW: &str = "control.sock.new";

/// Only the owner (and root) may connect.
const SOCKET_MODE: u32 = 0o600;

/// Largest request: a job's name has 64 characters, so this is plenty. A longer one is refused
/// and its connection closed.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Largest answer that a client takes: the status of 10,000 jobs has about 10 MiB.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How long a request may take to arrive, its answer to be found, and to be read by the peer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Connections at a time; further ones wait in the kernel's backlog until one of these ends,
/// which [`DEADLINE`] sees to.
const CONNECTIONS_MAX: usize = 16;

/// Pause after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How often the daemon looks whether its socket still has its name: somebody may have tidied it away.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A question and where its answer goes. Dropping the sender closes the connection.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub request: Request,
    /// Takes the answer.
    pub answer: oneshot::Sender<Answer>,
}

/// The daemon's end. Removes the socket's name when dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of what was bound.
    identity: (u64, u64),
}

/// Makes the socket in `state_dir`, in place of one that a dead daemon left. The caller holds the
/// root's lock: there is no live one. Must be called within a tokio runtime.
///
/// # Errors
/// What the operating system said.
pub fn bind(state_dir: &Path) -> io::Result<Socket> {
    let (listener, identity) = make(state_dir)?;
    Ok(Socket {
        listener,
        path: state_dir.join(SOCKET),
        identity,
    })
}

fn make(state_dir: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let folder = Folder::open(state_dir)?;
    let fresh = folder.reach(SOCKET_NEW);
    match OsDisk.remove(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    disk::set_mode(&fresh, SOCKET_MODE)?;
    let identity = files::look(&fresh)?.identity;
    OsDisk.rename(&fresh, &folder.reach(SOCKET))?;
    Ok((listener, identity))
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = OsDisk.remove(&self.path) {
            tracing::debug!(%error, "the control socket could not be removed");
        }
    }
}

impl Socket {
    /// Serves for ever, handing questions to `asked`; ends when its receiver is gone. Dropping
    /// the future closes all connections.
    pub async fn serve(mut self, asked: mpsc::Sender<Asked>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        while !asked.is_closed() {
            while connections.try_join_next().is_some() {}
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            // Nobody can come to a socket without its name, so a look is due soon.
            let Some(accepted) = clock::within(LOOK_EVERY, self.listener.accept()).await else {
                self.look();
                continue;
            };
            match accepted {
                Ok((stream, _)) => {
                    let asked = asked.clone();
                    connections.spawn(async move {
                        if let Err(error) = converse(stream, &asked).await {
                            tracing::debug!(%error, "a control connection ended");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a control connection could not be accepted");
                    clock::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Binds it again when its name is gone, or belongs to something else.
    fn look(&mut self) {
        let Some(state_dir) = self.path.parent() else {
            return;
        };
        let is_ours = Folder::open(state_dir)
            .and_then(|folder| files::look(&folder.reach(SOCKET)))
            .is_ok_and(|item| item.identity == self.identity);
        if is_ours {
            return;
        }
        match make(state_dir) {
            Ok(made) => {
                tracing::warn!(socket = %self.path.display(), "the control socket was removed; it is there again");
                (self.listener, self.identity) = made;
            }
            Err(error) => {
                tracing::warn!(socket = %self.path.display(), %error, "the control socket was removed, and cannot be made again; commands find no daemon");
            }
        }
    }
}

async fn converse(stream: UnixStream, asked: &mpsc::Sender<Asked>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Some(line) = in_time(read_line(&mut stream, REQUEST_BYTES_MAX)).await? else {
            return Ok(());
        };
        let (answer, go_on) = match line {
            Line::Whole(line) => match serde_json::from_slice(&line) {
                Ok(request) => (in_time(put(request, asked)).await?, true),
                Err(error) => (
                    refused(format!(
                        "not a request ({error}); write one line like {{\"do\":\"status\"}}"
                    )),
                    true,
                ),
            },
            Line::TooLong => (
                refused(format!("a request has at most {REQUEST_BYTES_MAX} bytes")),
                false,
            ),
        };
        let mut reply = serde_json::to_vec(&answer)?;
        reply.push(b'\n');
        in_time(async { stream.get_mut().write_all(&reply).await }).await?;
        if !go_on {
            return Ok(());
        }
    }
}

async fn put(request: Request, asked: &mpsc::Sender<Asked>) -> io::Result<Answer> {
    let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the daemon is leaving");
    let (answer, answered) = oneshot::channel();
    let question = Asked { request, answer };
    asked.send(question).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())
}

const fn refused(reason: String) -> Answer {
    Answer::Refused { reason }
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
}

/// One line of at most `max` bytes; `None` at the end of the stream.
async fn read_line(stream: &mut BufReader<UnixStream>, max: usize) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    stream.take(limit).read_until(b'\n', &mut line).await?;
    Ok(match line.len() {
        0 => None,
        len if len > max => Some(Line::TooLong),
        _ => Some(Line::Whole(line)),
    })
}

async fn in_time<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    clock::within(DEADLINE, future)
        .await
        .unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

/// Why there is no answer.
#[derive(Debug)]
pub enum AskError {
    /// No daemon runs on the root: start one.
    NoDaemon {
        /// `ROOT/state`, where it would listen.
        state_dir: PathBuf,
    },
    /// The daemon's socket cannot be used: see to permissions, or to a daemon that hangs.
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// The answer is not one: the daemon is of another version.
    NotUnderstood(serde_json::Error),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDaemon { state_dir } => {
                let root = state_dir.parent().unwrap_or(state_dir).display();
                write!(
                    f,
                    "no daemon answers on {root}; start one with `spoolbeat run {root}`"
                )
            }
            Self::Unreachable { socket, error } if error.kind() == io::ErrorKind::TimedOut => {
                write!(
                    f,
                    "{}: the daemon did not answer within {} s",
                    socket.display(),
                    DEADLINE.as_secs()
                )
            }
            Self::Unreachable { socket, error }
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                write!(
                    f,
                    "{}: {error}; ask as the user that the daemon runs as, or as root",
                    socket.display()
                )
            }
            Self::Unreachable { socket, error } => write!(f, "{}: {error}", socket.display()),
            Self::NotUnderstood(error) => write!(
                f,
                "the daemon's answer is not understood ({error}); is it of another version?"
            ),
        }
    }
}

impl std::error::Error for AskError {}

/// Asks the daemon whose state lies in `state_dir`.
///
/// # Errors
/// See [`AskError`].
pub async fn ask(state_dir: &Path, request: &Request) -> Result<Answer, AskError> {
    let unreachable = |error: io::Error| match error.kind() {
        // The last two: of one that was killed, whose socket a child had open until it became its script.
        io::ErrorKind::NotFound
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => AskError::NoDaemon {
            state_dir: state_dir.to_path_buf(),
        },
        _ => AskError::Unreachable {
            socket: state_dir.join(SOCKET),
            error,
        },
    };
    let answer = in_time(exchange(state_dir, request))
        .await
        .map_err(unreachable)?;
    serde_json::from_slice(&answer).map_err(AskError::NotUnderstood)
}

async fn exchange(state_dir: &Path, request: &Request) -> io::Result<Vec<u8>> {
    let folder = Folder::open(state_dir)?;
    let stream = UnixStream::connect(folder.reach(SOCKET)).await?;
    let mut stream = BufReader::new(stream);
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.get_mut().write_all(&line).await?;
    match read_line(&mut stream, ANSWER_BYTES_MAX).await? {
        Some(Line::Whole(answer)) => Ok(answer),
        Some(Line::TooLong) | None => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the daemon closed the connection without an answer",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Answers every trigger with a refusal that repeats the job's name.
    fn echo(state_dir: &Path) -> tokio::task::JoinHandle<()> {
        let socket = bind(state_dir).unwrap();
        let (asked, mut questions) = mpsc::channel::<Asked>(1);
        tokio::spawn(async move {
            let answers = async {
                while let Some(question) = questions.recv().await {
                    let reason = match question.request {
                        Request::Trigger { job } => job,
                        other => format!("{other:?}"),
                    };
                    question.answer.send(refused(reason)).unwrap();
                }
            };
            tokio::join!(socket.serve(asked), answers);
        })
    }

    fn trigger(job: &str) -> Request {
        Request::Trigger {
            job: job.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_root_deeper_than_a_socket_path_may_be_is_served() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("d".repeat(100)).join("e".repeat(200));
        fs::create_dir_all(&state).unwrap();
        let server = echo(&state);
        let answer = ask(&state, &trigger("disk")).await.unwrap();
        assert_eq!(answer, refused("disk".to_owned()));
        let mode = fs::metadata(state.join(SOCKET)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, SOCKET_MODE);
        server.abort();
        assert!(server.await.is_err());
        assert!(
            !state.join(SOCKET).exists(),
            "the name goes with the daemon"
        );
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_daemon_is_replaced() {
        let state = tempfile::tempdir().unwrap();
        for name in [SOCKET, SOCKET_NEW] {
            drop(std::os::unix::net::UnixListener::bind(state.path().join(name)).unwrap());
        }
        let error = ask(state.path(), &Request::Status).await.unwrap_err();
        assert!(
            matches!(error, AskError::NoDaemon { .. }),
            "nobody listens: {error}"
        );
        let server = echo(state.path());
        let answer = ask(state.path(), &Request::Status).await.unwrap();
        assert_eq!(answer, refused("Status".to_owned()));
        server.abort();
    }

    #[tokio::test]
    async fn a_daemon_that_dies_before_it_has_read_the_question_is_none() {
        let state = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(state.path().join(SOCKET)).unwrap();
        for read in [0, 1] {
            let dies = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = vec![0; read];
                stream.read_exact(&mut bytes).await.unwrap();
            };
            let (answer, ()) = tokio::join!(ask(state.path(), &Request::Status), dies);
            let error = answer.unwrap_err();
            assert!(matches!(error, AskError::NoDaemon { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_removed_or_replaced_is_bound_again() {
        let state = tempfile::tempdir().unwrap();
        let mut socket = bind(state.path()).unwrap();
        let name = state.path().join(SOCKET);
        let of = |name: &Path| files::look(name).unwrap().identity;
        let first = of(&name);
        socket.look();
        assert_eq!(of(&name), first, "what is there stays");
        fs::remove_file(&name).unwrap();
        socket.look();
        assert_eq!(of(&name), socket.identity);
        fs::remove_file(&name).unwrap();
        fs::write(&name, "else").unwrap();
        socket.look();
        assert_eq!(of(&name), socket.identity);
        let mode = fs::metadata(&name).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let client = UnixStream::connect(&name).await;
        assert!(client.is_ok() && socket.listener.accept().await.is_ok());
    }

    #[tokio::test]
    async fn without_a_daemon_the_error_says_how_to_start_one() {
        let root = tempfile::tempdir().unwrap();
        let error = ask(&root.path().join("state"), &Request::Status)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("spoolbeat run"), "{error}");
    }

    #[tokio::test]
    async fn one_connection_may_ask_often_and_wrong_lines_are_answered_in_words() {
        let state = tempfile::tempdir().unwrap();
        let server = echo(state.path());
        let stream = UnixStream::connect(state.path().join(SOCKET))
            .await
            .unwrap();
        let mut stream = BufReader::new(stream);
        for (line, expected) in [
            ("{\"do\":\"trigger\",\"job\":\"a\"}\n", "\"a\""),
            ("hello\n", "write one line like"),
            ("{\"do\":\"dance\"}\n", "unknown variant"),
            ("{\"do\":\"trigger\",\"job\":\"b\"}\n", "\"b\""),
        ] {
            stream.get_mut().write_all(line.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_line(&mut answer).await.unwrap();
            assert!(answer.contains(expected), "{answer}");
        }
        server.abort();
    }

    #[tokio::test]
    async fn a_request_without_end_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let server = echo(state.path());
        let mut stream = UnixStream::connect(state.path().join(SOCKET))
            .await
            .unwrap();
        stream
            .write_all(&vec![b' '; REQUEST_BYTES_MAX + 1])
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("at most 65536 bytes"), "{answer}");
        server.abort();
    }

    #[tokio::test]
    async fn silent_connections_below_the_limit_keep_nobody_waiting() {
        let state = tempfile::tempdir().unwrap();
        let server = echo(state.path());
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX - 1 {
            silent.push(
                UnixStream::connect(state.path().join(SOCKET))
                    .await
                    .unwrap(),
            );
        }
        let answer = ask(state.path(), &trigger("x")).await.unwrap();
        assert_eq!(answer, refused("x".to_owned()));
        drop(silent);
        server.abort();
    }
}
