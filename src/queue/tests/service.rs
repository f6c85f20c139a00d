//! The queue as it is served: what others are told of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::DIR;
use super::full::end_of_a_run;
use super::full::used;
use super::portion;
use super::settings;
use crate::clock;
use crate::disk::mem::Fault;
use crate::disk::mem::MemDisk;
use crate::event::Seq;
use crate::queue::service::Queue;
use crate::queue::service::Start;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn events_before_the_end_of_a_run_do_not_keep_it_waiting_on_a_full_disk() {
    let disk = MemDisk::default();
    let start = Start {
        disk: Arc::new(disk.clone()),
        dir: Path::new(DIR),
        settings: settings(),
        outputs: &[],
    };
    let (queue, ..) = Queue::start(start, &tokio::runtime::Handle::current()).unwrap();
    let mut level = queue.level();
    disk.limit(used(&disk));
    let events = queue.intake().submit(portion(1, 1, 10)).await.unwrap();
    let stuck = level.wait_for(|level| level.stuck.is_some());
    clock::within(SOON, stuck).await.unwrap().unwrap();
    let end = queue.intake().submit(end_of_a_run(2)).await.unwrap();
    for (captured, seq) in [(events, 1), (end, 2)] {
        let captured = clock::within(SOON, captured).await.unwrap().unwrap();
        assert_eq!(captured, Ok(Seq(seq)));
    }
    queue.close(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_why_nothing_is_captured_stays_until_something_is() {
    let disk = MemDisk::default();
    let start = Start {
        disk: Arc::new(disk.clone()),
        dir: Path::new(DIR),
        settings: settings(),
        outputs: &[],
    };
    let (queue, ..) = Queue::start(start, &tokio::runtime::Handle::current()).unwrap();
    let mut level = queue.level();
    disk.fail(Fault::WritesFull);
    let captured = queue.intake().submit(portion(1, 1, 10)).await.unwrap();
    let stuck = level.wait_for(|level| level.stuck.is_some());
    clock::within(SOON, stuck).await.unwrap().unwrap();
    let tries = async {
        // The first ones may close the segment, and say so.
        for calls in [10, 20] {
            let before = disk.calls();
            level.mark_unchanged();
            while disk.calls() < before + calls {
                tokio::task::yield_now().await;
            }
        }
        level.has_changed()
    };
    let flaps = clock::within(SOON, tries).await.unwrap().unwrap();
    assert!(!flaps, "{:?}", level.borrow());
    assert!(level.borrow().stuck.is_some());
    disk.fail(Fault::None);
    let captured = clock::within(SOON, captured).await.unwrap().unwrap();
    assert_eq!(captured, Ok(Seq(1)));
    let free = level.wait_for(|level| level.stuck.is_none());
    clock::within(SOON, free).await.unwrap().unwrap();
    queue.close(SOON).await;
}
