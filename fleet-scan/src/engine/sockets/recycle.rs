//! Makes sockets that met silence fit to be used again, on a thread of its own, where there is room for more sockets.
//!
//! Making, registering and closing a socket takes the system as long as the attempt itself; taking one back takes a
//! quarter of that, and a second processor can do it meanwhile.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use mio::net::TcpStream;

/// Sockets that are handed over in one go.
const LOT: usize = 64;

type Lot = Vec<TcpStream>;

/// Takes used sockets over, a lot at a time, and gives them back when they are fit. Never holds more than it may: what
/// finds no room is closed.
#[derive(Debug)]
pub(super) struct Recycler {
    lot: Lot,
    /// None where there is no room for it to be of use. The thread ends with the first channel.
    way: Option<(SyncSender<Lot>, Receiver<Lot>)>,
}

impl Recycler {
    /// Holds up to `most` sockets, with those that [`Recycler::take`] gave last.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(most: usize) -> io::Result<Self> {
        // One is gathered, one in work, one taken; the rest waits on either side.
        let waiting = (most / LOT).saturating_sub(3) / 2;
        if waiting == 0 {
            return Ok(Self {
                lot: Lot::new(),
                way: None,
            });
        }
        let (used, incoming) = sync_channel::<Lot>(waiting);
        let (outgoing, fit) = sync_channel(waiting);
        thread::Builder::new()
            .name("fleet-recycle".to_owned())
            .spawn(move || {
                for mut lot in incoming {
                    lot.retain(disconnect);
                    let _ = outgoing.try_send(lot);
                }
            })?;
        Ok(Self {
            lot: Lot::new(),
            way: Some((used, fit)),
        })
    }

    /// Takes one over.
    pub(super) fn give(&mut self, stream: TcpStream) {
        let Some((used, _)) = &self.way else {
            return;
        };
        self.lot.push(stream);
        if self.lot.len() >= LOT {
            let _ = used.try_send(std::mem::take(&mut self.lot));
        }
    }

    /// Some that are fit again; none, if there are none.
    pub(super) fn take(&self) -> Lot {
        let lot = self.way.as_ref().and_then(|(_, fit)| fit.try_recv().ok());
        lot.unwrap_or_default()
    }
}

/// Ends an attempt without closing its socket; whether that could be done.
fn disconnect(stream: &TcpStream) -> bool {
    // The end is left in it as an error, which the next attempt would be told.
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
        // Nobody is waited for in vain.
        let patience = std::time::Duration::from_secs(30);
        socket
            .set_read_timeout(Some(patience))
            .expect("a time-out for accepting");
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr().expect("its address");
        (listener, address)
    }

    fn attempt(to: SocketAddr) -> TcpStream {
        TcpStream::connect(to).expect("an attempt")
    }

    #[test]
    fn what_was_given_up_connects_again() {
        let (listener, there) = listener(128);
        let mut recycler = Recycler::start(LOT * 5).expect("a thread");
        // Answers none but the first, whom nobody takes either.
        let (_full, silent) = self::listener(0);
        (0..LOT).for_each(|_| recycler.give(attempt(silent)));
        let fit = loop {
            match recycler.take() {
                lot if lot.is_empty() => thread::yield_now(),
                lot => break lot,
            }
        };
        assert_eq!(fit.len(), LOT);
        for stream in fit {
            let begun = rustix::net::connect(&stream, &there);
            assert!(matches!(begun, Ok(()) | Err(rustix::io::Errno::INPROGRESS)));
            let (_taken, from) = listener.accept().expect("a connection");
            assert_eq!(stream.local_addr().expect("connected"), from);
            assert!(stream.take_error().expect("its state").is_none());
        }
    }

    #[test]
    fn what_finds_no_room_is_closed() {
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
