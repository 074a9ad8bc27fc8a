//! The transport of an HTTP/2 connection with its [`Meter`]: ends the connection that floods it.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    config::ListenerCounts,
    meter::{Flood, Meter},
    rewind::PREFACE,
};

/// GOAWAY with ENHANCE_YOUR_CALM and no stream promised (RFC 9113, sections 6.8 and 7).
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0b];

/// Passes bytes on and counts the frames in them.
#[derive(Debug)]
pub(super) struct Metered<T> {
    io: T,
    meter: Meter,
    since: Instant,
    flood: Option<Flood>,
    peer: SocketAddr,
    counts: Arc<ListenerCounts>,
}

impl<T: AsyncWrite + Unpin> Metered<T> {
    /// Wraps a transport of so many peers, whose next bytes are the preface.
    pub(super) fn new(io: T, peer: SocketAddr, peers: u32, counts: Arc<ListenerCounts>) -> Self {
        Self {
            io,
            meter: Meter::new(PREFACE.len() as u32, peers),
            since: Instant::now(),
            flood: None,
            peer,
            counts,
        }
    }

    /// Counts the flood, and sends GOAWAY if that needs no waiting.
    fn cut(&mut self, cx: &mut Context<'_>, flood: Flood) -> io::Error {
        self.flood = Some(flood);
        self.counts.count_flood(flood);
        tracing::debug!(peer = %self.peer, frames = flood.as_str(), "a peer floods its connection and is cut");
        // The peer would take these bytes for the payload of a frame that is half sent.
        if self.meter.between_frames()
            && let Poll::Ready(Ok(_)) = Pin::new(&mut self.io).poll_write(cx, &GOAWAY)
        {
            // The connection ends in any case.
            let _ = Pin::new(&mut self.io).poll_flush(cx);
        }
        flooded(flood)
    }
}

fn flooded(flood: Flood) -> io::Error {
    io::Error::other(format!("the peer sent too many frames: {}", flood.as_str()))
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(flood) = this.flood {
            return Poll::Ready(Err(flooded(flood)));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        let bytes = &buffer.filled()[before..];
        let verdict = this.meter.received(this.since.elapsed(), bytes);
        Poll::Ready(verdict.map_err(|flood| this.cut(cx, flood)))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        // Bytes that were not written come again in the next write.
        self.meter.sent(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        let mut left = written;
        for slice in slices {
            let part = left.min(slice.len());
            self.meter.sent(&slice[..part]);
            left -= part;
        }
        Poll::Ready(Ok(written))
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
