//! Records every accepted connection of a simulated site, in memory and as NDJSON.
//!
//! The devices write the journal. Tests compare it with the claims of a scanner.

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

/// The limit of connections in memory. Later ones are only counted. A million connections take about 200 MB.
const KEPT: usize = 1_000_000;

/// One connection that a simulated device accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// Sequence number, from 0 in the order of acceptance.
    pub number: u64,
    /// The address of the device.
    pub address: IpAddr,
    /// The port of the device.
    pub port: u16,
    /// The address of the client.
    pub peer: SocketAddr,
    /// The time of acceptance since the site started. The file holds microseconds.
    #[serde(rename = "at_micros", serialize_with = "micros")]
    pub at: Duration,
    /// The time of acceptance in microseconds of Unix time.
    pub unix_micros: u64,
    /// Bytes read from the peer so far.
    pub bytes_read: u64,
    /// Bytes sent to the peer so far.
    pub bytes_sent: u64,
    /// The requests that were answered: `version`, `GET /`, `garbage`, ...
    pub answered: Vec<String>,
    /// The time of the end since the site started, or none while the connection is open. The file holds microseconds.
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

/// The journal of one running site. Clones are cheap and share it.
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

/// Why the journal file cannot be written.
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

    /// Also appends a JSON line to a file at each opening and closing. Each line is written immediately, so readers can
    /// follow the file, and it survives a crash.
    ///
    /// # Errors
    /// If the file cannot be created. An existing file is truncated.
    pub fn write_to(&self, path: &Path) -> Result<(), JournalError> {
        let file = File::create(path).map_err(|source| JournalError {
            path: path.to_owned(),
            source,
        })?;
        self.state().file = Some((path.to_owned(), file));
        Ok(())
    }

    /// The time since the site started. `at` and `closed` use this clock.
    pub fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// The number of connections that were accepted in total.
    pub fn count(&self) -> u64 {
        let state = self.state();
        state.connections.len() as u64 + state.uncounted
    }

    /// All recorded connections, in the order of acceptance.
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

    /// All addresses that received a connection.
    pub fn touched_addresses(&self) -> BTreeSet<IpAddr> {
        self.state()
            .connections
            .iter()
            .map(|connection| connection.address)
            .collect()
    }

    /// The highest number of simultaneous connections to one device. A connection that the peer has closed does not
    /// count, even if the device has not noticed yet.
    pub fn max_concurrent_per_host(&self) -> usize {
        self.state()
            .most_at_once
            .values()
            .copied()
            .max()
            .unwrap_or(0)
    }

    /// Why writing to the file stopped, or none.
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
        // A strong reference would keep the socket open.
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

/// Whether the peer has sent FIN or RST, even if data is still unread.
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
