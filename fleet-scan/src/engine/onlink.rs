//! Neighbors: hosts that this machine reaches without a router are asked for by their hardware address first, and
//! only those that answer are connected to.
//!
//! Linux keeps its neighbors in a small table and silently drops what finds no room in it, which a scan would take
//! for silence. So: where ARP frames may be sent (CAP_NET_RAW), a sweep of our own ([`ask`]) that leaves the table
//! alone, then only who answered enters it; else, and for IPv6, datagrams in windows that the table can hold
//! ([`resolve`]). [`OnLink::find`] first, then [`OnLink::step`]; where hosts are to be heard first, each is met when it
//! was ([`OnLink::meet`]). Which targets these are says [`link`], whose hardware
//! address is an identity [`identity`]; all four are pure, [`netlink`] and [`packet`] are thin.

mod ask;
mod frame;
mod identity;
mod link;
mod netlink;
mod packet;
mod resolve;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use ask::Ask;
use fleet_core::Mac;
use frame::Sender;
pub(super) use identity::Neighbor;
use link::{Interface, Links};
use netlink::{Family, Kernel};
use packet::{ArpSocket, Poked, Port};
use resolve::{Resolver, Verdict};
use table::State;

use super::targets::Targets;
use crate::dial::Dialler;

/// Between two looks at the neighbor table while answers are fresh: a dump costs well under a millisecond.
const LOOK: Duration = Duration::from_millis(10);

/// Between two looks when nothing was asked lately.
const LOOK_SELDOM: Duration = Duration::from_millis(100);

/// How long after asking most answers have come.
const LATELY: Duration = Duration::from_millis(200);

/// Between two looks at what answered by ARP.
const LISTEN: Duration = Duration::from_millis(1);

/// Looks in a row that may fail before connections have to tell: within a second or two.
const FAILURES: u32 = 16;

/// Requests that are sent in one go, well under a millisecond.
const IN_ONE_GO: usize = 32;

/// What is learned of hosts on the link; of each one word that settles it.
#[derive(Debug)]
pub(super) enum Learned {
    /// It is there, or a connection has to tell.
    Connect(u32),
    Silent(u32),
    /// The neighbor table had no room for it, time and again.
    Unsure(u32),
    /// The neighbor table overflowed.
    Overflow(String),
    /// All hosts are settled: who answered for which.
    Neighbors(BTreeMap<u32, Neighbor>),
}

#[derive(Debug)]
pub(super) struct OnLink {
    targets: Arc<Targets>,
    /// The hosts that this is about, ascending.
    hosts: Vec<u32>,
    links: Links,
    /// More hosts may be to be met.
    awaits: bool,
    routers: BTreeSet<IpAddr>,
    kernel: Kernel,
    sweeps: Vec<Sweep>,
    tables: Vec<Table>,
    answered: BTreeMap<u32, Mac>,
    router_macs: BTreeSet<Mac>,
    told: bool,
}

/// ARP on one interface.
#[derive(Debug)]
struct Sweep {
    socket: ArpSocket,
    mac: Mac,
    interface: Interface,
    ask: Ask,
}

/// The neighbor table of one family.
#[derive(Debug)]
struct Table {
    family: Family,
    limit: usize,
    resolver: Resolver,
    look: Instant,
    asked: Instant,
    /// Looks in a row that failed.
    failures: u32,
}

/// How long answers are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    pub(super) floor: Duration,
    pub(super) ceiling: Duration,
}

impl OnLink {
    /// The targets that are on a link of this machine; none if there are none. With `awaits` they are met one by one,
    /// by [`OnLink::meet`] until [`OnLink::meet_no_more`].
    ///
    /// # Errors
    /// When the system does not tell of its interfaces, routes or neighbors.
    pub(super) fn find(
        targets: &Arc<Targets>,
        waits: Waits,
        awaits: bool,
        now: Instant,
    ) -> io::Result<Option<Self>> {
        let Some(range) = targets.range() else {
            return Ok(None);
        };
        let ports = packet::ports()?;
        let mut kernel = Kernel::new()?;
        let (routes, routers) = kernel.routes()?;
        let interfaces = ports.iter().map(|port| port.interface.clone()).collect();
        let links = Links::new(interfaces, routes, range);
        let mut by_port: BTreeMap<u32, VecDeque<u32>> = BTreeMap::new();
        let mut hosts = Vec::new();
        for (host, target) in targets.iter() {
            if let Some(interface) = links.of(target) {
                hosts.push(host);
                by_port.entry(interface.index).or_default().push_back(host);
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
                look: now,
                asked: now,
                failures: 0,
            });
        }
        let mut on_link = Self {
            targets: Arc::clone(targets),
            hosts,
            links,
            awaits,
            routers: routers.into_iter().collect(),
            kernel,
            sweeps: Vec::new(),
            tables,
            answered: BTreeMap::new(),
            router_macs: BTreeSet::new(),
            told: false,
        };
        for port in &ports {
            if let Some(hosts) = by_port.remove(&port.interface.index) {
                let now = if awaits { VecDeque::new() } else { hosts };
                on_link.add(port, now, waits);
            }
        }
        Ok(Some(on_link))
    }

    /// The hosts that this is about, ascending: nothing is to be tried there before a word of them is learned.
    pub(super) fn hosts(&self) -> &[u32] {
        &self.hosts
    }

    /// A host was heard, and may be met from now on; whether it is on a link.
    pub(super) fn meet(&mut self, host: u32) -> bool {
        if self.hosts.binary_search(&host).is_err() {
            return false;
        }
        let target = self.targets.address(host).filter(IpAddr::is_ipv4);
        let link = target.and_then(|target| self.links.of(target));
        let index = link.map(|interface| interface.index);
        let mut sweeps = self.sweeps.iter_mut();
        match sweeps.find(|sweep| Some(sweep.interface.index) == index) {
            Some(sweep) => sweep.ask.add(host),
            None => self.resolve(host),
        }
        true
    }

    /// No further host will be heard.
    pub(super) fn meet_no_more(&mut self) {
        self.awaits = false;
    }

    fn add(&mut self, port: &Port, hosts: VecDeque<u32>, waits: Waits) {
        let rest = match port.interface.mac.map(|mac| (mac, ArpSocket::open(port))) {
            Some((mac, Ok(socket))) => {
                let v4 = |host: &u32| self.targets.address(*host).is_some_and(|ip| ip.is_ipv4());
                let (arp, rest) = hosts.into_iter().partition(v4);
                self.sweeps.push(Sweep {
                    socket,
                    mac,
                    interface: port.interface.clone(),
                    ask: Ask::new(arp, waits.floor, waits.ceiling),
                });
                rest
            }
            Some((_, Err(error))) => {
                tracing::debug!(%error, "no ARP of our own, asking through the kernel");
                hosts
            }
            None => hosts,
        };
        for host in rest {
            self.resolve(host);
        }
    }

    /// Asks for what may be asked for now, and hears what answered. `busy` says that connections wait for their
    /// turn, which go first; `may` whether an address may be touched. When to go on, if there is more to do.
    pub(super) fn step(
        &mut self,
        now: Instant,
        dialler: &Dialler,
        busy: bool,
        may: impl Fn(u32) -> bool,
        learned: &mut Vec<Learned>,
    ) -> Option<Instant> {
        if self.told {
            return None;
        }
        let mut wakes = Vec::new();
        for at in 0..self.sweeps.len() {
            wakes.extend(self.step_arp(at, now, dialler, busy, &may, learned));
        }
        for at in 0..self.tables.len() {
            wakes.extend(self.step_table(at, now, dialler, &may, learned));
        }
        let over = !self.awaits
            && self.sweeps.iter().all(|sweep| sweep.ask.is_done())
            && self.tables.iter().all(|table| table.resolver.is_idle());
        if over {
            self.told = true;
            let judged = identity::judge(&self.answered, &self.router_macs);
            learned.push(Learned::Neighbors(judged));
            return None;
        }
        wakes.into_iter().min()
    }

    fn step_arp(
        &mut self,
        at: usize,
        now: Instant,
        dialler: &Dialler,
        busy: bool,
        may: impl Fn(u32) -> bool,
        learned: &mut Vec<Learned>,
    ) -> Option<Instant> {
        let mut there = Vec::new();
        let sweep = self.sweeps.get_mut(at)?;
        let mut buffer = [0; 128];
        while let Some(frame) = sweep.socket.receive(&mut buffer) {
            let host = frame::reply(frame)
                .and_then(|(ip, mac)| Some((self.targets.host(IpAddr::V4(ip))? as u32, mac)));
            if let Some((host, mac)) = host
                && sweep.ask.answered(host, now)
            {
                there.push((host, mac));
            }
        }
        learned.extend(std::iter::from_fn(|| sweep.ask.expire(now)).map(Learned::Silent));
        for _ in 0..IN_ONE_GO {
            if busy || !dialler.wait().is_zero() {
                break;
            }
            let Some(host) = sweep.ask.want() else { break };
            let Some(IpAddr::V4(target)) = self.targets.address(host).filter(|_| may(host)) else {
                sweep.ask.skip();
                learned.push(Learned::Connect(host));
                continue;
            };
            if !sweep.send(target, now) {
                break;
            }
            dialler.spend_turn();
        }
        let done = sweep.ask.is_done();
        for (host, mac) in there {
            self.answered.insert(host, mac);
            self.resolve(host);
        }
        (!done).then_some(now + LISTEN)
    }

    fn step_table(
        &mut self,
        at: usize,
        now: Instant,
        dialler: &Dialler,
        may: impl Fn(u32) -> bool,
        learned: &mut Vec<Learned>,
    ) -> Option<Instant> {
        let table = self.tables.get(at)?;
        if table.resolver.is_idle() {
            return None;
        }
        if now >= table.look {
            self.look(at, now, learned);
        }
        let table = self.tables.get_mut(at)?;
        while let Some(host) = table.resolver.want() {
            if !dialler.wait().is_zero() {
                break;
            }
            let target = self.targets.address(host).filter(|_| may(host));
            match target.map_or(Poked::Not, packet::poke) {
                Poked::Not => {
                    table.resolver.skip();
                    learned.push(Learned::Connect(host));
                    continue;
                }
                Poked::Sent => table.resolver.asked(false),
                Poked::Full => table.resolver.asked(true),
            }
            table.asked = now;
            dialler.spend_turn();
        }
        // Who answers at all mostly answers at once.
        let wants = table.resolver.want().is_some();
        Some(if wants { now + LISTEN } else { table.look })
    }

    fn look(&mut self, at: usize, now: Instant, learned: &mut Vec<Learned>) {
        let Some(table) = self.tables.get_mut(at) else {
            return;
        };
        let lately = now.saturating_duration_since(table.asked) < LATELY;
        table.look = now + if lately { LOOK } else { LOOK_SELDOM };
        let view = match self.kernel.view(table.family) {
            Ok(view) => view,
            Err(error) => {
                tracing::debug!(%error, "cannot read the neighbor table");
                table.failures += 1;
                if table.failures > FAILURES {
                    let left = table.resolver.give_up();
                    learned.extend(left.into_iter().map(Learned::Connect));
                }
                return;
            }
        };
        table.failures = 0;
        for entry in &view.entries {
            if self.routers.contains(&entry.ip) {
                self.router_macs.extend(entry.mac);
            }
            // A newer answer than the one that was learned first.
            if let (State::Answered, Some(mac)) = (entry.state, entry.mac)
                && let Some(host) = self.targets.host(entry.ip)
                && let Some(known) = self.answered.get_mut(&(host as u32))
            {
                *known = mac;
            }
        }
        let host_of = |ip| self.targets.host(ip).map(|host| host as u32);
        let looked = table.resolver.look(&view, host_of, now);
        if let Some(window) = looked.overflow {
            learned.push(Learned::Overflow(format!(
                "the neighbor table of this machine (net.ipv4.neigh.default.gc_thresh3 = {}) overflowed, now \
                 {window} neighbors at a time",
                table.limit
            )));
        }
        for (host, verdict) in looked.verdicts {
            learned.push(match verdict {
                Verdict::There(mac) => {
                    self.answered.insert(host, mac);
                    Learned::Connect(host)
                }
                Verdict::Unclear => Learned::Connect(host),
                Verdict::Silent => Learned::Silent(host),
                Verdict::Unsure => Learned::Unsure(host),
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

impl Sweep {
    /// Asks for the wanted host; whether the system could send it.
    fn send(&mut self, target: Ipv4Addr, now: Instant) -> bool {
        let Some(address) = self.interface.address_for(target) else {
            // Its address is gone; silence will tell.
            self.ask.asked(now);
            return true;
        };
        let sender = Sender {
            mac: self.mac,
            address,
        };
        match self.socket.send(&frame::request(sender, target)) {
            Ok(()) => {
                self.ask.asked(now);
                true
            }
            Err(error) => {
                tracing::debug!(%target, %error, "cannot ask for a neighbor");
                // Short of room: later. Anything else is as good as lost, which the tries bound.
                let short = matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory
                );
                if !short {
                    self.ask.asked(now);
                }
                !short
            }
        }
    }
}
