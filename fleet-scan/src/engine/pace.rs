//! The duration of whole scans, over simulated sites and a simulated clock, against the planner's estimate. The rules of
//! the engine decide: the schedule, the rate, and the ARP requests.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_discovery::{Mode, NodeProfile, PastScan, Plan, PlanPolicy, ScanRequest, estimate, plan};

use super::{
    onlink::ArpRequests,
    schedule::{Attempt, Next, Opened, RETRANSMISSION, Schedule},
    targets::Targets,
};
use crate::{job::ScanOptions, rate::Bucket, timing::Timeouts};

/// The longest factor between an estimate and the scan.
const FACTOR: f64 = 1.5;

/// Sockets, as many as a node at its usual rate has.
const ROOM: usize = 10_000;

/// How often timers of the sweep fire.
const TICK: Duration = Duration::from_millis(1);

/// A network with devices on every `live`-th address.
#[derive(Debug, Clone, Copy)]
struct VirtualSite {
    network: &'static str,
    ports: &'static [&'static str],
    on_link: bool,
    /// 0 for none.
    live: u32,
    /// Every so many devices, one is slow; 0 for none.
    slow: u32,
    /// The time of an answer to a SYN.
    round_trip: Duration,
    /// The time of an identification, and of that of a slow device.
    reply: Duration,
    slow_reply: Duration,
    rate: u32,
}

const SITE: VirtualSite = VirtualSite {
    network: "10.0.0.0/22",
    ports: &["80", "4028"],
    on_link: false,
    live: 4,
    slow: 0,
    round_trip: Duration::from_millis(2),
    reply: Duration::from_millis(30),
    slow_reply: Duration::ZERO,
    rate: 5_000,
};

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Answered(Attempt),
    Closed(u32),
    Resolved(u32),
}

impl VirtualSite {
    fn node(&self) -> NodeProfile {
        NodeProfile {
            big_commands: true,
            max_targets: 16_384,
            rate: self.rate,
            arp: true,
            local_subnets: self
                .on_link
                .then(|| self.network.parse().expect("a network"))
                .into_iter()
                .collect(),
            ..NodeProfile::upstream()
        }
    }

    fn plan(&self) -> Plan {
        let request = ScanRequest {
            mode: Mode::Target(self.network.to_owned()),
            ports: self.ports.iter().map(|port| (*port).to_owned()).collect(),
            rate: 0,
        };
        plan(&request, &self.node(), &PlanPolicy::default()).expect("a plan")
    }

    fn is_live(&self, ip: IpAddr) -> bool {
        self.live > 0 && number(ip) % self.live == 1 % self.live
    }

    fn reply(&self, ip: IpAddr) -> Duration {
        if self.slow > 0 && (number(ip) / self.live).is_multiple_of(self.slow) {
            self.slow_reply
        } else {
            self.reply
        }
    }

    /// Scans the site, command after command. Returns what the server stores of the scan.
    fn scan(&self) -> PastScan {
        let plan = self.plan();
        let lists: Vec<_> = plan
            .chunks
            .iter()
            .map(|chunk| chunk.scope.address_list())
            .collect();
        let mut past = PastScan {
            commands: plan.chunks.len() as u64,
            ports: plan.ports,
            answered: 0,
            devices: 0,
            rate: self.rate,
            duration: Duration::ZERO,
            addresses: lists.clone(),
        };
        for list in lists {
            let targets: Vec<IpAddr> = list.iter().collect();
            past.answered += targets.iter().filter(|ip| self.is_live(**ip)).count() as u64;
            past.duration += self.command(&targets);
        }
        past
    }

    fn command(&self, targets: &[IpAddr]) -> Duration {
        let options = ScanOptions::default();
        let targets = Arc::new(Targets::new(targets));
        let (floor, ceiling) = (
            options.timeout_floor,
            options.timeout_ceiling.min(RETRANSMISSION),
        );
        let timeouts = Timeouts::new(floor, ceiling, targets.subnets());
        let ports = self.ports.len() as u8;
        let mut schedule =
            Schedule::new(Arc::clone(&targets), ports, options.tries, ROOM, timeouts);
        let hosts: Vec<u32> = targets.iter().map(|(host, _)| host).collect();
        let mut arp = ArpRequests::new(VecDeque::new(), floor, options.timeout_ceiling);
        if self.on_link {
            schedule.hold(&hosts);
            hosts.iter().for_each(|host| arp.add(*host));
        }
        let start = Instant::now();
        let (mut now, mut bucket) = (start, Bucket::new(self.rate, start));
        let mut events: BinaryHeap<Reverse<(Instant, Event)>> = BinaryHeap::new();
        let address = |host: u32| targets.address(host).expect("a target");
        loop {
            while let Some(Reverse((at, event))) =
                events.peek().copied().filter(|Reverse((at, _))| *at <= now)
            {
                events.pop();
                match event {
                    Event::Answered(attempt) => {
                        if let Opened::Take(at_host) = schedule.opened(attempt, now) {
                            let closed = at + self.reply(address(at_host.host));
                            events.push(Reverse((closed, Event::Closed(at_host.host))));
                        }
                    }
                    Event::Closed(host) => schedule.release(host),
                    Event::Resolved(host) => {
                        if arp.answered(host, now) {
                            schedule.admit(host);
                        }
                    }
                }
            }
            while let Some(due) = schedule.next_retransmission(now) {
                schedule.closed(due.attempt);
            }
            while schedule.expire(now).is_some() {}
            while let Some((host, _)) = arp.expire(now) {
                schedule.rule_out(host);
            }
            let mut done = false;
            loop {
                if schedule.has_work() && !bucket.wait(now).is_zero() {
                    break;
                }
                match schedule.next(now) {
                    Next::Dial(attempt, at) => {
                        bucket.reserve(now);
                        if self.is_live(address(at.host)) {
                            events.push(Reverse((now + self.round_trip, Event::Answered(attempt))));
                        }
                    }
                    Next::Abandon(_) => {}
                    Next::Wait => break,
                    Next::Done => {
                        done = events.is_empty();
                        break;
                    }
                }
            }
            if done {
                return now - start;
            }
            while !schedule.has_work() && bucket.wait(now).is_zero() {
                let Some(host) = arp.next_host() else { break };
                bucket.reserve(now);
                arp.sent(now);
                if self.is_live(address(host)) {
                    events.push(Reverse((now + self.round_trip, Event::Resolved(host))));
                }
            }
            now += TICK;
            assert!(
                now < start + Duration::from_secs(600),
                "it does not end: {self:?}"
            );
        }
    }

    /// The factor by which an estimate and the scan differ.
    fn factor(&self, past: &[PastScan]) -> f64 {
        let real = self.scan().duration.as_secs_f64();
        let estimated = estimate(&self.plan(), &self.node(), past).as_secs_f64();
        (estimated / real).max(real / estimated)
    }
}

fn number(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(_) => 0,
    }
}

/// Sites, each with the site that the node scanned before.
fn sites() -> Vec<(&'static str, VirtualSite, VirtualSite)> {
    let slow = VirtualSite {
        slow: 20,
        slow_reply: Duration::from_secs(20),
        ..SITE
    };
    let dark = VirtualSite { live: 0, ..SITE };
    let on_link = VirtualSite {
        on_link: true,
        ..SITE
    };
    let wide = VirtualSite {
        network: "10.0.0.0/19",
        rate: 2_000,
        ..SITE
    };
    vec![
        ("the usual site", SITE, SITE),
        ("slow devices", slow, slow),
        ("a dark network", dark, dark),
        ("a network on the link", on_link, on_link),
        (
            "slow devices on the link",
            VirtualSite {
                on_link: true,
                ..slow
            },
            VirtualSite {
                on_link: true,
                ..slow
            },
        ),
        (
            "a dark network on the link",
            VirtualSite { live: 0, ..on_link },
            VirtualSite { live: 0, ..on_link },
        ),
        (
            "a full network",
            VirtualSite { live: 1, ..SITE },
            VirtualSite { live: 1, ..SITE },
        ),
        (
            "a far network",
            VirtualSite {
                round_trip: Duration::from_millis(300),
                ..SITE
            },
            VirtualSite {
                round_trip: Duration::from_millis(300),
                ..SITE
            },
        ),
        (
            "a slow rate",
            VirtualSite { rate: 200, ..SITE },
            VirtualSite { rate: 200, ..SITE },
        ),
        (
            "a rate that was lowered",
            VirtualSite { rate: 500, ..slow },
            slow,
        ),
        (
            "a rate that was raised",
            VirtualSite { live: 8, ..wide },
            VirtualSite {
                rate: 250,
                live: 8,
                ..wide
            },
        ),
        (
            "a part of a known network",
            VirtualSite {
                network: "10.0.1.0/24",
                ..slow
            },
            slow,
        ),
        (
            "a network of which a part is known",
            wide,
            VirtualSite {
                network: "10.0.0.0/20",
                ..wide
            },
        ),
        ("two commands", wide, wide),
        (
            "many ports",
            VirtualSite {
                ports: &["80", "443", "4028", "4029", "4433", "8080", "8081", "8888"],
                ..SITE
            },
            VirtualSite {
                ports: &["80", "443", "4028", "4029", "4433", "8080", "8081", "8888"],
                ..SITE
            },
        ),
    ]
}

#[test]
fn an_estimate_after_a_scan_of_the_site_is_within_a_factor_of_one_and_a_half() {
    for (name, site, before) in sites() {
        let before = before.scan();
        let factor = site.factor(std::slice::from_ref(&before));
        assert!(
            factor <= FACTOR,
            "{name}: factor {factor:.2} after {:?}",
            before.duration
        );
    }
}

/// Without an earlier scan, nobody knows how many addresses answer, and which devices are slow.
#[test]
fn a_first_estimate_of_a_sparse_site_is_within_a_factor_of_one_and_a_half() {
    let sparse = VirtualSite {
        live: 20,
        network: "10.0.0.0/20",
        ..SITE
    };
    let large = VirtualSite {
        network: "10.0.0.0/18",
        ..SITE
    };
    for (name, site) in [
        ("sparse", sparse),
        ("every fourth", large),
        ("half", VirtualSite { live: 2, ..large }),
        ("full", VirtualSite { live: 1, ..large }),
        (
            "a slow rate",
            VirtualSite {
                rate: 500,
                ..sparse
            },
        ),
        (
            "on the link",
            VirtualSite {
                on_link: true,
                rate: 2_000,
                ..sparse
            },
        ),
        (
            "dark",
            VirtualSite {
                live: 0,
                rate: 2_000,
                ..sparse
            },
        ),
    ] {
        let factor = site.factor(&[]);
        assert!(factor <= FACTOR, "{name}: factor {factor:.2}");
    }
}
