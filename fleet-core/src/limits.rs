//! The limits of the product, each with its unit. The installed base determines the wire bounds; the other limits are
//! specific to this product.

use std::time::Duration;

/// Maximum number of targets in one scan: a /16.
pub const SCAN_TARGETS: usize = 65_536;
/// Maximum number of ports in one scan.
pub const SCAN_PORTS: usize = 64;
/// Most excludes of a scan: each is compared with each of the 65,536 targets, which takes about a second in all.
pub const EXCLUDES: usize = 1_024;
/// Maximum number of targets that a site excludes. Each is compared with every address of a plan.
pub const SITE_EXCLUDES: usize = 256;
/// Maximum number of targets that the sites of an organization exclude together: lists of sites have them all.
pub const ORGANIZATION_EXCLUDES: usize = 4_096;
/// Maximum number of sites that operators create in an organization. Sites that were created with their node do not
/// count.
pub const SITES: usize = 1_024;
/// Maximum number of nodes of one scan. Each has a row and a history to read: planning over 1,024 nodes takes about a
/// second.
pub const SCAN_NODES: usize = 1_024;
/// Maximum number of list entries in one request on the wire.
pub const REQUEST_LIST_ENTRIES: usize = 4_096;
/// Maximum number of ports in one request on the wire.
pub const REQUEST_PORTS: usize = 256;
/// Maximum number of targets in one command to a node without capabilities.
pub const UPSTREAM_COMMAND_TARGETS: usize = 1_024;
/// Maximum number of targets in one command to an upstream node that announced version 1 of the command protocol: a
/// network of /20.
pub const UPSTREAM_V1_COMMAND_TARGETS: usize = 4_096;
/// Maximum number of ports in one command to a node without capabilities.
pub const UPSTREAM_COMMAND_PORTS: usize = 10;
/// Shortest IPv4 prefix that an upstream node accepts in one command.
pub const UPSTREAM_COMMAND_PREFIX: u8 = 22;
/// Maximum number of targets in one command to any node.
pub const COMMAND_TARGETS: usize = 16_384;
/// Maximum number of ports in one command to any node.
pub const COMMAND_PORTS: usize = 64;
/// The most denied ports, and the most allowed networks, of a site in its node's Hello. More do not change an estimate
/// much, and the node applies all of them.
pub const HELLO_POLICY: usize = 64;

/// Shortest IPv4 prefix that a scan accepts.
pub const TARGET_PREFIX: u8 = 16;
/// Maximum number of devices in one report on the wire.
pub const REPORT_DEVICES: usize = 1_024;
/// Ports in the quota of a command if neither the operator nor the node named any.
pub const QUOTA_PORTS: usize = 10;
/// Refused rows that end a command, as a multiple of its quota.
pub const REFUSED_ROWS_FACTOR: usize = 10;
/// Number of refused rows below which a command never ends because of them.
pub const REFUSED_ROWS_FLOOR: usize = 10_240;
/// Maximum time that a node works on a command.
pub const COMMAND_BUDGET: Duration = Duration::from_secs(600);
/// How long the server waits for the ack of a command it has sent.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(720);
/// How long nodes get after an outage to reconnect and send the reports that they kept: several attempts at the longest
/// reconnect delay.
pub const NODE_RETURN: Duration = Duration::from_secs(120);
/// Attempts of a chunk before its targets count as not reached.
pub const CHUNK_ATTEMPTS: u32 = 3;
/// How long a pairing waits for the server that holds its credentials. After this silence the server counts as dead,
/// and its credentials as lost.
pub const PAIRING_LEASE: Duration = Duration::from_secs(30);
/// Maximum size in bytes of a sealed user name, and of a sealed password.
pub const SEALED_BYTES: usize = 4_096;
/// Maximum number of scans that wait for one node.
pub const QUEUED_SCANS: usize = 16;
/// Default time that a scan waits for its node.
pub const QUEUE_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Maximum time that a scan waits for its node.
pub const QUEUE_FOR_MOST: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Default probes per second of a node.
pub const DEFAULT_RATE: u32 = 5_000;
/// Probes per second at full rate.
pub const FULL_RATE: u32 = 50_000;
/// Ports of raw printing services, which print any data they receive. They are probed only on explicit request.
pub const PRINTER_PORTS: [u16; 10] = [515, 631, 9100, 9101, 9102, 9103, 9104, 9105, 9106, 9107];
/// Maximum number of parallel connections to one host.
pub const HOST_CONNECTIONS: usize = 2;
/// Maximum number of devices that a node collects before it reports.
pub const BATCH_DEVICES: usize = 64;
/// Maximum time that a node collects before it reports.
pub const BATCH_WAIT: Duration = Duration::from_millis(250);
/// Maximum number of addresses of one name.
pub const NAME_ADDRESSES: usize = 8;
/// Time limit for resolving one name.
pub const NAME_TIMEOUT: Duration = Duration::from_secs(5);
/// Default time that a node listens to mDNS. It covers three rounds of questions, one and two seconds apart (RFC
/// 6762, 5.2).
pub const MDNS_LISTEN: Duration = Duration::from_secs(5);
/// Maximum time that a node listens to mDNS.
pub const MDNS_LISTEN_MOST: Duration = Duration::from_secs(60);

/// Default time that a node listens for the announcements of IP report buttons.
pub const REPORTS_LISTEN: Duration = Duration::from_secs(300);
/// Maximum time that a node listens for them. The rest of the [`COMMAND_BUDGET`] is for the last devices.
pub const REPORTS_LISTEN_MOST: Duration = Duration::from_secs(540);

/// Maximum number of addresses that the server itself dials at a time.
pub const DIRECT_BATCH: usize = 1_024;
/// How long the server may dial addresses after their release. Reports of nodes about them wait during this time.
pub const DIRECT_TERM: Duration = Duration::from_secs(15);
/// How long reports of nodes wait for a server that died after it released addresses. The clocks of two servers may
/// differ by half a minute.
pub const DIRECT_HOLD: Duration = Duration::from_secs(45);
/// Maximum number of own scans that a server runs in parallel, each for another organization.
pub const DIRECT_SCANS: usize = 4;

/// Lifetime of an enrollment code.
pub const CODE_LIFE: Duration = Duration::from_secs(3_600);
/// How long a confirmed node may fetch its API key.
pub const KEY_FETCH_LIFE: Duration = Duration::from_secs(3_600);
/// How often a node asks whether it may fetch its API key.
pub const KEY_FETCH_EVERY: Duration = Duration::from_secs(5);
/// Lifetime of an operator's browser session: a working day.
pub const BROWSER_SESSION_LIFE: Duration = Duration::from_secs(12 * 3_600);
/// How long a one-time password can be exchanged for a chosen password.
pub const ONE_TIME_PASSWORD_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// Maximum time that the older key stays valid after a rotation.
pub const KEY_GRACE_MOST: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Lifetime of a challenge.
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
/// Interval between two heartbeats of a server.
pub const REPLICA_HEARTBEAT: Duration = Duration::from_millis(500);
/// Time without a heartbeat after which a server counts as down or hung. Together with one interval it is at most 2 s,
/// within which the status of a node must be correct.
pub const REPLICA_STALE: Duration = Duration::from_millis(1_500);
/// Time limit for the first message of a control stream.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between two Accepted messages of a control stream.
pub const ACCEPTED_EVERY: Duration = Duration::from_secs(30);
/// Time without server messages after which a node considers its stream lost.
pub const STREAM_SILENCE: Duration = Duration::from_secs(90);
/// Time until the first server message after which a node gives a new stream up. A server answers Hello at once, and
/// ends a claim that its storage does not finish within 30 s. A proxy that holds the messages back never answers.
pub const STREAM_OPENING: Duration = Duration::from_secs(35);
/// First upper bound of a node's reconnect delay.
pub const RECONNECT_FIRST: Duration = Duration::from_secs(4);
/// Last upper bound of a node's reconnect delay.
pub const RECONNECT_MOST: Duration = Duration::from_secs(30);
/// A session of this length is stable and resets the back-off.
pub const STABLE_SESSION: Duration = Duration::from_secs(30);
/// Number of takeovers between two instances within [`TAKEOVER_WINDOW`] after which the incumbent stays.
pub const TAKEOVERS: usize = 3;
/// The window in which takeovers count.
pub const TAKEOVER_WINDOW: Duration = Duration::from_secs(60);
/// How long the loser of a duplicated identity is refused.
pub const DUPLICATE_HOLD: Duration = Duration::from_secs(600);
/// Interval between two liveness signals of an idle watch.
pub const WATCH_IDLE: Duration = Duration::from_secs(15);
/// How long a watcher waits for a notification before it polls.
pub const WATCH_POLL: Duration = Duration::from_secs(1);
/// How long a node may be disconnected before an upstream discovery call ends. Its scan continues.
pub const NODE_AWAY: Duration = Duration::from_secs(120);

/// Maximum number of /24 networks in the map of a site: as many addresses as 16 of the largest scans. The least recently
/// scanned are deleted first.
pub const SITE_BLOCKS: usize = 4_096;

/// Maximum number of labels of a device.
pub const DEVICE_LABELS: usize = 16;

/// Maximum number of refused devices that are kept per reporting node. The least recently reported are deleted first.
pub const REFUSED_DEVICES_A_NODE: usize = 4_096;
/// How long a refused device is listed after its last report.
pub const REFUSED_DEVICE_KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);
