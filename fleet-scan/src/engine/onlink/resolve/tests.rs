//! The resolver over a simulated kernel: a table with a limit that drops silently what finds no room.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::{super::table::Entry, *};

/// How long the kernel asks.
const HOLD: Duration = Duration::from_secs(3);

/// Between two looks.
const TICK: Duration = Duration::from_millis(20);

struct Kernel {
    limit: usize,
    start: Instant,
    now: Instant,
    /// Of each address since when, and what it answered.
    entries: BTreeMap<Ipv4Addr, (Instant, Option<Mac>)>,
    /// Entries of others that never go away.
    others: usize,
    fulls: u64,
    /// Whether a sender is told that there is no room.
    tells: bool,
    most_unresolved: usize,
    most_occupied: usize,
}

#[derive(Debug, Default)]
struct Ran {
    verdicts: BTreeMap<u32, Verdict>,
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
            tells: false,
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

    /// A packet is sent to a host that answers at once or never; whether the sender was told that there is no room.
    fn poke(&mut self, host: u32, lives: bool) -> bool {
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
            return self.tells;
        }
        let entry = (self.now, lives.then(|| mac(host)));
        self.entries.insert(address(host), entry);
        false
    }

    fn view(&self) -> View {
        let other = Entry {
            ip: IpAddr::from([192, 168, 0, 1]),
            state: State::Answered,
            mac: Some(mac(0)),
            age: Duration::ZERO,
        };
        let mut entries = vec![other; self.others];
        entries.extend(self.entries.iter().map(|(ip, (since, mac))| Entry {
            ip: IpAddr::V4(*ip),
            state: self.state(*since, *mac),
            mac: *mac,
            age: self.now - *since,
        }));
        View {
            entries,
            hidden: 0,
            fulls: self.fulls,
        }
    }

    /// Resolves `hosts` hosts as if the table had `believed` entries.
    fn run(&mut self, hosts: u32, believed: usize, lives: impl Fn(u32) -> bool) -> Ran {
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
            let looked = resolver.look(&view, host_of, self.now);
            ran.overflows += usize::from(looked.overflow.is_some());
            for (host, verdict) in looked.verdicts {
                assert_eq!(ran.verdicts.insert(host, verdict), None, "host {host}");
            }
            while let Some(host) = resolver.want() {
                let refused = self.poke(host, lives(host));
                resolver.asked(refused);
            }
            self.most_occupied = self.most_occupied.max(self.view().occupied());
            self.now += TICK;
        }
        ran.took = self.now - self.start;
        ran
    }
}

#[test]
fn a_small_network_is_known_when_the_kernel_has_given_up_asking() {
    let mut kernel = Kernel::new(1_024, 3);
    let ran = kernel.run(254, 1_024, |host| host % 10 == 0);
    for (host, verdict) in &ran.verdicts {
        let there = Verdict::There(mac(*host));
        let expected = if host % 10 == 0 {
            there
        } else {
            Verdict::Silent
        };
        assert_eq!(*verdict, expected);
    }
    assert_eq!((ran.verdicts.len(), ran.overflows), (254, 0));
    assert!(ran.took < HOLD + TICK * 4, "{:?}", ran.took);
}

#[test]
fn half_of_the_table_is_never_passed_by_what_does_not_answer() {
    let mut kernel = Kernel::new(1_024, 100);
    let ran = kernel.run(4_094, 1_024, |host| host % 100 == 0);
    assert_eq!(ran.overflows, 0);
    assert!(kernel.most_unresolved <= 512, "{}", kernel.most_unresolved);
    let found = ran.verdicts.values();
    let found = found.filter(|verdict| matches!(verdict, Verdict::There(_)));
    assert_eq!(found.count(), 41);
}

#[test]
fn a_full_network_leaves_others_their_room() {
    let mut kernel = Kernel::new(1_024, 10);
    let ran = kernel.run(2_000, 1_024, |_| true);
    assert_eq!((ran.verdicts.len(), ran.overflows), (2_000, 0));
    assert!(kernel.most_occupied <= 896, "{}", kernel.most_occupied);
    assert!(ran.took < Duration::from_secs(17), "{:?}", ran.took);
}

#[test]
fn an_overflow_is_noticed_and_answered_by_asking_fewer_again() {
    for tells in [false, true] {
        let mut kernel = Kernel::new(200, 20);
        kernel.tells = tells;
        let ran = kernel.run(1_000, 1_024, |host| host % 50 == 0);
        assert!(kernel.fulls > 0 && ran.overflows > 0);
        assert_eq!(ran.verdicts.len(), 1_000);
        for (host, verdict) in &ran.verdicts {
            let there = Verdict::There(mac(*host));
            let truth = if host % 50 == 0 {
                there
            } else {
                Verdict::Silent
            };
            assert!(
                [truth, Verdict::Unsure].contains(verdict),
                "{host} {verdict:?}"
            );
        }
        let unsure = ran.verdicts.values();
        let unsure = unsure
            .filter(|verdict| **verdict == Verdict::Unsure)
            .count();
        assert!(unsure < 100, "{unsure}");
    }
}

#[test]
fn a_table_that_others_keep_full_ends_in_doubt_and_not_in_silence() {
    let mut kernel = Kernel::new(1_024, 1_024);
    let ran = kernel.run(100, 1_024, |_| true);
    assert!(
        ran.verdicts
            .values()
            .all(|verdict| *verdict == Verdict::Unsure)
    );
    assert_eq!(ran.verdicts.len(), 100);
    assert!(ran.took < PATIENCE + TICK * 3, "{:?}", ran.took);
}

#[test]
fn a_host_without_an_entry_though_there_was_room_is_left_to_a_connection() {
    let mut resolver = Resolver::new(1_024);
    resolver.add(7);
    let now = Instant::now();
    assert_eq!(resolver.want(), None, "nothing is known of the table yet");
    resolver.look(&View::default(), |_| None, now);
    assert_eq!(resolver.want(), Some(7));
    resolver.asked(false);
    let looked = resolver.look(&View::default(), |_| None, now);
    assert_eq!(looked.verdicts, [(7, Verdict::Unclear)]);
    assert!(resolver.is_idle());
}

#[test]
fn who_gives_up_names_every_host_that_is_not_settled() {
    let mut resolver = Resolver::new(1_024);
    (0..3).for_each(|host| resolver.add(host));
    resolver.look(&View::default(), |_| None, Instant::now());
    resolver.asked(false);
    let mut left = resolver.give_up();
    left.sort_unstable();
    assert_eq!(left, [0, 1, 2]);
    assert!(resolver.is_idle());
}

proptest! {
    #![proptest_config(fleet_core::regressions!("resolve", 48))]

    #[test]
    fn whatever_the_table_holds_no_verdict_is_wrong_and_none_is_missing(
        limit in 64usize..1_100,
        believed in 64usize..1_100,
        others in 0usize..300,
        hosts in 0u32..1_500,
        every in 1u32..60,
        tells: bool,
    ) {
        let mut kernel = Kernel::new(limit, others);
        kernel.tells = tells;
        // An answer keeps its place for five seconds: through one or two places a large network takes hours.
        let hosts = match limit.min(believed / 8 * 7).saturating_sub(others) {
            0 => hosts,
            places => hosts.min(40 * places as u32),
        };
        let ran = kernel.run(hosts, believed, |host| host % every == 0);
        prop_assert_eq!(ran.verdicts.len(), hosts as usize);
        for (host, verdict) in ran.verdicts {
            match verdict {
                Verdict::There(found) => prop_assert!(host % every == 0 && found == mac(host)),
                Verdict::Silent => prop_assert!(host % every != 0),
                Verdict::Unsure => prop_assert!(kernel.fulls > 0 || others > believed / 8 * 7),
                Verdict::Unclear => prop_assert!(false, "there was no other reason than want of room"),
            }
        }
    }
}
