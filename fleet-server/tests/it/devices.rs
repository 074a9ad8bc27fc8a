//! The inventory: devices with their former names, undo of identity changes, and devices of other nodes.

use fleet_core::Role;
use fleet_wire::{
    Code,
    fleet::{Device, GetDeviceRequest, ListRefusedDevicesRequest, UndoIdentityChangeRequest},
    gateway::{AckCode, DiscoveredDeviceReport},
};

use crate::harness::{Enrolled, Node, Operator, Profile, World, device, list, refused, start};

/// One scan of an address in which the node reports this device.
async fn found(
    operator: &Operator,
    enrolled: &Enrolled,
    node: &mut Node,
    report: DiscoveredDeviceReport,
) {
    let scan = start(operator, enrolled, list(&[&report.ip_address], &["4028"])).await;
    let (command, _) = node.command().await;
    node.report(&command, vec![report]).await.expect("answered");
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
}

/// A device that shows neither MAC nor serial.
fn bare(ip: &str) -> DiscoveredDeviceReport {
    DiscoveredDeviceReport {
        device_identifier: "auto:0000000000000000".to_owned(),
        mac_address: String::new(),
        ..device(ip)
    }
}

async fn get(
    operator: &Operator,
    id: i64,
    identifier: &str,
) -> Result<Device, fleet_wire::RpcError> {
    let request = GetDeviceRequest {
        device_id: id,
        identifier: identifier.to_owned(),
    };
    let got = operator
        .devices()
        .get_device(&request, operator.options())
        .await?;
    Ok(got.device.expect("a device"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_name_has_its_reason_and_can_be_undone() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    found(&operator, &enrolled, &mut node, bare("10.0.0.7")).await;
    found(&operator, &enrolled, &mut node, device("10.0.0.7")).await;
    let mac = device("10.0.0.7").mac_address;
    let one = get(&operator, 0, &format!("mac:{}", mac.to_lowercase()))
        .await
        .expect("known");
    let [alias] = &one.aliases[..] else {
        panic!("one former name: {one:?}")
    };
    assert!(alias.reason.contains("showed its MAC"), "{alias:?}");
    assert_eq!(
        get(&operator, 0, &alias.identifier).await.expect("known"),
        one
    );
    let request = UndoIdentityChangeRequest {
        identity_change_id: alias.identity_change_id,
    };
    // Another organization's operator sees neither the device nor the change.
    let outsider = world.operator_of("other", Role::Operator).await;
    refused(get(&outsider, one.device_id, "").await, Code::NotFound);
    let answer = outsider
        .devices()
        .undo_identity_change(&request, outsider.options())
        .await;
    refused(answer, Code::NotFound);
    let viewer = world.operator(Role::Viewer).await;
    let answer = viewer
        .devices()
        .undo_identity_change(&request, viewer.options())
        .await;
    refused(answer, Code::PermissionDenied);
    let apart = operator
        .devices()
        .undo_identity_change(&request, operator.options())
        .await
        .expect("undone");
    assert_eq!(apart.kept.expect("kept").device_id, one.device_id);
    assert_eq!(
        apart.restored.expect("restored").identifier,
        alias.identifier
    );
    let answer = operator
        .devices()
        .undo_identity_change(&request, operator.options())
        .await;
    refused(answer, Code::FailedPrecondition);
    assert_eq!(
        world.audited(operator.org, "device.separate").await.len(),
        2
    );
    node.hang_up();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_selected_by_id_or_identifier_but_not_both() {
    let world = World::new().await;
    let operator = world.operator(Role::Viewer).await;
    refused(get(&operator, 0, "").await, Code::InvalidArgument);
    refused(get(&operator, 1, "serial:S1").await, Code::InvalidArgument);
    refused(get(&operator, 0, "uuid:1").await, Code::InvalidArgument);
    refused(get(&operator, 1, "").await, Code::NotFound);
    refused(get(&operator, 0, "serial:S1").await, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_another_node_is_listed_with_a_remedy() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let (north, south) = (
        Enrolled::new(&world, &operator).await,
        Enrolled::new(&world, &operator).await,
    );
    let mut first = north.connect(&world, Profile::ours()).await;
    found(&operator, &north, &mut first, device("10.0.0.7")).await;
    let mut second = south.connect(&world, Profile::ours()).await;
    let scan = start(&operator, &south, list(&["10.0.0.7"], &["4028"])).await;
    let (command, _) = second.command().await;
    let answer = second
        .report(&command, vec![device("10.0.0.7")])
        .await
        .expect("answered");
    assert_eq!((answer.accepted_count, answer.rejected_count), (0, 1));
    second.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
    let listed = |operator: &Operator| {
        let devices = operator.devices();
        let options = operator.options();
        async move {
            let page = devices
                .list_refused_devices(&ListRefusedDevicesRequest::default(), options)
                .await;
            page.expect("lists").devices
        }
    };
    let refusals = listed(&operator).await;
    let [refusal] = &refusals[..] else {
        panic!("one refused device: {refusals:?}")
    };
    assert_eq!(
        (
            refusal.reason.as_str(),
            refusal.fleet_node_id,
            refusal.owner_fleet_node_id
        ),
        ("owned by another node", south.id.0, north.id.0)
    );
    let remedy = format!("belongs to node {}", north.id);
    assert!(refusal.remedy.contains(&remedy), "{refusal:?}");
    let outsider = world.operator_of("other", Role::Admin).await;
    assert_eq!(listed(&outsider).await, []);
    first.hang_up();
    second.hang_up();
}
