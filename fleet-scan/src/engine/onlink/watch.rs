//! Watches the paths of a scan: links, and the routers that serve as canaries. Thin; `path.rs` decides.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    asker::{Asker, Sign},
    link::Links,
    netlink::Kernel,
    packet::{self, ArpSocket},
    path::{Canary, Path, Silence},
};
use crate::engine::targets::Targets;

/// How often links are read. A dump takes well under a millisecond.
const READ_INTERVAL: Duration = Duration::from_millis(50);

/// How often a canary's answer is read.
const ANSWER_INTERVAL: Duration = Duration::from_millis(5);

/// Why silence may not be claimed: kind and example of a note.
pub(in crate::engine) type Failure = (&'static str, String);

/// Watches the paths to the hosts of a scan, and holds silent items of type `T` until their path is verified.
#[derive(Debug)]
pub(in crate::engine) struct PathWatch<T> {
    kernel: Kernel,
    /// For each host its path; none if it cannot be watched.
    of_host: Vec<Option<u32>>,
    paths: Vec<Watched<T>>,
    read_at: Instant,
}

#[derive(Debug)]
struct Watched<T> {
    path: Path,
    held: VecDeque<(T, Instant)>,
    canary: Asker,
}

impl<T> PathWatch<T> {
    /// Finds the paths of the targets.
    ///
    /// # Errors
    /// When the system does not list its interfaces and routes.
    pub(in crate::engine) fn start(targets: &Targets, now: Instant) -> io::Result<Option<Self>> {
        let Some(range) = targets.range() else {
            return Ok(None);
        };
        let bound = packet::interfaces()?;
        let mut kernel = Kernel::new()?;
        let (routes, _) = kernel.routes()?;
        let interfaces = bound.iter().map(|bound| bound.interface.clone()).collect();
        let links = Links::new(interfaces, routes, range);
        let mut ids: BTreeMap<(u32, Option<IpAddr>), u32> = BTreeMap::new();
        let of_host = targets
            .iter()
            .map(|(_, target)| {
                let path = links.path(target)?;
                // Less than the number of hosts, which has 32 bits.
                let next = ids.len() as u32;
                Some(*ids.entry(path).or_insert(next))
            })
            .collect();
        let mut ids: Vec<_> = ids.into_iter().map(|(path, id)| (id, path)).collect();
        ids.sort_unstable();
        let mut watch = Self {
            kernel,
            of_host,
            paths: Vec::new(),
            read_at: now,
        };
        for (_, (interface, router)) in ids {
            let bound = bound
                .iter()
                .find(|bound| bound.interface.index == interface)
                // An interface without a hardware address cannot send ARP. The kernel asks over it.
                .filter(|bound| bound.interface.mac.is_some());
            let canary = bound
                .zip(router.filter(IpAddr::is_ipv4))
                .and_then(|(bound, _)| Some((ArpSocket::open(bound).ok()?, bound.clone())))
                .map_or_else(Asker::unprivileged, |(socket, bound)| {
                    Asker::Arp(socket, bound)
                });
            watch.paths.push(Watched {
                path: Path::new(interface, router),
                held: VecDeque::new(),
                canary,
            });
        }
        watch.read_links(now);
        Ok(Some(watch))
    }

    /// Reports that a host answered.
    pub(in crate::engine) fn answered(&mut self, host: u32, now: Instant) {
        if let Some(watched) = self.of(host) {
            watched.path.answered(now);
        }
    }

    /// Judges the silence of a host since the last packet to it. Returns none if the item is held until
    /// [`PathWatch::step`] decides it.
    pub(in crate::engine) fn judge(
        &mut self,
        host: u32,
        item: T,
        sent: Instant,
    ) -> Option<(T, Result<(), Failure>)> {
        let Some(watched) = self.of(host) else {
            // A path that cannot be watched cannot be verified. Its silence counts.
            return Some((item, Ok(())));
        };
        match watched.path.judge(sent) {
            Silence::Claimed => Some((item, Ok(()))),
            Silence::LinkDown => Some((item, Err(watched.link_down()))),
            Silence::Held => {
                watched.held.push_back((item, sent));
                None
            }
        }
    }

    /// Whether nothing is held.
    pub(in crate::engine) fn is_idle(&self) -> bool {
        self.paths.iter().all(|watched| watched.held.is_empty())
    }

    /// Reads links and canaries. Returns the items that are decided, and when to continue.
    pub(in crate::engine) fn step(
        &mut self,
        now: Instant,
        decided: &mut Vec<(T, Result<(), Failure>)>,
    ) -> Option<Instant> {
        if now >= self.read_at + READ_INTERVAL {
            self.read_links(now);
        }
        let kernel = &mut self.kernel;
        let wakes = self.paths.iter_mut().filter_map(|watched| {
            // While every host answers, no router is asked.
            if watched.held.is_empty() {
                return None;
            }
            let sign = watched.sign(kernel, now);
            if let Sign::Answered(at) = sign {
                watched.path.answered(at);
            }
            watched.release(decided);
            if watched.held.is_empty() {
                return None;
            }
            let interval = match sign {
                Sign::None => ANSWER_INTERVAL,
                Sign::Answered(_) | Sign::Unverified => READ_INTERVAL,
            };
            // An answer that is older than the silence leaves the router unverified.
            match watched.path.canary(now, sign != Sign::None) {
                Canary::Wait(until) => Some(until.min(now + interval)),
                Canary::Ask => {
                    watched.path.asked(now);
                    watched.ask();
                    Some(now + ANSWER_INTERVAL)
                }
                Canary::Silent => {
                    let failure = watched.router_silent();
                    let held = watched.held.drain(..);
                    decided.extend(held.map(|(item, _)| (item, Err(failure.clone()))));
                    None
                }
            }
        });
        wakes.min()
    }

    fn read_links(&mut self, now: Instant) {
        self.read_at = now;
        match self.kernel.links() {
            Ok(links) => {
                for watched in &mut self.paths {
                    watched.path.observe(&links, now);
                }
            }
            // Without a view of the links, the answers alone decide.
            Err(error) => tracing::debug!(%error, "cannot read the state of the interfaces"),
        }
    }

    fn of(&mut self, host: u32) -> Option<&mut Watched<T>> {
        let path = (*self.of_host.get(host as usize)?)?;
        self.paths.get_mut(path as usize)
    }
}

impl<T> Watched<T> {
    /// Decides items whose path was verified or whose link failed since they were held.
    fn release(&mut self, decided: &mut Vec<(T, Result<(), Failure>)>) {
        for (item, sent) in std::mem::take(&mut self.held) {
            match self.path.judge(sent) {
                Silence::Claimed => decided.push((item, Ok(()))),
                Silence::LinkDown => decided.push((item, Err(self.link_down()))),
                Silence::Held => self.held.push_back((item, sent)),
            }
        }
    }

    fn ask(&mut self) {
        if let Some(router) = self.path.router {
            self.canary.ask(router);
        }
    }

    fn sign(&mut self, kernel: &mut Kernel, now: Instant) -> Sign {
        let Some(router) = self.path.router else {
            return Sign::Answered(now);
        };
        self.canary.sign(router, kernel, now)
    }

    fn link_down(&self) -> Failure {
        let kind = "a network interface had no link (check its cable and switch)";
        (kind, self.path.name())
    }

    fn router_silent(&self) -> Failure {
        let kind = "a router does not answer (check the router and the network to it)";
        let router = self
            .path
            .router
            .map_or_else(String::new, |router| format!("{router} on "));
        (kind, format!("{router}{}", self.path.name()))
    }
}
