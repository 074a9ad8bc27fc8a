//! Asks a router for a sign of life, and reads whether it answered. Thin; `path.rs` decides what that means.
//!
//! With CAP_NET_RAW, that is an ARP request. Without it, the kernel's neighbor table alone is no evidence: it keeps an
//! entry for up to 45 s after the last contact. An answer is therefore an ICMP echo reply, a refused datagram, or a
//! confirmation of the entry, whose time the kernel states.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    frame::{self, Sender},
    netlink::{Family, Kernel},
    packet::{ArpSocket, BoundInterface, DISCARD},
    table::State,
};

/// What is known of a router since it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answered at this time, which may be earlier than the request.
    Answered(Instant),
    /// The kernel has an entry, and may verify it later.
    Unverified,
    /// Nothing.
    None,
}

/// How a canary is asked.
#[derive(Debug)]
pub(super) enum Asker {
    /// By ARP requests.
    Arp(ArpSocket, BoundInterface),
    /// By packets that need no privilege, and by the kernel, whose neighbor table has the result.
    Kernel(Direct),
}

/// Sockets that any process may open. A socket that the system refuses is not used.
#[derive(Debug, Default)]
pub(super) struct Direct {
    /// A "ping socket", which `net.ipv4.ping_group_range` permits or not.
    echo: Option<Socket>,
    datagram: Option<Socket>,
}

impl Asker {
    /// Asks by packets without privilege.
    pub(super) fn unprivileged() -> Self {
        Self::Kernel(Direct::default())
    }

    pub(super) fn ask(&mut self, router: IpAddr) {
        match (self, router) {
            (Self::Arp(socket, bound), IpAddr::V4(router)) => {
                if let (Some(mac), Some(address)) =
                    (bound.interface.mac, bound.interface.address_for(router))
                {
                    // A lost request is repeated.
                    let _ = socket.send(&frame::request(Sender { mac, address }, router));
                }
            }
            (Self::Arp(..), IpAddr::V6(_)) => {}
            (Self::Kernel(direct), _) => direct.ask(router),
        }
    }

    pub(super) fn sign(&mut self, router: IpAddr, kernel: &mut Kernel, now: Instant) -> Sign {
        match self {
            Self::Arp(socket, _) => {
                let mut buffer = [0; 128];
                let mut answered = false;
                while let Some(frame) = socket.receive(&mut buffer) {
                    answered |= frame::reply(frame).is_some_and(|(ip, _)| ip == router);
                }
                if answered {
                    Sign::Answered(now)
                } else {
                    Sign::None
                }
            }
            Self::Kernel(direct) => {
                if direct.has_answer() {
                    Sign::Answered(now)
                } else {
                    confirmation(router, kernel, now)
                }
            }
        }
    }
}

/// The last confirmation of a router in the kernel's table.
fn confirmation(router: IpAddr, kernel: &mut Kernel, now: Instant) -> Sign {
    let Ok(view) = kernel.view(Family::of(router)) else {
        return Sign::None;
    };
    let entry = view.entries.iter().find(|entry| entry.ip == router);
    match entry.map(|entry| (entry.state, entry.confirmed)) {
        // The interface resolves no addresses, and nothing better exists.
        Some((State::Fixed, _)) => Sign::Answered(now),
        Some((State::Answered, confirmed)) => now
            .checked_sub(confirmed)
            .map_or(Sign::Unverified, Sign::Answered),
        Some((State::Unresolved, _)) => Sign::Unverified,
        Some((State::Failed, _)) | None => Sign::None,
    }
}

impl Direct {
    fn ask(&mut self, router: IpAddr) {
        if let Err(error) = self.send_echo(router) {
            tracing::trace!(%router, %error, "cannot send an echo request to a router");
        }
        // The datagram also makes the kernel verify its entry.
        if let Err(error) = self.send_datagram(router) {
            tracing::debug!(%router, %error, "cannot send a datagram to a router");
        }
    }

    fn send_echo(&mut self, router: IpAddr) -> io::Result<()> {
        let (protocol, request) = match router {
            IpAddr::V4(_) => (Protocol::ICMPV4, 8),
            IpAddr::V6(_) => (Protocol::ICMPV6, 128),
        };
        if self.echo.is_none() {
            self.echo = Some(open(router, Some(protocol))?);
        }
        // The kernel writes the identifier and the checksum.
        self.echo
            .as_mut()
            .map_or(Ok(0), |socket| {
                socket.write(&[request, 0, 0, 0, 0, 0, 0, 1])
            })
            .map(drop)
    }

    fn send_datagram(&mut self, router: IpAddr) -> io::Result<()> {
        if self.datagram.is_none() {
            let socket = open(router, None)?;
            match router {
                IpAddr::V4(_) => {
                    socket.set_ttl_v4(1)?;
                    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
                }
                IpAddr::V6(_) => {
                    socket.set_unicast_hops_v6(1)?;
                    setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
                }
            }
            self.datagram = Some(socket);
        }
        self.datagram
            .as_ref()
            .map_or(Ok(0), |socket| socket.send(&[]))
            .map(drop)
    }

    fn has_answer(&mut self) -> bool {
        let mut buffer = [0; 64];
        let echoed = self
            .echo
            .as_mut()
            .is_some_and(|socket| matches!(socket.read(&mut buffer), Ok(length) if length > 0));
        // "No such port" comes from the router itself. Other errors can come from this machine.
        let refused = self.datagram.as_mut().is_some_and(|socket| {
            let refused = Some(Errno::ECONNREFUSED as i32);
            matches!(socket.read(&mut buffer), Err(error) if error.raw_os_error() == refused)
        });
        echoed || refused
    }
}

fn open(router: IpAddr, protocol: Option<Protocol>) -> io::Result<Socket> {
    let to = SocketAddr::new(router, DISCARD);
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, protocol)?;
    socket.set_nonblocking(true)?;
    socket.connect(&to.into())?;
    Ok(socket)
}
