//! The meter over bytes made by hand: pieces do not matter, floods end, honest peers never do.

use std::time::Duration;

use proptest::prelude::*;

use super::{CONTROL_MOST, CONTROL_RATE, Flood, Meter, THIN_MOST};

const NOW: Duration = Duration::ZERO;

fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
    let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.resize(9 + length, 0xa5);
    bytes
}

/// Sends the frame until it is too much: how often, and what it is called.
fn flood(meter: &mut Meter, now: Duration, frame: &[u8]) -> (u32, Flood) {
    (0..1_000_000)
        .find_map(|n| Some((n, meter.received(now, frame).err()?)))
        .expect("ends")
}

fn any_frames() -> impl Strategy<Value = Vec<u8>> {
    let any = (0..=20_u8, any::<u8>(), any::<u32>(), 0..600_usize);
    let frames = prop::collection::vec(any, 0..40);
    frames.prop_map(|all| {
        all.into_iter()
            .flat_map(|(kind, flags, stream, length)| frame(kind, flags, stream, length))
            .collect()
    })
}

proptest! {
    #[test]
    fn counts_do_not_depend_on_the_chunking_of_bytes(
        inbound in any_frames(),
        outbound in any_frames(),
        cuts in prop::collection::vec(1..40_usize, 1..20),
    ) {
        let (mut whole, mut pieces) = (Meter::new(0, 1), Meter::new(0, 1));
        whole.sent(&outbound);
        prop_assert_eq!(whole.received(NOW, &inbound), Ok(()));
        for (bytes, sent) in [(&outbound, true), (&inbound, false)] {
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*cuts.next().expect("a cycle")));
                rest = after;
                if sent {
                    pieces.sent(piece);
                } else {
                    prop_assert_eq!(pieces.received(NOW, piece), Ok(()));
                }
            }
        }
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..4_096), now in any::<u64>()) {
        let mut meter = Meter::new(24, 1);
        let _ = meter.received(Duration::from_millis(now), &bytes);
        meter.sent(&bytes);
    }
}

#[test]
fn every_kind_that_costs_nothing_to_send_ends_and_is_named() {
    for (bytes, most, name) in [
        (frame(6, 0, 0, 8), CONTROL_MOST, Flood::Ping),
        (frame(6, 1, 0, 8), CONTROL_MOST, Flood::Ping),
        (frame(4, 0, 0, 0), CONTROL_MOST, Flood::Settings),
        (frame(4, 1, 0, 0), CONTROL_MOST, Flood::Settings),
        (frame(8, 0, 0, 4), CONTROL_MOST, Flood::WindowUpdate),
        (frame(2, 0, 1, 5), CONTROL_MOST, Flood::Priority),
        (frame(3, 0, 1, 4), CONTROL_MOST, Flood::Reset),
        (frame(1, 4, 0, 3), CONTROL_MOST, Flood::Headers),
        (frame(9, 0, 1, 1), CONTROL_MOST, Flood::Other),
        (frame(0x42, 0, 0, 0), CONTROL_MOST, Flood::Other),
        (frame(0, 0, 1, 0), THIN_MOST, Flood::ThinData),
        (frame(0, 0, 1, 255), THIN_MOST, Flood::ThinData),
    ] {
        assert_eq!(flood(&mut Meter::new(0, 1), NOW, &bytes), (most, name));
    }
}

#[test]
fn an_answer_of_ours_earns_nothing() {
    let (mut meter, mut sent) = (Meter::new(0, 1), 0);
    while meter.received(NOW, &frame(6, 0, 0, 8)).is_ok() {
        meter.sent(&frame(6, 1, 0, 8));
        sent += 1;
    }
    assert_eq!(sent, CONTROL_MOST);
}

#[test]
fn a_window_that_opens_byte_by_byte_is_a_flood_too() {
    let (mut meter, mut windows) = (Meter::new(0, 1), 0);
    while meter.received(NOW, &frame(8, 0, 1, 4)).is_ok() {
        meter.sent(&frame(0, 0, 1, 1));
        windows += 1;
    }
    assert!(windows < CONTROL_MOST + CONTROL_MOST / 32, "{windows}");
}

#[test]
fn the_allowance_fills_with_time_and_not_beyond_its_bound() {
    let mut meter = Meter::new(0, 1);
    let ping = frame(6, 0, 0, 8);
    flood(&mut meter, NOW, &ping);
    let later = Duration::from_millis(2_999);
    assert_eq!(flood(&mut meter, later, &ping).0, 3 * CONTROL_RATE - 1);
    // The rest of that time is not lost.
    assert_eq!(flood(&mut meter, Duration::from_secs(3), &ping).0, 1);
    assert_eq!(
        flood(&mut meter, Duration::from_secs(9_999), &ping).0,
        CONTROL_MOST
    );
}

#[test]
fn requests_earn_the_bytes_that_come_with_them() {
    let mut meter = Meter::new(0, 1);
    for request in 0..100_000 {
        let stream = 2 * request + 1;
        for bytes in [
            frame(1, 4, stream, 50),
            // A body, trailers, a priority, a reset.
            frame(0, 1, stream, 20),
            frame(1, 5, stream, 10),
            frame(0x10, 0, 0, 10),
            frame(3, 0, stream, 4),
        ] {
            assert_eq!(meter.received(NOW, &bytes), Ok(()));
        }
    }
}

#[test]
fn a_client_may_give_windows_back_in_small_pieces_and_measure_the_path() {
    let mut meter = Meter::new(0, 1);
    for _ in 0..10_000 {
        meter.sent(&frame(0, 0, 1, 16 << 10));
        for _ in 0..4 {
            assert_eq!(meter.received(NOW, &frame(8, 0, 1, 4)), Ok(()));
            assert_eq!(meter.received(NOW, &frame(8, 0, 0, 4)), Ok(()));
        }
        assert_eq!(meter.received(NOW, &frame(6, 0, 0, 8)), Ok(()));
    }
}

#[test]
fn an_answer_of_many_windows_in_flight_may_be_given_back_at_once() {
    let mut meter = Meter::new(0, 1);
    for _ in 0..1_024 {
        meter.sent(&frame(0, 0, 1, 16 << 10));
    }
    for _ in 0..8_192 {
        assert_eq!(meter.received(NOW, &frame(8, 0, 0, 4)), Ok(()));
    }
}

#[test]
fn a_quiet_stream_lives_for_ever() {
    let mut meter = Meter::new(0, 1);
    // A PING and its answer, a heartbeat, and a keep-alive of the client's, for a month.
    for minute in 0..43_200_u64 {
        let now = Duration::from_secs(60 * minute);
        meter.sent(&frame(6, 0, 0, 8));
        for bytes in [frame(6, 1, 0, 8), frame(0, 0, 1, 12), frame(6, 0, 0, 8)] {
            assert_eq!(meter.received(now, &bytes), Ok(()));
        }
    }
}

#[test]
fn the_preface_is_not_a_frame() {
    let mut meter = Meter::new(24, 1);
    meter
        .received(NOW, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .expect("no frame");
    assert_eq!(flood(&mut meter, NOW, &frame(6, 0, 0, 8)).0, CONTROL_MOST);
    assert!(meter.between_frames());
    meter.sent(&frame(0, 0, 1, 5)[..7]);
    assert!(!meter.between_frames());
}

#[test]
#[ignore = "measures; run it by name with --release and --nocapture"]
fn nanoseconds_a_frame() {
    use std::time::Instant;
    for (name, bytes) in [
        ("16 KiB DATA", frame(0, 0, 1, 16 << 10)),
        ("PING", frame(6, 1, 0, 8)),
    ] {
        let mut meter = Meter::new(0, 1);
        let start = Instant::now();
        for n in 0..1_000_000_u64 {
            // Read at once as many as fit into a buffer of 8 KiB, or the frame in two reads.
            let _ = std::hint::black_box(
                meter.received(Duration::from_micros(n), std::hint::black_box(&bytes)),
            );
        }
        let each = start.elapsed().as_nanos() / 1_000_000;
        println!("{name}: {each} ns a frame");
    }
}
