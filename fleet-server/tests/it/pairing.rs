//! Pairing: binding by hand, and pairing with credentials through scripted nodes.

use fleet_core::{DeviceId, Role};
use fleet_store::Bindings as _;
use fleet_wire::{
    Code, RpcError,
    admin::{
        DevicePairingResult, ListFleetNodeDevicesRequest, ListFleetNodeDiscoveredDevicesRequest,
        PairDeviceToFleetNodeRequest, PairDiscoveredDevicesOnFleetNodeRequest,
        PairDiscoveredDevicesOnFleetNodeResponse, RevokeFleetNodeRequest, UnpairDeviceRequest,
    },
    client::Incoming,
    fleet::{
        CancelPairingRequest, ExcludeTargetsRequest, GetPairingRequest, ListDevicesRequest,
        StartPairingRequest,
    },
    fleetmanagement::PairingStatus,
    gateway::{AckCode, EncryptedCredentials, FleetNodePairResult, PairOutcome},
    pairing::Credentials,
};

use crate::{
    harness::{
        Enrolled, Node, Operator, Profile, World, device, eventually, list, refused, soon, start,
        stream_refused,
    },
    site_rules::around_now,
};

const PASSWORD: &str = "canary-of-the-device-password";

/// A node that has found these devices.
async fn found(world: &World, profile: Profile, ips: &[&str]) -> (Operator, Enrolled, Node) {
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(world, &operator).await;
    let mut node = enrolled.connect(world, profile).await;
    let scan = start(&operator, &enrolled, list(ips, &["4028"])).await;
    let (command, _) = node.command().await;
    let devices = ips.iter().copied().map(device).collect();
    node.report(&command, devices).await.expect("taken");
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
    (operator, enrolled, node)
}

fn identifier(ip: &str) -> String {
    device(ip).device_identifier
}

fn result(ip: &str, outcome: PairOutcome) -> FleetNodePairResult {
    FleetNodePairResult {
        device_identifier: identifier(ip),
        outcome: outcome.into(),
        ..FleetNodePairResult::default()
    }
}

fn wanted(node: &Enrolled, ips: &[&str]) -> PairDiscoveredDevicesOnFleetNodeRequest {
    PairDiscoveredDevicesOnFleetNodeRequest {
        fleet_node_id: node.id.0,
        device_identifiers: ips.iter().copied().map(identifier).collect(),
        pair_all_unpaired: ips.is_empty(),
        credentials: Some(Credentials {
            username: "root".to_owned(),
            password: Some(PASSWORD.to_owned()),
            ..Credentials::default()
        }),
    }
}

async fn pair(
    operator: &Operator,
    request: &PairDiscoveredDevicesOnFleetNodeRequest,
) -> Result<Incoming<PairDiscoveredDevicesOnFleetNodeResponse>, RpcError> {
    operator
        .admin()
        .pair_discovered_devices_on_fleet_node(request, operator.options())
        .await
}

async fn not_begun(
    operator: &Operator,
    request: &PairDiscoveredDevicesOnFleetNodeRequest,
    code: Code,
) -> RpcError {
    let opened = pair(operator, request).await;
    stream_refused(opened.map(Incoming::into_stream), code).await
}

/// The results of a stream until its end.
async fn rest(
    stream: &mut Incoming<PairDiscoveredDevicesOnFleetNodeResponse>,
) -> (Vec<(String, PairingStatus)>, Result<(), RpcError>) {
    let mut results = Vec::new();
    let reported = |result: DevicePairingResult| {
        let status = result.pairing_status();
        (result.device_identifier, status)
    };
    loop {
        match soon(stream.message()).await {
            Ok(Some(message)) => results.extend(message.results.into_iter().map(reported)),
            Ok(None) => return (results, Ok(())),
            Err(error) => return (results, Err(error)),
        }
    }
}

/// The statuses in the upstream list, by identifier.
async fn listed(operator: &Operator, node: &Enrolled) -> Vec<(String, String)> {
    let request = ListFleetNodeDiscoveredDevicesRequest {
        fleet_node_id: node.id.0,
        ..ListFleetNodeDiscoveredDevicesRequest::default()
    };
    let answer = operator
        .admin()
        .list_fleet_node_discovered_devices(&request, operator.options())
        .await
        .expect("listed");
    let of = |device: fleet_wire::admin::FleetNodeDiscoveredDevice| {
        (device.device_identifier, device.pairing_status)
    };
    answer.devices.into_iter().map(of).collect()
}

async fn bound(operator: &Operator, node: i64) -> Vec<(i64, String)> {
    let request = ListFleetNodeDevicesRequest {
        fleet_node_id: node,
    };
    let answer = operator
        .admin()
        .list_fleet_node_devices(&request, operator.options())
        .await
        .expect("listed");
    let of = |pair: fleet_wire::admin::FleetNodeDeviceSummary| {
        (pair.fleet_node_id, pair.device_identifier)
    };
    answer.pairs.into_iter().map(of).collect()
}

async fn device_id(operator: &Operator, ip: &str) -> i64 {
    let answer = operator
        .devices()
        .list_devices(&ListDevicesRequest::default(), operator.options())
        .await
        .expect("listed");
    let found = answer.devices.into_iter().find(|device| device.ip == ip);
    found.expect("known").device_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_bound_released_and_bound_again() {
    let world = World::new().await;
    let (operator, north, _node) = found(&world, Profile::ours(), &["10.0.0.7"]).await;
    let south = Enrolled::new(&world, &operator).await;
    let device_id = device_id(&operator, "10.0.0.7").await;
    let bind = async |node: &Enrolled| {
        let request = PairDeviceToFleetNodeRequest {
            fleet_node_id: node.id.0,
            device_id,
        };
        operator
            .admin()
            .pair_device_to_fleet_node(&request, operator.options())
            .await
    };
    bind(&north).await.expect("bound");
    bind(&north).await.expect("bound already");
    let error = refused(bind(&south).await, Code::FailedPrecondition);
    assert!(
        error.message.contains("unpair it first"),
        "{}",
        error.message
    );
    assert_eq!(
        bound(&operator, 0).await,
        [(north.id.0, identifier("10.0.0.7"))]
    );
    assert_eq!(bound(&operator, south.id.0).await, []);
    let release = UnpairDeviceRequest { device_id };
    for _ in 0..2 {
        let released = operator
            .admin()
            .unpair_device(&release, operator.options())
            .await;
        released.expect("released");
    }
    bind(&south).await.expect("bound");
    assert_eq!(
        bound(&operator, 0).await,
        [(south.id.0, identifier("10.0.0.7"))]
    );
    // Others do not know it.
    let outsider = world.operator_of("other", Role::Admin).await;
    let answer = outsider
        .admin()
        .unpair_device(&release, outsider.options())
        .await;
    refused(answer, Code::NotFound);
    assert_eq!(world.audited(operator.org, "device.pair").await.len(), 3);
    assert_eq!(world.audited(operator.org, "device.unpair").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_streamed_as_the_node_reports_them() {
    let ips = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
    for profile in [Profile::ours(), Profile::upstream()] {
        let world = World::new().await;
        let (operator, enrolled, mut node) = found(&world, profile, &ips).await;
        let mut stream = pair(&operator, &wanted(&enrolled, &ips))
            .await
            .expect("begun");
        let (command, request) = node.pairing().await;
        let credentials = request.credentials.expect("sent");
        assert_eq!(credentials.password.as_deref(), Some(PASSWORD));
        assert_eq!(request.targets.len(), 5);
        assert_eq!(request.targets[0].ip_address, "10.0.0.1");
        assert_eq!(request.targets[0].driver_name, "antminer");
        let first = FleetNodePairResult {
            default_password_active: Some(true),
            encrypted_credentials: Some(EncryptedCredentials {
                username: vec![1; 52].into(),
                password: vec![2; 52].into(),
            }),
            ..result(ips[0], PairOutcome::Paired)
        };
        let taken = node.report_paired(&command, vec![first]).await;
        assert_eq!(taken.expect("taken").accepted_count, 1);
        let message = soon(stream.message())
            .await
            .expect("reported")
            .expect("open");
        assert_eq!(
            message.results[0].pairing_status(),
            PairingStatus::DefaultPassword,
            "before the command has ended"
        );
        let results = vec![
            result(ips[1], PairOutcome::Paired),
            result(ips[2], PairOutcome::AuthFailed),
            result(ips[3], PairOutcome::Error),
            result("10.9.9.9", PairOutcome::Paired),
            result(ips[3], PairOutcome::Unspecified),
        ];
        let taken = node.report_paired(&command, results).await.expect("taken");
        assert_eq!((taken.accepted_count, taken.rejected_count), (3, 2));
        node.ack(&command, AckCode::Ok).await;
        let (mut results, end) = rest(&mut stream).await;
        end.expect("ends well");
        results.sort();
        use PairingStatus::{AuthenticationNeeded, Failed, Paired};
        assert_eq!(
            results,
            [
                (identifier(ips[1]), Paired),
                (identifier(ips[2]), AuthenticationNeeded),
                (identifier(ips[3]), Failed),
                (identifier(ips[4]), Failed),
            ]
        );
        let statuses: Vec<_> = listed(&operator, &enrolled)
            .await
            .into_iter()
            .map(|(_, status)| status)
            .collect();
        assert_eq!(
            statuses,
            [
                "DEFAULT_PASSWORD",
                "PAIRED",
                "AUTHENTICATION_NEEDED",
                "FAILED",
                "FAILED"
            ]
        );
        assert_eq!(bound(&operator, enrolled.id.0).await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_a_login_is_paired_as_open_and_no_password_is_kept_for_it() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = found(&world, Profile::ours(), &["10.0.0.1"]).await;
    let mut stream = pair(&operator, &wanted(&enrolled, &["10.0.0.1"]))
        .await
        .expect("begun");
    let (command, _) = node.pairing().await;
    let open = FleetNodePairResult {
        open: true,
        encrypted_credentials: Some(EncryptedCredentials {
            username: vec![1; 52].into(),
            password: vec![2; 52].into(),
        }),
        ..result("10.0.0.1", PairOutcome::Paired)
    };
    node.report_paired(&command, vec![open])
        .await
        .expect("taken");
    let message = soon(stream.message()).await.expect("reported");
    let results = message.expect("open").results;
    assert_eq!(results[0].pairing_status(), PairingStatus::Paired);
    assert!(results[0].open, "{results:?}");
    node.ack(&command, AckCode::Ok).await;
    // Upstream clients know no status of its own for it.
    assert_eq!(listed(&operator, &enrolled).await[0].1, "PAIRED");
    let devices = operator.devices();
    let every = ListDevicesRequest::default();
    let all = devices.list_devices(&every, operator.options());
    let device = all.await.expect("listed").devices.remove(0);
    assert_eq!(device.pairing_status, "OPEN");
    let pairings = world
        .store
        .pairings_of(operator.org, &[DeviceId(device.device_id)])
        .await
        .expect("read");
    assert!(pairings.values().all(|pairing| !pairing.has_credentials));
}

#[tokio::test(flavor = "multi_thread")]
async fn default_passwords_are_requested_only_from_a_node_that_can_try_them() {
    for (profile, can) in [(Profile::ours(), true), (Profile::upstream(), false)] {
        let world = World::new().await;
        let (operator, enrolled, mut node) = found(&world, profile, &["10.0.0.1"]).await;
        let request = StartPairingRequest {
            fleet_node_id: enrolled.id.0,
            all_unpaired: true,
            credentials: Some(Credentials {
                try_defaults: true,
                ..Credentials::default()
            }),
            ..StartPairingRequest::default()
        };
        let pairing = operator.device_pairing();
        let started = pairing.start_pairing(&request, operator.options()).await;
        if can {
            started.expect("begun");
            let (_, received) = node.pairing().await;
            assert_eq!(received.credentials, request.credentials);
        } else {
            let error = refused(started, Code::FailedPrecondition);
            let text = error.to_string();
            assert!(text.contains("cannot try default passwords"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_the_stream_loses_no_result_of_a_pairing() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = found(&world, Profile::ours(), &["10.0.0.1"]).await;
    let stream = pair(&operator, &wanted(&enrolled, &["10.0.0.1"]))
        .await
        .expect("begun");
    let (command, _) = node.pairing().await;
    drop(stream);
    let results = vec![result("10.0.0.1", PairOutcome::Paired)];
    node.report_paired(&command, results).await.expect("taken");
    node.ack(&command, AckCode::Ok).await;
    eventually(async || {
        listed(&operator, &enrolled).await[0].1 == "PAIRED" && {
            let again = pair(&operator, &wanted(&enrolled, &["10.0.0.1"])).await;
            again.is_ok()
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pairing_that_cannot_start_is_refused_at_once() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = found(&world, Profile::ours(), &["10.0.0.1"]).await;
    let silent = Enrolled::new(&world, &operator).await;
    let none = PairDiscoveredDevicesOnFleetNodeRequest {
        fleet_node_id: enrolled.id.0,
        ..PairDiscoveredDevicesOnFleetNodeRequest::default()
    };
    let unknown = wanted(&enrolled, &["10.9.9.9"]);
    let elsewhere = PairDiscoveredDevicesOnFleetNodeRequest {
        fleet_node_id: 4_711,
        ..wanted(&enrolled, &["10.0.0.1"])
    };
    for (request, code) in [
        (none, Code::InvalidArgument),
        (unknown, Code::InvalidArgument),
        (elsewhere, Code::NotFound),
        (wanted(&silent, &["10.0.0.1"]), Code::FailedPrecondition),
    ] {
        let error = not_begun(&operator, &request, code).await;
        assert!(!error.message.contains(PASSWORD));
    }
    let viewer = world.operator_of("third", Role::Viewer).await;
    let request = wanted(&enrolled, &["10.0.0.1"]);
    not_begun(&viewer, &request, Code::PermissionDenied).await;
    // The slot is taken.
    start(&operator, &enrolled, list(&["10.0.0.9"], &["80"])).await;
    let (scan, _) = node.command().await;
    not_begun(&operator, &request, Code::ResourceExhausted).await;
    node.ack(&scan, AckCode::Ok).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_node_ends_a_pairing() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = found(&world, Profile::upstream(), &["10.0.0.1"]).await;
    let mut stream = pair(&operator, &wanted(&enrolled, &[]))
        .await
        .expect("begun");
    let (command, _) = node.pairing().await;
    node.ack(&command, AckCode::Busy).await;
    let (results, end) = rest(&mut stream).await;
    assert_eq!(results, [(identifier("10.0.0.1"), PairingStatus::Failed)]);
    refused(end, Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_ends_a_pairing_and_nothing_is_sent_again() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = found(&world, Profile::upstream(), &["10.0.0.1"]).await;
    let mut stream = pair(&operator, &wanted(&enrolled, &[]))
        .await
        .expect("begun");
    let (command, _) = node.pairing().await;
    node.hang_up();
    drop(node);
    let mut node = enrolled.connect(&world, Profile::upstream()).await;
    let (_, end) = rest(&mut stream).await;
    let error = refused(end, Code::Unavailable);
    assert!(error.message.contains("run it again"), "{}", error.message);
    let late = node
        .report_paired(&command, vec![result("10.0.0.1", PairOutcome::Paired)])
        .await;
    refused(late, Code::FailedPrecondition);
    // The next thing that it hears is a scan: nothing was sent again.
    start(&operator, &enrolled, list(&["10.0.0.9"], &["80"])).await;
    node.command().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn canceling_a_pairing_reaches_the_node_and_keeps_its_results() {
    let world = World::new().await;
    let ips = ["10.0.0.1", "10.0.0.2"];
    let (operator, enrolled, mut node) = found(&world, Profile::ours(), &ips).await;
    let request = StartPairingRequest {
        fleet_node_id: enrolled.id.0,
        device_identifiers: ips.iter().copied().map(identifier).collect(),
        ..StartPairingRequest::default()
    };
    let client = operator.device_pairing();
    let started = client
        .start_pairing(&request, operator.options())
        .await
        .expect("begun");
    let (command, sent) = node.pairing().await;
    assert_eq!(sent.credentials, None, "nothing was given");
    let results = vec![result(ips[0], PairOutcome::AuthNeeded)];
    node.report_paired(&command, results).await.expect("taken");
    let cancel = CancelPairingRequest {
        pairing_id: started.pairing_id.clone(),
    };
    client
        .cancel_pairing(&cancel, operator.options())
        .await
        .expect("canceled");
    assert_eq!(node.cancel().await, command);
    node.ack(&command, AckCode::Partial).await;
    let look = GetPairingRequest {
        pairing_id: started.pairing_id,
        after: 0,
    };
    eventually(async || {
        let page = client.get_pairing(&look, operator.options()).await;
        let page = page.expect("read");
        page.pairing.is_some_and(|pairing| {
            pairing.ended && pairing.code == "canceled" && page.results.len() == 2
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_ends_a_pairing_and_releases_its_devices() {
    let world = World::new().await;
    let ips = ["10.0.0.1", "10.0.0.2"];
    let (operator, enrolled, mut node) = found(&world, Profile::ours(), &ips).await;
    let mut stream = pair(&operator, &wanted(&enrolled, &ips))
        .await
        .expect("begun");
    let (command, _) = node.pairing().await;
    let results = vec![result(ips[0], PairOutcome::Paired)];
    node.report_paired(&command, results).await.expect("taken");
    let revoke = RevokeFleetNodeRequest {
        fleet_node_id: enrolled.id.0,
        pending_enrollment_id: None,
    };
    let revoked = operator
        .admin()
        .revoke_fleet_node(&revoke, operator.options())
        .await;
    revoked.expect("revoked");
    let (_, end) = rest(&mut stream).await;
    refused(end, Code::FailedPrecondition);
    assert_eq!(bound(&operator, 0).await, []);
    let statuses = listed(&operator, &enrolled).await;
    assert!(
        statuses.iter().all(|(_, status)| status == "UNPAIRED"),
        "{statuses:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_of_the_database_contains_the_password() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = found(&world, Profile::ours(), &["10.0.0.1"]).await;
    let mut stream = pair(&operator, &wanted(&enrolled, &[]))
        .await
        .expect("begun");
    let (command, _) = node.pairing().await;
    let results = vec![result("10.0.0.1", PairOutcome::Paired)];
    node.report_paired(&command, results).await.expect("taken");
    node.ack(&command, AckCode::Ok).await;
    rest(&mut stream).await.1.expect("ends well");
    for file in std::fs::read_dir(world.folder()).expect("the folder") {
        let path = file.expect("a file").path();
        let bytes = std::fs::read(&path).expect("read");
        let canary = PASSWORD.as_bytes();
        let found = bytes.windows(canary.len()).any(|window| window == canary);
        assert!(!found, "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rules_of_a_site_bind_pairings() {
    let ips = ["10.0.0.1", "10.0.0.2"];
    let world = World::new().await;
    let (operator, enrolled, mut node) = found(&world, Profile::ours(), &ips).await;
    let admin = world.operator(Role::Admin).await;
    let site_id = admin.site_of(&enrolled).await;
    let exclude = ExcludeTargetsRequest {
        site_id,
        targets: "10.0.0.2".to_owned(),
        reason: "printer".to_owned(),
    };
    let sites = admin.sites();
    let excluded = sites.exclude_targets(&exclude, admin.options()).await;
    excluded.expect("excluded");

    let only_excluded = wanted(&enrolled, &ips[1..]);
    let error = not_begun(&operator, &only_excluded, Code::InvalidArgument).await;
    assert!(
        error.message.contains("excluded at site") && error.message.contains("printer (10.0.0.2)"),
        "{}",
        error.message
    );
    let mut stream = pair(&operator, &wanted(&enrolled, &ips))
        .await
        .expect("begun");
    let (command, request) = node.pairing().await;
    let sent: Vec<&str> = request
        .targets
        .iter()
        .map(|target| target.ip_address.as_str())
        .collect();
    assert_eq!(sent, ["10.0.0.1"]);
    let paired = vec![result(ips[0], PairOutcome::Paired)];
    node.report_paired(&command, paired).await.expect("taken");
    node.ack(&command, AckCode::Ok).await;
    let (mut results, end) = rest(&mut stream).await;
    end.expect("ends well");
    results.sort();
    assert_eq!(
        results,
        [
            (identifier(ips[0]), PairingStatus::Paired),
            (identifier(ips[1]), PairingStatus::Failed),
        ]
    );

    admin.black_out(site_id, &around_now()).await.expect("set");
    let in_blackout = wanted(&enrolled, &ips[..1]);
    let error = not_begun(&operator, &in_blackout, Code::FailedPrecondition).await;
    assert_eq!(error.reason().as_deref(), Some("SITE_BLACKOUT"));
}
