//! The settings of a listener, its fixed limits, and its counters.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ipnetwork::IpNetwork;

use super::{TlsIdentity, meter::Flood, table};

/// Window of a stream. 64 KiB keeps the memory of an unread stream small.
pub(super) const STREAM_WINDOW: u32 = 64 << 10;
/// Window of a connection: 128 KiB, the most that one peer can make the server buffer. h2 also closes a connection whose
/// unread small DATA frames cost more than half of this, about 260 tiny messages: a frame of n < 256 bytes costs
/// 256 - n. Frames that are read cost nothing, and each handler of a bidirectional stream reads in its own task. A node
/// therefore never reaches this limit; it only controls floods.
pub(super) const CONNECTION_WINDOW: u32 = 128 << 10;
/// Most response bytes of a stream that are buffered for a slow reader.
pub(super) const SEND_BUFFER: usize = 16 << 10;
/// Concurrent streams of one connection. Lower limits of a role apply where calls are admitted.
pub(super) const STREAMS: u32 = 32;
/// Header list of a request, with its line.
pub(super) const HEADER_LIST: usize = 8 << 10;
/// Header list that a trusted proxy may send. The server refuses a longer list than [`HEADER_LIST`] on its stream, with
/// status 431. h2 closes the connection at four times this number, and proxies forward at most 60 to 100 KiB (Envoy).
pub(super) const SHARED_HEADER_LIST: usize = 128 << 10;
/// Most streams of a trusted proxy that are reset before they are served. A client of the proxy can open and reset as
/// many as the proxy forwards at once. Each takes under 1 KiB.
pub(super) const SHARED_PENDING_RESETS: usize = 16 << 10;
/// Peers behind a trusted proxy for which its frames are counted. An allowance for each keeps a flood bounded.
pub(super) const SHARED_PEERS: u32 = 256;
/// Headers of a request.
pub(super) const HEADERS: usize = 64;
/// Most streams that a peer resets before they are served. This stops the rapid-reset attack.
pub(super) const PENDING_RESETS: usize = 20;
/// Most streams that the server resets for their errors during the life of a connection.
pub(super) const ERROR_RESETS: usize = 64;
/// Pause between two PINGs. It varies by up to a tenth, which spreads the PINGs of connections that opened together.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(30);
/// Longest wait for the answer to a PING.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the first bytes of a request. TLS has the same time before it.
pub(super) const PREFACE: Duration = Duration::from_secs(5);
/// Longest wait for the first authenticated call or plain request.
pub(super) const ESTABLISH: Duration = Duration::from_secs(10);
/// Longest time without a new request on a connection of an unauthenticated peer; the same as for HTTP/1.1.
pub(super) const PLAIN_IDLE: Duration = HTTP1_IDLE;
/// Longest time without progress of a write: the time for a PING and its answer.
pub(super) const WRITE_STALL: Duration = Duration::from_secs(40);
/// Time for the last answers of a connection that is closed for inactivity.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// Longest idle time of an HTTP/1.1 connection between requests. It exceeds two heartbeats of a node, which keeps the
/// connection open between them.
pub(super) const HTTP1_IDLE: Duration = Duration::from_secs(75);

/// Pause between two log summaries of refused connections.
pub(super) const SUMMARY: Duration = Duration::from_secs(60);
/// Default limit of connections. An idle one takes 27 KiB, with TLS 33 KiB (measured), so all of them take 700 MB.
const MOST: usize = 20_000;
/// Descriptors that connections never use: an eighth of all, and at least 128. Closing connections may use
/// [`table::EVICTING`] of them. A database uses 30, the runtime and the log use 10.
const SPARE: usize = 128;
const _: () = assert!(
    SPARE >= 2 * table::EVICTING,
    "room for the rest of the process"
);

/// How a port is served. The limits of a single connection are fixed.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// The certificate. Without one, the port does not serve TLS.
    pub tls: Option<TlsIdentity>,
    /// Whether the port serves requests without TLS.
    pub plaintext: bool,
    /// Concurrent connections. At the limit, a new one evicts the oldest unauthenticated one, or is closed.
    pub max_connections: usize,
    /// Number of these slots that are reserved for authenticated peers.
    pub reserved: usize,
    /// Concurrent connections of one source (an IPv4 address or IPv6 /64); more are closed. A site can have one address
    /// for hundreds of nodes.
    pub per_source: usize,
    /// Number of these that may be unauthenticated. At the limit, a new one evicts the oldest.
    pub anonymous_per_source: usize,
    /// Sources without limits of their own, such as proxies, which forward the requests of many peers.
    pub exempt: Vec<IpNetwork>,
    /// Proxies that are trusted. A connection of theirs carries many peers, so that no peer may end it. They may name the
    /// client with the PROXY protocol, and are exempt.
    pub trusted_proxies: Vec<IpNetwork>,
    /// Longest time that a drain waits for open connections.
    pub drain: Duration,
    /// The counters. Keep a clone to read them.
    pub counts: Arc<ListenerCounts>,
}

impl ListenerConfig {
    /// Plaintext only: 20,000 connections, a tenth of them reserved, and half of them from one source, of which 256 may be
    /// unauthenticated. Loopback is exempt, since proxies and tunnels connect from there. A drain takes at most 10 s.
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
            trusted_proxies: Vec::new(),
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

    /// Lowers the bounds to keep enough of the process's descriptors for everything else.
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
        /// Counters of connections by outcome.
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
    /// Closed on arrival: there were too many connections, and none could be evicted.
    full,
    /// Closed on arrival: there were too many connections from that source.
    crowded,
    /// Evicted by new connections before their peers authenticated.
    evicted,
    /// Closed because the TLS handshake failed.
    tls_failed,
    /// Closed because plaintext is not served here.
    plaintext_refused,
    /// Closed because no request began in time.
    silent,
    /// Closed because no authenticated call or plain request came in time.
    unestablished,
    /// Closed because no more plain requests came.
    idle,
    /// Closed because the peer did not read the response.
    stalled,
    /// Ended with a protocol or transport error, including stalls and floods.
    broken,
    /// Failures to accept, mostly for lack of descriptors.
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

/// The counts that are logged, at most once per minute.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    full: u64,
    crowded: u64,
    evicted: u64,
    floods: u64,
    stalled: u64,
    accept_errors: u64,
}

impl Summary {
    pub(super) fn of(counts: &ListenerCounts) -> Self {
        Self {
            full: counts.full(),
            crowded: counts.crowded(),
            evicted: counts.evicted(),
            floods: counts.all_floods(),
            stalled: counts.stalled(),
            accept_errors: counts.accept_errors(),
        }
    }

    /// Logs a warning with the counts since `earlier`, if there are any.
    pub(super) fn warn_since(&self, earlier: &Self) {
        if self == earlier {
            return;
        }
        tracing::warn!(
            full = self.full - earlier.full,
            crowded = self.crowded - earlier.crowded,
            evicted = self.evicted - earlier.evicted,
            floods = self.floods - earlier.floods,
            stalled = self.stalled - earlier.stalled,
            accept_errors = self.accept_errors - earlier.accept_errors,
            "connections were refused or cut in the last minute"
        );
    }
}
