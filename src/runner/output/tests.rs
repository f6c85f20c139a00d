//! Output without processes: pipes that the test writes, a queue that the test plays.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::os::fd::OwnedFd;

use super::*;
use crate::event::Route;
use crate::event::RunId;
use crate::event::envelope::Identity;
use crate::event::envelope::Labels;
use crate::event::envelope::Shape;
use crate::job::Format;
use crate::queue::Intake;
use crate::run::Phase;
use crate::source::gather::Lane;
use crate::source::gather::Lanes;
use crate::source::gather::Limits;

/// Room for one piece, and not for two.
const SMALL_POOL_BYTES: usize = PIECE_COST_MAX;

fn output(pool: &Pool, batch_events: u32, pipe_end: io::PipeReader) -> Output {
    let identity = Identity {
        host_name: "h".into(),
        agent_id: "a".into(),
        agent_ephemeral_id: "e".into(),
        shape: Shape::Ecs,
    };
    let run = RunId::from_text("r");
    let fields = serde_json::Map::new();
    let labels = Labels {
        job: "j",
        run: &run,
        generation: "g",
        trigger: "manual",
        scheduled_at: None,
        tags: &[],
        fields: &fields,
    };
    let limits = Limits {
        batch_events,
        batch_bytes: 1 << 20,
    };
    let lanes = Lanes {
        stdout: Lane::Text,
        stderr: Lane::Text,
    };
    let gather = Gather::new(limits, Route::default(), &identity, &labels, lanes);
    let capture = Capture {
        events: true,
        errors: false,
        log: false,
        format: Format::Text,
        multiline: None,
        max_event: 1 << 20,
        phases: vec![Phase::Run],
    };
    let pipe = |stream| Pipe::new(stream, capture.clone());
    let mut output = Output::with(
        pipe(Stream::Stdout),
        pipe(Stream::Stderr),
        "j",
        gather,
        pool.clone(),
    );
    output.stdout.receiver = Some(Receiver::from_owned_fd(OwnedFd::from(pipe_end)).unwrap());
    output
}

/// Moves everything from the pipe to the queue, as the driver does.
async fn pump(mut output: Output, mut uplink: Uplink) -> u64 {
    while !output.is_closed() {
        tokio::select! {
            biased;
            captured = uplink.captured() => drop(captured.unwrap()),
            ready = output.ready() => if let Ready::Readable(stream) = ready {
                output.read(stream, Timestamp(0), &mut uplink, |_| {});
            },
        }
        output.go_on(&mut uplink);
    }
    output.hand_over(&mut uplink, Vec::new());
    while !uplink.is_empty() {
        uplink.captured().await.unwrap();
    }
    output.gather().counts().events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_find_the_pool_empty_wait_and_lose_nothing() {
    const RUNS: u64 = 8;
    const LINES: u64 = 20_000;
    let pool = Pool::of(SMALL_POOL_BYTES);
    let (intake, mut taken) = Intake::channel(1);
    let mut pumps = tokio::task::JoinSet::new();
    for _ in 0..RUNS {
        let (reader, mut writer) = io::pipe().unwrap();
        std::thread::spawn(move || {
            let line = b"0123456789\n".repeat(100);
            for _ in 0..LINES / 100 {
                writer.write_all(&line).unwrap();
            }
        });
        let output = output(&pool, 2048, reader);
        pumps.spawn(pump(output, Uplink::new(intake.clone())));
    }
    drop(intake);
    let queue = tokio::spawn(async move {
        let mut framed = 0;
        while let Some((portion, captured)) = taken.recv().await {
            framed += portion.counters.framed;
            captured.send(Ok(crate::event::Seq(framed))).unwrap();
        }
        framed
    });
    while let Some(events) = pumps.join_next().await {
        assert_eq!(events.unwrap(), LINES);
    }
    assert_eq!(queue.await.unwrap(), RUNS * LINES);
    // Everything that was taken from the pool is back.
    assert_eq!(pool.free_units(), Pool::units(SMALL_POOL_BYTES) as usize);
}

#[tokio::test]
async fn an_unfinished_line_holds_no_room() {
    let pool = Pool::of(SMALL_POOL_BYTES);
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(&[b'x'; 10_000]).unwrap();
    let (intake, _taken) = Intake::channel(1);
    let mut uplink = Uplink::new(intake);
    let mut output = output(&pool, 10, reader);
    assert_eq!(output.ready().await, Ready::Readable(Stream::Stdout));
    output.read(Stream::Stdout, Timestamp(0), &mut uplink, |_| {});
    assert_eq!(output.gather().counts().events, 0);
    assert_eq!(pool.free_units(), Pool::units(SMALL_POOL_BYTES) as usize);
}

#[test]
fn a_chunk_of_short_lines_is_taken_in_pieces() {
    let (long, cost) = piece(&[b'x'; CHUNK_BYTES]);
    assert_eq!((long.len(), cost), (CHUNK_BYTES, CHUNK_BYTES));
    let (short, cost) = piece(&[b'\n'; CHUNK_BYTES]);
    assert!(
        short.len() >= PIECE_BYTES_MIN && cost <= PIECE_COST_MAX,
        "{cost}"
    );
    // Nothing that is asked of the pool at once is more than it has.
    assert!(Pool::units(usize::MAX) as usize <= Pool::new().free_units());
}
