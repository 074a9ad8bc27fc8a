//! The log states a lasting condition once, and a reason once per change.

use std::{
    cell::RefCell,
    fmt::{Debug, Write},
    sync::Once,
    time::Duration,
};

use fleet_core::outcome::AckCode;
use fleet_wire::{
    RpcError,
    gateway::{ControlCommand, control_stream_response},
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::{Running, gateway::Gateway};

thread_local! {
    /// The events of a test's thread, on which everything of the test runs; none in tests that do not read the log.
    static EVENTS: RefCell<Option<Vec<(Level, String)>>> = const { RefCell::new(None) };
}

/// Collects the events of this test. The subscriber is global: with one of its own in a thread, an event whose source
/// first occurs in another thread stays disabled.
fn collect() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Collector).expect("the only one"));
    EVENTS.with(|events| *events.borrow_mut() = Some(Vec::new()));
}

/// The levels of the events with a text in a field.
fn levels(text: &str) -> Vec<Level> {
    EVENTS.with(|events| {
        let events = events.borrow();
        let with_text = events.iter().flatten();
        let with_text = with_text.filter(|(_, event)| event.contains(text));
        with_text.map(|(level, _)| *level).collect()
    })
}

struct Collector;

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl Subscriber for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        // A thread that ends has no list any more.
        let _ = EVENTS.try_with(|events| {
            if let Some(events) = &mut *events.borrow_mut() {
                events.push((*event.metadata().level(), fields.0));
            }
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn the_limits_under_an_upstream_server_are_stated_once_and_not_at_every_command() {
    collect();
    let gateway = Gateway::start().await;
    let _node = Running::start(&gateway, 1_000);
    for _ in 0..2 {
        let mut stream = gateway.stream().await;
        stream.hello().await;
        stream.accept(&[]);
        for id in ["telemetry", "reboot", "telemetry again"] {
            stream.send(control_stream_response::Kind::Command(ControlCommand {
                command_id: id.to_owned(),
                payload: vec![0x1a, 0].into(),
            }));
            let ack = stream.ack().await;
            assert_eq!(AckCode::from_number(ack.code), AckCode::Unimplemented);
        }
        stream.fail();
    }
    // The second stream ended after all commands were handled.
    gateway.stream().await.hello().await;
    let stated = levels("it does not serve telemetry or miner commands");
    assert_eq!(stated, [Level::INFO]);
    assert_eq!(levels("refused a command"), [Level::DEBUG; 6]);
    // The refusal and the end of each command.
    assert_eq!(levels("does not support this command"), [Level::DEBUG; 12]);
}

#[tokio::test]
async fn the_reasons_of_failed_handshakes_and_lost_streams_are_logged_once_per_change() {
    collect();
    let gateway = Gateway::start().await;
    let soon =
        |text: &str| RpcError::resource_exhausted(text).with_retry_after(Duration::from_millis(20));
    gateway.behavior().begin = Some(soon("the first reason"));
    let _node = Running::start(&gateway, 1_000);
    gateway.wait_for("attempts", |seen| seen.begun >= 3).await;
    gateway.behavior().begin = Some(soon("the second reason"));
    let more = gateway.seen().begun + 3;
    gateway.wait_for("more", |seen| seen.begun >= more).await;
    gateway.behavior().begin = None;
    for _ in 0..3 {
        // Without an answer to its Hello: the end of an open stream is news each time.
        let mut stream = gateway.stream().await;
        stream.hello().await;
        stream.fail();
    }
    gateway.stream().await.hello().await;
    for (text, level) in [
        ("the first reason", Level::WARN),
        ("the second reason", Level::WARN),
        ("come back", Level::INFO),
    ] {
        let found = levels(text);
        let count = found.iter().filter(|one| **one == level).count();
        assert_eq!(count, 1, "{text}: {found:?}");
        assert!(found.contains(&Level::DEBUG), "{text}: {found:?}");
    }
}
