//! `spoolbeat replay`: sends events again, under the same `event.id`: kept ones, or dead letters.
//!
//! Reads the queue, live or stopped, and speaks to the output itself: the daemon's cursors and
//! counters do not move.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::num::NonZeroU64;
use std::path::Path;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cli::EXIT_ERROR;
use crate::cli::EXIT_SYSTEM;
use crate::cli::choose;
use crate::cli::feed;
use crate::cli::feed::Feeder;
use crate::cli::feed::Gone;
use crate::cli::named;
use crate::cli::queue::consent;
use crate::cli::say;
use crate::cli::say::BAD_CONFIG;
use crate::cli::say::CANNOT_READ;
use crate::cli::say::count;
use crate::cli::select;
use crate::cli::select::Select;
use crate::cli::signals::Signals;
use crate::clock;
use crate::clock::Tick;
use crate::config::Output;
use crate::disk::Disk;
use crate::disk::OsDisk;
use crate::event::RunId;
use crate::event::envelope::Replay;
use crate::lumberjack::client::Checked;
use crate::lumberjack::client::Error;
use crate::queue::inspect;
use crate::queue::inspect::Kept;
use crate::queue::inspect::Survey;
use crate::queue::locked;
use crate::queue::select::Filter;
use crate::queue::select::Go;
use crate::queue::select::events;
use crate::sink;
use crate::units;
use crate::units::Timestamp;

mod dead_letter;
mod progress;
mod to;

use progress::Progress;
use to::To;

/// `spoolbeat replay`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true)
    .args(["run", "since", "until", "id", "seq", "grep", "dead_letter"]))]
pub struct Args {
    /// Only events of this job
    pub job: Option<String>,
    /// Which events.
    #[command(flatten)]
    pub select: Box<Select>,
    /// Instead of kept events, those that the server of output NAME had refused and that were set
    /// aside in dead-letter/; what is taken now is removed there. Default: that of --output if it is
    /// a server, else the first server; they go to --output, or again to that server
    #[arg(long, value_name = "NAME", num_args = 0..=1,
        conflicts_with_all = ["job", "run", "since", "until", "id", "seq", "grep", "rate"])]
    pub dead_letter: Option<Option<String>>,
    /// The output to send to; default: the first one of spoolbeat.toml. Of kind file: into its file,
    /// while the daemon writes there, too. Of kind stdout: lines as of that output, printed here
    #[arg(long, value_name = "NAME")]
    pub output: Option<String>,
    /// Print the events as they are instead of sending them
    #[arg(long, conflicts_with_all = ["output", "rate"])]
    pub stdout: bool,
    /// Send at most so many events in a second: 500 or 500/s
    #[arg(long, value_name = "N/s", value_parser = rate)]
    pub rate: Option<NonZeroU64>,
    /// Say what would be sent, and send nothing
    #[arg(long, conflicts_with = "stdout")]
    pub dry_run: bool,
}

/// Ended by Ctrl-C: 128 + SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

/// How often the progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Longest wait of a reader that is held to a rate, between looks whether somebody still sends.
const RATE_WAIT_MAX: Duration = Duration::from_millis(100);

fn rate(text: &str) -> Result<NonZeroU64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    let wrong = |_| format!("`{text}` is no number of events per second like 500/s");
    number.parse().map_err(wrong)
}

/// What a replay reads.
struct Source {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    survey: Survey,
    filter: Filter,
    kept: Kept,
}

/// Runs it.
pub async fn run(args: Args, root: &Path, outputs: &[Output]) -> ExitCode {
    let replay = Replay {
        id: RunId::new(clock::now(), std::process::id()),
        at: clock::now(),
    };
    if let Err(said) = args.select.check() {
        return said;
    }
    if let Some(whose) = &args.dead_letter {
        return match letters(&args, whose.as_deref(), root, outputs, replay) {
            Ok((name, what)) => dead_letter::run(&OsDisk, root, name, what).await,
            Err(said) => said,
        };
    }
    // For what is only printed or counted no output need be known; one that is named has to be there.
    let for_output = args.output.is_some() || !(args.dry_run || args.stdout);
    let chosen = for_output.then(|| named(outputs, args.output.as_deref()));
    let chosen = match chosen.transpose() {
        Ok(chosen) => chosen,
        Err(said) => return said,
    };
    let source = match Source::find(&args, root) {
        Ok(source) => source,
        Err(said) => return said,
    };
    let done = match chosen {
        _ if args.dry_run => source.count(&args),
        Some(output) => {
            return send(args, source, output, replay)
                .await
                .unwrap_or_else(|said| said);
        }
        None => source.print(),
    };
    match done {
        Ok(code) => code,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => source.unreadable(&error),
    }
}

/// Whose dead letters are meant, and what is done with them.
fn letters<'a>(
    args: &Args,
    whose: Option<&str>,
    root: &Path,
    outputs: &'a [Output],
    replay: Replay,
) -> Result<(&'a str, dead_letter::What<'a>), ExitCode> {
    let to = match &args.output {
        Some(name) => Some(named(outputs, Some(name))?),
        None => None,
    };
    let servers: Vec<&str> = super::servers(outputs).map(|(name, _)| name).collect();
    let instead = match &*servers {
        [] => "only servers refuse events, so there are no dead letters".to_owned(),
        names => format!(
            "only servers refuse events; --dead-letter NAME says whose dead letters are meant, one of: {}",
            names.join(", ")
        ),
    };
    let is_server = |output: &&Output| servers.contains(&&*output.name);
    let own = to.filter(is_server).map(|output| &*output.name);
    let (name, _) = choose(outputs, whose.or(own), &instead)?;
    let to = match to {
        Some(to) => to,
        None => named(outputs, Some(name))?,
    };
    let what = match (args.dry_run, args.stdout) {
        (true, _) => dead_letter::What::Count,
        (_, true) => dead_letter::What::Print,
        _ if to.kind == sink::Settings::Stdout => {
            let why = format!(
                "output `{}` is of kind \"stdout\": dead letters would be removed although only printed; --stdout prints them, and keeps them",
                to.name
            );
            return Err(say::fail(BAD_CONFIG, &why));
        }
        _ => {
            consent::is_ours(root)?;
            dead_letter::What::Send(replay, to)
        }
    };
    Ok((name, what))
}

impl Source {
    fn find(args: &Args, root: &Path) -> Result<Self, ExitCode> {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let survey = super::queue::survey(&disk, root)?;
        if let Some(job) = &args.job
            && let Some(why) = super::queue::lacks(&survey, job)
        {
            return Err(say::fail(EXIT_ERROR, &why));
        }
        let dir = root.join("queue");
        let kept = inspect::kept(&disk, &dir, &survey)
            .map_err(|error| say::fail(CANNOT_READ, &format!("{}: {error}", dir.display())))?;
        if let Some(why) = args.select.too_old(&kept) {
            say::note(&why);
        }
        Ok(Self {
            disk,
            root: root.to_path_buf(),
            filter: args.select.filter(args.job.as_deref()),
            survey,
            kept,
        })
    }

    fn unreadable(&self, error: &io::Error) -> ExitCode {
        let dir = self.root.join("queue");
        say::fail(CANNOT_READ, &format!("{}: {error}", dir.display()))
    }

    fn each(&self, each: impl FnMut(crate::queue::select::Event<'_>) -> Go) -> io::Result<u64> {
        let dir = self.root.join("queue");
        let missed = events(&self.disk, &dir, self.survey.end, &self.filter, each)?;
        Ok(missed.records)
    }

    /// Says what would be sent.
    fn count(&self, args: &Args) -> io::Result<ExitCode> {
        let (mut events, mut bytes) = (0, 0);
        let mut seqs = (u64::MAX, 0);
        let mut times = (Timestamp(i64::MAX), Timestamp(i64::MIN));
        let mut jobs: BTreeSet<Arc<str>> = BTreeSet::new();
        let missed = self.each(|event| {
            events += 1;
            bytes += event.json.len() as u64;
            seqs = (seqs.0.min(event.seq), event.seq);
            times = (times.0.min(event.part.first), times.1.max(event.part.last));
            if !jobs.contains(&event.part.job) {
                jobs.insert(event.part.job.clone());
            }
            Go::On
        })?;
        if events == 0 {
            return Ok(self.nothing(args));
        }
        let jobs: Vec<&str> = jobs.iter().map(|job| &**job).collect();
        let text = format!(
            "events  {events}, numbers {} to {}\nbytes   {bytes} ({})\nread    from {} to {}\njobs    {}\nnothing was sent\n",
            seqs.0,
            seqs.1,
            units::show_bytes(bytes),
            times.0,
            times.1,
            jobs.join(", ")
        );
        let code = say::report(&text, u8::from(missed > 0));
        if missed > 0 {
            say::note(&left_out(missed));
        }
        Ok(code)
    }

    fn print(&self) -> io::Result<ExitCode> {
        let mut out = BufWriter::new(io::stdout().lock());
        let mut wrote = Ok(());
        let missed = self.each(|event| {
            wrote = out
                .write_all(event.json)
                .and_then(|()| out.write_all(b"\n"));
            if wrote.is_ok() { Go::On } else { Go::Stop }
        })?;
        wrote?;
        out.flush()?;
        Ok(match missed {
            0 => ExitCode::SUCCESS,
            _ => say::fail(EXIT_ERROR, &left_out(missed)),
        })
    }

    /// Says that no event was found; wrong only when one was named.
    fn nothing(&self, args: &Args) -> ExitCode {
        let why = format!("no such event is kept ({})", select::since(&self.kept));
        if args.select.names_something() {
            say::fail(EXIT_ERROR, &why)
        } else {
            say::done(&why)
        }
    }
}

fn left_out(records: u64) -> String {
    let records = count(records, "record");
    format!("{records} damaged, or removed meanwhile: their events were left out")
}

/// The numbers of the events that were read and are not acknowledged yet, in order: so it is known
/// how far a replay came. As many as are on their way, which is bounded.
type OnTheWay = Arc<Mutex<VecDeque<u64>>>;

/// How a replay ended.
enum End {
    Sent(Result<(), Error>),
    Interrupted,
}

async fn send(
    args: Args,
    source: Source,
    output: &Output,
    replay: Replay,
) -> Result<ExitCode, ExitCode> {
    let (name, settings) = (&output.name, &output.kind);
    if let sink::Settings::File(_) = settings {
        consent::is_ours(&source.root)?;
    }
    let system = |error: io::Error| say::fail(EXIT_SYSTEM, &error.to_string());
    let mut signals = Signals::new().map_err(system)?;
    let last = source.survey.ledger.next_seq.saturating_sub(1);
    let (from, to) = args.select.seq.unwrap_or((0, u64::MAX));
    let span = (from.max(source.kept.seq), to.min(last));
    let mut to = tokio::select! {
        open = To::open(settings, |client| client.retries(to::retries(settings))) => {
            let unreached = |error: Error| {
                let why = format!("{error}; nothing was sent");
                say::fail(to::exit_code(settings, &error), &why)
            };
            open.map_err(unreached)?
        }
        () = signals.next() => {
            return Err(say::fail(EXIT_INTERRUPTED, "interrupted; nothing was sent"));
        }
    };
    let way = OnTheWay::default();
    let (feeder, feed) = feed::new();
    let reader = Reader {
        feeder,
        way: Arc::clone(&way),
        replay: replay.clone(),
        pace: args.rate.map(Pace::new),
    };
    let source = Arc::new(source);
    let reading = Arc::clone(&source);
    let reader = tokio::task::spawn_blocking(move || reader.read(&reading));
    let mut progress = Progress::new(span, to::is_on_terminal(settings));
    let end = watch(&feed, &mut to, &way, &mut progress, &mut signals).await;
    // The reader sees that nobody sends any more.
    drop(feed);
    let read = reader.await.map_err(io::Error::other).flatten();
    to.settle().await;
    let acked = to.acked();
    let next = settle(&way, acked, &mut progress);
    progress.clear();
    let told = format!(
        "{} sent again to {name} as replay {}",
        count(acked, "event"),
        replay.id
    );
    let go_on = next.map_or_else(String::new, |next| {
        let command = again(&args, name, (next, span.1), &source.root);
        format!("\n  it stopped before event {next}; go on with:  {command}")
    });
    Ok(match (end, read) {
        (End::Interrupted, _) => {
            say::fail(EXIT_INTERRUPTED, &format!("interrupted: {told}{go_on}"))
        }
        (End::Sent(Ok(())), Ok(0)) if acked == 0 => source.nothing(&args),
        (End::Sent(Ok(())), Ok(0)) => say::done(&told),
        (End::Sent(Ok(())), Ok(missed)) => {
            say::fail(EXIT_ERROR, &format!("{told}; {}", left_out(missed)))
        }
        (End::Sent(Err(error)), _) => {
            let tries = match to::retries(settings) {
                0 => String::new(),
                tries => format!(" after {tries} further tries"),
            };
            say::fail(
                to::exit_code(settings, &error),
                &format!("{error}; {told}, then given up{tries}{go_on}"),
            )
        }
        (_, Err(error)) => say::fail(CANNOT_READ, &format!("{told}, then: {error}{go_on}")),
    })
}

/// Sends until all is sent or a person has had enough, showing how far it is.
async fn watch(
    feed: &feed::Feed,
    to: &mut To,
    way: &OnTheWay,
    progress: &mut Progress,
    signals: &mut Signals,
) -> End {
    let acked = to.acked_counter();
    let mut sending = pin!(async {
        while let Some(frames) = feed.next().await {
            to.send_all(frames.payloads().map(Checked)).await?;
        }
        Ok(())
    });
    loop {
        tokio::select! {
            sent = &mut sending => return End::Sent(sent),
            () = signals.next() => return End::Interrupted,
            () = clock::sleep(LOOK_EVERY) => {
                settle(way, acked.load(Ordering::Relaxed), progress);
                progress.show(clock::tick());
            }
        }
    }
}

/// Takes what is acknowledged off the way; returns the first event that is not, if there is one.
fn settle(way: &OnTheWay, acked: u64, progress: &mut Progress) -> Option<u64> {
    let mut way = locked(way);
    let new = acked.saturating_sub(progress.acked());
    for _ in 0..new {
        if let Some(seq) = way.pop_front() {
            progress.passed(seq);
        }
    }
    way.front().copied()
}

/// The command that goes on where this one stopped.
fn again(args: &Args, output: &str, (from, to): (u64, u64), root: &Path) -> String {
    let mut words = vec!["spoolbeat".to_owned(), "replay".to_owned()];
    words.extend(args.job.clone());
    let select = &args.select;
    let grep = select.grep.as_ref().map(|grep| grep.as_str().to_owned());
    let flags = [
        ("--run", select.run.clone()),
        ("--since", select.since.map(|at| at.to_string())),
        ("--until", select.until.map(|at| at.to_string())),
        ("--id", select.id.clone()),
        ("--seq", Some(format!("{from}..{to}"))),
        ("--grep", grep),
        ("--rate", args.rate.map(|rate| format!("{rate}/s"))),
        ("--output", Some(output.to_owned())),
        ("--root", Some(root.display().to_string())),
    ];
    for (flag, value) in flags {
        if let Some(value) = value {
            words.push(flag.to_owned());
            words.push(quoted(value));
        }
    }
    words.join(" ")
}

/// As a shell takes it.
fn quoted(word: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@+,".contains(c);
    if word.chars().all(plain) && !word.is_empty() {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Reads the wanted events for the sender.
struct Reader {
    feeder: Feeder,
    way: OnTheWay,
    replay: Replay,
    pace: Option<Pace>,
}

impl Reader {
    /// Returns how many records were missed.
    fn read(mut self, source: &Source) -> io::Result<u64> {
        source.each(|event| {
            if let Some(pace) = &mut self.pace {
                pace.wait();
            }
            locked(&self.way).push_back(event.seq);
            let pushed = self.feeder.push(|out| self.replay.mark(out, event.json));
            match pushed {
                Ok(()) => Go::On,
                Err(Gone) => Go::Stop,
            }
        })
    }
}

/// Holds a reader to so many events in a second.
struct Pace {
    per_second: NonZeroU64,
    started: Tick,
    events: u64,
}

impl Pace {
    fn new(per_second: NonZeroU64) -> Self {
        Self {
            per_second,
            started: clock::tick(),
            events: 0,
        }
    }

    fn wait(&mut self) {
        let due = self.events.saturating_mul(1000) / self.per_second;
        let due = self.started.after(Duration::from_millis(due));
        self.events += 1;
        loop {
            let left = due.since(clock::tick());
            if left.is_zero() {
                return;
            }
            clock::pause(left.min(RATE_WAIT_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_goes_on_can_be_pasted_into_a_shell() {
        assert_eq!(
            quoted("2026-11-21T08:00:00.000Z".into()),
            "2026-11-21T08:00:00.000Z"
        );
        assert_eq!(quoted("it's".into()), r"'it'\''s'");
        assert_eq!(quoted(String::new()), "''");
    }

    #[test]
    fn a_rate_is_events_per_second() {
        assert_eq!(rate("500/s").map(NonZeroU64::get), Ok(500));
        assert_eq!(rate("7").map(NonZeroU64::get), Ok(7));
        for wrong in ["0", "0/s", "5/m", "", "-1"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
