//! A responder of multicast DNS on loopback that announces what a test wants, and counts what it is asked. Read
//! [`Announcer`] first.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::{net::UdpSocket, task::JoinHandle};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// Record types of RFC 1035, RFC 2782 and RFC 3596.
const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
/// Class IN; with the bit that says that there is no other record of this kind and name (RFC 6762, 10.2).
const IN: u16 = 1;
const ONLY_ONE: u16 = 0x8001;
const TTL: u32 = 120;

/// One announced service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Such as `_http._tcp`.
    pub service: String,
    /// Of the service, one label.
    pub instance: String,
    /// Its host, one label.
    pub host: String,
    /// Every address of the host.
    pub addresses: Vec<IpAddr>,
    /// Where the service is.
    pub port: u16,
}

/// Answers whoever asks for a service on the loopback interface, with all records at once. Dropping it ends it.
#[derive(Debug)]
pub struct Announcer {
    asked: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Announcer {
    /// Announces from now on. `port` is 5353 in real life; another one is a network of its own.
    ///
    /// # Errors
    ///
    /// No socket.
    pub fn start(port: u16, announcements: Vec<Announcement>) -> io::Result<Self> {
        let socket = open(port)?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let serving = tokio::spawn(serve(socket, port, announcements, log));
        Ok(Self { asked, serving })
    }

    /// The names that were asked for, in order, in lower case.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.asked).clone()
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock(asked: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(port: u16) -> io::Result<UdpSocket> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(GROUP, port))?;
    sockopt::set_ip_add_membership(&socket, &GROUP, &Ipv4Addr::LOCALHOST)?;
    sockopt::set_ip_multicast_if(&socket, &Ipv4Addr::LOCALHOST)?;
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

async fn serve(
    socket: UdpSocket,
    port: u16,
    announcements: Vec<Announcement>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut datagram = [0; 9_000];
    loop {
        let Ok((length, _)) = socket.recv_from(&mut datagram).await else {
            return;
        };
        let query = datagram.get(..length).unwrap_or_default();
        // The flags of a response begin with a one.
        if query.get(2).is_none_or(|flags| flags & 0x80 != 0) {
            continue;
        }
        let names = questions(query).unwrap_or_default();
        lock(&asked).extend(names.iter().cloned());
        for one in &announcements {
            let service = format!("{}.local", one.service.to_ascii_lowercase());
            if names.contains(&service) {
                // Who misses it asks again.
                let _ = socket
                    .send_to(&one.response(), SocketAddrV4::new(GROUP, port))
                    .await;
            }
        }
    }
}

impl Announcement {
    /// What announces it: every record of it, the most telling one last.
    pub fn response(&self) -> Vec<u8> {
        let service = labels(&[], &format!("{}.local", self.service));
        let instance = labels(&[&self.instance], &format!("{}.local", self.service));
        let host = labels(&[&self.host], "local");
        let mut records = Vec::new();
        for address in &self.addresses {
            match address {
                IpAddr::V4(ip) => records.push(record(&host, A, ONLY_ONE, &ip.octets())),
                IpAddr::V6(ip) => records.push(record(&host, AAAA, ONLY_ONE, &ip.octets())),
            }
        }
        let mut located = vec![0; 4];
        located.extend_from_slice(&self.port.to_be_bytes());
        located.extend_from_slice(&host);
        records.push(record(&instance, SRV, ONLY_ONE, &located));
        records.push(record(&instance, TXT, ONLY_ONE, &[0]));
        records.push(record(&service, PTR, IN, &instance));
        let mut message = vec![0, 0, 0x84, 0, 0, 0];
        // Few enough.
        message.extend_from_slice(&(records.len() as u16).to_be_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend(records.concat());
        message
    }
}

fn record(owner: &[u8], kind: u16, class: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    for field in [kind, class] {
        bytes.extend_from_slice(&field.to_be_bytes());
    }
    bytes.extend_from_slice(&TTL.to_be_bytes());
    // Names and addresses are short.
    bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A name: labels that may hold dots, then those of a domain.
fn labels(first: &[&str], domain: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in first.iter().copied().chain(domain.split('.')) {
        // A label has at most 63 bytes; a longer one is cut, and nobody asks for that.
        let label = label.as_bytes();
        bytes.push(label.len().min(63) as u8);
        bytes.extend(label.iter().take(63));
    }
    bytes.push(0);
    bytes
}

/// The names of all questions in lower case.
fn questions(query: &[u8]) -> Option<Vec<String>> {
    let count = u16::from_be_bytes(query.get(4..6)?.try_into().ok()?);
    let mut at = 12;
    let mut names = Vec::new();
    for _ in 0..count {
        let (name, end) = name(query, at)?;
        names.push(name);
        at = end + 4;
    }
    Some(names)
}

/// The name that begins at a byte, and where it ends.
fn name(query: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut parts = Vec::new();
    let mut end = None;
    // A name has at most 127 labels, and a pointer that leads in circles none.
    for _ in 0..127 {
        let length = *query.get(at)?;
        at += 1;
        if length >= 0xc0 {
            end = end.or(Some(at + 1));
            at = usize::from(length & 0x3f) << 8 | usize::from(*query.get(at)?);
            continue;
        }
        if length == 0 {
            return Some((parts.join("."), end.unwrap_or(at)));
        }
        let label = query.get(at..at + usize::from(length))?;
        parts.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += usize::from(length);
    }
    None
}
