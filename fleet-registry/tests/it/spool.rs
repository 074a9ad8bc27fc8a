//! Scenarios for the spool.

use std::time::{Duration, Instant};

use fleet_core::limits::{BATCH_DEVICES, BATCH_WAIT};
use fleet_registry::{
    Spool,
    spool::{BatchId, Output, RETRY_MOST, SpoolMisuse, Tally, UploadFailure},
};

use crate::{id, now};

/// A spool that is open for the command `one`, and the time.
fn open(rows: usize) -> (Spool<u32>, Instant) {
    let mut spool = Spool::new(rows, 5);
    spool.begin(id("one")).expect("it is empty");
    (spool, now())
}

/// The upload that comes next.
fn upload(spool: &mut Spool<u32>) -> (BatchId, Vec<u32>) {
    match spool.poll_output() {
        Some(Output::Upload { batch, rows, .. }) => (batch, rows.to_vec()),
        other => panic!("{other:?}"),
    }
}

fn settled(spool: &mut Spool<u32>) -> Tally {
    match spool.poll_output() {
        Some(Output::Settled { tally, .. }) => tally,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_row_is_sent_at_once_and_later_rows_in_batches() {
    let (mut spool, now) = open(1_000);
    spool.push(now, 0).expect("there is room");
    let (first, rows) = upload(&mut spool);
    assert_eq!(rows, [0]);
    for row in 1..=3 {
        spool.push(now, row).expect("there is room");
    }
    spool.uploaded(now, first, 1, 0, 0);
    assert_eq!(spool.poll_output(), None, "the others gather");
    assert_eq!(spool.poll_timeout(), Some(now + BATCH_WAIT));
    spool.handle_timeout(now + BATCH_WAIT);
    assert_eq!(upload(&mut spool).1, [1, 2, 3]);
}

#[test]
fn sixty_four_rows_do_not_wait() {
    let (mut spool, now) = open(1_000);
    spool.push(now, 0).expect("there is room");
    let (first, _) = upload(&mut spool);
    spool.uploaded(now, first, 1, 0, 0);
    for row in 1..=100 {
        spool.push(now, row).expect("there is room");
    }
    assert_eq!(upload(&mut spool).1.len(), BATCH_DEVICES);
}

#[test]
fn a_report_is_retried_unchanged_until_it_is_stored() {
    let (mut spool, mut now) = open(1_000);
    spool.push(now, 7).expect("there is room");
    let first = upload(&mut spool);
    for _ in 0..20 {
        let retry_after = None;
        spool.upload_failed(now, first.0, UploadFailure::Later { retry_after });
        let next = spool.poll_timeout().expect("another try is due");
        assert!(next - now <= RETRY_MOST);
        now = next;
        spool.handle_timeout(now);
        assert_eq!(upload(&mut spool), first);
    }
    spool.finish(now).expect("a command is open");
    assert_eq!(spool.poll_output(), None, "the ack waits for the report");
    spool.uploaded(now, first.0, 1, 0, 0);
    assert_eq!(settled(&mut spool).accepted, 1);
}

#[test]
fn a_retry_hint_delays_the_retry() {
    let (mut spool, now) = open(10);
    spool.push(now, 7).expect("there is room");
    let (batch, _) = upload(&mut spool);
    let hint = Duration::from_secs(40);
    let retry_after = Some(hint);
    spool.upload_failed(now, batch, UploadFailure::Later { retry_after });
    assert!(spool.poll_timeout() >= Some(now + hint));
}

#[test]
fn a_rejected_report_is_dropped_and_counted_and_the_next_one_is_sent() {
    let (mut spool, now) = open(1_000);
    for row in 0..3 {
        spool.push(now, row).expect("there is room");
    }
    spool.finish(now).expect("a command is open");
    let (first, _) = upload(&mut spool);
    let reason = "port `0`".to_owned();
    spool.upload_failed(now, first, UploadFailure::Refused { reason });
    let (second, rows) = upload(&mut spool);
    assert_eq!(rows, [1, 2]);
    spool.uploaded(now, second, 1, 1, 0);
    let expected = Tally {
        accepted: 1,
        rejected: 1,
        owned_elsewhere: 0,
        dropped: 1,
        refusal: Some("port `0`".to_owned()),
    };
    assert_eq!(settled(&mut spool), expected);
}

#[test]
fn a_dead_command_drops_waiting_rows_and_uploads_nothing_more() {
    let (mut spool, now) = open(1_000);
    for row in 0..3 {
        spool.push(now, row).expect("there is room");
    }
    let (first, _) = upload(&mut spool);
    let reason = "not in flight".to_owned();
    spool.upload_failed(now, first, UploadFailure::CommandDead { reason });
    let command = id("one");
    assert_eq!(spool.poll_output(), Some(Output::CommandDead { command }));
    // The scan may take a moment to stop.
    spool.push(now, 3).expect("it is only counted");
    spool.finish(now).expect("a command is open");
    assert_eq!(settled(&mut spool).dropped, 4);
}

#[test]
fn a_full_spool_blocks_the_scan_until_there_is_room() {
    let (mut spool, now) = open(2);
    spool.push(now, 0).expect("there is room");
    let (first, _) = upload(&mut spool);
    assert!(spool.has_room());
    spool.push(now, 1).expect("there is room");
    assert!(!spool.has_room());
    assert_eq!(spool.push(now, 2), Err(SpoolMisuse::Full(2)));
    spool.uploaded(now, first, 1, 0, 0);
    assert_eq!(spool.poll_output(), Some(Output::Room));
    spool.push(now, 2).expect("there is room again");
}

#[test]
fn a_command_without_rows_is_settled_at_once() {
    let (mut spool, now) = open(2);
    assert_eq!(spool.begin(id("two")), Err(SpoolMisuse::Occupied));
    spool.finish(now).expect("a command is open");
    assert_eq!(settled(&mut spool), Tally::default());
    assert_eq!(spool.push(now, 0), Err(SpoolMisuse::NotOpen));
    spool.begin(id("two")).expect("the first is settled");
}

#[test]
fn abandoning_counts_the_remaining_rows() {
    let (mut spool, now) = open(10);
    for row in 0..3 {
        spool.push(now, row).expect("there is room");
    }
    let (command, tally) = spool.abandon().expect("a command is open");
    assert_eq!((command, tally.dropped), (id("one"), 3));
    assert_eq!((spool.poll_output(), spool.poll_timeout()), (None, None));
    assert_eq!(spool.abandon(), None);
}
