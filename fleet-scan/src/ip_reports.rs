//! Listens for the announcements that miners broadcast, such as those of their IP report buttons, and for ARP and DHCP
//! requests. It never answers: an answer changes the lights of some devices.
//!
//! An announcement is not authenticated. Its address is a hint to dial a target of the scan, and nothing else of it is
//! kept. `ip_reports/parse.rs` and `ip_reports/link.rs` have the formats.

mod link;
mod parse;
mod requests;

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use ipnetwork::Ipv4Network;
use requests::Requests;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{self, sleep_until},
};

use crate::mdns::{Listen, MdnsEvent};

/// Bytes that are read of a datagram. The longest known announcement has about 1,000.
const DATAGRAM: usize = 2_048;

/// Packets per socket and second that are read. A flood must not cost more than this.
const PACKETS_A_SECOND: u32 = 1_000;

/// How long a socket rests after a flood or an error.
const PAUSE: Duration = Duration::from_millis(100);

/// Addresses that are remembered, so that their copies are dropped.
const REMEMBERED: usize = 65_536;

/// The time after a DHCP request in which the device gets its address and sets it up.
const LEASE: Duration = Duration::from_secs(3);

/// Addresses that wait for their device to set them up.
const LEASES: usize = 1_024;

/// The meaning of a packet for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// A device announced itself.
    Announced(Ipv4Addr),
    /// A device that joins the network asked for the address.
    Soon(Ipv4Addr),
    /// A host used the address in everyday traffic. It announced nothing.
    Present(Ipv4Addr),
}

impl Sign {
    fn ip(self) -> Ipv4Addr {
        match self {
            Self::Announced(ip) | Self::Soon(ip) | Self::Present(ip) => ip,
        }
    }
}

/// Limits the packets of one socket.
#[derive(Debug)]
struct Pace {
    second: time::Instant,
    count: u32,
}

impl Pace {
    fn new() -> Self {
        Self {
            second: time::Instant::now(),
            count: 0,
        }
    }

    /// Counts a packet. Returns whether it may be processed.
    fn admits(&mut self) -> bool {
        if self.second.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
        self.count += 1;
        self.count <= PACKETS_A_SECOND
    }
}

/// Reports announcements to `out` until the time is over. Returns whether every port could be used until the end.
pub(crate) async fn listen(
    listen: &Listen,
    until: time::Instant,
    out: &mpsc::Sender<MdnsEvent>,
) -> bool {
    tracing::debug!(service = %listen.listening.service, "listening for announcements");
    let (found, mut signs) = mpsc::channel(64);
    let mut sockets = JoinSet::new();
    let mut is_complete = true;
    for port in parse::PORTS {
        match open(port.saturating_add(listen.report_offset)) {
            Ok(socket) => {
                sockets.spawn(read(socket, port, found.clone()));
            }
            Err(error) => {
                is_complete = false;
                let note = MdnsEvent::Note(
                    "cannot listen for announcements at some ports (another program may use them)",
                    format!("{port}: {error}"),
                );
                let _ = out.send(note).await;
            }
        }
    }
    let subnets: Arc<[Ipv4Network]> = listen.subnets.as_slice().into();
    match Requests::open(&subnets) {
        Ok(all) => {
            for one in all {
                sockets.spawn(one.read(Arc::clone(&subnets), found.clone()));
            }
        }
        // The announcements at the ports are complete without them.
        Err(error) => {
            let note = MdnsEvent::Note(
                "ARP and DHCP requests are not received (the node needs CAP_NET_RAW)",
                error.to_string(),
            );
            let _ = out.send(note).await;
        }
    }
    drop(found);
    let (mut announced, mut present) = (BTreeSet::new(), BTreeSet::new());
    let mut leases: VecDeque<(time::Instant, Ipv4Addr)> = VecDeque::new();
    loop {
        let lease = leases.front().map_or(until, |(at, _)| *at);
        let sign = tokio::select! {
            biased;
            // The end first: a flood must not extend the listening.
            () = sleep_until(until) => break,
            () = sleep_until(lease) => match leases.pop_front() {
                Some((_, ip)) => Sign::Announced(ip),
                None => continue,
            },
            sign = signs.recv() => match sign {
                Some(sign) => sign,
                // No socket could be opened.
                None => {
                    sleep_until(until).await;
                    break;
                }
            },
        };
        let ip = sign.ip();
        // Buttons send several copies, and some devices announce themselves all the time.
        if announced.contains(&ip) {
            continue;
        }
        let (seen, event) = match sign {
            Sign::Announced(ip) => (&mut announced, MdnsEvent::Host(ip.into())),
            Sign::Soon(ip) => {
                let waits = leases.iter().any(|(_, other)| *other == ip);
                if !waits && leases.len() < LEASES {
                    leases.push_back((time::Instant::now() + LEASE, ip));
                }
                continue;
            }
            Sign::Present(ip) if present.contains(&ip) => continue,
            Sign::Present(ip) => (&mut present, MdnsEvent::Hint(ip.into())),
        };
        // Invented addresses can fill the set. Then copies pass, which costs little: a target is dialed once.
        if seen.len() < REMEMBERED {
            seen.insert(ip);
        }
        if out.send(event).await.is_err() {
            return false;
        }
    }
    is_complete
}

async fn read(socket: UdpSocket, port: u16, found: mpsc::Sender<Sign>) {
    let mut datagram = vec![0; DATAGRAM];
    let mut pace = Pace::new();
    loop {
        let Ok((length, SocketAddr::V4(from))) = socket.recv_from(&mut datagram).await else {
            // Errors of a socket that sends nothing are those of the machine, and pass.
            time::sleep(PAUSE).await;
            continue;
        };
        if !pace.admits() {
            time::sleep(PAUSE).await;
            continue;
        }
        let datagram = datagram.get(..length).unwrap_or_default();
        if let Some(ip) = parse::address(port, *from.ip(), datagram)
            && found.send(Sign::Announced(ip)).await.is_err()
        {
            return;
        }
    }
}

fn open(port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Other listeners of this machine keep receiving broadcasts.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
    UdpSocket::from_std(socket.into())
}

/// Parses a datagram as if it had been sent to each of the ports.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let from = Ipv4Addr::new(10, 0, 0, 99);
    for port in parse::PORTS {
        if let Some(ip) = parse::address(port, from, bytes) {
            assert!(!bytes.is_empty(), "{ip} from nothing");
        }
    }
    for sign in [link::arp(bytes), link::dhcp(bytes)].into_iter().flatten() {
        assert!(!sign.ip().is_unspecified(), "{sign:?}");
    }
}
