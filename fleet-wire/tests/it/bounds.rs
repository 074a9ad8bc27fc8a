//! Every bound of the messages, on both of its sides.

use fleet_wire::{
    Code, Duration, Message, RpcError, Validate, admin, decode_checked, fleet,
    gateway::{control_stream_request::Kind, *},
    limits,
    pairing::{
        Credentials, DiscoverRequest, FleetNodePairRequest, FleetNodePairTarget, IpListModeRequest,
        IpRangeModeRequest, NmapModeRequest, PairRequest, discover_request::Mode,
    },
};

use crate::harness::{heartbeat, register};

/// What a message says of itself: the field that breaks its bound, or nothing.
fn field(message: &impl Validate) -> Option<String> {
    message.validate().err().map(|broken| broken.field)
}

/// A change to a good message.
type Change<M> = Box<dyn Fn(&mut M)>;

fn check<M: Validate + Clone>(good: &M, cases: Vec<(&str, Change<M>)>) {
    assert_eq!(good.validate(), Ok(()));
    for (expected, adjust) in cases {
        let mut message = good.clone();
        adjust(&mut message);
        let found = field(&message).unwrap_or_default();
        assert_eq!(found, expected);
    }
}

/// Writes a case: the field that breaks (empty for none) and the change.
macro_rules! cases {
    ($($field:literal: |$message:ident| $change:expr;)*) => {
        vec![$(($field, Box::new(|$message| { $change; })),)*]
    };
}

#[test]
fn a_group_hides_no_elements_from_the_count() {
    let report = ReportDiscoveredDevicesRequest {
        hosts: Vec::new(),
        devices: vec![DiscoveredDeviceReport::default(); 1_025],
        ..ReportDiscoveredDevicesRequest::default()
    };
    let too_many = report.encode_to_vec();
    let refused = |bytes: Vec<u8>| {
        decode_checked::<ReportDiscoveredDevicesRequest>(bytes.into())
            .expect_err("breaks a bound")
            .message
    };
    assert!(refused(too_many.clone()).starts_with("devices: "));
    // Field 100: begin and end of a group. The decoder skips it and reads on.
    let hidden = [&[0xa3, 0x06, 0xa4, 0x06], too_many.as_slice()].concat();
    assert!(refused(hidden).starts_with("field 100: is a group"));
}

fn e(count: usize) -> String {
    "é".repeat(count)
}

#[test]
fn the_calls_before_a_session() {
    check(
        &register("n"),
        cases! {
            "enrollment_token": |m| m.enrollment_token = e(19);
            "": |m| m.enrollment_token = e(20);
            "": |m| m.enrollment_token = e(512);
            "enrollment_token": |m| m.enrollment_token = e(513);
            "name": |m| m.name = String::new();
            "": |m| m.name = e(255);
            "name": |m| m.name = e(256);
            "name": |m| m.name = "barn\u{202e}".to_owned();
            "name": |m| m.name = "barn\u{200b}1".to_owned();
            "name": |m| m.name = "barn\u{1b}[2J".to_owned();
            "": |m| m.name = "ферма 牧场".to_owned();
            "identity_pubkey": |m| m.identity_pubkey = vec![0; 31].into();
            "identity_pubkey": |m| m.identity_pubkey = vec![0; 33].into();
            "encryption_pubkey": |m| m.encryption_pubkey = Vec::new().into();
            "": |m| m.identity_proof = vec![0; 64].into();
            "identity_proof": |m| m.identity_proof = vec![0; 63].into();
        },
    );
    let begin = BeginAuthHandshakeRequest {
        api_key: e(20),
        identity_pubkey: vec![0; 32].into(),
    };
    check(
        &begin,
        cases! {
            "api_key": |m| m.api_key = e(19);
            "": |m| m.api_key = e(512);
            "api_key": |m| m.api_key = e(513);
            "identity_pubkey": |m| m.identity_pubkey = vec![0; 64].into();
        },
    );
    let complete = CompleteAuthHandshakeRequest {
        challenge: vec![0; 48].into(),
        signature: vec![0; 64].into(),
    };
    check(
        &complete,
        cases! {
            "challenge": |m| m.challenge = vec![0; 15].into();
            "": |m| m.challenge = vec![0; 16].into();
            "": |m| m.challenge = vec![0; 64].into();
            "challenge": |m| m.challenge = vec![0; 65].into();
            "signature": |m| m.signature = vec![0; 63].into();
        },
    );
}

#[test]
fn uploads_of_a_node() {
    check(&heartbeat(), cases! { "sent_at": |m| m.sent_at = None; });
    let report = ReportDiscoveredDevicesRequest {
        hosts: Vec::new(),
        devices: Vec::new(),
        command_id: "c".to_owned(),
    };
    check(
        &report,
        cases! {
            "command_id": |m| m.command_id = String::new();
            "": |m| m.command_id = e(128);
            "command_id": |m| m.command_id = e(129);
            "": |m| m.devices = vec![DiscoveredDeviceReport::default(); 1_024];
            "devices": |m| m.devices = vec![DiscoveredDeviceReport::default(); 1_025];
        },
    );
    let paired = ReportPairedDevicesRequest {
        command_id: "c".to_owned(),
        results: Vec::new(),
    };
    check(
        &paired,
        cases! {
            "command_id": |m| m.command_id = String::new();
            "": |m| m.results = vec![FleetNodePairResult::default(); 1_024];
            "results": |m| m.results = vec![FleetNodePairResult::default(); 1_025];
        },
    );
}

#[test]
fn messages_from_the_node() {
    check(
        &ControlHello::default(),
        cases! {
            "": |m| m.instance_id = vec![0; 16].into();
            "instance_id": |m| m.instance_id = vec![0; 15].into();
            "version": |m| m.version = e(65);
            "": |m| m.capabilities = vec![e(64); 32];
            "capabilities": |m| m.capabilities = vec![e(1); 33];
            "capabilities[1]": |m| m.capabilities = vec![e(1), e(65)];
            "running": |m| m.running = vec![e(1); 65];
            "default_ports": |m| m.default_ports = vec!["80".to_owned(); 65];
            "local_subnets": |m| m.local_subnets = vec!["10.0.0.0/8".to_owned(); 17];
        },
    );
    let ack = ControlAck {
        command_id: "c".to_owned(),
        ..ControlAck::default()
    };
    check(
        &ack,
        cases! {
            "command_id": |m| m.command_id = e(129);
            "": |m| m.error_message = e(4_096);
            "error_message": |m| m.error_message = e(4_097);
            "": |m| m.code = 4_711;
            "": |m| m.payload = vec![0; 1 << 20].into();
            "payload": |m| m.payload = vec![0; (1 << 20) + 1].into();
            "": |m| m.outcomes = vec![0; 65_536].into();
            "outcomes": |m| m.outcomes = vec![0; 65_537].into();
            "": |m| m.notes = vec![e(512); 64];
            "notes": |m| m.notes = vec![e(1); 65];
            "notes[0]": |m| m.notes = vec![e(513)];
        },
    );
    let progress = ControlProgress {
        command_id: "c".to_owned(),
        ..ControlProgress::default()
    };
    check(
        &progress,
        cases! {
            "command_id": |m| m.command_id = String::new();
            "": |m| m.note = e(512);
            "note": |m| m.note = e(513);
        },
    );
    let name = PinnedName {
        name: "rig".to_owned(),
        addresses: vec!["10.0.0.7".to_owned(); 8],
        skipped_reason: String::new(),
    };
    let pins = ControlPins {
        command_id: "c".to_owned(),
        names: vec![name],
    };
    check(
        &pins,
        cases! {
            "names[0].name": |m| m.names[0].name = String::new();
            "names[0].addresses": |m| m.names[0].addresses.push("10.0.0.8".to_owned());
            "names[0].skipped_reason": |m| m.names[0].skipped_reason = e(513);
            "names": |m| m.names = vec![m.names[0].clone(); 257];
        },
    );
    let envelope = ControlStreamRequest {
        kind: Some(Kind::Ack(ControlAck {
            notes: vec![e(513)],
            command_id: "c".to_owned(),
            ..ControlAck::default()
        })),
    };
    assert_eq!(field(&envelope).as_deref(), Some("ack.notes[0]"));
    assert_eq!(field(&ControlStreamRequest { kind: None }), None);
}

#[test]
fn messages_to_the_node() {
    let command = ControlCommand {
        command_id: "c".to_owned(),
        payload: vec![0; 1 << 20].into(),
    };
    check(
        &command,
        cases! {
            "command_id": |m| m.command_id = String::new();
            "payload": |m| m.payload = vec![0; (1 << 20) + 1].into();
        },
    );
    check(
        &ControlAccepted::default(),
        cases! {
            "version": |m| m.version = e(65);
            "capabilities": |m| m.capabilities = vec![e(1); 33];
        },
    );
}

fn list(addresses: usize, ports: usize) -> DiscoverRequest {
    let mode = IpListModeRequest {
        ip_addresses: vec!["10.0.0.7".to_owned(); addresses],
        ports: vec!["80".to_owned(); ports],
        explicit: false,
    };
    DiscoverRequest {
        mode: Some(Mode::IpList(mode)),
        max_rate: 0,
    }
}

#[test]
fn requests_for_a_scan() {
    check(
        &list(4_096, 256),
        cases! {
            "mode": |m| m.mode = None;
            "ip_list.ip_addresses": |m| *m = list(4_097, 0);
            "ip_list.ports": |m| *m = list(1, 257);
            "ip_range.ports": |m| m.mode = Some(Mode::IpRange(IpRangeModeRequest { ports: vec!["80".to_owned(); 257], ..IpRangeModeRequest::default() }));
            "nmap.ports": |m| m.mode = Some(Mode::Nmap(NmapModeRequest { ports: vec!["80".to_owned(); 257], ..NmapModeRequest::default() }));
            "nmap.target": |m| m.mode = Some(Mode::Nmap(NmapModeRequest { target: e(65_537), ports: Vec::new() }));
            "": |m| m.mode = Some(Mode::Nmap(NmapModeRequest::default()));
        },
    );
    let start = fleet::StartScanRequest {
        request_id: "r".to_owned(),
        fleet_node_id: 1,
        request: Some(list(1, 1)),
        ..fleet::StartScanRequest::default()
    };
    check(
        &start,
        cases! {
            "request_id": |m| m.request_id = String::new();
            "request_id": |m| m.request_id = e(65);
            "fleet_node_id": |m| m.fleet_node_id = -1;
            "site_id": |m| m.site_id = -1;
            "": |m| m.fleet_node_ids = vec![1; 1_024];
            "fleet_node_ids": |m| m.fleet_node_ids = vec![1; 1_025];
            "request": |m| m.request = None;
            "request.mode": |m| m.request = Some(DiscoverRequest::default());
            "": |m| m.queue_for = Some(Duration { seconds: 604_800, nanos: 0 });
            "queue_for": |m| m.queue_for = Some(Duration { seconds: 604_801, nanos: 0 });
            "queue_for": |m| m.queue_for = Some(Duration { seconds: 0, nanos: 5 });
        },
    );
    check(
        &admin::DiscoverOnFleetNodeRequest {
            fleet_node_id: 1,
            request: Some(list(1, 1)),
        },
        cases! {
            "fleet_node_id": |m| m.fleet_node_id = -1;
            "request": |m| m.request = None;
            "request.ip_list.ip_addresses": |m| m.request = Some(list(4_097, 0));
        },
    );
    check(
        &fleet::WatchScanRequest {
            scan_id: "s".to_owned(),
            after_sequence: 0,
        },
        cases! {
            "scan_id": |m| m.scan_id = String::new();
            "after_sequence": |m| m.after_sequence = -1;
        },
    );
}

#[test]
fn requests_about_nodes_and_devices() {
    check(
        &admin::ConfirmFleetNodeRequest {
            fleet_node_id: 1,
            pending_enrollment_id: 1,
        },
        cases! {
            "fleet_node_id": |m| m.fleet_node_id = 0;
            "pending_enrollment_id": |m| m.pending_enrollment_id = 0;
        },
    );
    check(
        &admin::RevokeFleetNodeRequest {
            fleet_node_id: 1,
            pending_enrollment_id: None,
        },
        cases! {
            "fleet_node_id": |m| m.fleet_node_id = 0;
            "": |m| m.pending_enrollment_id = Some(1);
            "pending_enrollment_id": |m| m.pending_enrollment_id = Some(0);
        },
    );
    check(
        &admin::PairDeviceToFleetNodeRequest {
            fleet_node_id: 1,
            device_id: 1,
        },
        cases! { "device_id": |m| m.device_id = 0; },
    );
    check(
        &admin::UnpairDeviceRequest { device_id: 1 },
        cases! { "device_id": |m| m.device_id = 0; },
    );
    check(
        &admin::ListFleetNodeDevicesRequest { fleet_node_id: 0 },
        cases! { "fleet_node_id": |m| m.fleet_node_id = -1; },
    );
    check(
        &admin::ListFleetNodeDiscoveredDevicesRequest {
            fleet_node_id: 0,
            limit: 1_024,
            cursor: 0,
        },
        cases! {
            "limit": |m| m.limit = 1_025;
            "limit": |m| m.limit = -1;
            "cursor": |m| m.cursor = -1;
        },
    );
    let pair = admin::PairDiscoveredDevicesOnFleetNodeRequest {
        fleet_node_id: 1,
        device_identifiers: vec![e(255); 1_024],
        pair_all_unpaired: false,
        credentials: None,
    };
    check(
        &pair,
        cases! {
            "device_identifiers": |m| m.device_identifiers.push(e(1));
            "device_identifiers[0]": |m| m.device_identifiers[0] = e(256);
            "device_identifiers[1]": |m| m.device_identifiers[1] = String::new();
            "credentials.username": |m| m.credentials = Some(Credentials { username: e(1_025), password: None, ..Credentials::default() });
        },
    );
    check(
        &fleet::ListScansRequest {
            limit: 200,
            ..fleet::ListScansRequest::default()
        },
        cases! { "limit": |m| m.limit = 201; },
    );
    check(
        &fleet::ListDevicesRequest {
            limit: 1_000,
            ..fleet::ListDevicesRequest::default()
        },
        cases! { "limit": |m| m.limit = 1_001; },
    );
    assert_eq!(
        field(&PairRequest::default()).as_deref(),
        Some("device_selector")
    );
}

#[test]
fn the_payload_of_a_command() {
    let decode = |command: agent_command::Command| {
        decode_checked::<AgentCommand>(
            AgentCommand {
                command: Some(command),
            }
            .encode_to_vec()
            .into(),
        )
    };
    let message = |result: Result<AgentCommand, RpcError>| {
        let error = result.expect_err("out of bounds");
        assert_eq!(error.code, Code::InvalidArgument);
        error.message
    };
    decode(agent_command::Command::Discover(list(
        limits::MAX_COMMAND_TARGETS,
        64,
    )))
    .expect("a big command");
    let too_long = message(decode(agent_command::Command::Discover(list(
        limits::MAX_COMMAND_TARGETS + 1,
        64,
    ))));
    assert!(
        too_long.starts_with("discover.ip_list.ip_addresses: "),
        "{too_long}"
    );

    let target = FleetNodePairTarget {
        device_identifier: "mac:AA".to_owned(),
        driver_name: "virtual".to_owned(),
        ..FleetNodePairTarget::default()
    };
    let pair = |count: usize| {
        agent_command::Command::Pair(FleetNodePairRequest {
            targets: vec![target.clone(); count],
            credentials: None,
        })
    };
    decode(pair(1_024)).expect("a full command");
    assert!(message(decode(pair(1_025))).starts_with("pair.targets: "));
    assert_eq!(
        message(decode(pair(0))),
        "pair.targets: 1 to 1024 elements, found 0"
    );
    // Arm 3 belongs to the installed base and is not taken here.
    assert_eq!(
        message(decode_checked(vec![0x1a, 0].into())),
        "command: is not one that this side knows"
    );
}

#[test]
fn secrets_are_not_printed() {
    let mut request = register("n");
    request.enrollment_token = "fnc_secret".to_owned();
    let credentials = Credentials {
        username: "root".to_owned(),
        password: Some("hunter2".to_owned()),
        ..Credentials::default()
    };
    let pair = FleetNodePairRequest {
        targets: Vec::new(),
        credentials: Some(credentials),
    };
    let command = ControlCommand {
        command_id: "c".to_owned(),
        payload: pair.encode_to_vec().into(),
    };
    let text = format!("{request:?} {pair:?} {command:?}");
    for secret in ["fnc_secret", "root", "hunter2"] {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(text.contains("<hidden, 10 bytes>"), "{text}");
}
