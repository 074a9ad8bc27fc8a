//! The counts that bound messages, and the message sizes that follow from them.
//!
//! A size is the sum of the largest legal fields: a string of n code points takes up to 4 n bytes, and each field up to
//! 32 more for its key and length (in JSON: its name, quotes and comma). So every legal message passes and nothing
//! much larger is ever read. JSON that escapes what need not be escaped can be larger than its bounds suggest, and is
//! refused at the same size.

use crate::{Method, admin, fleet, gateway, pairing};

/// Devices in one report, results in one pairing report, targets of one pairing.
pub const MAX_REPORT: usize = 1_024;
/// Unidentified hosts of one report.
pub const MAX_REPORT_HOSTS: usize = 64;
/// Entries of an address list, as operators send it.
pub const MAX_LIST: usize = 4_096;
/// Targets of one command to a node that announced `big-commands`.
pub const MAX_COMMAND_TARGETS: usize = 16_384;
/// Ports of one request.
pub const MAX_PORTS: usize = 256;
/// Bytes in the payload of a command or an ack: 1 MiB.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Names in one message of pins; more go in several messages.
pub const MAX_PINNED_NAMES: usize = 256;

/// Requests of a few short fields: 16 KiB, many times what any of them can be.
const SMALL: usize = 16 << 10;
/// What a key and a length take at most, or in JSON a name with its quotes and commas.
const FIELD: usize = 32;

const fn text(code_points: usize) -> usize {
    4 * code_points + FIELD
}

const fn bytes(length: usize) -> usize {
    // JSON carries bytes as base64.
    length.div_ceil(3) * 4 + FIELD
}

const DEVICE_REPORT: usize = FIELD
    + text(255)
    + text(45)
    + text(5)
    + text(32)
    + text(50)
    + 3 * text(255)
    + text(64)
    + text(255)
    + text(512)
    + text(253)
    + text(8);
/// Ports are numbers of at most five digits, with a comma in JSON.
const HOST_REPORT: usize = FIELD
    + text(45)
    + text(64)
    + FIELD
    + 64 * 6
    + FIELD
    + text(512)
    + 16 * text(128)
    + text(253)
    + text(8);
const DISCOVERED: usize = MAX_REPORT * DEVICE_REPORT + text(128) + MAX_REPORT_HOSTS * HOST_REPORT;
const PAIR_RESULT: usize = FIELD
    + text(255)
    + FIELD
    + text(255)
    + text(64)
    + 3 * text(255)
    + text(4_096)
    + FIELD
    + FIELD
    + 2 * bytes(4_096)
    + FIELD;
const PAIRED: usize = MAX_REPORT * PAIR_RESULT + text(128);
/// An ack is the largest message of a stream. Twice its size is read, so that an ack past its bounds can be dropped and
/// counted instead of ending the stream.
const CONTROL: usize = 2
    * (FIELD
        + text(128)
        + FIELD
        + text(4_096)
        + FIELD
        + bytes(MAX_PAYLOAD)
        + bytes(65_536)
        + 64 * text(512));
const DISCOVER: usize = FIELD + MAX_LIST * text(255) + MAX_PORTS * text(255);
const SCAN: usize = SMALL + DISCOVER;
const EXCLUDES: usize = SMALL + text(65_536);
const CREDENTIALS: usize = 2 * FIELD + 2 * text(1_024);
const SELECTION: usize = SMALL + MAX_REPORT * text(255) + CREDENTIALS;

const _: () = assert!(
    DISCOVERED > 4 << 20,
    "a full report of four-byte characters is larger than the usual 4 MiB"
);

/// The largest request message of a method, in bytes after decompression; per message where the request is a stream.
pub fn request_limit(method: &Method) -> usize {
    const LARGE: [(Method, usize); 13] = [
        (
            gateway::FleetNodeGatewayClient::REPORT_DISCOVERED_DEVICES,
            DISCOVERED,
        ),
        (
            gateway::FleetNodeGatewayClient::REPORT_PAIRED_DEVICES,
            PAIRED,
        ),
        (gateway::FleetNodeGatewayClient::CONTROL_STREAM, CONTROL),
        (admin::FleetNodeAdminClient::DISCOVER_ON_FLEET_NODE, SCAN),
        (
            admin::FleetNodeAdminClient::PAIR_DISCOVERED_DEVICES_ON_FLEET_NODE,
            SELECTION,
        ),
        (pairing::PairingClient::DISCOVER, SCAN),
        (pairing::PairingClient::PAIR, SELECTION),
        (fleet::DevicePairingClient::START_PAIRING, SELECTION),
        (fleet::ScanClient::START_SCAN, SCAN),
        (fleet::ScanClient::PLAN_SCAN, SCAN),
        (fleet::ScheduleClient::CREATE_SCHEDULE, SCAN),
        (fleet::ScheduleClient::UPDATE_SCHEDULE, SCAN),
        (fleet::SiteClient::EXCLUDE_TARGETS, EXCLUDES),
    ];
    let listed = LARGE.iter().find(|(large, _)| large == method);
    listed
        .map(|(_, limit)| *limit)
        .or(method.request_limit())
        .unwrap_or(SMALL)
}
