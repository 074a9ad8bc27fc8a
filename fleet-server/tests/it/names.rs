//! Host names: pinned by nodes that can, refused for other nodes unless the policy allows them.

use fleet_core::Role;
use fleet_server::ServerConfig;
use fleet_wire::{
    Code,
    gateway::{AckCode, ControlPins, PinnedName, control_stream_request},
    pairing::discover_request::Mode,
};
use sea_orm::{ConnectionTrait, Database};

use crate::harness::{
    Enrolled, Node, Profile, World, device, eventually, list, refused, start, start_as, target,
};

#[tokio::test(flavor = "multi_thread")]
async fn names_are_pinned_before_the_first_report_and_limit_the_scope() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut profile = Profile::ours();
    profile.0.capabilities.push("pins".into());
    let mut node = enrolled.connect(&world, profile).await;
    let scan = start(&operator, &enrolled, list(&["miner.example"], &["4028"])).await;
    let (command, request) = node.command().await;
    let Some(Mode::IpList(asked)) = request.mode else {
        panic!("not as a list: {request:?}");
    };
    assert_eq!(asked.ip_addresses, ["miner.example"]);
    let early = refused(
        node.report(&command, vec![device("10.0.0.7")]).await,
        Code::Unavailable,
    );
    assert!(
        early.retry_after().is_some(),
        "it may come again: {early:?}"
    );
    pin(&mut node, &command, "10.0.0.7").await;
    // The report travels beside the stream: it is accepted once the stream's pins were processed.
    eventually(|| async {
        let answer = node.report(&command, vec![device("10.0.0.7")]).await;
        answer.is_ok_and(|answer| answer.accepted_count == 1)
    })
    .await;
    let other = node.report(&command, vec![device("10.0.0.8")]).await;
    assert_eq!(other.expect("is judged").accepted_count, 0);
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
    let reported = scan.log(0).await;
    assert!(
        reported
            .iter()
            .any(|(_, text)| text == "`miner.example` is pinned to 10.0.0.7"),
        "{reported:?}"
    );

    // One malformed address leaves the name out with all its other addresses.
    let scan = start(&operator, &enrolled, list(&["miner.example"], &["4028"])).await;
    let (command, _) = node.command().await;
    pin(&mut node, &command, "0x0a000007").await;
    eventually(|| async {
        let answer = node.report(&command, vec![device("10.0.0.7")]).await;
        answer.is_ok_and(|answer| answer.accepted_count == 0)
    })
    .await;
    node.ack(&command, AckCode::Ok).await;
    let over = scan.is("SCAN_STATE_COMPLETED").await;
    let ledger = over.ledger.expect("a ledger");
    assert_eq!((ledger.targets, ledger.skipped), (1, 1), "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_that_could_not_be_stored_are_stored_later() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut profile = Profile::ours();
    profile.0.capabilities.push("pins".into());
    let mut node = enrolled.connect(&world, profile).await;
    let scan = start(&operator, &enrolled, list(&["miner.example"], &["4028"])).await;
    let (command, _) = node.command().await;
    let url = format!("sqlite://{}/fleet.db", world.folder().display());
    let database = Database::connect(&url).await.expect("opened");
    let fails = "CREATE TRIGGER fails BEFORE UPDATE OF scope ON command BEGIN SELECT RAISE(FAIL, 'no pins'); END";
    database.execute_unprepared(fails).await.expect(fails);
    pin(&mut node, &command, "10.0.0.7").await;
    // Each of these calls takes longer than the first attempt to store the pins.
    for _ in 0..10 {
        let early = node.report(&command, vec![device("10.0.0.7")]).await;
        refused(early, Code::Unavailable);
    }
    let works = "DROP TRIGGER fails";
    database.execute_unprepared(works).await.expect(works);
    eventually(|| async {
        let answer = node.report(&command, vec![device("10.0.0.7")]).await;
        answer.is_ok_and(|answer| answer.accepted_count == 1)
    })
    .await;
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
}

async fn pin(node: &mut Node, command: &str, address: &str) {
    node.say(control_stream_request::Kind::Pins(ControlPins {
        command_id: command.to_owned(),
        names: vec![PinnedName {
            name: "miner.example".into(),
            addresses: vec![address.to_owned()],
            skipped_reason: String::new(),
        }],
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_nodes_unpinned_name_is_refused() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let _node = enrolled.connect(&world, Profile::upstream()).await;
    for request in [
        list(&["10.0.0.1", "miner.example"], &["4028"]),
        target("miner.example", &["4028"]),
    ] {
        let answer = start_as(&operator, &enrolled, request, "names").await;
        let error = refused(answer, Code::FailedPrecondition);
        assert!(error.message.contains("miner.example"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpinned_name_is_its_own_command_with_eight_addresses_if_the_policy_allows_it() {
    let world = World::with(ServerConfig {
        rates: None,
        unpinned_names: true,
        ..ServerConfig::default()
    })
    .await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::upstream()).await;
    let request = list(&["10.0.0.1", "miner.example"], &["4028"]);
    let scan = start(&operator, &enrolled, request).await;

    // The literal stays exact.
    let (command, _) = node.command().await;
    let stray = node.report(&command, vec![device("10.0.0.2")]).await;
    assert_eq!(stray.expect("is judged").accepted_count, 0);
    node.ack(&command, AckCode::Ok).await;

    let (command, request) = node.command().await;
    let Some(Mode::IpList(asked)) = request.mode else {
        panic!("not as a list: {request:?}");
    };
    assert_eq!(asked.ip_addresses, ["miner.example"]);
    let mut rows = vec![device("8.8.8.8"), device("169.254.169.254")];
    rows.extend((11..19).map(|n| device(&format!("10.0.0.{n}"))));
    let answer = node.report(&command, rows).await.expect("is judged");
    assert_eq!((answer.accepted_count, answer.rejected_count), (8, 2));
    let ninth = node.report(&command, vec![device("10.0.0.99")]).await;
    assert_eq!(ninth.expect("is judged").accepted_count, 0);
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
}
