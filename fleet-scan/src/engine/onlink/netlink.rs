//! What the kernel knows of routes and neighbors, over netlink (RFC 3549), without any privilege. Thin.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's enums are non-exhaustive: kernels have more to say than is read here"
)]

use std::{io, net::IpAddr, time::Duration};

use fleet_core::Mac;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    neighbour_table::{NeighbourTableAttribute, NeighbourTableMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{
    link::{Route, Way},
    table::{Entry, State, View},
};

/// What the kernel sends in one datagram at most (`NLMSG_GOODSIZE` is less).
const DATAGRAM: usize = 64 * 1024;

/// Messages of one dump: beyond a large neighbor table, and beyond any routing table but a transit router's.
const MOST: usize = 65_536;

/// Ticks of the kernel's ages are always 100 a second on Linux (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Neighbors of IPv4 and of IPv6 have a table each.
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

/// A neighbor table as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// The most entries (`gc_thresh3`).
    pub(super) limit: usize,
    /// How many there are, those of other network namespaces too.
    pub(super) entries: usize,
    /// See [`View::fulls`].
    pub(super) fulls: u64,
}

/// A conversation with the kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Kernel {
    /// # Errors
    /// When the system or a sandbox gives no netlink socket.
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// The routes of the main table, and the addresses of the routers in them.
    ///
    /// # Errors
    /// When the kernel does not tell, or tells too much.
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

    /// Limit and overflows of a table.
    ///
    /// # Errors
    /// When the kernel does not tell.
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
        table.ok_or_else(|| io::Error::other("the neighbor table has no limit or statistics"))
    }

    /// The neighbors of a family, and how often there was no room for one.
    ///
    /// # Errors
    /// When the kernel does not tell.
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
        loop {
            let length = self.socket.recv(&mut self.buffer.as_mut_slice(), 0)?;
            let mut rest = self.buffer.get(..length).unwrap_or_default();
            while let Some(message) = first(&mut rest) {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message);
                // What this library does not know yet is none of the attributes that are read here.
                let Ok(message) = message else { continue };
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
                if messages > MOST {
                    return Err(io::Error::other("more than 65,536 routes or neighbors"));
                }
            }
        }
    }
}

/// Splits off the first message of a datagram: its length is its first field, and messages begin at multiples of
/// four.
fn first<'a>(datagram: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
    let message = datagram.get(..length).filter(|_| length >= 16)?;
    *datagram = datagram
        .get(length.next_multiple_of(4)..)
        .unwrap_or_default();
    Some(message)
}

fn router(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => address_of(address),
        _ => None,
    }
}

fn route(family: Family, message: &RouteMessage) -> Option<Route> {
    let mut table = u32::from(message.header.table);
    let (mut to, mut metric, mut interface, mut routed) = (family.unspecified(), 0, None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => to = address_of(address)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                routed = true;
            }
            _ => {}
        }
    }
    let way = match (message.header.kind, interface) {
        (RouteType::Unicast, Some(index)) if !routed => Way::OnLink(index),
        _ => Way::Elsewhere,
    };
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(Route {
        to,
        length: message.header.destination_prefix_length,
        metric,
        way,
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
    let (mut ip, mut mac, mut age) = (None, None, Duration::ZERO);
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
            NeighbourAttribute::CacheInfo(info) => age = TICK.saturating_mul(info.updated),
            _ => {}
        }
    }
    Some(Entry {
        ip: ip?,
        state,
        mac,
        age,
    })
}
