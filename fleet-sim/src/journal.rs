//! The simulator's own record of what was touched: every accepted connection, in memory and as NDJSON.
//!
//! It is written by the devices, so that what a scanner claims can be compared with what arrived.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::Write,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::event::{PollFd, PollFlags};
use serde::{Serialize, Serializer};
use tokio::net::TcpStream;

/// Connections kept in memory; later ones are counted only. A million are some 200 MB.
const KEPT: usize = 1_000_000;

/// One connection that a simulated device accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// Dense from 0 in the order of acceptance.
    pub number: u64,
    /// The device.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Who connected.
    pub peer: SocketAddr,
    /// When it was accepted, since the site started; microseconds in the file.
    #[serde(rename = "at_micros", serialize_with = "micros")]
    pub at: Duration,
    /// The same as microseconds of Unix time.
    pub unix_micros: u64,
    /// Bytes read from the peer so far.
    pub bytes_read: u64,
    /// Bytes sent to the peer so far.
    pub bytes_sent: u64,
    /// What was asked and answered: `version`, `GET /`, `garbage`, ...
    pub answered: Vec<String>,
    /// When it ended, since the site started; none while it is open. Microseconds in the file.
    #[serde(rename = "closed_micros", serialize_with = "optional_micros")]
    pub closed: Option<Duration>,
}

fn micros<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

fn optional_micros<S: Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => micros(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// The record of one running site. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: Vec<Connection>,
    uncounted: u64,
    open: HashMap<IpAddr, Vec<(u64, Weak<TcpStream>)>>,
    most_at_once: BTreeMap<IpAddr, usize>,
    file: Option<(PathBuf, File)>,
    file_broke: Option<String>,
}

/// Why the record cannot be written to a file.
#[derive(Debug, thiserror::Error)]
#[error("the journal {} cannot be created", path.display())]
pub struct JournalError {
    path: PathBuf,
    source: std::io::Error,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                started: Instant::now(),
                state: Mutex::new(State::default()),
            }),
        }
    }

    /// Also writes a line of JSON to a new file at each opening and closing, at once, so that it can be followed
    /// and survives the end of the process.
    ///
    /// # Errors
    /// When the file cannot be created; it is truncated when it exists.
    pub fn write_to(&self, path: &Path) -> Result<(), JournalError> {
        let file = File::create(path).map_err(|source| JournalError {
            path: path.to_owned(),
            source,
        })?;
        self.state().file = Some((path.to_owned(), file));
        Ok(())
    }

    /// How long the site has been running: the clock of every `at` and `closed`.
    pub fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// How many connections were ever accepted.
    pub fn count(&self) -> u64 {
        let state = self.state();
        state.connections.len() as u64 + state.uncounted
    }

    /// Every connection, in the order of acceptance.
    pub fn connections(&self) -> Vec<Connection> {
        self.state().connections.clone()
    }

    /// The connections accepted later than `since`.
    pub fn connections_since(&self, since: Duration) -> Vec<Connection> {
        self.state()
            .connections
            .iter()
            .filter(|connection| connection.at > since)
            .cloned()
            .collect()
    }

    /// Every address that was connected to.
    pub fn touched_addresses(&self) -> BTreeSet<IpAddr> {
        self.state()
            .connections
            .iter()
            .map(|connection| connection.address)
            .collect()
    }

    /// The most connections that any one device had open at a time. One that its peer has closed does not count,
    /// even when the device has yet to notice.
    pub fn max_concurrent_per_host(&self) -> usize {
        self.state()
            .most_at_once
            .values()
            .copied()
            .max()
            .unwrap_or(0)
    }

    /// Why writing to the file stopped, if it did.
    pub fn file_error(&self) -> Option<String> {
        self.state().file_broke.clone()
    }

    pub(crate) fn opened(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
        stream: &Arc<TcpStream>,
    ) -> u64 {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let at = self.now();
        let mut state = self.state();
        let number = state.connections.len() as u64 + state.uncounted;
        let open = state.open.entry(local.ip()).or_default();
        open.push((number, Arc::downgrade(stream)));
        let at_once = open
            .iter()
            .filter_map(|(_, stream)| stream.upgrade())
            .filter(|stream| !closed_by_peer(stream))
            .count();
        let most = state.most_at_once.entry(local.ip()).or_default();
        *most = (*most).max(at_once);
        let connection = Connection {
            number,
            address: local.ip(),
            port: local.port(),
            peer,
            at,
            unix_micros: u64::try_from(unix.as_micros()).unwrap_or(u64::MAX),
            bytes_read: 0,
            bytes_sent: 0,
            answered: Vec::new(),
            closed: None,
        };
        state.write_line("open", &connection);
        if state.connections.len() < KEPT {
            state.connections.push(connection);
        } else {
            state.uncounted += 1;
        }
        number
    }

    pub(crate) fn update(&self, number: u64, change: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.state().connections.get_mut(number as usize) {
            change(connection);
        }
    }

    pub(crate) fn closed(&self, number: u64, address: IpAddr) {
        let now = self.now();
        let mut state = self.state();
        if let Some(open) = state.open.get_mut(&address) {
            open.retain(|(other, _)| *other != number);
        }
        let ended = state
            .connections
            .get_mut(number as usize)
            .map(|connection| {
                connection.closed = Some(now);
                connection.clone()
            });
        if let Some(connection) = ended {
            state.write_line("close", &connection);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write_line(&mut self, event: &'static str, connection: &Connection) {
        #[derive(Serialize)]
        struct Line<'a> {
            event: &'static str,
            #[serde(flatten)]
            connection: &'a Connection,
        }
        let Some((path, file)) = &mut self.file else {
            return;
        };
        let written = serde_json::to_vec(&Line { event, connection })
            .map_err(std::io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                file.write_all(&line)
            });
        if let Err(error) = written {
            self.file_broke = Some(format!("{}: {error}", path.display()));
            self.file = None;
        }
    }
}

/// Whether the peer has sent FIN or RST, whatever is still unread.
fn closed_by_peer(stream: &TcpStream) -> bool {
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut descriptors = [PollFd::new(stream, gone)];
    let at_once = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match rustix::event::poll(&mut descriptors, Some(&at_once)) {
        Ok(_) => descriptors
            .iter()
            .any(|descriptor| descriptor.revents().intersects(gone)),
        Err(_) => false,
    }
}
