//! The resolver over a simulated kernel: a table with a limit, which silently drops what finds no room.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::{super::table::Entry, *};

/// How long the kernel waits for an answer.
const HOLD: Duration = Duration::from_secs(3);

/// Time between two views.
const TICK: Duration = Duration::from_millis(20);

struct Kernel {
    limit: usize,
    start: Instant,
    now: Instant,
    /// For each address, the time of its entry and its answer.
    entries: BTreeMap<Ipv4Addr, (Instant, Option<Mac>)>,
    /// Entries of other programs that never expire.
    others: usize,
    fulls: u64,
    /// Whether a sender gets an error when the table is full.
    reports_full: bool,
    most_unresolved: usize,
    most_occupied: usize,
}

#[derive(Debug, Default)]
struct Ran {
    resolutions: BTreeMap<u32, Resolution>,
    overflows: usize,
    took: Duration,
}

fn address(host: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + host)
}

fn mac(host: u32) -> Mac {
    let [a, b, c, d] = host.to_be_bytes();
    Mac::new([2, 0, a, b, c, d])
}

impl Kernel {
    fn new(limit: usize, others: usize) -> Self {
        let start = Instant::now();
        Self {
            limit,
            start,
            now: start,
            entries: BTreeMap::new(),
            others,
            fulls: 0,
            reports_full: false,
            most_unresolved: 0,
            most_occupied: 0,
        }
    }

    fn state(&self, since: Instant, mac: Option<Mac>) -> State {
        match mac {
            Some(_) => State::Answered,
            None if self.now < since + HOLD => State::Unresolved,
            None => State::Failed,
        }
    }

    /// Sends a packet to a host that answers at once or never. Returns whether the sender got an error.
    fn poke(&mut self, host: u32, exists: bool) -> bool {
        if self.entries.len() + self.others >= self.limit {
            let now = self.now;
            let goes = |since: Instant, mac: Option<Mac>| match mac {
                Some(_) => now > since + Duration::from_secs(5),
                None => now >= since + HOLD,
            };
            self.entries.retain(|_, (since, mac)| !goes(*since, *mac));
        }
        if self.entries.len() + self.others >= self.limit {
            self.fulls += 1;
            return self.reports_full;
        }
        let entry = (self.now, exists.then(|| mac(host)));
        self.entries.insert(address(host), entry);
        false
    }

    fn view(&self) -> View {
        let other = Entry {
            ip: IpAddr::from([192, 168, 0, 1]),
            state: State::Answered,
            mac: Some(mac(0)),
            age: Duration::ZERO,
            confirmed: Duration::ZERO,
        };
        let mut entries = vec![other; self.others];
        entries.extend(self.entries.iter().map(|(ip, (since, mac))| Entry {
            ip: IpAddr::V4(*ip),
            state: self.state(*since, *mac),
            mac: *mac,
            age: self.now - *since,
            confirmed: self.now - *since,
        }));
        View {
            entries,
            hidden: 0,
            fulls: self.fulls,
        }
    }

    /// Resolves `hosts` hosts. The resolver assumes a table of `believed` entries.
    fn run(&mut self, hosts: u32, believed: usize, exists: impl Fn(u32) -> bool) -> Ran {
        let mut resolver = Resolver::new(believed);
        (0..hosts).for_each(|host| resolver.add(host));
        let mut ran = Ran::default();
        let host_of = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.to_bits().checked_sub(0x0a00_0000),
            IpAddr::V6(_) => None,
        };
        while !resolver.is_idle() {
            assert!(self.now < self.start + Duration::from_secs(3_600));
            let view = self.view();
            self.most_unresolved = self.most_unresolved.max(view.unresolved());
            let update = resolver.apply_view(&view, host_of, self.now);
            ran.overflows += usize::from(update.overflow.is_some());
            for (host, resolution) in update.resolutions {
                assert_eq!(
                    ran.resolutions.insert(host, resolution),
                    None,
                    "host {host}"
                );
            }
            while let Some(host) = resolver.next_host() {
                let refused = self.poke(host, exists(host));
                resolver.requested(refused);
            }
            self.most_occupied = self.most_occupied.max(self.view().occupied());
            self.now += TICK;
        }
        ran.took = self.now - self.start;
        ran
    }
}

#[test]
fn a_small_network_is_resolved_once_the_kernel_stops_asking() {
    let mut kernel = Kernel::new(1_024, 3);
    let ran = kernel.run(254, 1_024, |host| host % 10 == 0);
    for (host, resolution) in &ran.resolutions {
        let answered = Resolution::Answered(mac(*host));
        let expected = if host % 10 == 0 {
            answered
        } else {
            Resolution::Silent
        };
        assert_eq!(*resolution, expected);
    }
    assert_eq!((ran.resolutions.len(), ran.overflows), (254, 0));
    assert!(ran.took < HOLD + TICK * 4, "{:?}", ran.took);
}

#[test]
fn silent_hosts_never_use_more_than_half_of_the_table() {
    let mut kernel = Kernel::new(1_024, 100);
    let ran = kernel.run(4_094, 1_024, |host| host % 100 == 0);
    assert_eq!(ran.overflows, 0);
    assert!(kernel.most_unresolved <= 512, "{}", kernel.most_unresolved);
    let found = ran.resolutions.values();
    let found = found.filter(|resolution| matches!(resolution, Resolution::Answered(_)));
    assert_eq!(found.count(), 41);
}

#[test]
fn a_full_network_leaves_room_for_other_programs() {
    let mut kernel = Kernel::new(1_024, 10);
    let ran = kernel.run(2_000, 1_024, |_| true);
    assert_eq!((ran.resolutions.len(), ran.overflows), (2_000, 0));
    assert!(kernel.most_occupied <= 896, "{}", kernel.most_occupied);
    assert!(ran.took < Duration::from_secs(17), "{:?}", ran.took);
}

#[test]
fn after_an_overflow_the_window_shrinks_and_hosts_are_requested_again() {
    for reports_full in [false, true] {
        let mut kernel = Kernel::new(200, 20);
        kernel.reports_full = reports_full;
        let ran = kernel.run(1_000, 1_024, |host| host % 50 == 0);
        assert!(kernel.fulls > 0 && ran.overflows > 0);
        assert_eq!(ran.resolutions.len(), 1_000);
        for (host, resolution) in &ran.resolutions {
            let answered = Resolution::Answered(mac(*host));
            let truth = if host % 50 == 0 {
                answered
            } else {
                Resolution::Silent
            };
            assert!(
                [truth, Resolution::NoRoom].contains(resolution),
                "{host} {resolution:?}"
            );
        }
        let no_room = ran.resolutions.values();
        let no_room = no_room
            .filter(|resolution| **resolution == Resolution::NoRoom)
            .count();
        assert!(no_room < 100, "{no_room}");
    }
}

#[test]
fn a_table_that_stays_full_gives_no_room_instead_of_silence() {
    let mut kernel = Kernel::new(1_024, 1_024);
    let ran = kernel.run(100, 1_024, |_| true);
    assert!(
        ran.resolutions
            .values()
            .all(|resolution| *resolution == Resolution::NoRoom)
    );
    assert_eq!(ran.resolutions.len(), 100);
    assert!(ran.took < STUCK_LIMIT + TICK * 3, "{:?}", ran.took);
}

#[test]
fn a_host_without_an_entry_despite_free_room_is_left_to_a_connection() {
    let mut resolver = Resolver::new(1_024);
    resolver.add(7);
    let now = Instant::now();
    assert_eq!(resolver.next_host(), None, "no view of the table yet");
    resolver.apply_view(&View::default(), |_| None, now);
    assert_eq!(resolver.next_host(), Some(7));
    resolver.requested(false);
    let update = resolver.apply_view(&View::default(), |_| None, now);
    assert_eq!(update.resolutions, [], "a dump can miss an entry once");
    let update = resolver.apply_view(&View::default(), |_| None, now);
    assert_eq!(update.resolutions, [(7, Resolution::Unknown)]);
    assert!(resolver.is_idle());
}

#[test]
fn an_entry_that_one_view_misses_is_not_gone() {
    let mut resolver = Resolver::new(1_024);
    resolver.add(7);
    let now = Instant::now();
    let view = |state| View {
        entries: vec![Entry {
            ip: address(7).into(),
            state,
            mac: (state == State::Answered).then(|| mac(7)),
            age: Duration::ZERO,
            confirmed: Duration::ZERO,
        }],
        ..View::default()
    };
    let mut resolutions = Vec::new();
    resolver.apply_view(&View::default(), |_| Some(7), now);
    resolver.requested(false);
    for view in [
        view(State::Unresolved),
        View::default(),
        view(State::Unresolved),
        View::default(),
        view(State::Answered),
    ] {
        let update = resolver.apply_view(&view, |_| Some(7), now);
        resolutions.extend(update.resolutions);
    }
    assert_eq!(resolutions, [(7, Resolution::Answered(mac(7)))]);
}

#[test]
fn giving_up_returns_every_host_without_an_outcome() {
    let mut resolver = Resolver::new(1_024);
    (0..3).for_each(|host| resolver.add(host));
    resolver.apply_view(&View::default(), |_| None, Instant::now());
    resolver.requested(false);
    let mut left = resolver.give_up();
    left.sort_unstable();
    assert_eq!(left, [0, 1, 2]);
    assert!(resolver.is_idle());
}

proptest! {
    #![proptest_config(fleet_core::regressions!("resolve", 48))]

    #[test]
    fn no_verdict_is_wrong_or_missing_for_any_neighbor_table(
        limit in 64usize..1_100,
        believed in 64usize..1_100,
        others in 0usize..300,
        hosts in 0u32..1_500,
        every in 1u32..60,
        reports_full: bool,
    ) {
        let mut kernel = Kernel::new(limit, others);
        kernel.reports_full = reports_full;
        // An answer keeps its slot for five seconds, so a large network would take hours through one or two slots.
        let hosts = match limit.min(believed / 8 * 7).saturating_sub(others) {
            0 => hosts,
            slots => hosts.min(40 * slots as u32),
        };
        let ran = kernel.run(hosts, believed, |host| host % every == 0);
        prop_assert_eq!(ran.resolutions.len(), hosts as usize);
        for (host, resolution) in ran.resolutions {
            match resolution {
                Resolution::Answered(found) => prop_assert!(host % every == 0 && found == mac(host)),
                Resolution::Silent => prop_assert!(host % every != 0),
                Resolution::NoRoom => prop_assert!(kernel.fulls > 0 || others >= believed / 8 * 7),
                Resolution::Unknown => prop_assert!(false, "a full table is the only possible reason"),
            }
        }
    }
}
