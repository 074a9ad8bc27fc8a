//! Packets that find neighbors: ARP frames where this program may send them, else datagrams. Thin.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use fleet_core::Mac;
use nix::{
    errno::Errno,
    net::if_::InterfaceFlags,
    sys::socket::{LinkAddr, SockaddrStorage, bind, setsockopt, sockopt},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{frame::LENGTH, link::Interface};

/// EtherType of ARP, in the byte order that `packet(7)` wants.
const ARP: i32 = 0x0806_u16.to_be() as i32;

/// `ARPHRD_ETHER`: interfaces with hardware addresses of six octets.
const ETHERNET: u16 = 1;

/// Discard (RFC 863): whoever listens there throws away what comes; everybody else answers nothing or "no such port".
const DISCARD: u16 = 9;

/// Answers that may wait: a whole network's may come at once, and a packet is counted with about 1 KiB.
const WAITING: usize = 4 * 1024 * 1024;

/// An interface with what a socket is bound to it by.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) interface: Interface,
    link: LinkAddr,
}

/// The interfaces that are up and ask for hardware addresses.
///
/// # Errors
/// When the system does not tell.
pub(super) fn ports() -> io::Result<Vec<Port>> {
    let asks = InterfaceFlags::IFF_UP;
    let does_not =
        InterfaceFlags::IFF_NOARP | InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_POINTOPOINT;
    let addresses: Vec<_> = nix::ifaddrs::getifaddrs()?
        .filter(|one| one.flags.contains(asks) && !one.flags.intersects(does_not))
        .filter_map(|one| Some((one.interface_name, one.address?)))
        .collect();
    let port = |name: &str, address: &SockaddrStorage| {
        let link = *address.as_link_addr()?;
        // A label is the name and more after a colon.
        let own = addresses
            .iter()
            .filter(|(label, _)| label.split(':').next() == Some(name));
        let mac = (link.hatype() == ETHERNET && link.halen() == 6).then(|| link.addr());
        Some(Port {
            interface: Interface {
                index: u32::try_from(link.ifindex()).ok()?,
                mac: mac.flatten().map(Mac::new),
                addresses: own.filter_map(|(_, address)| ip(address)).collect(),
            },
            link,
        })
    };
    Ok(addresses
        .iter()
        .filter_map(|(name, address)| port(name, address))
        .collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = || Some(IpAddr::V4(address.as_sockaddr_in()?.ip()));
    let v6 = || Some(IpAddr::V6(address.as_sockaddr_in6()?.ip()));
    v4().or_else(v6)
}

/// Sends and hears ARP on one interface.
#[derive(Debug)]
pub(super) struct ArpSocket(Socket);

impl ArpSocket {
    /// # Errors
    /// Without CAP_NET_RAW, and where the system has no such sockets.
    pub(super) fn open(port: &Port) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ARP)))?;
        socket.set_nonblocking(true)?;
        // As much as `rmem_max` allows; less is no reason not to sweep.
        let _ = socket.set_recv_buffer_size(WAITING);
        // The address says protocol 0, which keeps that of the socket (`packet_bind`).
        bind(socket.as_raw_fd(), &port.link)?;
        Ok(Self(socket))
    }

    /// # Errors
    /// When the system is short of room, or the interface is down.
    pub(super) fn send(&self, frame: &[u8; LENGTH]) -> io::Result<()> {
        (&self.0).write(frame).map(drop)
    }

    /// The next frame that waits, if there is one.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let length = (&self.0).read(buffer).ok()?;
        buffer.get(..length)
    }
}

/// What came of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Poked {
    Sent,
    /// There is no room for another neighbor.
    Full,
    /// It cannot be sent.
    Not,
}

/// Makes the kernel resolve a neighbor: an empty datagram that no router would pass on.
///
/// A socket each, since a datagram that waits for its neighbor is counted against its socket.
pub(super) fn poke(target: IpAddr) -> Poked {
    match try_poke(target) {
        Ok(()) => Poked::Sent,
        Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Poked::Full,
        Err(error) => {
            tracing::debug!(%target, %error, "cannot ask for a neighbor");
            Poked::Not
        }
    }
}

fn try_poke(target: IpAddr) -> io::Result<()> {
    let to = SocketAddr::new(target, DISCARD);
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    // With these the system says at once that the neighbor table is full, which it would conceal else.
    match target {
        IpAddr::V4(_) => {
            socket.set_ttl_v4(1)?;
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        }
        IpAddr::V6(_) => {
            socket.set_unicast_hops_v6(1)?;
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
    }
    socket.connect(&to.into())?;
    socket.send(&[]).map(drop)
}
