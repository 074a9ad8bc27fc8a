//! How many frames a peer may send that cost it nothing. Neither hyper nor h2 counts PING, SETTINGS, WINDOW_UPDATE,
//! PRIORITY, frames of unknown types, or headers and thin DATA for streams that are over already: a peer can send
//! millions a second of each, for ever (measured).
//!
//! A frame is paid from what the peer earned (by requests that it made and by what we sent it), else from an allowance that
//! fills with time. Time is an argument; nothing here reads a clock or does IO.

use std::time::Duration;

use super::frames::{Frames, Head, Kind};

#[cfg(test)]
mod tests;

/// Control frames at once: what clients say at the start (SETTINGS, a window, priorities of five groups: under 20) and
/// what comes together after a stall, fifty times over.
const CONTROL_MOST: u32 = 1_000;
/// Control frames a second after that. A keep-alive PING comes every 10 s at most (gRPC, A8), the answer to ours every
/// 30 s. 10,000 peers at their limit cost a tenth of a core.
const CONTROL_RATE: u32 = 10;
/// DATA frames under [`THIN`] bytes at once: twice what h2 lets a peer send that is not read.
const THIN_MOST: u32 = 10_000;
/// Such frames a second after that: a node says a few a minute beside its answers to commands, which are earned.
const THIN_RATE: u32 = 100;
/// Bytes under which a DATA frame costs more than it carries; h2 draws its line there too.
const THIN: u32 = 256;
/// Earned by a request: its body and trailers, a PRIORITY_UPDATE (RFC 9218), a reset.
const FOR_A_REQUEST: u32 = 4;
/// Bytes of our DATA that earn a frame: Go's client gives windows back in pieces of 4 KiB, of the stream and of the
/// connection, and a PING that measures the path comes with the first DATA of a round trip. By bytes and not by frames,
/// since a peer that opens its window byte by byte gets a frame for each.
const BYTES_A_FRAME: u32 = 64;
/// The most that is kept of what was earned: windows of 16 MiB given back in such pieces at once, eight times over.
const EARNED_MOST: u32 = 1 << 16;

/// What a peer sent too much of.
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
    /// RST_STREAM for more than was opened.
    Reset,
    /// HEADERS for streams that have theirs.
    Headers,
    /// DATA in pieces that cost more than they carry.
    ThinData,
    /// Frames of other types.
    Other,
}

impl Flood {
    /// All, in the order of their declaration.
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

/// An allowance that fills with time.
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
        if self.level == self.most {
            self.filled = now;
        } else if gained > 0 {
            self.level = self.level.saturating_add(gained).min(self.most);
            // Only the time that became whole frames is used up.
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
    /// Bytes of our DATA that have not earned a frame yet.
    rest: u32,
    control: Bucket,
    thin: Bucket,
}

impl Meter {
    /// Begins with a peer whose first bytes are a preface of this length.
    pub(super) fn new(preface: u32) -> Self {
        Self {
            inbound: Frames::after(preface),
            outbound: Frames::after(0),
            newest: 0,
            earned: 0,
            rest: 0,
            control: Bucket::full(CONTROL_MOST, CONTROL_RATE),
            thin: Bucket::full(THIN_MOST, THIN_RATE),
        }
    }

    /// Takes note of what the peer sent, at a time since the connection began.
    ///
    /// # Errors
    ///
    /// What it sent too much of; the connection is to be closed.
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
                    Kind::Headers if stream > *newest => {
                        *newest = stream;
                        return earn(earned, FOR_A_REQUEST);
                    }
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

    /// Takes note of what was sent to the peer.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        let (earned, rest) = (&mut self.earned, &mut self.rest);
        self.outbound.feed(bytes, |head| match head.kind {
            Kind::Data => {
                *rest += head.length;
                earn(earned, *rest / BYTES_A_FRAME);
                *rest %= BYTES_A_FRAME;
            }
            // Our own, which have to be answered; answers to the peer's earn nothing.
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

    /// Whether a frame may be put between what was sent and what will be.
    pub(super) fn between_frames(&self) -> bool {
        self.outbound.at_boundary()
    }
}

fn earn(earned: &mut u32, frames: u32) {
    *earned = earned.saturating_add(frames).min(EARNED_MOST);
}
