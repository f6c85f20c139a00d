//! Every call on the disk fails once, for a while, and until somebody mends the disk.
//!
//! After each nothing that was captured is lost, the queue goes on without a restart when the disk
//! works again, and the next start finds what was promised.

#![expect(
    clippy::print_stdout,
    reason = "what was looked at is the report of a harness"
)]

use super::bench;
use super::bench::Bench;
use super::crash::scale;
use crate::disk::Open;
use crate::disk::mem::Call;
use crate::disk::mem::Fault;
use crate::disk::mem::MemDisk;
use crate::disk::mem::Verb;
use crate::disk::mem::Verdict;

const STEPS: u64 = 30;

/// How many calls fail in a row when a disk is broken for a while.
const WHILE: u64 = 25;

/// How long a disk is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Once,
    Healed(u64),
    Mended,
}

/// What the `at`-th call and those behind it meet.
fn fault(at: u64, errno: i32, until: Until) -> impl FnMut(&Call<'_>) -> Verdict + Send {
    move |call| {
        let last = match until {
            Until::Once => at + 1,
            Until::Healed(calls) => at + calls,
            Until::Mended => u64::MAX,
        };
        let applies = match errno {
            libc::EMFILE => matches!(call.verb, Verb::Open(_) | Verb::List | Verb::SyncDir),
            // Only what changes the disk.
            libc::ENOSPC | libc::EDQUOT | libc::EROFS => {
                !matches!(call.verb, Verb::Open(Open::Read) | Verb::Read | Verb::List)
            }
            // What cannot be read the second time either is set aside with the reason, which is damage.
            libc::EIO if until != Until::Once => {
                !matches!(call.verb, Verb::Open(Open::Read) | Verb::Read | Verb::List)
            }
            _ => true,
        };
        if !applies || call.index < at || call.index >= last {
            Verdict::Go
        } else if call.verb == Verb::Write {
            // A short write, then the error; sometimes nothing, sometimes all of it.
            Verdict::Part(call.bytes * (at as usize % 4) / 3, errno)
        } else {
            Verdict::Fail(errno)
        }
    }
}

/// Works, and goes on after errors as a daemon does.
fn work(bench: &mut Bench) {
    for _ in 0..STEPS {
        if bench.step().is_err() {
            for _ in 0..50 {
                if bench.open().is_ok() {
                    break;
                }
            }
        }
    }
}

fn sweep(seed: u64, at: u64, errno: i32, until: Until) {
    let name = format!("seed {seed}, call {at}, errno {errno}, {until:?}");
    let disk = MemDisk::default();
    let mut bench = Bench::new(disk.clone(), seed);
    disk.script(fault(at, errno, until));
    if bench.open().is_err() && until != Until::Mended {
        let started = (0..50).any(|_| bench.open().is_ok());
        assert!(started, "{name}: it does not start");
    }
    work(&mut bench);
    disk.fail(Fault::None);
    if !bench.is_open() {
        bench.open().unwrap();
    }
    assert!(
        bench.goes_on(),
        "{name}: it does not go on when the disk works"
    );
    let disk = MemDisk::holding(&disk.files());
    let records = &bench.lineages[bench.promise.lineage];
    if let Err(wrong) = bench::check(&disk, records, &bench.promise) {
        panic!("{name}: {wrong:?}");
    }
}

#[test]
fn nothing_is_lost_and_all_goes_on_whichever_call_fails() {
    let errnos = [
        libc::ENOSPC,
        libc::EIO,
        libc::EDQUOT,
        libc::EROFS,
        libc::EINTR,
        libc::EMFILE,
    ];
    let mut sites = 0;
    let mut cases = 0;
    for seed in 1000..1000 + scale(1, 6, 500) {
        let disk = MemDisk::default();
        let mut bench = Bench::new(disk.clone(), seed);
        bench.open().unwrap();
        work(&mut bench);
        let calls = disk.calls();
        sites += calls;
        let step = scale(17, 1, 1) as usize;
        for at in (0..calls).step_by(step) {
            for errno in errnos {
                for until in [Until::Once, Until::Healed(WHILE), Until::Mended] {
                    sweep(seed, at, errno, until);
                    cases += 1;
                }
            }
        }
    }
    println!("errno sweep: {cases} cases at {sites} calls, 0 bad");
}
