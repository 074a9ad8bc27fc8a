//! The lists of the upstream protocol, which have no pages: they are whole, or fail. Their rows are copied in the
//! database, because enrolling ten thousand nodes takes minutes.

use std::time::Duration;

use fleet_core::Role;
use fleet_wire::{
    Code,
    admin::{ListFleetNodeDevicesRequest, ListFleetNodesRequest},
};
use sea_orm::{ConnectionTrait, Database};

use crate::harness::{Enrolled, World, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_pages_fails_beyond_its_bound() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let node = Enrolled::new(&world, &operator).await.id;
    let url = format!("sqlite://{}/fleet.db", world.folder().display());
    let database = Database::connect(&url).await.expect("opened");
    let numbers = |first: u32, last: u32| {
        format!(
            "WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
        )
    };
    let copy_nodes = async |first, last| {
        let others =
            "org_id, site_id, state, encryption_key, keys_proved, created_at, duplicate_identity";
        let copy = format!(
            "INSERT INTO node (name, identity_key, {others}) {} SELECT name || '-' || i, randomblob(32), {others} FROM node, n WHERE node.id = {node}",
            numbers(first, last)
        );
        database.execute_unprepared(&copy).await.expect("copied");
    };
    // Ten thousand rows take long in a development build on a busy machine.
    let options = || operator.options().timeout(Duration::from_secs(180));
    let list = async || {
        let request = ListFleetNodesRequest {};
        let admin = operator.admin();
        admin.list_fleet_nodes(&request, options()).await
    };
    copy_nodes(2, 10_000).await;
    assert_eq!(list().await.expect("is whole").fleet_nodes.len(), 10_000);
    copy_nodes(10_001, 10_001).await;
    let error = refused(list().await, Code::FailedPrecondition);
    assert_eq!(error.reason().as_deref(), Some("LIST_TOO_LONG"));
    assert!(error.message.contains("10000"), "{error}");

    let devices = format!(
        "INSERT INTO device (org_id, identifier, node_id, scheme, driver, model, manufacturer, firmware, serial, evidence, first_seen, last_seen) {} SELECT org_id, 'serial:S' || i, id, '', '', '', '', '', 'S' || i, '', created_at, created_at FROM node, n WHERE node.id = {node}",
        numbers(1, 65_537)
    );
    let bindings = format!(
        "INSERT INTO binding (device_id, org_id, node_id, created_at) SELECT id, org_id, {node}, first_seen FROM device"
    );
    for statement in [&devices, &bindings] {
        let done = database.execute_unprepared(statement).await;
        done.expect(statement);
    }
    let list = async |fleet_node_id| {
        let request = ListFleetNodeDevicesRequest { fleet_node_id };
        let admin = operator.admin();
        let listed = admin.list_fleet_node_devices(&request, options());
        listed.await
    };
    for filter in [0, node.0] {
        let error = refused(list(filter).await, Code::FailedPrecondition);
        assert_eq!(error.reason().as_deref(), Some("LIST_TOO_LONG"));
        assert!(error.message.contains("65536"), "{error}");
    }
    let one = "DELETE FROM binding WHERE device_id > (SELECT MIN(device_id) FROM binding)";
    database.execute_unprepared(one).await.expect(one);
    assert_eq!(list(0).await.expect("is whole").pairs.len(), 1);
}
