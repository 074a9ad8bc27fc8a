//! The sockets of connection attempts, and word of which of them were answered. Thin: decides nothing.
//!
//! One poller of the system for all of them: an attempt costs a descriptor and a few bytes, no task. A socket that met
//! silence is used again ([`recycle`]).

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

/// Answers that are taken from the system at a time.
const BATCH: usize = 1_024;

/// What a [`Waker`] says; no attempt's.
const WOKEN: Token = Token(usize::MAX);

#[derive(Debug)]
pub(super) struct Sockets {
    poll: Poll,
    events: Events,
    slots: Vec<Held>,
    /// IPv4 sockets that are not connected; the poller knows them by what they were last.
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

/// What became of an attempt so far.
#[derive(Debug)]
pub(super) enum Heard {
    Open,
    Failed(Failure),
    Nothing,
}

impl Sockets {
    /// For `room` sockets at a time: a sixteenth more may be open.
    ///
    /// # Errors
    /// When the system gives no poller or no thread.
    pub(super) fn new(room: usize) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(BATCH),
            slots: Vec::new(),
            spare: Vec::new(),
            recycler: Recycler::start(room / 16)?,
        })
    }

    /// Ends a wait from another thread.
    ///
    /// # Errors
    /// When the system is out of descriptors.
    pub(super) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WOKEN)
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// What the system says at once.
    pub(super) fn open(&mut self, attempt: Attempt, endpoint: Endpoint) -> io::Result<()> {
        let address = SocketAddr::new(endpoint.ip, endpoint.port.number());
        let spare = self.spare(endpoint);
        let registry = self.poll.registry();
        // Registered after connecting, since a socket that was not connected at all is reported as closed.
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

    /// Waits for answers, for a wake-up, or so long, which is for ever when nothing is said. Puts the attempts that
    /// were answered into `answered`, a batch at most.
    pub(super) fn wait(
        &mut self,
        most: Option<Duration>,
        answered: &mut Vec<Attempt>,
    ) -> io::Result<()> {
        self.poll.poll(&mut self.events, most)?;
        answered.clear();
        for event in &self.events {
            let Token(token) = event.token();
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

    /// What became of an attempt.
    pub(super) fn heard(&self, attempt: Attempt) -> Heard {
        let Some(stream) = self.stream(attempt) else {
            return Heard::Nothing;
        };
        match stream.take_error() {
            Ok(None) => match stream.peer_addr() {
                Ok(_) => Heard::Open,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => Heard::Nothing,
                Err(error) => Heard::Failed(Failure::of(error)),
            },
            Ok(Some(error)) | Err(error) => Heard::Failed(Failure::of(error)),
        }
    }

    /// Hands over the connection of an attempt.
    pub(super) fn take(&mut self, attempt: Attempt) -> io::Result<StdStream> {
        let mut stream = self
            .stream_mut(attempt)
            .and_then(Option::take)
            .ok_or(io::ErrorKind::NotConnected)?;
        self.poll.registry().deregister(&mut stream)?;
        Ok(StdStream::from(OwnedFd::from(stream)))
    }

    /// Closes the connection of an attempt.
    pub(super) fn close(&mut self, attempt: Attempt) {
        if let Some(stream) = self.stream_mut(attempt) {
            *stream = None;
        }
    }

    /// Waits no more for the answer to an attempt.
    pub(super) fn give_up(&mut self, attempt: Attempt) {
        let stream = self.stream_mut(attempt).and_then(Option::take);
        let is_v4 = self
            .slots
            .get(attempt.key.slot as usize)
            .is_some_and(|held| held.is_v4);
        if let Some(stream) = stream.filter(|_| is_v4) {
            self.recycler.give(stream);
        }
    }

    /// Waits no more for the answer to any attempt at an endpoint.
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

/// A slot has 16 bits. Generations need none: a closed socket is not reported any more, and one that waits to be used
/// again is at most mistaken for another one, which is then looked at.
fn token(attempt: Attempt) -> Token {
    Token(attempt.key.slot as usize | usize::from(attempt.nth) << 16)
}
