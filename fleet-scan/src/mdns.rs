//! Listens for services that hosts announce by multicast DNS, on selected links of this machine.
//!
//! [`Listener::start`], then [`Listener::next`]. `mdns/browse.rs` has the protocol rules; this file has the sockets and
//! the time. It sends only queries: from the mDNS port, so that every listener gets the answers (RFC 6762, 5.2), and from
//! a port of its own, for hosts that answer the querier alone. Unicast answers to other programs at the mDNS port stay
//! theirs.

mod browse;
mod lookup;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Instant,
};

use browse::Browse;
pub(crate) use browse::{Attributes, query_message, records};
use fleet_core::{Endpoint, Port};
use fleet_discovery::{HostName, Listening, ServiceType};
use ipnetwork::Ipv4Network;
use lookup::Lookup;
use nix::net::if_::InterfaceFlags;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{self, sleep_until},
};

use crate::ip_reports;

/// The multicast group of mDNS over IPv4 (RFC 6762, 3).
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// The port of mDNS.
pub(crate) const PORT: u16 = 5353;

/// Bytes of the longest datagram (RFC 6762, 17).
const DATAGRAM: usize = 9_000;

/// The receive buffer of a socket.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// Events that may wait for the scan. Meanwhile the listener receives nothing, and the system bounds its socket buffer.
const QUEUE: usize = 64;

/// The announcements that a scan awaits before it dials a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The type of service, and the duration.
    pub listening: Listening,
    /// The scan listens on interfaces in these networks, and on no other.
    pub subnets: Vec<Ipv4Network>,
    /// The port of queries and answers: 5353, except for simulated devices with a port of their own.
    pub port: u16,
    /// Added to the ports of IP reports: 0, except for simulated devices.
    pub report_offset: u16,
}

impl Listen {
    /// Listens at the port of mDNS.
    pub fn new(listening: Listening, subnets: Vec<Ipv4Network>) -> Self {
        Self {
            listening,
            subnets,
            port: PORT,
            report_offset: 0,
        }
    }
}

/// An event of the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MdnsEvent {
    /// A host announced a service at one of its ports. Each service is reported once per link, and again if its
    /// attributes arrive later.
    Service(Endpoint, Attributes),
    /// A host announced itself, once.
    Host(IpAddr),
    /// A host is present but announced nothing.
    Hint(IpAddr),
    /// A warning for the operator: kind and example.
    Note(&'static str, String),
    /// The last event. If complete, hosts without an event do not announce the service.
    Ended { is_complete: bool },
}

/// A running listener. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Listener {
    events: mpsc::Receiver<MdnsEvent>,
    /// Aborted on drop.
    _tasks: JoinSet<()>,
}

impl Listener {
    /// Starts to listen. It keeps at most `most` services and hosts per link.
    pub(crate) fn start(listen: Listen, most: usize) -> Self {
        let (out, events) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let until = time::Instant::now() + listen.listening.time;
            let is_complete = if listen.listening.service.is_ip_reports() {
                ip_reports::listen(&listen, until, &out).await
            } else {
                on_every_link(&listen, most, until, &out).await
            };
            // A failed send means that the scan is over.
            let _ = out.send(MdnsEvent::Ended { is_complete }).await;
        });
        Self {
            events,
            _tasks: tasks,
        }
    }

    /// Returns the next event. After the last one, or if the listener panicked, it returns an incomplete
    /// [`MdnsEvent::Ended`]. Cancel-safe.
    pub(crate) async fn next(&mut self) -> MdnsEvent {
        let event = self.events.recv().await;
        event.unwrap_or(MdnsEvent::Ended { is_complete: false })
    }
}

/// A link of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    interface: String,
    /// The source address of queries.
    own: Ipv4Addr,
    /// Answers come from one of these networks (RFC 6762, 11).
    networks: Vec<Ipv4Network>,
}

/// Asks the hosts on the links in `subnets` for the addresses of a name in `local`. Returns none if no host has the name.
///
/// # Errors
/// When no link can be asked.
pub(crate) async fn resolve(
    name: &HostName,
    subnets: &[Ipv4Network],
    port: u16,
) -> io::Result<Vec<IpAddr>> {
    let (links, _) = links(own_networks()?, subnets);
    let mut sockets = Vec::new();
    let mut failure = None;
    for link in links {
        match LinkSockets::open(&link, port) {
            Ok(opened) => sockets.push((link, opened)),
            Err(error) => failure = Some(error),
        }
    }
    let Some(mut lookup) = Lookup::new(name, Instant::now()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if sockets.is_empty() {
        let none = || io::Error::other("no local subnet to ask by multicast DNS");
        return Err(failure.unwrap_or_else(none));
    }
    let group = SocketAddrV4::new(GROUP, port);
    let mut datagram = vec![0; DATAGRAM];
    while !lookup.is_over(Instant::now()) {
        if let Some(query) = lookup.query(Instant::now()) {
            for (link, sockets) in &sockets {
                if let Err(error) = sockets.send(&query, group).await {
                    tracing::debug!(interface = link.interface, %error, "cannot send a query by multicast DNS");
                }
            }
        }
        let readable = sockets
            .iter()
            .map(|(_, sockets)| Box::pin(sockets.readable()));
        tokio::select! {
            () = sleep_until(lookup.deadline().into()) => {}
            _ = futures::future::select_all(readable) => {
                for (link, sockets) in &sockets {
                    while let Ok(Some((length, from))) = sockets.receive(&mut datagram) {
                        if link.has(from, port) {
                            lookup.receive(datagram.get(..length).unwrap_or_default(), Instant::now());
                        }
                    }
                }
            }
        }
    }
    Ok(lookup.into_addresses())
}

/// Returns whether every subnet was covered until the end.
async fn on_every_link(
    listen: &Listen,
    most: usize,
    until: time::Instant,
    out: &mpsc::Sender<MdnsEvent>,
) -> bool {
    let mut is_complete = true;
    let own = own_networks().unwrap_or_else(|error| {
        tracing::warn!(%error, "the network interfaces cannot be listed");
        Vec::new()
    });
    let (links, missed) = links(own, &listen.subnets);
    for subnet in missed {
        is_complete = false;
        let note = MdnsEvent::Note(
            "cannot listen to mDNS in local subnets where this machine has no interface",
            subnet.to_string(),
        );
        let _ = out.send(note).await;
    }
    let listening = links.into_iter().map(|link| async move {
        let interface = link.interface.clone();
        let listened = on_link(link, listen, most, until, out).await;
        if let Err(error) = &listened {
            let note = MdnsEvent::Note(
                "cannot listen to mDNS on some interfaces",
                format!("{interface}: {error}"),
            );
            let _ = out.send(note).await;
        }
        listened.unwrap_or(false)
    });
    let listened = futures::future::join_all(listening).await;
    is_complete && listened.into_iter().all(|complete| complete)
}

/// Returns whether there was room for all announced services.
async fn on_link(
    link: Link,
    listen: &Listen,
    most: usize,
    until: time::Instant,
    out: &mpsc::Sender<MdnsEvent>,
) -> io::Result<bool> {
    let sockets = LinkSockets::open(&link, listen.port)?;
    let group = SocketAddrV4::new(GROUP, listen.port);
    let service: &ServiceType = &listen.listening.service;
    let Some(mut browse) = Browse::new(service, most, Instant::now()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut datagram = vec![0; DATAGRAM];
    loop {
        while let Some(query) = browse.query(Instant::now()) {
            sockets.send(&query, group).await?;
        }
        tokio::select! {
            biased;
            // The end first: a flood of datagrams must not extend the listening.
            () = sleep_until(until) => break,
            () = sleep_until(browse.deadline().into()) => continue,
            ready = sockets.readable() => ready?,
        }
        let received = sockets.receive(&mut datagram)?;
        if let Some((length, _)) = received.filter(|(_, from)| link.has(*from, listen.port)) {
            browse.receive(datagram.get(..length).unwrap_or_default(), Instant::now());
        }
        while let Some((service, attributes)) = browse.next_service() {
            let Some(port) = Port::new(service.port()) else {
                continue;
            };
            let ip = (*service.ip()).into();
            if out
                .send(MdnsEvent::Service(Endpoint { ip, port }, attributes))
                .await
                .is_err()
            {
                return Ok(false);
            }
        }
    }
    let rest = browse.rest();
    let unlocated = rest.unlocated.into_iter().map(|name| {
        let kind = "mDNS named services without an address";
        MdnsEvent::Note(kind, name)
    });
    let ipv6_only = rest.ipv6_only.into_iter().map(|ip| {
        let kind = "mDNS named hosts that have IPv6 addresses only, which are not covered";
        MdnsEvent::Note(kind, ip.to_string())
    });
    let full = rest.is_full.then(|| {
        let kind = "mDNS named more services than there are targets";
        MdnsEvent::Note(kind, link.interface)
    });
    for note in unlocated.chain(ipv6_only).chain(full) {
        let _ = out.send(note).await;
    }
    Ok(!rest.is_full)
}

impl Link {
    /// Returns whether a packet comes from this link and from the mDNS port, which only a host's own responder can use.
    fn has(&self, from: SocketAddr, port: u16) -> bool {
        let SocketAddr::V4(from) = from else {
            return false;
        };
        let mut networks = self.networks.iter();
        from.port() == port && networks.any(|network| network.contains(*from.ip()))
    }
}

/// Receives datagrams and checks the bounds.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    browse::fuzz(bytes);
}

/// The sockets of a link. Both send every query.
#[derive(Debug)]
struct LinkSockets {
    /// At the mDNS port and the group's address: receives the answers to all listeners.
    group: UdpSocket,
    /// At a port of its own: receives the answers to this querier alone. Hosts answer directly if a query comes from
    /// another port (RFC 6762, 6.7), and some always do. At the mDNS port, the kernel would pass such an answer to any
    /// of the sockets that share it, also to those of other programs and links.
    own: UdpSocket,
}

impl LinkSockets {
    fn open(link: &Link, port: u16) -> io::Result<Self> {
        Ok(Self {
            group: open(link, SocketAddrV4::new(GROUP, port))?,
            own: open(link, SocketAddrV4::new(link.own, 0))?,
        })
    }

    async fn send(&self, query: &[u8], group: SocketAddrV4) -> io::Result<()> {
        self.group.send_to(query, group).await?;
        self.own.send_to(query, group).await.map(drop)
    }

    /// Waits for a datagram. Cancel-safe.
    async fn readable(&self) -> io::Result<()> {
        tokio::select! {
            ready = self.group.readable() => ready,
            ready = self.own.readable() => ready,
        }
    }

    /// Returns the next datagram in the buffers, if any.
    fn receive(&self, datagram: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        for socket in [&self.group, &self.own] {
            match socket.try_recv_from(datagram) {
                Ok(received) => return Ok(Some(received)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Opens a socket for one link. At the group's address, it receives the group.
fn open(link: &Link, at: SocketAddrV4) -> io::Result<UdpSocket> {
    let own = link.own;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Several sockets of this process share the port. Bound to its interface, none gets packets of another one. Kernels
    // before 5.7 permit this only to root; there the group's membership has to do.
    if let Err(error) = socket.bind_device(Some(link.interface.as_bytes())) {
        tracing::debug!(interface = link.interface, %error, "cannot bind a socket to its interface");
    }
    // Thousands of hosts can answer one query. The kernel limits it to `rmem_max`; a smaller buffer is acceptable.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.set_nonblocking(true)?;
    let receives_group = *at.ip() == GROUP;
    if receives_group {
        // Responders of this machine share the port.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
    }
    socket.bind(&at.into())?;
    if receives_group {
        // Without this, it receives groups that other sockets joined on other interfaces.
        socket.set_multicast_all_v4(false)?;
        socket.join_multicast_v4(&GROUP, &own)?;
    }
    socket.set_multicast_if_v4(&own)?;
    // Implementations of an early draft discard packets with another TTL (RFC 6762, 11).
    socket.set_multicast_ttl_v4(255)?;
    UdpSocket::from_std(socket.into())
}

/// The networks of this machine's multicast interfaces, with its own address in each.
fn own_networks() -> io::Result<Vec<(String, Ipv4Addr, Ipv4Network)>> {
    let multicast = InterfaceFlags::IFF_MULTICAST | InterfaceFlags::IFF_LOOPBACK;
    let network = |one: nix::ifaddrs::InterfaceAddress| {
        let own = one.address?.as_sockaddr_in()?.ip();
        let mask = one.netmask?.as_sockaddr_in()?.ip();
        let network = Ipv4Network::with_netmask(own, mask).ok()?;
        // A label is the interface name, then a colon and a suffix.
        let interface = one.interface_name.split(':').next()?.to_owned();
        let is_up = one.flags.contains(InterfaceFlags::IFF_UP) && one.flags.intersects(multicast);
        is_up.then_some((interface, own, network))
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(network).collect())
}

/// The names of this machine's interfaces in these subnets.
///
/// # Errors
/// When the system does not list its interfaces.
pub(crate) fn interfaces(subnets: &[Ipv4Network]) -> io::Result<Vec<String>> {
    let (links, _) = links(own_networks()?, subnets);
    Ok(links.into_iter().map(|link| link.interface).collect())
}

/// Returns a link for each interface in a subnet, and the subnets without an interface.
fn links(
    own: Vec<(String, Ipv4Addr, Ipv4Network)>,
    subnets: &[Ipv4Network],
) -> (Vec<Link>, Vec<Ipv4Network>) {
    let mut missed = subnets.to_vec();
    let mut interfaces: BTreeMap<String, Vec<(Ipv4Addr, Ipv4Network)>> = BTreeMap::new();
    for (interface, address, network) in own {
        missed.retain(|subnet| !subnet.overlaps(network));
        let networks = interfaces.entry(interface).or_default();
        networks.push((address, network));
    }
    let is_selected = |network: Ipv4Network| subnets.iter().any(|one| one.overlaps(network));
    let link = |(interface, networks): (String, Vec<(Ipv4Addr, Ipv4Network)>)| {
        let mut all = networks.iter();
        let (own, _) = *all.find(|(_, network)| is_selected(*network))?;
        Some(Link {
            interface,
            own,
            networks: networks.into_iter().map(|(_, network)| network).collect(),
        })
    };
    (interfaces.into_iter().filter_map(link).collect(), missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Ipv4Network> {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    /// The interfaces of a machine with two links and a container bridge.
    fn own() -> Vec<(String, Ipv4Addr, Ipv4Network)> {
        [
            ("lo", "127.0.0.1/8"),
            ("eth0", "203.0.113.9/24"),
            ("eth0", "10.0.3.9/22"),
            ("eth1", "192.168.7.1/24"),
            ("docker0", "172.17.0.1/16"),
        ]
        .map(|(interface, network)| {
            let network: Ipv4Network = network.parse().expect(network);
            (interface.to_owned(), network.ip(), network)
        })
        .to_vec()
    }

    #[test]
    fn only_interfaces_in_a_local_subnet_are_used() {
        for (subnets, interfaces, missed) in [
            (&["10.0.0.0/22"][..], &["eth0 10.0.3.9"][..], &[][..]),
            (
                &["10.0.1.0/24", "192.168.0.0/16"],
                &["eth0 10.0.3.9", "eth1 192.168.7.1"],
                &[],
            ),
            (
                &["10.9.0.0/24", "192.168.7.0/24"],
                &["eth1 192.168.7.1"],
                &["10.9.0.0/24"],
            ),
            (&[], &[], &[]),
        ] {
            let (links, without) = links(own(), &networks(subnets));
            let named = |link: &Link| format!("{} {}", link.interface, link.own);
            assert_eq!(links.iter().map(named).collect::<Vec<_>>(), interfaces);
            assert_eq!(without, networks(missed));
        }
    }

    #[test]
    fn answers_count_only_from_the_link_and_the_mdns_port() {
        let (links, _) = links(own(), &networks(&["10.0.0.0/22"]));
        for (from, counts) in [
            ("10.0.0.7:5353", true),
            ("203.0.113.7:5353", true),
            ("10.0.0.7:5354", false),
            ("10.0.4.7:5353", false),
            ("[fe80::7]:5353", false),
        ] {
            let from = from.parse().expect(from);
            assert_eq!(links[0].has(from, PORT), counts, "{from}");
        }
    }
}
