//! A limit on frames that cost a peer nothing. Neither hyper nor h2 counts PING, SETTINGS, WINDOW_UPDATE, PRIORITY,
//! frames of unknown types, or headers and thin DATA for closed streams: a peer can send millions of each per second
//! without end (measured).
//!
//! Each frame uses credit that the peer earned with its requests and the server's responses, or else an allowance that
//! refills with time. Time is an argument: nothing here reads a clock or does IO.

use std::time::Duration;

use super::frames::{Frames, Head, Kind};

#[cfg(test)]
mod tests;

/// Burst of control frames: fifty times the frames at the start of a client (SETTINGS, a window, five priority groups:
/// under 20) and after a stall.
const CONTROL_MOST: u32 = 1_000;
/// Control frames per second after that. Clients send a keep-alive PING at most every 10 s (gRPC, A8) and answer the
/// server's PING every 30 s. 10,000 peers at this limit use a tenth of a core.
const CONTROL_RATE: u32 = 10;
/// Burst of DATA frames under [`THIN`] bytes: twice the unread frames that h2 permits.
const THIN_MOST: u32 = 10_000;
/// Such frames per second after that. A node sends a few per minute besides its answers to commands, which are earned.
const THIN_RATE: u32 = 100;
/// Size under which a DATA frame costs more than it carries; h2 uses the same limit.
const THIN: u32 = 256;
/// Frames that a request earns: for its body and trailers, a PRIORITY_UPDATE (RFC 9218) and a reset.
const FOR_A_REQUEST: u32 = 4;
/// Bytes of response DATA that earn a frame. Go's client returns the windows of stream and connection in pieces of 4 KiB
/// and sends a PING with the first DATA of a round trip. Frames earn nothing, because a peer that opens its window byte
/// by byte gets a frame for each byte.
const BYTES_A_FRAME: u32 = 64;
/// Most earned frames that are kept: eight times the frames that return a window of 16 MiB in such pieces.
const EARNED_MOST: u32 = 1 << 16;

/// The kind of frame that a peer sent too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flood {
    /// PING, or answers to PINGs that were never sent.
    Ping,
    /// SETTINGS, or acknowledgements of settings that were never sent.
    Settings,
    /// WINDOW_UPDATE without DATA.
    WindowUpdate,
    /// PRIORITY.
    Priority,
    /// RST_STREAM for more streams than were opened.
    Reset,
    /// HEADERS for streams that already have them.
    Headers,
    /// DATA frames that cost more than they carry.
    ThinData,
    /// Frames of other types.
    Other,
}

impl Flood {
    /// All kinds, in the order of declaration.
    pub const ALL: [Self; 8] = [
        Self::Ping,
        Self::Settings,
        Self::WindowUpdate,
        Self::Priority,
        Self::Reset,
        Self::Headers,
        Self::ThinData,
        Self::Other,
    ];

    /// A name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Settings => "settings",
            Self::WindowUpdate => "window_update",
            Self::Priority => "priority",
            Self::Reset => "rst_stream",
            Self::Headers => "headers",
            Self::ThinData => "thin_data",
            Self::Other => "other",
        }
    }

    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Data => Self::ThinData,
            Kind::Headers => Self::Headers,
            Kind::Priority => Self::Priority,
            Kind::Reset => Self::Reset,
            Kind::Settings => Self::Settings,
            Kind::Ping => Self::Ping,
            Kind::WindowUpdate => Self::WindowUpdate,
            Kind::Other => Self::Other,
        }
    }
}

/// An allowance that refills with time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bucket {
    most: u32,
    a_second: u32,
    level: u32,
    filled: Duration,
}

impl Bucket {
    fn full(most: u32, a_second: u32) -> Self {
        Self {
            most,
            a_second,
            level: most,
            filled: Duration::ZERO,
        }
    }

    fn fill(&mut self, now: Duration) {
        let gained = now.saturating_sub(self.filled).as_millis() * u128::from(self.a_second);
        let gained = u32::try_from(gained / 1_000).unwrap_or(u32::MAX);
        // Time with a full bucket must not count later.
        if self.level == self.most {
            self.filled = now;
        } else if gained > 0 {
            self.level = self.level.saturating_add(gained).min(self.most);
            // The remainder of the time counts for the next frame.
            self.filled += Duration::from_secs(gained.into()) / self.a_second;
        }
    }

    fn take(&mut self) -> bool {
        let left = self.level.checked_sub(1);
        self.level = left.unwrap_or(0);
        left.is_some()
    }
}

/// Counts the frames of one connection in both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meter {
    inbound: Frames,
    outbound: Frames,
    /// The newest stream that the peer opened.
    newest: u32,
    earned: u32,
    /// Bytes of response DATA that have not earned a frame yet.
    rest: u32,
    control: Bucket,
    thin: Bucket,
}

impl Meter {
    /// Starts for a connection of so many peers, whose first bytes are a preface of this length.
    pub(super) fn new(preface: u32, peers: u32) -> Self {
        Self {
            inbound: Frames::after(preface),
            outbound: Frames::after(0),
            newest: 0,
            earned: 0,
            rest: 0,
            control: Bucket::full(CONTROL_MOST * peers, CONTROL_RATE * peers),
            thin: Bucket::full(THIN_MOST * peers, THIN_RATE * peers),
        }
    }

    /// Counts bytes from the peer, at a time since the start of the connection.
    ///
    /// # Errors
    ///
    /// The kind of frame that exceeded its limit. The caller must close the connection.
    pub(super) fn received(&mut self, now: Duration, bytes: &[u8]) -> Result<(), Flood> {
        let (earned, newest) = (&mut self.earned, &mut self.newest);
        let (control, thin) = (&mut self.control, &mut self.thin);
        control.fill(now);
        thin.fill(now);
        let mut verdict = Ok(());
        self.inbound.feed(
            bytes,
            |Head {
                 length,
                 kind,
                 stream,
                 ..
             }| {
                let bucket = match kind {
                    // Ids of streams only grow (RFC 9113, 5.1.1). Other
                    // HEADERS are trailers, or belong to closed streams.
                    Kind::Headers if stream > *newest => {
                        *newest = stream;
                        return earn(earned, FOR_A_REQUEST);
                    }
                    // The windows of HTTP/2 bound larger frames.
                    Kind::Data if length >= THIN => return,
                    Kind::Data => &mut *thin,
                    Kind::Headers
                    | Kind::Priority
                    | Kind::Reset
                    | Kind::Settings
                    | Kind::Ping
                    | Kind::WindowUpdate
                    | Kind::Other => &mut *control,
                };
                if *earned > 0 {
                    *earned -= 1;
                } else if !bucket.take() && verdict.is_ok() {
                    verdict = Err(Flood::of(kind));
                }
            },
        );
        verdict
    }

    /// Counts bytes to the peer.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        let (earned, rest) = (&mut self.earned, &mut self.rest);
        self.outbound.feed(bytes, |head| match head.kind {
            Kind::Data => {
                *rest += head.length;
                earn(earned, *rest / BYTES_A_FRAME);
                *rest %= BYTES_A_FRAME;
            }
            // The server's own frames require an answer. Its answers to the peer earn nothing.
            Kind::Ping | Kind::Settings if !head.ack => earn(earned, 1),
            Kind::Ping
            | Kind::Settings
            | Kind::Headers
            | Kind::Priority
            | Kind::Reset
            | Kind::WindowUpdate
            | Kind::Other => {}
        });
    }

    /// Whether a frame can be inserted at this position of the sent bytes.
    pub(super) fn between_frames(&self) -> bool {
        self.outbound.at_boundary()
    }
}

fn earn(earned: &mut u32, frames: u32) {
    *earned = earned.saturating_add(frames).min(EARNED_MOST);
}
