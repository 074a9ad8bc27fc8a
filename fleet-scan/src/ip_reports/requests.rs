//! Receives ARP and DHCP requests on the links of this machine by packet sockets, which need CAP_NET_RAW. It sends
//! nothing. `link.rs` reads the packets.

use std::{
    io::{self, Read},
    net::Ipv4Addr,
    os::fd::AsRawFd,
    sync::Arc,
};

use ipnetwork::Ipv4Network;
use nix::sys::socket::bind;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::{io::unix::AsyncFd, sync::mpsc, time};

use super::{PAUSE, Pace, Sign, link};
use crate::mdns;

/// Bytes that are read of a packet. A DHCP request has about 300, at most 576 without an agreement (RFC 2131, 2).
const PACKET: usize = 1_024;

/// The receive buffer of a socket. The system drops what does not fit.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// Passes UDP over IPv4 to port 67, unless it is a later fragment. Otherwise every packet of the machine would be copied.
const TO_DHCP_SERVERS: [SockFilter; 9] = [
    // The protocol is UDP.
    SockFilter::new(0x30, 0, 0, 9),
    SockFilter::new(0x15, 0, 6, 17),
    // The offset of the fragment is 0.
    SockFilter::new(0x28, 0, 0, 6),
    SockFilter::new(0x45, 4, 0, 0x1fff),
    // The destination port, behind the header.
    SockFilter::new(0xb1, 0, 0, 0),
    SockFilter::new(0x48, 0, 0, 2),
    SockFilter::new(0x15, 0, 1, 67),
    SockFilter::new(0x06, 0, 0, PACKET as u32),
    SockFilter::new(0x06, 0, 0, 0),
];

/// The requests that a socket receives.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Arp,
    Dhcp,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Arp, Self::Dhcp];

    /// The EtherType in the byte order of `packet(7)`. The sockets of a protocol receive no packets of this machine.
    fn ether_type(self) -> i32 {
        let number: u16 = match self {
            Self::Arp => 0x0806,
            Self::Dhcp => 0x0800,
        };
        i32::from(number.to_be())
    }

    fn sign(self, packet: &[u8]) -> Option<Sign> {
        match self {
            Self::Arp => link::arp(packet),
            Self::Dhcp => link::dhcp(packet),
        }
    }
}

/// A socket of one interface.
#[derive(Debug)]
pub(super) struct Requests {
    kind: Kind,
    socket: AsyncFd<Socket>,
}

impl Requests {
    /// Opens two sockets for each interface in the subnets.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, and on systems without packet sockets.
    pub(super) fn open(subnets: &[Ipv4Network]) -> io::Result<Vec<Self>> {
        let interfaces = mdns::interfaces(subnets)?;
        let mut opened = Vec::new();
        for one in nix::ifaddrs::getifaddrs()? {
            let link = one
                .address
                .and_then(|address| address.as_link_addr().copied());
            let Some(link) = link.filter(|_| interfaces.contains(&one.interface_name)) else {
                continue;
            };
            for kind in Kind::ALL {
                // The address of a link holds protocol 0, which keeps the socket's own (`packet_bind`).
                let protocol = Protocol::from(kind.ether_type());
                let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
                if matches!(kind, Kind::Dhcp) {
                    socket.attach_filter(&TO_DHCP_SERVERS)?;
                }
                socket.set_nonblocking(true)?;
                let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
                bind(socket.as_raw_fd(), &link)?;
                let socket = watched(socket)?;
                opened.push(Self { kind, socket });
            }
        }
        Ok(opened)
    }

    /// Reads requests of hosts in the subnets until nobody receives them.
    pub(super) async fn read(self, subnets: Arc<[Ipv4Network]>, out: mpsc::Sender<Sign>) {
        let is_local = |ip: Ipv4Addr| subnets.iter().any(|subnet| subnet.contains(ip));
        let mut packet = vec![0; PACKET];
        let mut pace = Pace::new();
        loop {
            let Ok(mut ready) = self.socket.readable().await else {
                return;
            };
            let received = ready.try_io(|socket| {
                let mut socket = socket.get_ref();
                socket.read(&mut packet)
            });
            let length = match received {
                Ok(Ok(length)) => length,
                // The interface is down, which passes.
                Ok(Err(_)) => {
                    time::sleep(PAUSE).await;
                    continue;
                }
                Err(_would_block) => continue,
            };
            if !pace.admits() {
                time::sleep(PAUSE).await;
                continue;
            }
            let sign = self.kind.sign(packet.get(..length).unwrap_or_default());
            let Some(sign) = sign.filter(|sign| is_local(sign.ip())) else {
                continue;
            };
            if out.send(sign).await.is_err() {
                return;
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "the successor is unsafe, and a socket keeps its descriptor until it is dropped"
)]
fn watched(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::new(socket)
}
