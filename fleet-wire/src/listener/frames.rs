//! Finds the headers of HTTP/2 frames in a stream of bytes in arbitrary pieces. Payloads are skipped; only the position
//! is kept.

/// Length of a frame header (RFC 9113, section 4.1): three bytes of length, type, flags, and four bytes of stream.
const HEAD: usize = 9;

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the payload.
    pub(super) length: u32,
    pub(super) kind: Kind,
    /// Whether the lowest flag is set. It marks SETTINGS and PING frames as answers.
    pub(super) ack: bool,
    /// Zero is the connection itself.
    pub(super) stream: u32,
}

/// The type of a frame (RFC 9113, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    Ping,
    WindowUpdate,
    /// PUSH_PROMISE, GOAWAY, CONTINUATION, and every other type.
    Other,
}

impl Kind {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::Reset,
            4 => Self::Settings,
            6 => Self::Ping,
            8 => Self::WindowUpdate,
            _ => Self::Other,
        }
    }
}

/// A position in a stream of frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frames {
    head: [u8; HEAD],
    have: usize,
    /// Bytes until the next header.
    skip: u32,
}

impl Frames {
    /// Starts after bytes that are not frames.
    pub(super) fn after(skip: u32) -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            skip,
        }
    }

    /// Advances over the next bytes and calls back with each complete header.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        while !bytes.is_empty() {
            // A length that does not fit usize is longer than any slice.
            let skip = usize::try_from(self.skip)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            if skip > 0 {
                self.skip -= skip as u32;
                bytes = &bytes[skip..];
                continue;
            }
            let take = bytes.len().min(HEAD - self.have);
            self.head[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            bytes = &bytes[take..];
            if self.have == HEAD {
                let [a, b, c, kind, flags, stream @ ..] = self.head;
                let head = Head {
                    length: u32::from_be_bytes([0, a, b, c]),
                    kind: Kind::of(kind),
                    ack: flags & 1 == 1,
                    // The highest bit is reserved.
                    stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
                };
                self.have = 0;
                self.skip = head.length;
                each(head);
            }
        }
    }

    /// Whether the next byte begins a frame.
    pub(super) fn at_boundary(&self) -> bool {
        self.have == 0 && self.skip == 0
    }
}
