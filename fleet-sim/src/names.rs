//! A configurable name server that counts queries. Start with [`NameServer`].

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{net::UdpSocket, task::JoinHandle};

const HEADER: usize = 12;
/// Record types and class of RFC 1035 and RFC 3596.
const A: u16 = 1;
const CNAME: u16 = 5;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const IN: u16 = 1;
/// A compression pointer to the question's name, which follows the header.
const QUESTION: [u8; 2] = [0xc0, HEADER as u8];
/// Disables caching, so that tests can change records at any time.
const TTL: u32 = 0;

/// A record of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameRecord {
    /// An address.
    Address(IpAddr),
    /// Another name. The addresses that follow belong to that name.
    Alias(String),
    /// The name of an address. See [`NameServer::set_reverse`].
    Host(String),
}

/// A name server over UDP. Unknown names do not exist. Dropping it stops the server.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, Vec<NameRecord>>,
    /// The number of IPv4 queries for each name.
    asked: BTreeMap<String, usize>,
}

impl NameServer {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// If no port is available.
    pub async fn start() -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts at an address. At port 5353 of a host it is a responder of multicast DNS that answers direct queries.
    ///
    /// # Errors
    ///
    /// If the address is not available.
    pub async fn start_at(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        let address = socket.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let serving = tokio::spawn(serve(socket, Arc::clone(&state)));
        Ok(Self {
            address,
            state,
            serving,
        })
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the records of a name.
    pub fn set(&self, name: &str, records: impl IntoIterator<Item = NameRecord>) {
        let records = records.into_iter().collect();
        lock(&self.state).names.insert(name.to_owned(), records);
    }

    /// Names an IPv4 address for reverse queries.
    pub fn set_reverse(&self, ip: Ipv4Addr, name: &str) {
        let [a, b, c, d] = ip.octets();
        let reversed = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
        self.set(&reversed, [NameRecord::Host(name.to_owned())]);
    }

    /// The number of IPv4 queries for a name.
    pub fn asked(&self, name: &str) -> usize {
        lock(&self.state).asked.get(name).copied().unwrap_or(0)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut datagram = [0; 512];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut datagram).await else {
            return;
        };
        let answer = datagram
            .get(..length)
            .and_then(|query| answer(query, &mut lock(&state)));
        if let Some(answer) = answer {
            // A failed send needs no handling, because clients retry.
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// The answer to a query with one question.
fn answer(query: &[u8], state: &mut State) -> Option<Vec<u8>> {
    let (name, end) = question(query)?;
    let kind = number(query.get(end..end + 2)?)?;
    if kind == A {
        *state.asked.entry(name.clone()).or_default() += 1;
    }
    let known = state.names.get(&name);
    let mut answers = Vec::new();
    let mut count: u16 = 0;
    let mut owner = QUESTION.to_vec();
    for record in known.into_iter().flatten() {
        let (its_kind, data) = match record {
            NameRecord::Address(IpAddr::V4(ip)) => (A, ip.octets().to_vec()),
            NameRecord::Address(IpAddr::V6(ip)) => (AAAA, ip.octets().to_vec()),
            NameRecord::Alias(alias) => (CNAME, labels(alias)),
            NameRecord::Host(name) => (PTR, labels(name)),
        };
        if its_kind == kind || its_kind == CNAME {
            count += 1;
            answers.extend_from_slice(&owner);
            answers.extend_from_slice(&its_kind.to_be_bytes());
            answers.extend_from_slice(&IN.to_be_bytes());
            answers.extend_from_slice(&TTL.to_be_bytes());
            answers.extend_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
            answers.extend_from_slice(&data);
        }
        if its_kind == CNAME {
            owner = data;
        }
    }
    // Flags: response, authoritative, recursion desired and available. Code 3 is "no such name".
    let flags: u16 = 0x8580 | if known.is_some() { 0 } else { 3 };
    let mut message = query.get(..2)?.to_vec();
    for field in [flags, 1, count, 0, 0] {
        message.extend_from_slice(&field.to_be_bytes());
    }
    message.extend_from_slice(query.get(HEADER..end + 4)?);
    message.extend_from_slice(&answers);
    Some(message)
}

/// The name in the question in lower case, and the offset of its end.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let mut at = HEADER;
    let mut parts = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((parts.join("."), at));
        }
        let label = std::str::from_utf8(query.get(at..at + length)?).ok()?;
        parts.push(label.to_ascii_lowercase());
        at += length;
    }
}

fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        // A label has at most 63 bytes. Longer labels are truncated, and no test queries them.
        let label = label.as_bytes();
        bytes.push(label.len().min(63) as u8);
        bytes.extend(label.iter().take(63));
    }
    bytes.push(0);
    bytes
}

fn number(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}
