//! What a listener may be told, what it may not, and what it counts.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ipnetwork::IpNetwork;

use super::{TlsIdentity, census, meter::Flood};

/// Window of a stream: 64 KiB, so that a stream nobody reads holds little.
pub(super) const STREAM_WINDOW: u32 = 64 << 10;
/// Window of a connection: 128 KiB, which is what one peer can make us buffer. h2 also closes a connection whose unread
/// small DATA frames cost more than half of this (a frame of n < 256 bytes costs 256 - n), about 260 tiny messages;
/// frames that are read cost nothing, and every handler of a stream both ways reads in a task of its own. The cut is
/// thus flood control and not a limit that a node meets.
pub(super) const CONNECTION_WINDOW: u32 = 128 << 10;
/// Response bytes of a stream that wait for a slow reader.
pub(super) const SEND_BUFFER: usize = 16 << 10;
/// Streams of one connection at a time. Roles that need fewer are held to it where calls are admitted.
pub(super) const STREAMS: u32 = 32;
/// Header list of a request, with its line.
pub(super) const HEADER_LIST: usize = 8 << 10;
/// Headers of a request.
pub(super) const HEADERS: usize = 64;
/// Streams reset before they were served: 20, the bound that stops rapid resets.
pub(super) const PENDING_RESETS: usize = 20;
/// Streams that we reset for their errors, over the life of a connection.
pub(super) const ERROR_RESETS: usize = 64;
/// Pause between two PINGs, moved by up to a tenth so that connections opened together do not ping together.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long a PING may stay unanswered.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to the first bytes of a request, and as much again for TLS before it.
pub(super) const PREFACE: Duration = Duration::from_secs(5);
/// Time to the first authenticated call or plain request.
pub(super) const ESTABLISH: Duration = Duration::from_secs(10);
/// How long a connection whose peer is not known may be without a new request: as long as HTTP/1.1 waits for one.
pub(super) const PLAIN_IDLE: Duration = HTTP1_IDLE;
/// How long a write may wait without any progress: as long as a PING and its answer may take.
pub(super) const WRITE_STALL: Duration = Duration::from_secs(40);
/// What a connection that is being closed for silence gets for its last answers.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(5);
/// Idle time of an HTTP/1.1 connection between requests; longer than two heartbeats of a node, so that the connection
/// outlives the pause between them.
pub(super) const HTTP1_IDLE: Duration = Duration::from_secs(75);

/// Pause between two summaries of what was refused.
pub(super) const SUMMARY: Duration = Duration::from_secs(60);
/// The most connections that are served unless told otherwise: an idle one takes 27 KiB, 33 KiB with TLS (measured), so
/// that these fit into 700 MB.
const MOST: usize = 20_000;
/// The descriptors that connections never take: an eighth of all, and at least 128, of which [`census::LEAVING`] may be
/// of connections that end. A database takes 30, the runtime and the log 10.
const SPARE: usize = 128;
const _: () = assert!(
    SPARE >= 2 * census::LEAVING,
    "room for the rest of the process"
);

/// How a port is served. The limits of a single connection are fixed.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// The certificate; without one, TLS is not spoken.
    pub tls: Option<TlsIdentity>,
    /// Whether requests without TLS are served.
    pub plaintext: bool,
    /// Connections at a time. A new one takes the place of the oldest whose peer is not known, or is closed.
    pub max_connections: usize,
    /// How many of them only authenticated peers may hold.
    pub reserved: usize,
    /// Connections of one source (an IPv4 address, an IPv6 /64) at a time; more are closed. A site has one address for
    /// hundreds of nodes.
    pub per_source: usize,
    /// How many of them may be of peers that are not known. A new one takes the place of the oldest such.
    pub anonymous_per_source: usize,
    /// Sources whose connections are not counted together: proxies, which speak for everybody.
    pub exempt: Vec<IpNetwork>,
    /// How long a drain waits for open connections.
    pub drain: Duration,
    /// Counts what was refused; keep a clone to read it.
    pub counts: Arc<ListenerCounts>,
}

impl ListenerConfig {
    /// Plaintext only: 20,000 connections, a tenth of them reserved; half of them from one source, 256 while it is not
    /// known; loopback exempt, where proxies and tunnels are; 10 s to drain.
    pub fn plaintext() -> Self {
        Self {
            tls: None,
            plaintext: true,
            max_connections: MOST,
            reserved: MOST / 10,
            per_source: MOST / 2,
            anonymous_per_source: 256,
            exempt: vec![
                // 127.0.0.0/8 and ::1.
                IpNetwork::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8),
                IpNetwork::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
            ]
            .into_iter()
            .flatten()
            .collect(),
            drain: Duration::from_secs(10),
            counts: Arc::default(),
        }
    }

    /// The same with TLS only.
    pub fn tls(identity: TlsIdentity) -> Self {
        Self {
            tls: Some(identity),
            plaintext: false,
            ..Self::plaintext()
        }
    }

    /// Lowers the bounds so that a process with that many descriptors keeps enough for everything else.
    #[must_use]
    pub fn within_descriptors(mut self, descriptors: usize) -> Self {
        let spare = SPARE.max(descriptors / 8);
        let fit = descriptors.saturating_sub(spare).max(8);
        if fit < self.max_connections {
            self.max_connections = fit;
            self.reserved = fit / 10;
            self.per_source = self.per_source.min(fit / 2);
            self.anonymous_per_source = self.anonymous_per_source.min(fit / 4);
        }
        self
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What became of connections.
        #[derive(Debug, Default)]
        pub struct ListenerCounts {
            $(pub(super) $name: AtomicU64,)*
            floods: [AtomicU64; Flood::ALL.len()],
        }

        impl ListenerCounts {
            $($(#[$doc])*
            pub fn $name(&self) -> u64 {
                self.$name.load(Ordering::Relaxed)
            })*
        }
    };
}

counts! {
    /// Connections accepted.
    accepted,
    /// Closed on arrival, because there were too many, and none of an unknown peer that could leave.
    full,
    /// Closed on arrival, because there were too many from that source.
    crowded,
    /// Closed before their time, because their peers were not known and others came.
    shown_out,
    /// Closed because the TLS handshake failed.
    tls_failed,
    /// Closed because plaintext is not served here.
    plaintext_refused,
    /// Closed because nothing that could be a request came in time.
    silent,
    /// Closed because no authenticated call or plain request came in time.
    unestablished,
    /// Closed because no more plain requests came.
    idle,
    /// Closed because the peer did not take what was written.
    stalled,
    /// Ended with an error of the protocol or the transport; what stalled or flooded is among them.
    broken,
    /// Failures to accept, most often for want of descriptors.
    accept_errors,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl ListenerCounts {
    /// Connections cut because the peer sent too many frames of a kind.
    pub fn floods(&self, flood: Flood) -> u64 {
        self.floods[flood as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count_flood(&self, flood: Flood) {
        count(&self.floods[flood as usize]);
    }

    fn all_floods(&self) -> u64 {
        Flood::ALL.iter().map(|flood| self.floods(*flood)).sum()
    }
}

/// What somebody would want to know of a port, at most once a minute.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    full: u64,
    crowded: u64,
    shown_out: u64,
    floods: u64,
    stalled: u64,
    accept_errors: u64,
}

impl Summary {
    pub(super) fn of(counts: &ListenerCounts) -> Self {
        Self {
            full: counts.full(),
            crowded: counts.crowded(),
            shown_out: counts.shown_out(),
            floods: counts.all_floods(),
            stalled: counts.stalled(),
            accept_errors: counts.accept_errors(),
        }
    }

    /// Warns of what was counted since `earlier`, if anything was.
    pub(super) fn warn_since(&self, earlier: &Self) {
        if self == earlier {
            return;
        }
        tracing::warn!(
            full = self.full - earlier.full,
            crowded = self.crowded - earlier.crowded,
            shown_out = self.shown_out - earlier.shown_out,
            floods = self.floods - earlier.floods,
            stalled = self.stalled - earlier.stalled,
            accept_errors = self.accept_errors - earlier.accept_errors,
            "connections were refused or cut in the last minute"
        );
    }
}
