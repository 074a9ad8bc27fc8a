//! Who may call what: the table of the contract, written by hand.

use fleet_core::Role;
use fleet_wire::{
    Code,
    admin::{
        ConfirmFleetNodeRequest, DiscoverOnFleetNodeRequest, ListFleetNodeDiscoveredDevicesRequest,
        ListFleetNodesRequest, RevokeFleetNodeRequest,
    },
    client::Incoming,
    fleet::{
        CancelEnrollmentCodeRequest, CancelScanRequest, GetScanRequest, ListDevicesRequest,
        ListScansRequest, PlanScanRequest, StartScanRequest, WatchScanRequest, WhoAmIRequest,
    },
    minercommand,
    pairing::PairRequest,
};

use crate::harness::{Enrolled, Profile, World, list, refused, request, stream_refused};

/// Without a credential, by a node, a viewer, an operator, an admin: `.` goes in, `u` is UNAUTHENTICATED,
/// `p` is PERMISSION_DENIED.
const MATRIX: &[(&str, &str)] = &[
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/Register",
        ".....",
    ),
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/BeginAuthHandshake",
        ".....",
    ),
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/CompleteAuthHandshake",
        ".....",
    ),
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/UploadHeartbeat",
        "u.uuu",
    ),
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/ReportDiscoveredDevices",
        "u.uuu",
    ),
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/ReportPairedDevices",
        "u.uuu",
    ),
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/ControlStream",
        "u.uuu",
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/CreateEnrollmentCode",
        "uup..",
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/ListFleetNodes",
        "uu...",
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/ConfirmFleetNode",
        "uup..",
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/RevokeFleetNode",
        "uup..",
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/PairDeviceToFleetNode",
        "uup..",
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/UnpairDevice",
        "uup..",
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/ListFleetNodeDevices",
        "uu...",
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/DiscoverOnFleetNode",
        "uup..",
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/ListFleetNodeDiscoveredDevices",
        "uu...",
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/PairDiscoveredDevicesOnFleetNode",
        "uup..",
    ),
    ("pairing.v1.PairingService/Discover", "uup.."),
    ("pairing.v1.PairingService/Pair", "uup.."),
    ("fleet.v1.ScanService/StartScan", "uup.."),
    ("fleet.v1.ScanService/PlanScan", "uup.."),
    ("fleet.v1.ScanService/GetScan", "uu..."),
    ("fleet.v1.ScanService/ListScans", "uu..."),
    ("fleet.v1.ScanService/WatchScan", "uu..."),
    ("fleet.v1.ScanService/CancelScan", "uup.."),
    ("fleet.v1.NodeService/ListNodes", "uu..."),
    ("fleet.v1.NodeService/ListEnrollmentCodes", "uu..."),
    ("fleet.v1.NodeService/CancelEnrollmentCode", "uup.."),
    ("fleet.v1.DeviceService/ListDevices", "uu..."),
    ("fleet.v1.AccountService/WhoAmI", "uu..."),
    ("grpc.health.v1.Health/Check", "....."),
    ("grpc.health.v1.Health/List", "....."),
    ("grpc.health.v1.Health/Watch", "....."),
    (
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ".....",
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ".....",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_gets_into_what_the_table_says_and_nowhere_else() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let node = Enrolled::new(&world, &admin).await.sign_in(&world).await;
    let callers = [
        String::new(),
        node,
        world.operator(Role::Viewer).await.key,
        world.operator(Role::Operator).await.key,
        admin.key,
    ];
    for (procedure, expected) in MATRIX {
        let mut found = String::new();
        for key in &callers {
            let bearer = format!("Bearer {key}");
            let mut headers = vec![("content-type", "application/json")];
            if !key.is_empty() {
                headers.push(("authorization", &bearer));
            }
            let path = format!("/{procedure}");
            let answer = request(world.address(), "POST", &path, &headers, "{}").await;
            assert_ne!(answer.status, 404, "{procedure} is not served");
            found.push(match answer.status {
                401 => 'u',
                403 => 'p',
                _ => '.',
            });
        }
        assert_eq!((*procedure, found.as_str()), (*procedure, *expected));
    }
}

#[test]
fn the_table_has_every_procedure_that_is_declared() {
    for method in fleet_wire::methods() {
        let path = method.path().trim_start_matches('/');
        assert!(MATRIX.iter().any(|(known, _)| *known == path), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_lack_of_permission_names_the_permission_and_the_role() {
    let world = World::new().await;
    let viewer = world.operator(Role::Viewer).await;
    let asked = PlanScanRequest {
        fleet_node_id: 1,
        request: Some(list(&["10.0.0.1"], &[])),
    };
    let answer = viewer.scans().plan_scan(&asked, viewer.options()).await;
    let error = refused(answer, Code::PermissionDenied);
    assert!(error.message.contains("fleetnode:manage"), "{error}");
    assert!(error.message.contains("viewer"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_is_told_who_they_are() {
    let world = World::new().await;
    let viewer = world.operator(Role::Viewer).await;
    let me = viewer
        .account()
        .who_am_i(&WhoAmIRequest {}, viewer.options())
        .await
        .expect("answers");
    assert_eq!(
        (me.email, me.organization, me.role),
        (viewer.email, "Acme".into(), "viewer".into())
    );
    assert_eq!(me.permissions, ["fleetnode:read"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_organizations_ids_are_not_found() {
    let world = World::new().await;
    let ours = world.operator(Role::Admin).await;
    let theirs = world.operator_of("Other", Role::Admin).await;
    let node = Enrolled::new(&world, &ours).await;
    let (_, code, awaiting) = Enrolled::register(&world, &ours).await;
    let _stream = node.connect(&world, Profile::stock()).await;
    let started = StartScanRequest {
        request_id: "one".into(),
        fleet_node_id: node.id.0,
        request: Some(list(&["10.0.0.1"], &["80"])),
        ..StartScanRequest::default()
    };
    let scan = ours
        .scans()
        .start_scan(&started, ours.options())
        .await
        .expect("starts")
        .scan
        .expect("a scan")
        .scan_id;

    let (admin, scans) = (theirs.admin(), theirs.scans());
    let options = || theirs.options();
    let confirm = ConfirmFleetNodeRequest {
        fleet_node_id: awaiting.fleet_node_id,
        pending_enrollment_id: code,
    };
    refused(
        admin.confirm_fleet_node(&confirm, options()).await,
        Code::NotFound,
    );
    let revoke = RevokeFleetNodeRequest {
        fleet_node_id: node.id.0,
        pending_enrollment_id: None,
    };
    refused(
        admin.revoke_fleet_node(&revoke, options()).await,
        Code::NotFound,
    );
    let cancel = CancelEnrollmentCodeRequest {
        pending_enrollment_id: code,
    };
    refused(
        theirs
            .nodes()
            .cancel_enrollment_code(&cancel, options())
            .await,
        Code::NotFound,
    );
    let discover = DiscoverOnFleetNodeRequest {
        fleet_node_id: node.id.0,
        request: started.request.clone(),
    };
    let opened = admin.discover_on_fleet_node(&discover, options()).await;
    stream_refused(opened.map(Incoming::into_stream), Code::NotFound).await;
    refused(scans.start_scan(&started, options()).await, Code::NotFound);
    let get = GetScanRequest {
        scan_id: scan.clone(),
    };
    refused(scans.get_scan(&get, options()).await, Code::NotFound);
    let cancel = CancelScanRequest {
        scan_id: scan.clone(),
    };
    refused(scans.cancel_scan(&cancel, options()).await, Code::NotFound);
    let watch = WatchScanRequest {
        scan_id: scan.clone(),
        after_sequence: 0,
    };
    let opened = scans.watch_scan(&watch, options()).await;
    stream_refused(opened.map(Incoming::into_stream), Code::NotFound).await;
    let bearer = format!("Bearer {}", theirs.key);
    let events = request(
        world.address(),
        "GET",
        &format!("/api/scans/{scan}/events"),
        &[("authorization", &bearer)],
        "",
    )
    .await;
    assert_eq!(events.status, 404, "{}", events.body);

    // Lists are empty rather than refused.
    let nodes = admin
        .list_fleet_nodes(&ListFleetNodesRequest {}, options())
        .await
        .expect("lists");
    assert_eq!(nodes.fleet_nodes, []);
    let listed = scans
        .list_scans(&ListScansRequest::default(), options())
        .await
        .expect("lists");
    assert_eq!(listed.scans, []);
    let devices = theirs
        .devices()
        .list_devices(&ListDevicesRequest::default(), options())
        .await
        .expect("lists");
    assert_eq!(devices.devices, []);
    let found = admin
        .list_fleet_node_discovered_devices(
            &ListFleetNodeDiscoveredDevicesRequest {
                fleet_node_id: node.id.0,
                ..Default::default()
            },
            options(),
        )
        .await
        .expect("lists");
    assert_eq!(found.devices, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_network_is_refused_with_the_way_out() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let asked = list(&["10.0.0.1"], &[]);
    let opened = operator
        .pairing()
        .discover(&asked, operator.options())
        .await;
    let opened = opened.map(Incoming::into_stream);
    let error = stream_refused(opened, Code::FailedPrecondition).await;
    assert!(error.message.contains("enroll a node"), "{error}");
    let all = minercommand::device_selector::SelectionType::AllDevices(Default::default());
    let request = PairRequest {
        device_selector: Some(minercommand::DeviceSelector {
            selection_type: Some(all),
        }),
        ..PairRequest::default()
    };
    let paired = operator.pairing().pair(&request, operator.options()).await;
    refused(paired, Code::FailedPrecondition);
}
