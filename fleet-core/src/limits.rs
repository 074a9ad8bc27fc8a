//! The limits of the product, each with its unit. Wire bounds are the installed base's; the others
//! are this product's own.

use std::time::Duration;

/// Targets that one scan may name: a /16.
pub const SCAN_TARGETS: usize = 65_536;
/// Ports that one scan may name.
pub const SCAN_PORTS: usize = 64;
/// List entries of one request on the wire.
pub const REQUEST_LIST_ENTRIES: usize = 4_096;
/// Ports of one request on the wire.
pub const REQUEST_PORTS: usize = 256;
/// Targets of one command to a node without capabilities.
pub const UPSTREAM_COMMAND_TARGETS: usize = 1_024;
/// Targets of one command to an upstream node that announced version 1 of the command protocol; a network of /20.
pub const UPSTREAM_V1_COMMAND_TARGETS: usize = 4_096;
/// Ports of one command to a node without capabilities.
pub const UPSTREAM_COMMAND_PORTS: usize = 10;
/// The shortest IPv4 prefix that an upstream node takes in one command.
pub const UPSTREAM_COMMAND_PREFIX: u8 = 22;
/// Targets of one command, whatever the node announced.
pub const COMMAND_TARGETS: usize = 16_384;
/// Ports of one command, whatever the node announced.
pub const COMMAND_PORTS: usize = 64;
/// The shortest IPv4 prefix that a scan may name.
pub const TARGET_PREFIX: u8 = 16;
/// Devices of one report on the wire.
pub const REPORT_DEVICES: usize = 1_024;
/// Ports that the quota of a command counts when neither operator nor node named any.
pub const QUOTA_PORTS: usize = 10;
/// Refused rows, as a multiple of its quota, that end a command.
pub const REFUSED_ROWS_FACTOR: usize = 10;
/// Refused rows below which a command is never ended for them.
pub const REFUSED_ROWS_FLOOR: usize = 10_240;
/// Longest time that a node works on a command.
pub const COMMAND_BUDGET: Duration = Duration::from_secs(600);
/// How long the server waits for the ack of a command it has sent.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(720);
/// How often a chunk is tried before its targets count as not reached.
pub const CHUNK_ATTEMPTS: u32 = 3;
/// How long a pairing waits for the server that has its credentials: one that says nothing for so long
/// has gone, and the credentials with it.
pub const PAIRING_LEASE: Duration = Duration::from_secs(30);
/// Bytes of a user name, and of a password, as a node seals them.
pub const SEALED_BYTES: usize = 4_096;
/// Scans that may wait for one node.
pub const QUEUED_SCANS: usize = 16;
/// Default time that a scan waits for its node.
pub const QUEUE_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Longest time that a scan may wait for its node.
pub const QUEUE_FOR_MOST: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Default probes per second of a node.
pub const DEFAULT_RATE: u32 = 5_000;
/// Probes per second at full rate.
pub const FULL_RATE: u32 = 50_000;
/// Ports of raw printing services, which print what they are sent: never touched unless asked for.
pub const PRINTER_PORTS: [u16; 10] = [515, 631, 9100, 9101, 9102, 9103, 9104, 9105, 9106, 9107];
/// Connections to one host at a time.
pub const HOST_CONNECTIONS: usize = 2;
/// Devices that a node gathers before it reports.
pub const BATCH_DEVICES: usize = 64;
/// How long a node gathers before it reports.
pub const BATCH_WAIT: Duration = Duration::from_millis(250);
/// Addresses that one name may resolve to.
pub const NAME_ADDRESSES: usize = 8;
/// How long one name may take to resolve.
pub const NAME_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node listens to mDNS unless told otherwise: three rounds of questions, a second and two apart
/// (RFC 6762, 5.2).
pub const MDNS_LISTEN: Duration = Duration::from_secs(5);
/// Longest time that a node listens to mDNS.
pub const MDNS_LISTEN_MOST: Duration = Duration::from_secs(60);

/// Addresses that the server itself dials at a time.
pub const DIRECT_BATCH: usize = 1_024;
/// How long the server may dial addresses once they are released. Nodes' reports of them wait meanwhile.
pub const DIRECT_TERM: Duration = Duration::from_secs(15);
/// How long nodes' reports wait for a server that released addresses and died: the clocks of servers may
/// be half a minute apart.
pub const DIRECT_HOLD: Duration = Duration::from_secs(45);
/// Scans of its own that a server runs at a time, each another organization's.
pub const DIRECT_SCANS: usize = 4;

/// Life of an enrollment code.
pub const CODE_LIFE: Duration = Duration::from_secs(3_600);
/// Life of an operator's browser session: a working day.
pub const BROWSER_SESSION_LIFE: Duration = Duration::from_secs(12 * 3_600);
/// How long a one-time password can be exchanged for one of the operator's choice.
pub const ONE_TIME_PASSWORD_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// How long the older key may live on after a rotation.
pub const KEY_GRACE_MOST: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Life of a challenge.
pub const CHALLENGE_LIFE: Duration = Duration::from_secs(30);
/// Lifetime of a node's session.
pub const SESSION_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// Remaining lifetime of a session at which a node refreshes it.
pub const SESSION_REFRESH: Duration = Duration::from_secs(3_600);
/// How long a replaced session stays valid.
pub const SESSION_OVERLAP: Duration = Duration::from_secs(60);
/// Interval between two heartbeats of a node.
pub const HEARTBEAT: Duration = Duration::from_secs(30);
/// Time without messages after which a node is shown as offline.
pub const NODE_OFFLINE: Duration = Duration::from_secs(120);
/// Until the first message of a control stream.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two Accepted messages of a control stream.
pub const ACCEPTED_EVERY: Duration = Duration::from_secs(30);
/// Time without server messages after which a node considers its stream lost.
pub const STREAM_SILENCE: Duration = Duration::from_secs(90);
/// First upper bound of a node's reconnect delay.
pub const RECONNECT_FIRST: Duration = Duration::from_secs(4);
/// Last upper bound of a node's reconnect delay.
pub const RECONNECT_MOST: Duration = Duration::from_secs(30);
/// A session of this length is stable and resets the back-off.
pub const STABLE_SESSION: Duration = Duration::from_secs(30);
/// Takeovers between two instances within [`TAKEOVER_WINDOW`] that make the incumbent stay.
pub const TAKEOVERS: usize = 3;
/// The window in which takeovers count.
pub const TAKEOVER_WINDOW: Duration = Duration::from_secs(60);
/// How long the loser of a duplicated identity is refused.
pub const DUPLICATE_HOLD: Duration = Duration::from_secs(600);
/// Interval between two liveness signals of an idle watch.
pub const WATCH_IDLE: Duration = Duration::from_secs(15);
/// How long a watcher waits before it polls without a wake-up.
pub const WATCH_POLL: Duration = Duration::from_secs(1);
/// How long a node may be disconnected before an upstream discovery call ends. Its scan continues.
pub const NODE_AWAY: Duration = Duration::from_secs(120);

/// Refused devices that are kept per reporting node. The least recently reported are deleted first.
pub const REFUSED_DEVICES_A_NODE: usize = 4_096;
/// How long a refused device is listed after its last report.
pub const REFUSED_DEVICE_KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);
