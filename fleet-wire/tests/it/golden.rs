//! The golden bytes of `tests/golden/wire.json`, to which the client in another language is held too: every
//! message of the upstream protocol, of our additions to its stream, and of the services for schedules and alerts, every
//! field set, as JSON and as hex.

use std::{collections::BTreeSet, fmt::Debug, path::Path};

use fleet_wire::{DESCRIPTORS, Message, admin, common, fleet, gateway, minercommand, pairing};
use prost_types::FileDescriptorSet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

#[derive(Deserialize)]
struct Golden {
    message: String,
    json: Value,
    hex: String,
}

fn golden() -> Vec<Golden> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/wire.json");
    let text = std::fs::read_to_string(&file).expect("the golden file is part of the sources");
    serde_json::from_str(&text).expect("the golden file is a list of messages")
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    assert!(rest.is_empty(), "half a byte in {hex}");
    let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let bytes = pairs.iter().map(byte).collect::<Option<_>>();
    bytes.unwrap_or_else(|| panic!("`{hex}` is no hex"))
}

fn check<M: Message + Default + PartialEq + Debug + Serialize + DeserializeOwned>(golden: &Golden) {
    let name = &golden.message;
    let bytes = bytes_of(&golden.hex);
    let message = M::decode(bytes.as_slice()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(message.encode_to_vec(), bytes, "{name} encoded again");
    hides_its_secrets(name, &format!("{message:?}"));
    let read = serde_json::from_value::<M>(golden.json.clone());
    if has_a_value_of_a_later_version(&golden.json) {
        // As bytes it is kept, above; our JSON has words for the values that we know only.
        assert!(read.is_err(), "{name}: {read:?}");
        return;
    }
    let read = read.unwrap_or_else(|error| panic!("{name} from JSON: {error}"));
    assert_eq!(
        read, message,
        "{name}: JSON and bytes mean different things"
    );
    let written = serde_json::to_value(&message).expect("every message has a JSON form");
    assert!(
        is_alike(&written, &golden.json),
        "{name} as JSON is {written}, not {}",
        golden.json
    );
}

/// Fields that no log may show, in any message. A new one is added to build.rs too.
const SECRETS: [&str; 9] = [
    "api_key",
    "enrollment_token",
    "session_token",
    "signature",
    "username",
    "password",
    "payload",
    "signing_secret",
    "webhook_url",
];

/// A message's `Debug` form has no secret's text; `payload` is one in a command only, which carries credentials.
fn hides_its_secrets(name: &str, shown: &str) {
    for field in SECRETS {
        if field == "payload" && !name.ends_with("ControlCommand") {
            continue;
        }
        for begin in ["\"", "b\"", "Some(\"", "Some(b\"", "["] {
            let text = format!("{field}: {begin}");
            assert!(!shown.contains(&text), "{name} shows {field}: {shown}");
        }
    }
}

fn has_a_value_of_a_later_version(json: &Value) -> bool {
    let fields = json.as_object().into_iter().flatten();
    fields
        .into_iter()
        .any(|(key, value)| (key == "code" && value == 99) || has_a_value_of_a_later_version(value))
}

/// Compares JSON forms; the golden one has numbers for the enum values whose labels the wire leaves free.
fn is_alike(written: &Value, golden: &Value) -> bool {
    match (written, golden) {
        (Value::Object(written), Value::Object(golden)) => {
            let each = |(key, value)| golden.get(key).is_some_and(|other| is_alike(value, other));
            written.len() == golden.len() && written.iter().all(each)
        }
        (Value::Array(written), Value::Array(golden)) => {
            let mut pairs = written.iter().zip(golden);
            written.len() == golden.len() && pairs.all(|(a, b)| is_alike(a, b))
        }
        (Value::String(label), Value::Number(_)) => label
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_'),
        // RFC 3339 knows two ways to write UTC; the library behind ours takes both and writes the longer one.
        (Value::String(written), Value::String(golden)) => {
            written == golden || written.strip_suffix("+00:00") == golden.strip_suffix('Z')
        }
        _ => written == golden,
    }
}

/// Names each message once: what it is called on the wire, and the type that must understand it. Prost writes the
/// `IP` of a few names as `Ip`.
macro_rules! known {
    ($($package:literal $module:ident :: {$($message:ident),* $(,)?}),* $(,)?) => {
        fn check_any(golden: &Golden) {
            match golden.message.as_str() {
                $($(name if name.eq_ignore_ascii_case(concat!($package, ".", stringify!($message))) => check::<$module::$message>(golden),)*)*
                other => panic!("{other} is in the golden file, but not in this list"),
            }
        }

        const PACKAGES: &[&str] = &[$($package),*];
    };
}

known!(
    "common.v1" common::{DeviceIdentifierList, FleetErrorDetails},
    "fleet.v1" fleet::{
        AlertChannel, AlertDelivery, AlertRule, AlertRuleSpec, CreateAlertChannelRequest, CreateAlertChannelResponse,
        CreateAlertRuleRequest, CreateAlertRuleResponse, CreateScheduleRequest, CreateScheduleResponse,
        DeleteAlertChannelRequest, DeleteAlertChannelResponse, DeleteAlertRuleRequest, DeleteAlertRuleResponse,
        DeleteScheduleRequest, DeleteScheduleResponse, GetScheduleRequest, GetScheduleResponse,
        ListAlertChannelsRequest, ListAlertChannelsResponse, ListAlertDeliveriesRequest,
        ListAlertDeliveriesResponse, ListAlertRulesRequest, ListAlertRulesResponse, ListSchedulesRequest,
        ListSchedulesResponse, PauseScheduleRequest, PauseScheduleResponse, PlannedRun, PreviewScheduleRequest,
        PreviewScheduleResponse, ResumeScheduleRequest, ResumeScheduleResponse, RetryAlertDeliveryRequest,
        RetryAlertDeliveryResponse, RunScheduleRequest, RunScheduleResponse, Schedule, ScheduleRun, ScheduleTiming,
        TestAlertChannelRequest, TestAlertChannelResponse, UpdateAlertRuleRequest, UpdateAlertRuleResponse,
        UpdateScheduleRequest, UpdateScheduleResponse,
    },
    "fleetnodeadmin.v1" admin::{
        ConfirmFleetNodeRequest, ConfirmFleetNodeResponse, CreateEnrollmentCodeRequest, CreateEnrollmentCodeResponse,
        DevicePairingResult, DiscoverOnFleetNodeRequest, DiscoverOnFleetNodeResponse, FleetNodeDeviceSummary,
        FleetNodeDiscoveredDevice, FleetNodeSummary, ListFleetNodeDevicesRequest, ListFleetNodeDevicesResponse,
        ListFleetNodeDiscoveredDevicesRequest, ListFleetNodeDiscoveredDevicesResponse, ListFleetNodesRequest,
        ListFleetNodesResponse, PairDeviceToFleetNodeRequest, PairDeviceToFleetNodeResponse,
        PairDiscoveredDevicesOnFleetNodeRequest, PairDiscoveredDevicesOnFleetNodeResponse, RevokeFleetNodeRequest,
        RevokeFleetNodeResponse, UnpairDeviceRequest, UnpairDeviceResponse,
    },
    "fleetnodegateway.v1" gateway::{
        AgentCommand, BeginAuthHandshakeRequest, BeginAuthHandshakeResponse, CompleteAuthHandshakeRequest,
        CompleteAuthHandshakeResponse, ControlAccepted, ControlAck, ControlCancel, ControlCommand, ControlGoodbye,
        ControlHello, ControlPins, ControlProgress, ControlStreamRequest, ControlStreamResponse,
        DiscoveredDeviceReport, EncryptedCredentials, FleetNodePairResult, PinnedName, RegisterRequest,
        RegisterResponse, ReportDiscoveredDevicesRequest, ReportDiscoveredDevicesResponse,
        ReportPairedDevicesRequest, ReportPairedDevicesResponse, UnidentifiedHostReport, UploadHeartbeatRequest,
        UploadHeartbeatResponse,
    },
    "minercommand.v1" minercommand::{DeviceFilter, DeviceSelector},
    "pairing.v1" pairing::{
        Credentials, Device, DiscoverRequest, DiscoverResponse, FleetNodePairRequest, FleetNodePairTarget,
        IpListModeRequest, IpRangeModeRequest, MdnsModeRequest, NmapModeRequest, PairRequest, PairResponse,
    },
);

/// The files of fleet.v1 whose messages have golden bytes.
const OF_FLEET: [&str; 2] = ["fleet/v1/alerts.proto", "fleet/v1/schedules.proto"];

#[test]
fn every_golden_message_is_read_and_written_alike_as_bytes_and_as_json() {
    golden().iter().for_each(check_any);
}

#[test]
fn the_golden_file_leaves_out_no_message_of_its_packages() {
    let golden = golden();
    let golden: BTreeSet<_> = golden
        .iter()
        .map(|golden| golden.message.as_str())
        .collect();
    let definitions = FileDescriptorSet::decode(DESCRIPTORS).expect("build.rs encoded them");
    for file in &definitions.file {
        let of_fleet = file.package() == "fleet.v1";
        if PACKAGES.contains(&file.package()) && (!of_fleet || OF_FLEET.contains(&file.name())) {
            for message in &file.message_type {
                let name = format!("{}.{}", file.package(), message.name());
                assert!(golden.contains(name.as_str()), "{name} has no golden bytes");
            }
        }
    }
}

#[test]
fn fields_that_upstream_renamed_are_read_by_both_names() {
    let target = serde_json::json!({"target": "10.0.0.0/24", "ports": ["80"]});
    let nmap = pairing::DiscoverRequest {
        mode: Some(pairing::discover_request::Mode::Nmap(
            pairing::NmapModeRequest {
                target: "10.0.0.0/24".into(),
                ports: vec!["80".into()],
            },
        )),
        max_rate: 0,
    };
    for name in ["nmap", "networkScan", "network_scan"] {
        let read =
            serde_json::from_value::<pairing::DiscoverRequest>(serde_json::json!({ name: target }));
        assert_eq!(read.expect(name), nmap, "{name}");
    }
    for name in ["error", "warning"] {
        let read = serde_json::from_value::<pairing::DiscoverResponse>(
            serde_json::json!({ name: "partial" }),
        );
        assert_eq!(read.expect(name).error, "partial", "{name}");
    }
    // One field by two names is set twice.
    let twice = serde_json::json!({"nmap": target, "networkScan": target});
    assert!(serde_json::from_value::<pairing::DiscoverRequest>(twice).is_err());
}
