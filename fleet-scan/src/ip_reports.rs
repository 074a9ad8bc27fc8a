//! Listens for the announcements that miners broadcast, such as those of their IP report buttons. It never answers: an
//! answer changes the lights of some devices.
//!
//! An announcement is not authenticated. Its address is a hint to dial a target of the scan, and nothing else of it is
//! kept. `ip_reports/parse.rs` has the formats.

mod parse;

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

use fleet_discovery::Listening;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{self, sleep_until},
};

use crate::mdns::MdnsEvent;

/// Bytes that are read of a datagram. The longest known announcement has about 1,000.
const DATAGRAM: usize = 2_048;

/// Datagrams per port and second that are read. A flood at a port must not cost more than this.
const DATAGRAMS_A_SECOND: u32 = 1_000;

/// Addresses that are remembered, so that their copies are dropped.
const REMEMBERED: usize = 65_536;

/// Reports announcements to `out` until the time is over. Returns whether every port could be used until the end.
pub(crate) async fn listen(
    listening: &Listening,
    offset: u16,
    until: time::Instant,
    out: &mpsc::Sender<MdnsEvent>,
) -> bool {
    tracing::debug!(service = %listening.service, "listening for announcements");
    let (found, mut addresses) = mpsc::channel(64);
    let mut sockets = JoinSet::new();
    let mut is_complete = true;
    for port in parse::PORTS {
        match open(port.saturating_add(offset)) {
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
    drop(found);
    let mut seen = BTreeSet::new();
    loop {
        let ip = tokio::select! {
            biased;
            // The end first: a flood must not extend the listening.
            () = sleep_until(until) => break,
            ip = addresses.recv() => match ip {
                Some(ip) => ip,
                // No port could be opened.
                None => {
                    sleep_until(until).await;
                    break;
                }
            },
        };
        // Buttons send several copies, and some devices announce themselves all the time.
        if seen.contains(&ip) {
            continue;
        }
        // Invented addresses can fill the set. Then copies pass, which costs little: a target is dialed once.
        if seen.len() < REMEMBERED {
            seen.insert(ip);
        }
        if out.send(MdnsEvent::Host(ip.into())).await.is_err() {
            return false;
        }
    }
    is_complete
}

async fn read(socket: UdpSocket, port: u16, found: mpsc::Sender<Ipv4Addr>) {
    let mut datagram = vec![0; DATAGRAM];
    let mut second = time::Instant::now();
    let mut count = 0;
    loop {
        let Ok((length, SocketAddr::V4(from))) = socket.recv_from(&mut datagram).await else {
            // Errors of a socket that sends nothing are those of the machine, and pass.
            time::sleep(time::Duration::from_millis(100)).await;
            continue;
        };
        if second.elapsed() >= time::Duration::from_secs(1) {
            (second, count) = (time::Instant::now(), 0);
        }
        count += 1;
        if count > DATAGRAMS_A_SECOND {
            time::sleep(time::Duration::from_millis(100)).await;
            continue;
        }
        let datagram = datagram.get(..length).unwrap_or_default();
        if let Some(ip) = parse::address(port, *from.ip(), datagram)
            && found.send(ip).await.is_err()
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
}
