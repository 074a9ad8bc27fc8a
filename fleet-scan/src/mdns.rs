//! Listens for services that hosts announce by multicast DNS, on the links of this machine that are asked for.
//!
//! [`Listener::start`], then [`Listener::next`]. The rules are `mdns/browse.rs`; here are sockets and time. Nothing but
//! questions is sent, from the port that answers go to as well (RFC 6762, 5.2), so that who answers answers everybody at
//! once. A socket is bound to the group, not to every address: what other programs of this machine are answered in
//! person, at the same port, stays theirs.

mod browse;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Instant,
};

use browse::Browse;
use fleet_core::{Endpoint, Port};
use fleet_discovery::{Listening, ServiceType};
use ipnetwork::Ipv4Network;
use nix::net::if_::InterfaceFlags;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{self, sleep_until},
};

/// The group that all of mDNS over IPv4 is sent to (RFC 6762, 3).
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// The port of mDNS.
const PORT: u16 = 5353;

/// Bytes of the longest datagram (RFC 6762, 17).
const DATAGRAM: usize = 9_000;

/// Words that may wait for the scan; a listener whose words wait hears nothing, which the system bounds.
const WAITING: usize = 64;

/// What is listened for before a host counts as there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The type of services, and for how long.
    pub listening: Listening,
    /// This machine listens on the interfaces that are in one of these networks, and on no other.
    pub subnets: Vec<Ipv4Network>,
    /// Where questions and answers go: 5353, except where simulated devices are to have mDNS for themselves.
    pub port: u16,
}

impl Listen {
    /// Listens at the port of mDNS.
    pub fn new(listening: Listening, subnets: Vec<Ipv4Network>) -> Self {
        Self {
            listening,
            subnets,
            port: PORT,
        }
    }
}

/// What is heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// A host says that a service is at one of its ports; each once a link.
    Service(Endpoint),
    /// Something an operator should know: kind and example.
    Note(&'static str, String),
    /// The time is over. Who was not heard does not announce the service, unless something went wrong.
    Over { is_complete: bool },
}

/// Listens while it lives.
#[derive(Debug)]
pub(crate) struct Listener {
    words: mpsc::Receiver<Word>,
    /// Aborted with it.
    _tasks: JoinSet<()>,
}

impl Listener {
    /// Begins to listen; `most` services and hosts are kept of each link.
    pub(crate) fn start(listen: Listen, most: usize) -> Self {
        let (out, words) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let until = time::Instant::now() + listen.listening.time;
            let is_complete = on_every_link(&listen, most, until, &out).await;
            // A scan that is over wants to know nothing more.
            let _ = out.send(Word::Over { is_complete }).await;
        });
        Self {
            words,
            _tasks: tasks,
        }
    }

    /// The next word; none after [`Word::Over`], and when the listener broke down.
    ///
    /// Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Word> {
        self.words.recv().await
    }
}

/// A link of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    interface: String,
    /// The address that questions come from.
    own: Ipv4Addr,
    /// Whoever answers is in one of these (RFC 6762, 11).
    networks: Vec<Ipv4Network>,
}

/// Whether every subnet was listened to, to the end.
async fn on_every_link(
    listen: &Listen,
    most: usize,
    until: time::Instant,
    out: &mpsc::Sender<Word>,
) -> bool {
    let mut is_complete = true;
    let own = own_networks().unwrap_or_else(|error| {
        tracing::warn!(%error, "the network interfaces cannot be listed");
        Vec::new()
    });
    let (links, missed) = links(own, &listen.subnets);
    for subnet in missed {
        is_complete = false;
        let note = Word::Note(
            "this machine has no interface in some of its local subnets, so that mDNS is not heard there",
            subnet.to_string(),
        );
        let _ = out.send(note).await;
    }
    let listening = links.into_iter().map(|link| async move {
        let interface = link.interface.clone();
        let listened = on_link(link, listen, most, until, out).await;
        if let Err(error) = &listened {
            let note = Word::Note(
                "mDNS could not be listened to on some interfaces",
                format!("{interface}: {error}"),
            );
            let _ = out.send(note).await;
        }
        listened.unwrap_or(false)
    });
    let listened = futures::future::join_all(listening).await;
    is_complete && listened.into_iter().all(|complete| complete)
}

/// Whether all that was named could be kept.
async fn on_link(
    link: Link,
    listen: &Listen,
    most: usize,
    until: time::Instant,
    out: &mpsc::Sender<Word>,
) -> io::Result<bool> {
    let socket = open(link.own, listen.port)?;
    let group = SocketAddrV4::new(GROUP, listen.port);
    let service: &ServiceType = &listen.listening.service;
    let Some(mut browse) = Browse::new(service, most, Instant::now()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut datagram = vec![0; DATAGRAM];
    loop {
        while let Some(question) = browse.ask(Instant::now()) {
            socket.send_to(&question, group).await?;
        }
        let received = tokio::select! {
            biased;
            () = sleep_until(until) => break,
            () = sleep_until(browse.deadline().into()) => continue,
            received = socket.recv_from(&mut datagram) => received,
        };
        let (length, from) = received?;
        if link.has(from, listen.port) {
            browse.hear(datagram.get(..length).unwrap_or_default(), Instant::now());
        }
        while let Some(service) = browse.heard() {
            let Some(port) = Port::new(service.port()) else {
                continue;
            };
            let ip = (*service.ip()).into();
            if out
                .send(Word::Service(Endpoint { ip, port }))
                .await
                .is_err()
            {
                return Ok(false);
            }
        }
    }
    let rest = browse.rest();
    let nowhere = rest.nowhere.into_iter().map(|name| {
        let what = "some services were named by mDNS, and nobody said where they are";
        Word::Note(what, name)
    });
    let ipv6_only = rest.ipv6_only.into_iter().map(|ip| {
        let what = "mDNS named hosts that have IPv6 addresses only, which are not covered";
        Word::Note(what, ip.to_string())
    });
    let full = rest.is_full.then(|| {
        let what = "more was named by mDNS than there can be in the node's subnets";
        Word::Note(what, link.interface)
    });
    for note in nowhere.chain(ipv6_only).chain(full) {
        let _ = out.send(note).await;
    }
    Ok(!rest.is_full)
}

impl Link {
    /// Whether an answer comes from this link, and from a program that answers for its whole host.
    fn has(&self, from: SocketAddr, port: u16) -> bool {
        let SocketAddr::V4(from) = from else {
            return false;
        };
        let mut networks = self.networks.iter();
        from.port() == port && networks.any(|network| network.contains(*from.ip()))
    }
}

/// Hears datagrams, and holds to its bounds.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    browse::fuzz(bytes);
}

/// A socket that hears the group on one interface, and sends there.
fn open(own: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Responders of this machine have the port too.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(GROUP, port).into())?;
    // Else it hears the groups that others have joined on other interfaces.
    socket.set_multicast_all_v4(false)?;
    socket.join_multicast_v4(&GROUP, &own)?;
    socket.set_multicast_if_v4(&own)?;
    socket.set_multicast_ttl_v4(255)?;
    UdpSocket::from_std(socket.into())
}

/// The networks of this machine's interfaces that multicast can go to, with its own address in each.
fn own_networks() -> io::Result<Vec<(String, Ipv4Addr, Ipv4Network)>> {
    let multicast = InterfaceFlags::IFF_MULTICAST | InterfaceFlags::IFF_LOOPBACK;
    let network = |one: nix::ifaddrs::InterfaceAddress| {
        let own = one.address?.as_sockaddr_in()?.ip();
        let mask = one.netmask?.as_sockaddr_in()?.ip();
        let network = Ipv4Network::with_netmask(own, mask).ok()?;
        // A label is the name and more after a colon.
        let interface = one.interface_name.split(':').next()?.to_owned();
        let is_up = one.flags.contains(InterfaceFlags::IFF_UP) && one.flags.intersects(multicast);
        is_up.then_some((interface, own, network))
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(network).collect())
}

/// One link for each interface that is in a subnet, and the subnets that no interface is in.
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
    let is_asked_for = |network: Ipv4Network| subnets.iter().any(|one| one.overlaps(network));
    let link = |(interface, networks): (String, Vec<(Ipv4Addr, Ipv4Network)>)| {
        let mut all = networks.iter();
        let (own, _) = *all.find(|(_, network)| is_asked_for(*network))?;
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
    fn only_interfaces_in_a_local_subnet_are_listened_on() {
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
    fn answers_come_from_the_link_and_from_the_port_of_mdns() {
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
