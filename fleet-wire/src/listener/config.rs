//! What a listener may be told, what it may not, and what it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::TlsIdentity;

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
/// What a connection that is being closed for silence gets for its last answers.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(5);
/// Idle time of an HTTP/1.1 connection between requests; longer than two heartbeats of a node, so that the connection
/// outlives the pause between them.
pub(super) const HTTP1_IDLE: Duration = Duration::from_secs(75);

/// How a port is served. The limits of a single connection are fixed.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// The certificate; without one, TLS is not spoken.
    pub tls: Option<TlsIdentity>,
    /// Whether requests without TLS are served.
    pub plaintext: bool,
    /// Connections at a time; more are closed as soon as they are accepted.
    pub max_connections: usize,
    /// How many of them only authenticated peers may hold.
    pub reserved: usize,
    /// How long a drain waits for open connections.
    pub drain: Duration,
    /// Counts what was refused; keep a clone to read it.
    pub counts: Arc<ListenerCounts>,
}

impl ListenerConfig {
    /// Plaintext only: 10,000 connections, a tenth of them reserved, 10 s to drain.
    pub fn plaintext() -> Self {
        Self {
            tls: None,
            plaintext: true,
            max_connections: 10_000,
            reserved: 1_000,
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
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What became of connections.
        #[derive(Debug, Default)]
        pub struct ListenerCounts {
            $(pub(super) $name: AtomicU64,)*
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
    /// Closed on arrival, because there were too many.
    full,
    /// Closed because the TLS handshake failed.
    tls_failed,
    /// Closed because plaintext is not served here.
    plaintext_refused,
    /// Closed because nothing that could be a request came in time.
    silent,
    /// Closed because no authenticated call or plain request came in time.
    unestablished,
    /// Ended with an error of the protocol or the transport.
    broken,
    /// Failures to accept, most often for want of descriptors.
    accept_errors,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
