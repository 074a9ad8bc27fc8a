//! Makes sockets that met silence fit to be used again, on a thread of its own.
//!
//! Making, registering and closing a socket takes the system as long as the attempt itself; taking one back takes a
//! quarter of that, and a second processor can do it meanwhile.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::{io, thread};

use mio::net::TcpStream;

/// Sockets that are handed over in one go.
const LOT: usize = 64;

type Lot = Vec<TcpStream>;

#[derive(Debug)]
pub(super) struct Recycler {
    lot: Lot,
    /// The thread ends with this channel.
    used: SyncSender<Lot>,
    fit: Receiver<Lot>,
}

impl Recycler {
    /// Holds up to `most` sockets and two lots more.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(most: usize) -> io::Result<Self> {
        // Without room for a lot it takes one only while it has nothing to do.
        let (used, incoming) = sync_channel::<Lot>(most / 2 / LOT);
        let (outgoing, fit) = sync_channel(most / 2 / LOT);
        thread::Builder::new()
            .name("fleet-recycle".to_owned())
            .spawn(move || {
                for mut lot in incoming {
                    lot.retain(disconnect);
                    // What finds no room, or nobody, is closed.
                    let _ = outgoing.try_send(lot);
                }
            })?;
        Ok(Self {
            lot: Lot::new(),
            used,
            fit,
        })
    }

    /// Takes one over.
    pub(super) fn give(&mut self, stream: TcpStream) {
        self.lot.push(stream);
        if self.lot.len() >= LOT {
            // What finds no room is closed.
            let _ = self.used.try_send(std::mem::take(&mut self.lot));
        }
    }

    /// Some that are fit again; none, if there are none.
    pub(super) fn take(&self) -> Lot {
        self.fit.try_recv().unwrap_or_default()
    }
}

/// Ends an attempt without closing its socket; whether that could be done.
fn disconnect(stream: &TcpStream) -> bool {
    // The end is left in it as an error, which the next attempt would be told.
    rustix::net::connect_unspec(stream).is_ok() && stream.take_error().is_ok()
}
