//! Streams that break and processes that end during a scan.

use fleet_core::outcome::AckCode;
use fleet_sim::Site;

use crate::{Running, gateway::Gateway, start};

#[tokio::test]
async fn a_scan_continues_without_a_stream_and_loses_nothing() {
    let site = start(Site::demo(60, 11), 7).await;
    let (addresses, ports) = (site.site().addresses(), site.site().ports());
    let gateway = Gateway::start().await;
    let _node = Running::start(&gateway, 100);
    let (stream, _) = gateway.accepted().await;
    stream.discover("c", &addresses, &ports);
    gateway
        .wait_for("a first device", |seen| !seen.reports.is_empty())
        .await;
    stream.fail();
    let mut stream2 = gateway.stream().await;
    assert_eq!(stream2.hello().await.running, ["c"]);
    // The stream is not accepted yet. The scan continues without it.
    let seen = gateway
        .wait_for("every device", |seen| seen.rows().count() == 60)
        .await;
    assert_eq!(seen.addresses().len(), 60);
    stream2.accept(&["cancel", "outcomes"]);
    let ack = stream2.ack().await;
    assert_eq!(
        (&*ack.command_id, AckCode::from_number(ack.code)),
        ("c", AckCode::Ok),
        "{}",
        ack.error_message
    );
    assert_eq!(
        ack.outcomes.iter().filter(|outcome| **outcome == 4).count(),
        60
    );

    // An ack that may not have arrived is repeated.
    stream2.fail();
    let (mut stream3, hello) = gateway.accepted().await;
    assert_eq!(hello.running, ["c"]);
    assert_eq!(stream3.ack().await, ack);
    assert_eq!(gateway.seen().rows().count(), 60);
}

#[tokio::test]
async fn an_upstream_server_gets_no_ack_of_a_scan_from_an_earlier_stream() {
    let site = start(Site::demo(60, 12), 8).await;
    let gateway = Gateway::start().await;
    let _node = Running::start(&gateway, 50);
    let mut stream = gateway.stream().await;
    stream.hello().await;
    stream.accept(&[]);
    stream.discover("old", &site.site().addresses(), &site.site().ports());
    gateway
        .wait_for("a first device", |seen| !seen.reports.is_empty())
        .await;
    stream.fail();
    let mut stream = gateway.stream().await;
    stream.hello().await;
    stream.accept(&[]);
    // The old scan is being canceled. Until it has ended, the new command gets BUSY.
    let last = loop {
        stream.discover("new", &site.site().addresses()[..1], &site.site().ports());
        let ack = stream.ack().await;
        if AckCode::from_number(ack.code) != AckCode::Busy {
            break ack;
        }
    };
    assert_eq!(
        (&*last.command_id, AckCode::from_number(last.code)),
        ("new", AckCode::Ok)
    );
}

#[tokio::test]
async fn a_process_that_shuts_down_reports_its_results_and_sends_no_ack() {
    let site = start(Site::demo(60, 13), 9).await;
    let gateway = Gateway::start().await;
    let node = Running::start(&gateway, 50);
    let (mut stream, _) = gateway.accepted().await;
    stream.discover("c", &site.site().addresses(), &site.site().ports());
    gateway
        .wait_for("a first device", |seen| !seen.reports.is_empty())
        .await;
    node.shutdown.cancel();
    assert_eq!(node.ended().await, Ok(()));
    let rest = stream.ended().await;
    let acks = rest
        .iter()
        .filter(|kind| {
            matches!(
                kind,
                fleet_wire::gateway::control_stream_request::Kind::Ack(_)
            )
        })
        .count();
    assert_eq!(acks, 0, "an ack would end the chunk");
}
