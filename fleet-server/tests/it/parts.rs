//! A large report is stored in parts: it holds the database only as long as a small one.

use fleet_core::Role;
use fleet_wire::{Code, fleet::ListDevicesRequest, gateway::AckCode};
use sea_orm::{ConnectionTrait, Database};

use crate::harness::{Enrolled, Profile, World, device, eventually, range, refused, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_fails_halfway_keeps_its_first_parts_and_is_stored_once_when_it_is_repeated()
{
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let wanted = range("10.0.0.1", "10.0.0.200", &["4028"]);
    let scan = start(&operator, &enrolled, wanted).await;
    let (command, _) = node.command().await;
    let found: Vec<_> = (1..=200)
        .map(|host| device(&format!("10.0.0.{host}")))
        .collect();
    let known = async || {
        let request = ListDevicesRequest::default();
        let devices = operator.devices();
        let listed = devices.list_devices(&request, operator.options()).await;
        listed.expect("listed").devices.len()
    };

    let url = format!("sqlite://{}/fleet.db", world.folder().display());
    let database = Database::connect(&url).await.expect("opened");
    let fails = "CREATE TRIGGER fails BEFORE INSERT ON report_row WHEN NEW.ip = '10.0.0.200' BEGIN SELECT RAISE(FAIL, 'no row'); END";
    database.execute_unprepared(fails).await.expect(fails);
    let refusal = node.report(&command, found.clone()).await;
    refused(refusal, Code::Unavailable);
    assert_eq!(known().await, 192, "the first parts");
    let works = "DROP TRIGGER fails";
    database.execute_unprepared(works).await.expect(works);
    eventually(|| async {
        let answer = node.report(&command, found.clone()).await;
        answer.is_ok_and(|answer| (answer.accepted_count, answer.rejected_count) == (200, 0))
    })
    .await;
    assert_eq!(known().await, 200);
    node.ack(&command, AckCode::Ok).await;
    let over = scan.is("SCAN_STATE_COMPLETED").await;
    let ledger = over.ledger.expect("a ledger");
    assert_eq!((ledger.accepted, ledger.identified), (200, 200));
}
