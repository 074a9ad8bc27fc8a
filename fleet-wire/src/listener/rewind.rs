//! A transport whose first bytes are read already, and the protocol detection from those bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The first bytes of every HTTP/2 connection (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of a TLS handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// The protocol that a peer starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    Tls,
    Http1,
    Http2,
}

/// Replays the bytes that were read, then continues with the transport.
#[derive(Debug)]
pub(super) struct Rewind<T> {
    io: T,
    seen: Vec<u8>,
    start: usize,
}

impl<T> Rewind<T> {
    /// Replays these bytes first.
    pub(super) fn after(io: T, seen: Vec<u8>) -> Self {
        Self { io, seen, start: 0 }
    }
}

impl<T: AsyncRead + Unpin> Rewind<T> {
    /// Reads just enough bytes to detect the protocol; `None` if the peer closes before that.
    pub(super) async fn sniff(mut io: T) -> io::Result<Option<(Opening, Self)>> {
        let mut seen = [0; PREFACE.len()];
        let mut end = 0;
        let opening = loop {
            let read = io.read(&mut seen[end..]).await?;
            if read == 0 {
                return Ok(None);
            }
            end += read;
            if seen[0] == TLS_HANDSHAKE {
                break Opening::Tls;
            }
            // A request of HTTP/1 can be shorter than the preface, so the first difference decides.
            if seen[..end] != PREFACE[..end] {
                break Opening::Http1;
            }
            if end == PREFACE.len() {
                break Opening::Http2;
            }
        };
        Ok(Some((opening, Self::after(io, seen[..end].to_vec()))))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewind<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = &this.seen[this.start..];
        if left.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        }
        let taken = buffer.remaining().min(left.len());
        buffer.put_slice(&left[..taken]);
        this.start += taken;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewind<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
