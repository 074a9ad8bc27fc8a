//! Reads the kernel's routes and neighbors over netlink (RFC 3549), which needs no privilege. Thin.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's enums are non-exhaustive: kernels have more to say than is read here"
)]

use std::{
    io,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use fleet_core::Mac;
use fleet_discovery::{Interface, InterfaceKind, LowerInterface};
use ipnetwork::Ipv4Network;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    neighbour_table::{NeighbourTableAttribute, NeighbourTableMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::{
    link::{NextHop, Route},
    path::Link,
    table::{Entry, State, View},
};

/// The largest datagram that is read. The kernel sends less (`NLMSG_GOODSIZE`).
const DATAGRAM: usize = 64 * 1024;

/// The most messages of one dump: more than a large neighbor table or a routing table has, except on a transit router.
const MAX_MESSAGES: usize = 65_536;

/// One tick of the kernel's ages. Linux always reports 100 per second (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// IPv4 and IPv6 have separate neighbor tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn code(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }

    fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::from([0; 4]),
            Self::V6 => IpAddr::from([0; 16]),
        }
    }
}

/// Size and use of a neighbor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// The most entries (`gc_thresh3`).
    pub(super) limit: usize,
    /// All entries, including those of other network namespaces.
    pub(super) entries: usize,
    /// See [`View::fulls`].
    pub(super) fulls: u64,
}

/// The routing table of addresses of this machine (`RT_TABLE_LOCAL`).
const LOCAL_TABLE: u32 = 255;

/// The longest duration of a dump. The kernel answers within milliseconds; a seccomp sandbox or a user-mode kernel may
/// never answer, and the sweep waits for the dump.
const TIME_LIMIT: Duration = Duration::from_millis(500);

/// The interfaces in sysfs.
const DEVICES: &str = "/sys/class/net";

/// A netlink connection to the kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Kernel {
    /// # Errors
    /// When the system or a sandbox provides no netlink socket.
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Connected to the kernel, because otherwise any process can send to the socket.
        socket.connect(&SocketAddr::new(0, 0))?;
        Self::over(socket)
    }

    fn over(socket: Socket) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Recv, Some(TIME_LIMIT))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// The routes of the main table, the addresses of the routers in them, and the routes to this machine itself.
    ///
    /// # Errors
    /// When the kernel does not answer in time, or with too many messages.
    pub(super) fn routes(&mut self) -> io::Result<(Vec<Route>, Vec<IpAddr>)> {
        let (mut routes, mut routers) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            let mut request = RouteMessage::default();
            request.header.address_family = family.code();
            self.dump(RouteNetlinkMessage::GetRoute(request), |message| {
                if let RouteNetlinkMessage::NewRoute(message) = message {
                    routers.extend(message.attributes.iter().filter_map(router));
                    routes.extend(route(family, &message));
                }
            })?;
        }
        Ok((routes, routers))
    }

    /// The state of every interface.
    ///
    /// # Errors
    /// When the kernel does not answer in time.
    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump(request, |message| {
            if let RouteNetlinkMessage::NewLink(message) = message {
                links.push(link(&message));
            }
        })?;
        Ok(links)
    }

    /// The interfaces, with the IPv4 networks that each reaches without a router.
    ///
    /// # Errors
    /// When the kernel does not answer in time, or with too many messages.
    pub(super) fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        let mut interfaces = Vec::new();
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump(request, |message| {
            if let RouteNetlinkMessage::NewLink(message) = message {
                interfaces.push(interface(&message));
            }
        })?;
        let (routes, _) = self.routes()?;
        for route in routes {
            let IpAddr::V4(to) = route.to else { continue };
            let index = match route.next_hop {
                NextHop::OnLink(index) | NextHop::Via(_, index) => index,
                NextHop::Elsewhere => continue,
            };
            let mut interfaces = interfaces.iter_mut();
            let Some(interface) = interfaces.find(|one: &&mut Interface| one.index == index) else {
                continue;
            };
            if route.length == 0 {
                interface.has_default_route = true;
            } else if let (NextHop::OnLink(_), Some(subnet)) =
                (route.next_hop, Ipv4Network::new_checked(to, route.length))
                && !interface.subnets.contains(&subnet)
            {
                interface.subnets.push(subnet);
            }
        }
        Ok(interfaces)
    }

    /// The limit and the overflow count of a table.
    ///
    /// # Errors
    /// When the kernel does not answer in time.
    pub(super) fn table(&mut self, family: Family) -> io::Result<Table> {
        let mut request = NeighbourTableMessage::default();
        request.header.family = family.code();
        let (mut limit, mut entries, mut fulls) = (None, 0, None);
        self.dump(RouteNetlinkMessage::GetNeighbourTable(request), |message| {
            if let RouteNetlinkMessage::NewNeighbourTable(message) = message
                && message.header.family == family.code()
            {
                for attribute in message.attributes {
                    match attribute {
                        NeighbourTableAttribute::Threshold3(most) => limit = Some(most),
                        NeighbourTableAttribute::Config(config) => entries = config.entries,
                        NeighbourTableAttribute::Stats(stats) => fulls = Some(stats.table_fulls),
                        _ => {}
                    }
                }
            }
        })?;
        let table = limit.zip(fulls).map(|(limit, fulls)| Table {
            limit: limit as usize,
            entries: entries as usize,
            fulls,
        });
        table.ok_or_else(|| {
            io::Error::other("the kernel reported no limit or statistics of the neighbor table")
        })
    }

    /// The neighbors of a family, and how often the table overflowed.
    ///
    /// # Errors
    /// When the kernel does not answer in time.
    pub(super) fn view(&mut self, family: Family) -> io::Result<View> {
        let table = self.table(family)?;
        let mut entries = Vec::new();
        let mut request = NeighbourMessage::default();
        request.header.family = family.code();
        self.dump(RouteNetlinkMessage::GetNeighbour(request), |message| {
            if let RouteNetlinkMessage::NewNeighbour(message) = message
                && message.header.family == family.code()
            {
                entries.extend(entry(&message));
            }
        })?;
        Ok(View {
            hidden: table.entries.saturating_sub(entries.len()),
            entries,
            fulls: table.fulls,
        })
    }

    fn dump(
        &mut self,
        request: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut messages = 0;
        // The socket's own limit applies to each datagram, not to the whole dump.
        let deadline = Instant::now() + TIME_LIMIT;
        while Instant::now() < deadline {
            let length = self.socket.recv(&mut self.buffer.as_mut_slice(), 0)?;
            let mut rest = self.buffer.get(..length).unwrap_or_default();
            while let Some(message) = first(&mut rest) {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message);
                // Messages that the library cannot read hold none of the attributes that matter here.
                let Ok(message) = message else { continue };
                // The rest of a dump that timed out may still arrive.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(message) => each(message),
                    _ => {}
                }
                messages += 1;
                if messages > MAX_MESSAGES {
                    return Err(io::Error::other(
                        "the kernel listed more than 65,536 entries",
                    ));
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// Splits off the first message of a datagram. The length is the message's first field, and messages are aligned to
/// four bytes.
fn first<'a>(datagram: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
    // A length below the header's would not advance, and the loop would never end.
    let message = datagram.get(..length).filter(|_| length >= 16)?;
    *datagram = datagram
        .get(length.next_multiple_of(4)..)
        .unwrap_or_default();
    Some(message)
}

fn link(message: &LinkMessage) -> Link {
    // An administrator sets `Up`. Only `LowerUp` shows a carrier.
    let required = LinkFlags::Up | LinkFlags::LowerUp;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        is_up: message.header.flags.contains(required),
        changes: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::CarrierChanges(changes) => link.changes = *changes,
            _ => {}
        }
    }
    link
}

fn interface(message: &LinkMessage) -> Interface {
    let flags = message.header.flags;
    let mut interface = Interface {
        index: message.header.index,
        name: String::new(),
        kind: InterfaceKind::Software,
        is_up: flags.contains(LinkFlags::Up),
        controller: None,
        lower: None,
        has_default_route: false,
        subnets: Vec::new(),
    };
    let (mut kind, mut is_device) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Controller(index) => interface.controller = Some(*index),
            // With this attribute, the index of the other one counts in another namespace.
            LinkAttribute::LinkNetNsId(_) => interface.lower = Some(LowerInterface::Outside),
            LinkAttribute::Link(index) if interface.lower.is_none() => {
                interface.lower = Some(LowerInterface::Inside(*index));
            }
            LinkAttribute::ParentDevName(_) => is_device = true,
            LinkAttribute::LinkInfo(info) => {
                kind = info.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    // Kernels before 5.14 report the device only in sysfs.
    let in_sysfs = || {
        Path::new(DEVICES)
            .join(&interface.name)
            .join("device")
            .exists()
    };
    interface.kind = match kind {
        _ if flags.contains(LinkFlags::Loopback) => InterfaceKind::Loopback,
        Some(kind) => InterfaceKind::Named(kind),
        None if is_device || in_sysfs() => InterfaceKind::Device,
        None => InterfaceKind::Software,
    };
    interface
}

fn router(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => address_of(address),
        _ => None,
    }
}

fn route(family: Family, message: &RouteMessage) -> Option<Route> {
    let mut table = u32::from(message.header.table);
    let (mut to, mut metric, mut interface) = (family.unspecified(), 0, None);
    let (mut router, mut several) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            // The header has 8 bits for the table. Larger numbers are only in this attribute.
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => to = address_of(address)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(address) => router = address_of(address),
            // The kernel chooses one of several next hops per flow, so the path is unknown.
            RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => several = true,
            _ => {}
        }
    }
    let next_hop = match (message.header.kind, interface) {
        (RouteType::Unicast, Some(index)) if !several => {
            router.map_or(NextHop::OnLink(index), |router| NextHop::Via(router, index))
        }
        _ => NextHop::Elsewhere,
    };
    let is_local = table == LOCAL_TABLE && message.header.kind == RouteType::Local;
    (is_local || table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(Route {
        to,
        length: message.header.destination_prefix_length,
        metric,
        next_hop,
    })
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn entry(message: &NeighbourMessage) -> Option<Entry> {
    let state = match message.header.state {
        NeighbourState::Incomplete => State::Unresolved,
        NeighbourState::Reachable
        | NeighbourState::Stale
        | NeighbourState::Delay
        | NeighbourState::Probe => State::Answered,
        NeighbourState::Permanent | NeighbourState::Noarp => State::Fixed,
        _ => State::Failed,
    };
    let (mut ip, mut mac, mut age, mut confirmed) = (None, None, Duration::ZERO, Duration::MAX);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                ip = Some(IpAddr::V4(*address));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                ip = Some(IpAddr::V6(*address));
            }
            NeighbourAttribute::LinkLayerAddress(octets) => {
                mac = <[u8; 6]>::try_from(octets.as_slice()).ok().map(Mac::new);
            }
            NeighbourAttribute::CacheInfo(info) => {
                age = TICK.saturating_mul(info.updated);
                // Rounded up, because an answer must not count as newer than it is.
                confirmed = TICK.saturating_mul(info.confirmed.saturating_add(1));
            }
            _ => {}
        }
    }
    Some(Entry {
        ip: ip?,
        state,
        mac,
        age,
        confirmed,
    })
}

#[cfg(test)]
mod tests {
    use netlink_sys::protocols::NETLINK_USERSOCK;

    use super::*;

    #[test]
    fn a_kernel_that_never_answers_costs_the_time_limit() {
        let mut silent = Socket::new(NETLINK_USERSOCK).expect("a socket");
        let silent = silent.bind_auto().expect("an address");
        let mut socket = Socket::new(NETLINK_USERSOCK).expect("a socket");
        socket.bind_auto().expect("an address");
        socket.connect(&silent).expect("a peer");
        let mut kernel = Kernel::over(socket).expect("a connection");
        let started = Instant::now();
        let error = kernel.view(Family::V4).expect_err("no answer");
        assert!(
            matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ),
            "{error}"
        );
        assert!(
            started.elapsed() < TIME_LIMIT * 4,
            "{:?}",
            started.elapsed()
        );
    }
}
