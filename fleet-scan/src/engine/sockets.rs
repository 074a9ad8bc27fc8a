//! The sockets of connection attempts. Thin: it decides nothing.
//!
//! One system poller serves all of them: an attempt costs a descriptor and a few bytes, and no task. Sockets that got no
//! answer are reused ([`recycle`]).

mod recycle;

use std::{
    io,
    net::{SocketAddr, TcpStream as StdStream},
    os::fd::OwnedFd,
    time::Duration,
};

use fleet_core::Endpoint;
use mio::{Events, Interest, Poll, Token, Waker, net::TcpStream};
use recycle::Recycler;
use rustix::io::Errno;

use super::schedule::{Attempt, Key, TRIES};
use crate::dial::Failure;

/// Events that are taken from the poller at a time.
const BATCH: usize = 1_024;

/// The token of the [`Waker`]. No attempt has it.
const WAKE: Token = Token(usize::MAX);

#[derive(Debug)]
pub(super) struct Sockets {
    poll: Poll,
    events: Events,
    slots: Vec<Held>,
    /// Unconnected IPv4 sockets, still registered in the poller under their last attempt.
    spare: Vec<TcpStream>,
    recycler: Recycler,
}

/// The sockets of one endpoint.
#[derive(Debug, Default)]
struct Held {
    generation: u32,
    is_v4: bool,
    streams: [Option<TcpStream>; TRIES as usize],
}

/// The state of an attempt.
#[derive(Debug)]
pub(super) enum AttemptState {
    Open,
    Failed(Failure),
    Pending,
}

impl Sockets {
    /// Holds `room` sockets at a time, and up to a sixteenth more for reuse.
    ///
    /// # Errors
    /// When the system provides no poller or no thread.
    pub(super) fn new(room: usize) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(BATCH),
            slots: Vec::new(),
            spare: Vec::new(),
            recycler: Recycler::start(room / 16)?,
        })
    }

    /// Returns a handle that ends a wait from another thread.
    ///
    /// # Errors
    /// When the system is out of descriptors.
    pub(super) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKE)
    }

    /// Starts to connect.
    ///
    /// # Errors
    /// The immediate error of the system.
    pub(super) fn open(&mut self, attempt: Attempt, endpoint: Endpoint) -> io::Result<()> {
        let address = SocketAddr::new(endpoint.ip, endpoint.port.number());
        let spare = self.spare(endpoint);
        let registry = self.poll.registry();
        // Register after connecting, because the poller reports an unconnected socket as closed.
        let stream = match spare {
            Some(mut stream) => {
                match rustix::net::connect(&stream, &address) {
                    Ok(()) | Err(Errno::INPROGRESS) => {}
                    Err(error) => return Err(error.into()),
                }
                registry.reregister(&mut stream, token(attempt), Interest::WRITABLE)?;
                stream
            }
            None => {
                let mut stream = TcpStream::connect(address)?;
                registry.register(&mut stream, token(attempt), Interest::WRITABLE)?;
                stream
            }
        };
        let slot = attempt.key.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, Held::default);
        }
        let held = &mut self.slots[slot];
        held.generation = attempt.key.generation;
        held.is_v4 = endpoint.ip.is_ipv4();
        held.streams[usize::from(attempt.nth)] = Some(stream);
        Ok(())
    }

    /// Waits for answers or a wake-up, at most for `most`, or without a limit if that is none. Puts a batch of attempts
    /// with events into `answered`.
    pub(super) fn wait(
        &mut self,
        most: Option<Duration>,
        answered: &mut Vec<Attempt>,
    ) -> io::Result<()> {
        self.poll.poll(&mut self.events, most)?;
        answered.clear();
        for event in &self.events {
            let Token(token) = event.token();
            // The waker's token names an attempt that no slot has, so it needs no case of its own.
            let (slot, nth) = (token & 0xffff, token >> 16);
            if let Some(held) = self.slots.get(slot) {
                let key = Key {
                    slot: slot as u32,
                    generation: held.generation,
                };
                answered.push(Attempt {
                    key,
                    nth: nth as u8,
                });
            }
        }
        Ok(())
    }

    /// Returns the state of an attempt.
    pub(super) fn state(&self, attempt: Attempt) -> AttemptState {
        let Some(stream) = self.stream(attempt) else {
            return AttemptState::Pending;
        };
        match stream.take_error() {
            // The event may come from the socket's earlier use. Only a peer address proves a
            // connection.
            Ok(None) => match stream.peer_addr() {
                Ok(_) => AttemptState::Open,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => AttemptState::Pending,
                Err(error) => AttemptState::Failed(Failure::reported(error)),
            },
            Ok(Some(error)) | Err(error) => AttemptState::Failed(Failure::reported(error)),
        }
    }

    /// Passes on the connection of an attempt.
    pub(super) fn take(&mut self, attempt: Attempt) -> io::Result<StdStream> {
        let mut stream = self
            .stream_mut(attempt)
            .and_then(Option::take)
            .ok_or(io::ErrorKind::NotConnected)?;
        // tokio polls it from now on. Events here would wake the sweep for nothing.
        self.poll.registry().deregister(&mut stream)?;
        Ok(StdStream::from(OwnedFd::from(stream)))
    }

    /// Closes the connection of an attempt.
    pub(super) fn close(&mut self, attempt: Attempt) {
        if let Some(stream) = self.stream_mut(attempt) {
            *stream = None;
        }
    }

    /// Stops waiting for the answer to an attempt.
    pub(super) fn give_up(&mut self, attempt: Attempt) {
        let stream = self.stream_mut(attempt).and_then(Option::take);
        let is_v4 = self
            .slots
            .get(attempt.key.slot as usize)
            .is_some_and(|held| held.is_v4);
        // Only IPv4 networks are scanned as a whole. The few IPv6 sockets are not worth a second
        // pool.
        if let Some(stream) = stream.filter(|_| is_v4) {
            self.recycler.give(stream);
        }
    }

    /// Stops waiting for answers to every attempt at an endpoint.
    pub(super) fn give_up_all(&mut self, key: Key) {
        for nth in 0..TRIES {
            self.give_up(Attempt { key, nth });
        }
    }

    fn spare(&mut self, to: Endpoint) -> Option<TcpStream> {
        if !to.ip.is_ipv4() {
            return None;
        }
        if self.spare.is_empty() {
            self.spare = self.recycler.take();
        }
        self.spare.pop()
    }

    fn stream(&self, attempt: Attempt) -> Option<&TcpStream> {
        let held = self.slots.get(attempt.key.slot as usize)?;
        let current = held.generation == attempt.key.generation;
        held.streams
            .get(usize::from(attempt.nth))
            .filter(|_| current)?
            .as_ref()
    }

    fn stream_mut(&mut self, attempt: Attempt) -> Option<&mut Option<TcpStream>> {
        let held = self.slots.get_mut(attempt.key.slot as usize)?;
        let current = held.generation == attempt.key.generation;
        held.streams
            .get_mut(usize::from(attempt.nth))
            .filter(|_| current)
    }
}

/// A slot has 16 bits. The token holds no generation: a closed socket causes no events, and a reused socket can at most
/// cause a needless look at another attempt.
fn token(attempt: Attempt) -> Token {
    Token(attempt.key.slot as usize | usize::from(attempt.nth) << 16)
}
