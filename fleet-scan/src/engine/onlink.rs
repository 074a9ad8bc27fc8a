//! Neighbors: hosts that this machine reaches without a router are first asked for their hardware address. Only hosts
//! that answer are dialed.
//!
//! Linux keeps neighbors in a small table and silently drops packets to hosts that find no room in it. A scan would
//! mistake that for silence. With CAP_NET_RAW, this module therefore sends its own ARP requests ([`arp`]), and only
//! hosts that answer enter the table. Without it, and for IPv6, it sends datagrams in windows that fit the table
//! ([`resolve`]).
//!
//! Call [`OnLink::find`], then [`OnLink::step`]. In a scan that listens, [`OnLink::request`] adds each host after its
//! announcement. [`link`] decides which targets are neighbors, [`identity`] whose hardware address is an identity. These
//! four modules are pure; [`netlink`] and [`packet`] are thin.

mod arp;
mod asker;
mod frame;
mod identity;
mod link;
mod netlink;
mod packet;
mod path;
mod resolve;
mod table;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use arp::ArpRequests;
use fleet_core::Mac;
use frame::Sender;
pub(super) use identity::Neighbor;
use link::{Interface, Links};
use netlink::{Family, Kernel};
use packet::{ArpSocket, BoundInterface, PokeOutcome};
use resolve::{Resolution, Resolver};
use table::State;
pub(super) use watch::{Failure, PathWatch};

use super::targets::Targets;
use crate::dial::Dialer;

/// How often the neighbor table is read while answers arrive. A dump takes well under a millisecond.
const READ_INTERVAL: Duration = Duration::from_millis(10);

/// How often it is read when nothing was requested lately.
const IDLE_READ_INTERVAL: Duration = Duration::from_millis(100);

/// How long after a request most answers have arrived.
const RECENT: Duration = Duration::from_millis(200);

/// How often ARP answers are read.
const ARP_INTERVAL: Duration = Duration::from_millis(1);

/// Consecutive failed reads, over a second or two, after which connections have to find out.
const MAX_FAILURES: u32 = 16;

/// How long the kernel waits for an answer to its last request (`retrans_time_ms`).
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Requests per round, well under a millisecond.
const REQUESTS_PER_ROUND: usize = 32;

/// The outcome of hosts on the link. Each host gets exactly one.
#[derive(Debug)]
pub(super) enum NeighborEvent {
    /// It exists, or a connection has to find out.
    Connect(u32),
    /// It is silent since the last request, at this time.
    Silent(u32, Instant),
    /// The neighbor table repeatedly had no room for it.
    NoRoom(u32),
    /// The neighbor table overflowed.
    Overflow(String),
    /// All hosts have an outcome: their hardware addresses.
    Neighbors(BTreeMap<u32, Neighbor>),
}

#[derive(Debug)]
pub(super) struct OnLink {
    targets: Arc<Targets>,
    /// The hosts on a link, ascending.
    hosts: Vec<u32>,
    links: Links,
    /// More hosts may be requested.
    listens: bool,
    routers: BTreeSet<IpAddr>,
    kernel: Kernel,
    arp_sweeps: Vec<ArpSweep>,
    tables: Vec<Table>,
    answered: BTreeMap<u32, Mac>,
    router_macs: BTreeSet<Mac>,
    reported: bool,
}

/// The ARP requests on one interface.
#[derive(Debug)]
struct ArpSweep {
    socket: ArpSocket,
    mac: Mac,
    interface: Interface,
    requests: ArpRequests,
}

/// The neighbor table of one address family.
#[derive(Debug)]
struct Table {
    family: Family,
    limit: usize,
    resolver: Resolver,
    read_at: Instant,
    requested_at: Instant,
    /// Consecutive failed reads.
    failures: u32,
}

/// Bounds of the time to wait for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    pub(super) floor: Duration,
    pub(super) ceiling: Duration,
}

/// Reads the interfaces of this machine, with the IPv4 networks that each reaches without a router.
///
/// # Errors
/// When the system or a sandbox does not list them.
pub fn interfaces() -> io::Result<Vec<fleet_discovery::Interface>> {
    Kernel::new()?.interfaces()
}

/// Returns the hardware address of a host on a link of this machine, from the kernel's neighbor table. None for hosts
/// behind a router, and for an address that also answers for other hosts. The kernel learns it with a connection, so
/// open one before.
///
/// # Errors
/// When the system or a sandbox does not list its neighbors.
pub(crate) fn neighbor(ip: IpAddr) -> io::Result<Option<Mac>> {
    let view = Kernel::new()?.view(Family::of(ip))?;
    Ok(identity::own_address(ip, &view.entries))
}

/// Returns whether this process may send ARP requests itself. Otherwise the kernel resolves neighbors, a few hundred
/// silent ones per three seconds.
pub fn can_send_arp() -> bool {
    ArpSocket::permitted()
}

impl OnLink {
    /// Finds the targets on a link of this machine. With `listens`, each waits for [`OnLink::request`] until
    /// [`OnLink::end_requests`]. Returns none without such targets.
    ///
    /// # Errors
    /// When the system does not list its interfaces, routes or neighbors.
    pub(super) fn find(
        targets: &Arc<Targets>,
        waits: Waits,
        listens: bool,
        now: Instant,
    ) -> io::Result<Option<Self>> {
        let Some(range) = targets.range() else {
            return Ok(None);
        };
        let bound = packet::interfaces()?;
        let mut kernel = Kernel::new()?;
        let (routes, routers) = kernel.routes()?;
        let interfaces = bound.iter().map(|bound| bound.interface.clone()).collect();
        let links = Links::new(interfaces, routes, range);
        let mut by_interface: BTreeMap<u32, VecDeque<u32>> = BTreeMap::new();
        let mut hosts = Vec::new();
        for (host, target) in targets.iter() {
            if let Some(interface) = links.of(target) {
                hosts.push(host);
                by_interface
                    .entry(interface.index)
                    .or_default()
                    .push_back(host);
            }
        }
        if hosts.is_empty() {
            return Ok(None);
        }
        let mut tables = Vec::new();
        for family in Family::ALL {
            let limit = kernel.table(family)?.limit;
            tables.push(Table {
                family,
                limit,
                resolver: Resolver::new(limit),
                read_at: now,
                requested_at: now,
                failures: 0,
            });
        }
        let mut on_link = Self {
            targets: Arc::clone(targets),
            hosts,
            links,
            listens,
            routers: routers.into_iter().collect(),
            kernel,
            arp_sweeps: Vec::new(),
            tables,
            answered: BTreeMap::new(),
            router_macs: BTreeSet::new(),
            reported: false,
        };
        for bound in &bound {
            if let Some(hosts) = by_interface.remove(&bound.interface.index) {
                let now = if listens { VecDeque::new() } else { hosts };
                on_link.add(bound, now, waits);
            }
        }
        Ok(Some(on_link))
    }

    /// The hosts on a link, ascending. None of them may be dialed before its outcome.
    pub(super) fn hosts(&self) -> &[u32] {
        &self.hosts
    }

    /// Requests a host. Returns whether it is on a link.
    pub(super) fn request(&mut self, host: u32) -> bool {
        if self.hosts.binary_search(&host).is_err() {
            return false;
        }
        let target = self.targets.address(host).filter(IpAddr::is_ipv4);
        let link = target.and_then(|target| self.links.of(target));
        let index = link.map(|interface| interface.index);
        let mut arp_sweeps = self.arp_sweeps.iter_mut();
        match arp_sweeps.find(|sweep| Some(sweep.interface.index) == index) {
            Some(sweep) => sweep.requests.add(host),
            None => self.resolve(host),
        }
        true
    }

    /// Reports that no further host will be requested.
    pub(super) fn end_requests(&mut self) {
        self.listens = false;
    }

    fn add(&mut self, bound: &BoundInterface, hosts: VecDeque<u32>, waits: Waits) {
        let rest = match bound.interface.mac.map(|mac| (mac, ArpSocket::open(bound))) {
            Some((mac, Ok(socket))) => {
                // ARP is for IPv4 only. The kernel resolves IPv6 neighbors.
                let v4 = |host: &u32| self.targets.address(*host).is_some_and(|ip| ip.is_ipv4());
                let (arp, rest) = hosts.into_iter().partition(v4);
                self.arp_sweeps.push(ArpSweep {
                    socket,
                    mac,
                    interface: bound.interface.clone(),
                    requests: ArpRequests::new(arp, waits.floor, waits.ceiling),
                });
                rest
            }
            Some((_, Err(error))) => {
                tracing::debug!(%error, "cannot send ARP, the kernel resolves neighbors");
                hosts
            }
            None => hosts,
        };
        for host in rest {
            self.resolve(host);
        }
    }

    /// Sends the requests that are due and processes answers. Returns when to continue. Waiting connections (`busy`) go
    /// first; `allowed` returns whether a host may be touched.
    pub(super) fn step(
        &mut self,
        now: Instant,
        dialer: &Dialer,
        busy: bool,
        allowed: impl Fn(u32) -> bool,
        events: &mut Vec<NeighborEvent>,
    ) -> Option<Instant> {
        if self.reported {
            return None;
        }
        let mut wakes = Vec::new();
        for at in 0..self.arp_sweeps.len() {
            wakes.extend(self.step_arp(at, now, dialer, busy, &allowed, events));
        }
        for at in 0..self.tables.len() {
            wakes.extend(self.step_table(at, now, dialer, &allowed, events));
        }
        let over = !self.listens
            && self.arp_sweeps.iter().all(|sweep| sweep.requests.is_done())
            && self.tables.iter().all(|table| table.resolver.is_idle());
        if over {
            self.reported = true;
            let neighbors = identity::classify(&self.answered, &self.router_macs);
            events.push(NeighborEvent::Neighbors(neighbors));
            return None;
        }
        wakes.into_iter().min()
    }

    fn step_arp(
        &mut self,
        at: usize,
        now: Instant,
        dialer: &Dialer,
        busy: bool,
        allowed: impl Fn(u32) -> bool,
        events: &mut Vec<NeighborEvent>,
    ) -> Option<Instant> {
        let mut answered = Vec::new();
        let sweep = self.arp_sweeps.get_mut(at)?;
        let mut buffer = [0; 128];
        // Before `expire`: an answer that waits in the socket must not count as silence.
        while let Some(frame) = sweep.socket.receive(&mut buffer) {
            let host = frame::reply(frame)
                .and_then(|(ip, mac)| Some((self.targets.host(IpAddr::V4(ip))? as u32, mac)));
            if let Some((host, mac)) = host
                && sweep.requests.answered(host, now)
            {
                answered.push((host, mac));
            }
        }
        events.extend(
            std::iter::from_fn(|| sweep.requests.expire(now))
                .map(|(host, sent)| NeighborEvent::Silent(host, sent)),
        );
        for _ in 0..REQUESTS_PER_ROUND {
            if busy || !dialer.wait().is_zero() {
                break;
            }
            let Some(host) = sweep.requests.next_host() else {
                break;
            };
            let Some(IpAddr::V4(target)) = self.targets.address(host).filter(|_| allowed(host))
            else {
                // The attempt fails in the same way, and reports the reason for each port.
                sweep.requests.skip();
                events.push(NeighborEvent::Connect(host));
                continue;
            };
            if !sweep.send(target, now) {
                break;
            }
            dialer.spend_permit();
        }
        let done = sweep.requests.is_done();
        for (host, mac) in answered {
            self.answered.insert(host, mac);
            // A connection needs the kernel's entry too. Only hosts that exist use up its table.
            self.resolve(host);
        }
        // The sweep's poller does not watch packet sockets, so they are read on a timer.
        (!done).then_some(now + ARP_INTERVAL)
    }

    fn step_table(
        &mut self,
        at: usize,
        now: Instant,
        dialer: &Dialer,
        allowed: impl Fn(u32) -> bool,
        events: &mut Vec<NeighborEvent>,
    ) -> Option<Instant> {
        let table = self.tables.get(at)?;
        if table.resolver.is_idle() {
            return None;
        }
        if now >= table.read_at {
            self.read_table(at, now, events);
        }
        let table = self.tables.get_mut(at)?;
        while let Some(host) = table.resolver.next_host() {
            if !dialer.wait().is_zero() {
                break;
            }
            let target = self.targets.address(host).filter(|_| allowed(host));
            match target.map_or(PokeOutcome::Failed, packet::poke) {
                PokeOutcome::Failed => {
                    table.resolver.skip();
                    events.push(NeighborEvent::Connect(host));
                    continue;
                }
                PokeOutcome::Sent => table.resolver.requested(false),
                PokeOutcome::TableFull => table.resolver.requested(true),
            }
            table.requested_at = now;
            dialer.spend_permit();
        }
        // Most hosts that exist answer at once.
        let wants = table.resolver.next_host().is_some();
        Some(if wants {
            now + ARP_INTERVAL
        } else {
            table.read_at
        })
    }

    fn read_table(&mut self, at: usize, now: Instant, events: &mut Vec<NeighborEvent>) {
        let Some(table) = self.tables.get_mut(at) else {
            return;
        };
        let recent = now.saturating_duration_since(table.requested_at) < RECENT;
        table.read_at = now
            + if recent {
                READ_INTERVAL
            } else {
                IDLE_READ_INTERVAL
            };
        let view = match self.kernel.view(table.family) {
            Ok(view) => view,
            Err(error) => {
                tracing::debug!(%error, "cannot read the neighbor table");
                table.failures += 1;
                if table.failures > MAX_FAILURES {
                    let left = table.resolver.give_up();
                    events.extend(left.into_iter().map(NeighborEvent::Connect));
                }
                return;
            }
        };
        table.failures = 0;
        for entry in &view.entries {
            if self.routers.contains(&entry.ip) {
                self.router_macs.extend(entry.mac);
            }
            // This answer is newer than the first one.
            if let (State::Answered, Some(mac)) = (entry.state, entry.mac)
                && let Some(host) = self.targets.host(entry.ip)
                && let Some(known) = self.answered.get_mut(&(host as u32))
            {
                *known = mac;
            }
        }
        let host_of = |ip| self.targets.host(ip).map(|host| host as u32);
        let update = table.resolver.apply_view(&view, host_of, now);
        if let Some(window) = update.overflow {
            events.push(NeighborEvent::Overflow(format!(
                "the neighbor table of this machine (net.ipv4.neigh.default.gc_thresh3 = {}) overflowed, now \
                 {window} neighbors at a time",
                table.limit
            )));
        }
        for (host, resolution) in update.resolutions {
            events.push(match resolution {
                Resolution::Answered(mac) => {
                    self.answered.insert(host, mac);
                    NeighborEvent::Connect(host)
                }
                Resolution::Unknown => NeighborEvent::Connect(host),
                Resolution::Silent => {
                    // The kernel sends its last request a second before it gives up.
                    let sent = now.checked_sub(LAST_REQUEST).unwrap_or(now);
                    NeighborEvent::Silent(host, sent)
                }
                Resolution::NoRoom => NeighborEvent::NoRoom(host),
            });
        }
    }

    fn resolve(&mut self, host: u32) {
        let family = self.targets.address(host).map(Family::of);
        let mut tables = self.tables.iter_mut();
        if let Some(table) = tables.find(|table| Some(table.family) == family) {
            table.resolver.add(host);
        }
    }
}

impl ArpSweep {
    /// Requests the next host. Returns whether the system could send it.
    fn send(&mut self, target: Ipv4Addr, now: Instant) -> bool {
        let Some(address) = self.interface.address_for(target) else {
            // The interface has lost its address. The host times out.
            self.requests.sent(now);
            return true;
        };
        let sender = Sender {
            mac: self.mac,
            address,
        };
        match self.socket.send(&frame::request(sender, target)) {
            Ok(()) => {
                self.requests.sent(now);
                true
            }
            Err(error) => {
                tracing::debug!(%target, %error, "cannot send an ARP request");
                // Out of buffers: try later. Any other error counts as a lost request, which the tries bound.
                let out_of_buffers = matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory
                );
                if !out_of_buffers {
                    self.requests.sent(now);
                }
                !out_of_buffers
            }
        }
    }
}
