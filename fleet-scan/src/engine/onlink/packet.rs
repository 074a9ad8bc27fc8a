//! Packets that resolve neighbors: ARP frames if this process may send them, otherwise datagrams. Thin.

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

/// EtherType of ARP, in the byte order of `packet(7)`.
const ARP: i32 = 0x0806_u16.to_be() as i32;

/// `ARPHRD_ETHER`: interfaces with hardware addresses of six octets.
const ETHERNET: u16 = 1;

/// The discard port (RFC 863). A host ignores the datagram or answers "no such port".
pub(super) const DISCARD: u16 = 9;

/// Receive buffer: a whole network can answer at once, and each packet counts as about 1 KiB.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// An interface and the address to which a socket is bound.
#[derive(Debug, Clone)]
pub(super) struct BoundInterface {
    pub(super) interface: Interface,
    link: LinkAddr,
}

/// The interfaces that are up and resolve hardware addresses.
///
/// # Errors
/// When the system does not list its interfaces.
pub(super) fn interfaces() -> io::Result<Vec<BoundInterface>> {
    let required = InterfaceFlags::IFF_UP;
    let excluded =
        InterfaceFlags::IFF_NOARP | InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_POINTOPOINT;
    let addresses: Vec<_> = nix::ifaddrs::getifaddrs()?
        .filter(|one| one.flags.contains(required) && !one.flags.intersects(excluded))
        .filter_map(|one| Some((one.interface_name, one.address?)))
        .collect();
    let bound = |name: &str, address: &SockaddrStorage| {
        let link = *address.as_link_addr()?;
        // A label is the interface name, then a colon and a suffix.
        let own = addresses
            .iter()
            .filter(|(label, _)| label.split(':').next() == Some(name));
        let mac = (link.hatype() == ETHERNET && link.halen() == 6).then(|| link.addr());
        Some(BoundInterface {
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
        .filter_map(|(name, address)| bound(name, address))
        .collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = || Some(IpAddr::V4(address.as_sockaddr_in()?.ip()));
    let v6 = || Some(IpAddr::V6(address.as_sockaddr_in6()?.ip()));
    v4().or_else(v6)
}

/// Sends and receives ARP on one interface.
#[derive(Debug)]
pub(super) struct ArpSocket(Socket);

impl ArpSocket {
    /// Whether the system permits packet sockets to this process.
    pub(super) fn permitted() -> bool {
        Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ARP))).is_ok()
    }

    /// # Errors
    /// Without CAP_NET_RAW, and on systems without packet sockets.
    pub(super) fn open(bound: &BoundInterface) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ARP)))?;
        socket.set_nonblocking(true)?;
        // The kernel limits it to `rmem_max`. A smaller buffer is acceptable.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        // The address holds protocol 0, which keeps the socket's own (`packet_bind`).
        bind(socket.as_raw_fd(), &bound.link)?;
        Ok(Self(socket))
    }

    /// # Errors
    /// When the system is out of buffers, or the interface is down.
    pub(super) fn send(&self, frame: &[u8; LENGTH]) -> io::Result<()> {
        (&self.0).write(frame).map(drop)
    }

    /// The next frame in the buffer, if any.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let length = (&self.0).read(buffer).ok()?;
        buffer.get(..length)
    }
}

/// The result of sending a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PokeOutcome {
    Sent,
    /// The neighbor table is full.
    TableFull,
    /// The datagram cannot be sent.
    Failed,
}

/// Makes the kernel resolve a neighbor: sends an empty datagram that no router forwards.
///
/// Each datagram has its own socket, because a datagram that waits for its neighbor counts against its socket.
pub(super) fn poke(target: IpAddr) -> PokeOutcome {
    match try_poke(target) {
        Ok(()) => PokeOutcome::Sent,
        Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => PokeOutcome::TableFull,
        Err(error) => {
            tracing::debug!(%target, %error, "cannot send a datagram to a neighbor");
            PokeOutcome::Failed
        }
    }
}

fn try_poke(target: IpAddr) -> io::Result<()> {
    let to = SocketAddr::new(target, DISCARD);
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    // With this option the system reports a full neighbor table at once. Without it, the error is hidden.
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
