//! Prepares unanswered sockets for reuse, on a separate thread.
//!
//! Creating, registering and closing a socket costs the system as much as the attempt itself. Disconnecting costs a
//! quarter of that, and a second processor does it in parallel.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use mio::net::TcpStream;

/// Sockets that are passed on together.
const LOT: usize = 64;

type Lot = Vec<TcpStream>;

/// Takes used sockets, a lot at a time, and returns them when they are ready. It closes sockets beyond its bound.
#[derive(Debug)]
pub(super) struct Recycler {
    lot: Lot,
    /// None if the bound is too small for reuse. The thread ends when the first channel closes.
    channels: Option<(SyncSender<Lot>, Receiver<Lot>)>,
}

impl Recycler {
    /// Holds up to `most` sockets, including the last lot that [`Recycler::take`] returned.
    ///
    /// # Errors
    /// When the system provides no thread.
    pub(super) fn start(most: usize) -> io::Result<Self> {
        // One lot is being filled, one is in work and one is in use. The rest waits on either side.
        let waiting = (most / LOT).saturating_sub(3) / 2;
        if waiting == 0 {
            return Ok(Self {
                lot: Lot::new(),
                channels: None,
            });
        }
        let (used, incoming) = sync_channel::<Lot>(waiting);
        let (outgoing, ready) = sync_channel(waiting);
        thread::Builder::new()
            .name("fleet-recycle".to_owned())
            .spawn(move || {
                for mut lot in incoming {
                    lot.retain(disconnect);
                    // If the channel is full, the sweep needs no more. Dropping the lot closes its
                    // sockets.
                    let _ = outgoing.try_send(lot);
                }
            })?;
        Ok(Self {
            lot: Lot::new(),
            channels: Some((used, ready)),
        })
    }

    /// Takes a used socket.
    pub(super) fn give(&mut self, stream: TcpStream) {
        let Some((used, _)) = &self.channels else {
            return;
        };
        self.lot.push(stream);
        if self.lot.len() >= LOT {
            // The sweep must never block. A lot that finds no room is dropped, which closes its
            // sockets.
            let _ = used.try_send(std::mem::take(&mut self.lot));
        }
    }

    /// Returns sockets that are ready, if any.
    pub(super) fn take(&self) -> Lot {
        let lot = self
            .channels
            .as_ref()
            .and_then(|(_, ready)| ready.try_recv().ok());
        lot.unwrap_or_default()
    }
}

/// Ends an attempt without closing its socket. Returns whether that worked.
fn disconnect(stream: &TcpStream) -> bool {
    // Disconnecting leaves an error in the socket, which the next attempt would report as its own.
    rustix::net::connect_unspec(stream).is_ok() && stream.take_error().is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn listener(backlog: i32) -> (std::net::TcpListener, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).expect("a port");
        socket.listen(backlog).expect("it listens");
        // A missing connection fails the test instead of blocking it.
        let limit = std::time::Duration::from_secs(30);
        socket
            .set_read_timeout(Some(limit))
            .expect("a time-out for accepting");
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr().expect("its address");
        (listener, address)
    }

    fn attempt(to: SocketAddr) -> TcpStream {
        TcpStream::connect(to).expect("a connection attempt")
    }

    #[test]
    fn a_used_socket_connects_again() {
        let (listener, there) = listener(128);
        let mut recycler = Recycler::start(LOT * 5).expect("a thread");
        // With a backlog of 0 it answers the first attempt only, and no test accepts that one.
        let (_full, silent) = self::listener(0);
        (0..LOT).for_each(|_| recycler.give(attempt(silent)));
        let ready = loop {
            match recycler.take() {
                lot if lot.is_empty() => thread::yield_now(),
                lot => break lot,
            }
        };
        assert_eq!(ready.len(), LOT);
        for stream in ready {
            let begun = rustix::net::connect(&stream, &there);
            assert!(matches!(begun, Ok(()) | Err(rustix::io::Errno::INPROGRESS)));
            let (_taken, from) = listener.accept().expect("a connection");
            assert_eq!(stream.local_addr().expect("connected"), from);
            assert!(stream.take_error().expect("its state").is_none());
        }
    }

    #[test]
    fn a_socket_beyond_the_bound_is_closed() {
        let (listener, there) = listener(128);
        let mut recycler = Recycler::start(LOT * 4).expect("nothing to start");
        for _ in 0..LOT {
            recycler.give(attempt(there));
            let (mut taken, _) = listener.accept().expect("a connection");
            let mut nothing = [0; 1];
            let ended = std::io::Read::read(&mut taken, &mut nothing);
            assert!(matches!(ended, Ok(0) | Err(_)), "it is open: {ended:?}");
        }
        assert!(recycler.take().is_empty());
    }
}
