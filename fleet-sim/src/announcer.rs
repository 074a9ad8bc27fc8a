//! A configurable mDNS responder that records queries. Start with [`Announcer`].

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
/// Class IN, and the same with the cache-flush bit (RFC 6762, 10.2).
const IN: u16 = 1;
const ONLY_ONE: u16 = 0x8001;
const TTL: u32 = 120;

/// One announced service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// The service type, such as `_http._tcp`, or a subtype of it, such as `_axeos._sub._http._tcp`. A device that
    /// announces a subtype answers for the type, too.
    pub service: String,
    /// The name of the service, one label.
    pub instance: String,
    /// The name of its host, one label.
    pub host: String,
    /// Every address of the host.
    pub addresses: Vec<IpAddr>,
    /// The port of the service.
    pub port: u16,
    /// The attributes of the service, such as `board=601`.
    pub attributes: Vec<String>,
}

/// Answers queries for a service or for the name of its host, with all records at once. Dropping it stops the responder.
#[derive(Debug)]
pub struct Announcer {
    asked: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Announcer {
    /// Starts to announce on the loopback interface. Real networks use port 5353. Another port isolates a test.
    ///
    /// # Errors
    ///
    /// If no socket is available.
    pub fn start(port: u16, announcements: Vec<Announcement>) -> io::Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST, port, announcements)
    }

    /// Starts to announce on the interface that has this address, from this address.
    ///
    /// # Errors
    ///
    /// If no socket is available, or no interface has the address.
    pub fn start_on(
        own: Ipv4Addr,
        port: u16,
        announcements: Vec<Announcement>,
    ) -> io::Result<Self> {
        Self::begin(own, port, announcements, AnswerTo::Group)
    }

    /// Starts to announce as [`Self::start_on`], and answers only the querier, as some embedded responders do.
    ///
    /// # Errors
    ///
    /// If no socket is available, or no interface has the address.
    pub fn start_unicast(
        own: Ipv4Addr,
        port: u16,
        announcements: Vec<Announcement>,
    ) -> io::Result<Self> {
        Self::begin(own, port, announcements, AnswerTo::Querier)
    }

    fn begin(
        own: Ipv4Addr,
        port: u16,
        announcements: Vec<Announcement>,
        to: AnswerTo,
    ) -> io::Result<Self> {
        let sockets = Sockets {
            group: open(GROUP, own, port)?,
            own: open(own, own, port)?,
        };
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let serving = tokio::spawn(serve(sockets, port, announcements, to, log));
        Ok(Self { asked, serving })
    }

    /// The queried names, in order, in lower case.
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

/// Who gets the answers of a responder.
#[derive(Clone, Copy, Debug)]
enum AnswerTo {
    Group,
    Querier,
}

/// The sockets of a responder: one receives the queries, one sends the answers from the responder's own address.
struct Sockets {
    group: UdpSocket,
    own: UdpSocket,
}

fn open(bound: Ipv4Addr, own: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // The browser under test uses the same group and port on this machine.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(bound, port))?;
    if bound == GROUP {
        sockopt::set_ip_add_membership(&socket, &GROUP, &own)?;
    }
    // Multicast would otherwise leave by the default route, into a real network.
    sockopt::set_ip_multicast_if(&socket, &own)?;
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

async fn serve(
    sockets: Sockets,
    port: u16,
    announcements: Vec<Announcement>,
    to: AnswerTo,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut datagram = [0; 9_000];
    loop {
        let Ok((length, querier)) = sockets.group.recv_from(&mut datagram).await else {
            return;
        };
        // A query from another port is a legacy one, which is answered directly (RFC 6762, 6.7).
        let to = match to {
            AnswerTo::Group if querier.port() == port => SocketAddrV4::new(GROUP, port).into(),
            AnswerTo::Group | AnswerTo::Querier => querier,
        };
        let query = datagram.get(..length).unwrap_or_default();
        // In a response, the first flag bit is set.
        if query.get(2).is_none_or(|flags| flags & 0x80 != 0) {
            continue;
        }
        let names = questions(query).unwrap_or_default();
        lock(&asked).extend(names.iter().cloned());
        for one in &announcements {
            let service = format!("{}.local", one.service.to_ascii_lowercase());
            let base = format!("{}.local", base(&one.service).to_ascii_lowercase());
            let host = format!("{}.local", one.host.to_ascii_lowercase());
            if [service, base, host]
                .iter()
                .any(|name| names.contains(name))
            {
                // A failed send needs no handling, because clients retry.
                let _ = sockets.own.send_to(&one.response(), to).await;
            }
        }
    }
}

impl Announcement {
    /// Encodes all records of the service. The PTR record, which refers to the others, comes last.
    pub fn response(&self) -> Vec<u8> {
        let service = labels(&[], &format!("{}.local", self.service));
        let instance = labels(&[&self.instance], &format!("{}.local", base(&self.service)));
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
        records.push(record(&instance, TXT, ONLY_ONE, &self.text()));
        records.push(record(&service, PTR, IN, &instance));
        if base(&self.service) != self.service {
            let base = labels(&[], &format!("{}.local", base(&self.service)));
            records.push(record(&base, PTR, IN, &instance));
        }
        let mut message = vec![0, 0, 0x84, 0, 0, 0];
        // The number of records is small.
        message.extend_from_slice(&(records.len() as u16).to_be_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend(records.concat());
        message
    }
}

impl Announcement {
    /// The data of the TXT record: each attribute with its length. An empty record has one empty attribute.
    fn text(&self) -> Vec<u8> {
        if self.attributes.is_empty() {
            return vec![0];
        }
        let mut data = Vec::new();
        for attribute in &self.attributes {
            let attribute = attribute.as_bytes();
            let length = attribute.len().min(255);
            data.push(length as u8);
            data.extend_from_slice(&attribute[..length]);
        }
        data
    }
}

/// The service type without its subtype.
fn base(service: &str) -> &str {
    service
        .split_once("._sub.")
        .map_or(service, |(_, base)| base)
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

/// Encodes a name: labels that may contain dots, then the labels of a domain.
fn labels(first: &[&str], domain: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in first.iter().copied().chain(domain.split('.')) {
        // A label has at most 63 bytes. Longer labels are truncated, and no test queries them.
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

/// The name at an offset, and the offset of its end.
fn name(query: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut parts = Vec::new();
    let mut end = None;
    // A name has at most 127 labels. This also ends loops of pointers.
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
