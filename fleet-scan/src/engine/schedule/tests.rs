//! The schedule over a simulated network: late answers, loss, refusals, silence, and little room.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proptest::prelude::*;

use super::*;

/// The reaction of a simulated endpoint to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Opens after this many milliseconds, and closes after this many more.
    Open(u64, u64),
    /// Refuses after this many milliseconds.
    Refuse(u64),
    Ignore,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy, PartialOrd, Ord)]
enum Outcome {
    Open,
    Refused,
    Silent,
}

/// The result of a simulated scan.
#[derive(Debug, Default)]
struct Ran {
    outcomes: BTreeMap<At, Outcome>,
    dialed: BTreeMap<At, Vec<Duration>>,
    took: Duration,
    most_of_a_host: usize,
    most_sockets: usize,
    oldest_socket: Duration,
}

struct Network {
    schedule: Schedule,
    start: Instant,
    now: Instant,
    /// Waiting and late sockets, with their action.
    sockets: BTreeMap<Attempt, (At, Instant, Action)>,
    /// Connections that were passed on, with the time of their end.
    taken: Vec<(Instant, u32)>,
    ran: Ran,
}

impl Network {
    fn run(schedule: Schedule, action: impl Fn(At, u8) -> Action) -> Ran {
        let start = Instant::now();
        let mut network = Self {
            schedule,
            start,
            now: start,
            sockets: BTreeMap::new(),
            taken: Vec::new(),
            ran: Ran::default(),
        };
        for _ in 0..1_000_000 {
            match network.schedule.next(network.now) {
                Next::Dial(attempt, at) => network.dial(attempt, at, action(at, attempt.nth)),
                Next::Abandon(attempt) => {
                    assert!(network.sockets.remove(&attempt).is_some(), "not open");
                }
                Next::Wait => network.wait(),
                Next::Done => {
                    assert!(network.sockets.is_empty(), "{:?}", network.sockets);
                    network.ran.took = network.now - network.start;
                    return network.ran;
                }
            }
        }
        panic!("the schedule does not end");
    }

    fn dial(&mut self, attempt: Attempt, at: At, action: Action) {
        let since = self.now - self.start;
        self.ran.dialed.entry(at).or_default().push(since);
        self.sockets.insert(attempt, (at, self.now, action));
        let waiting: BTreeMap<Key, u32> = self
            .sockets
            .iter()
            .map(|(attempt, (at, ..))| (attempt.key, at.host))
            .filter(|(key, _)| self.schedule.slots[key.slot as usize].state == State::Waiting)
            .collect();
        let of_host = waiting.values().filter(|host| **host == at.host).count()
            + self
                .taken
                .iter()
                .filter(|(_, host)| *host == at.host)
                .count();
        self.ran.most_of_a_host = self.ran.most_of_a_host.max(of_host);
        let all = self.sockets.len() + self.taken.len();
        self.ran.most_sockets = self.ran.most_sockets.max(all);
    }

    /// Advances the time to the next event.
    fn wait(&mut self) {
        let answers = self
            .sockets
            .iter()
            .filter_map(|(attempt, (_, sent, action))| {
                let (Action::Open(after, _) | Action::Refuse(after)) = *action else {
                    return None;
                };
                Some((*sent + Duration::from_millis(after), *attempt))
            });
        let answer = answers.min();
        let closing = self.taken.iter().min().copied();
        let times = [
            answer.map(|(at, _)| at),
            closing.map(|(at, _)| at),
            self.schedule.deadline(),
        ];
        let next = times
            .into_iter()
            .flatten()
            .min()
            .expect("waits for nothing");
        self.now = self.now.max(next);
        if let Some((at, attempt)) = answer
            && at <= self.now
        {
            self.answer(attempt);
        } else if let Some((at, host)) = closing
            && at <= self.now
        {
            let place = self.taken.iter().position(|taken| *taken == (at, host));
            self.taken.swap_remove(place.expect("it was found"));
            self.schedule.release(host);
        }
        while let Some((key, at, _)) = self.schedule.expire(self.now) {
            self.settle(key, at, Outcome::Silent);
        }
        while let Some(Retransmission { attempt, .. }) = self.schedule.next_retransmission(self.now)
        {
            assert!(self.sockets.remove(&attempt).is_some(), "not open");
            self.schedule.closed(attempt);
        }
        let ages = self.sockets.values().map(|(_, sent, _)| self.now - *sent);
        self.ran.oldest_socket = self.ran.oldest_socket.max(ages.max().unwrap_or_default());
    }

    fn answer(&mut self, attempt: Attempt) {
        let (at, _, action) = self.sockets.remove(&attempt).expect("it is open");
        if let Action::Open(_, stays) = action {
            match self.schedule.opened(attempt, self.now) {
                Opened::Take(taken) => {
                    assert_eq!(taken, at);
                    self.settle(attempt.key, at, Outcome::Open);
                    self.taken
                        .push((self.now + Duration::from_millis(stays), at.host));
                }
                Opened::TooMany => {}
                Opened::Stale => panic!("its socket was to be closed"),
            }
        } else {
            let settled = self.schedule.refused(attempt, self.now);
            assert_eq!(settled, Some(at));
            self.settle(attempt.key, at, Outcome::Refused);
        }
    }

    fn settle(&mut self, key: Key, at: At, outcome: Outcome) {
        self.sockets.retain(|attempt, _| attempt.key != key);
        let twice = self.ran.outcomes.insert(at, outcome);
        assert_eq!(twice, None, "{at:?} is settled twice");
    }
}

/// A schedule of hosts in eight subnets.
fn schedule(hosts: u32, ports: u8, tries: u8, room: usize) -> Schedule {
    let addresses: Vec<IpAddr> = (0..hosts)
        .map(|host| [10, 0, (host * 8 / hosts) as u8, (host % 256) as u8].into())
        .collect();
    let targets = Targets::new(&addresses);
    let (floor, ceiling) = (Duration::from_millis(100), Duration::from_secs(1));
    let timeouts = Timeouts::new(floor, ceiling, targets.subnets());
    Schedule::new(Arc::new(targets), ports, tries, room, timeouts)
}

fn millis(times: &[Duration]) -> Vec<u128> {
    times.iter().map(Duration::as_millis).collect()
}

#[test]
fn a_scan_without_hosts_is_done_at_once() {
    for (hosts, ports) in [(0, 3), (3, 0)] {
        assert_eq!(
            schedule(hosts, ports, 2, 9).next(Instant::now()),
            Next::Done
        );
    }
}

#[test]
fn a_silent_endpoint_is_tried_again_and_a_refusal_is_final() {
    let ran = Network::run(schedule(40, 1, 3, 100), |at, _| {
        if at.host < 20 {
            Action::Refuse(1)
        } else {
            Action::Ignore
        }
    });
    for (at, dialed) in &ran.dialed {
        if at.host < 20 {
            assert_eq!((dialed.len(), ran.outcomes[at]), (1, Outcome::Refused));
        } else {
            assert_eq!(ran.outcomes[at], Outcome::Silent);
            assert!([vec![0, 100, 200], vec![0, 200, 400]].contains(&millis(dialed)));
        }
    }
}

#[test]
fn without_answers_each_attempt_gets_the_longest_wait() {
    let ran = Network::run(schedule(3, 2, 2, 100), |_, _| Action::Ignore);
    assert_eq!(ran.took, Duration::from_secs(2));
    assert!(ran.dialed.values().all(|times| millis(times) == [0, 1_000]));
}

#[test]
fn an_answer_after_the_next_attempt_counts() {
    let fast = |at: At| at.host < 32;
    let ran = Network::run(schedule(40, 1, 2, 100), |at, nth| match (fast(at), nth) {
        (true, _) => Action::Refuse(1),
        (false, 0) => Action::Open(150, 10),
        (false, _) => Action::Ignore,
    });
    let slow = ran.outcomes.iter().filter(|(at, _)| !fast(**at));
    assert!(slow.clone().count() > 0);
    assert!(
        slow.into_iter()
            .all(|(_, outcome)| *outcome == Outcome::Open)
    );
}

#[test]
fn a_slow_subnet_beside_a_fast_one_gets_its_time() {
    let is_slow = |at: At| at.host < 50;
    let ran = Network::run(schedule(400, 1, 2, 1_000), |at, _| {
        Action::Refuse(if is_slow(at) { 300 } else { 1 })
    });
    assert!(
        ran.outcomes
            .values()
            .all(|outcome| *outcome == Outcome::Refused)
    );
}

#[test]
fn late_sockets_close_when_room_is_short() {
    let ran = Network::run(schedule(50, 2, 3, 7), |_, _| Action::Ignore);
    assert_eq!(ran.outcomes.len(), 100);
    assert_eq!(ran.most_sockets, 7);
    assert!(ran.dialed.values().all(|dialed| dialed.len() == 3));
}

#[test]
fn a_kept_attempt_is_due_again_before_its_second_retransmission() {
    let now = Instant::now();
    let mut schedule = schedule(1, 1, 1, 4);
    let Next::Dial(attempt, _) = schedule.next(now) else {
        panic!("nothing to dial");
    };
    let first = now + RETRANSMISSION;
    assert_eq!(schedule.next_retransmission(now), None);
    let due = |is_first, has_happened| {
        Some(Retransmission {
            attempt,
            is_first,
            has_happened,
        })
    };
    assert_eq!(schedule.next_retransmission(first), due(true, false));
    schedule.keep(attempt, first);
    assert_eq!(schedule.next_retransmission(first), None);
    let second = first + NEXT_RETRANSMISSION;
    let late = second + RETRANSMISSION_MARGIN;
    assert_eq!(schedule.next_retransmission(late), due(false, true));
    schedule.closed(attempt);
    assert_eq!(schedule.next_retransmission(second), None);
}

#[test]
fn the_list_of_late_attempts_is_bounded() {
    const ROOM: usize = 50;
    let mut schedule = schedule(4_000, 1, 2, ROOM);
    let mut now = Instant::now();
    loop {
        match schedule.next(now) {
            Next::Dial(..) | Next::Abandon(_) => {}
            Next::Wait => now = now.max(schedule.deadline().expect("something is open")),
            Next::Done => break,
        }
        while schedule.expire(now).is_some() {}
        while let Some(Retransmission { attempt, .. }) = schedule.next_retransmission(now) {
            schedule.closed(attempt);
        }
        assert!(schedule.late.len() <= 2 * ROOM, "{}", schedule.late.len());
    }
}

#[test]
fn an_attempt_that_could_not_be_made_is_repeated() {
    let now = Instant::now();
    let mut schedule = schedule(1, 1, 1, 4);
    let Next::Dial(first, at) = schedule.next(now) else {
        panic!("nothing to dial");
    };
    schedule.starved(first);
    assert_eq!(schedule.sockets, 0);
    assert_eq!(schedule.next(now), Next::Dial(first, at));
    assert_eq!(schedule.settle(first.key), Some(at));
    assert_eq!(schedule.next(now), Next::Done);
}

#[test]
fn a_settled_endpoint_is_stale() {
    let now = Instant::now();
    let mut schedule = schedule(2, 1, 1, 1);
    let Next::Dial(first, _) = schedule.next(now) else {
        panic!("nothing to dial");
    };
    assert!(schedule.settle(first.key).is_some());
    let Next::Dial(second, at) = schedule.next(now) else {
        panic!("nothing to dial");
    };
    assert_eq!(first.key.slot, second.key.slot, "slots are used again");
    assert_eq!(schedule.opened(first, now), Opened::Stale);
    assert_eq!(schedule.refused(first, now), None);
    assert_eq!(schedule.opened(second, now), Opened::Take(at));
}

#[test]
fn the_other_ports_of_a_host_that_answered_go_first() {
    let mut schedule = schedule(50, 3, 1, 200);
    let now = Instant::now();
    let dial = |schedule: &mut Schedule| {
        let Next::Dial(attempt, at) = schedule.next(now) else {
            panic!("nothing to dial");
        };
        (attempt, at)
    };
    let (attempt, there) = dial(&mut schedule);
    let (_, silent) = dial(&mut schedule);
    assert_eq!((there.port, silent.port), (0, 0));
    assert_eq!(schedule.refused(attempt, now), Some(there));
    for port in [1, 2] {
        let host = there.host;
        assert_eq!(dial(&mut schedule).1, At { host, port });
    }
    let (_, next) = dial(&mut schedule);
    assert_eq!(next.port, 0, "the walk goes on");
    assert!(![there.host, silent.host].contains(&next.host));
}

#[test]
fn a_held_host_is_tried_only_after_it_is_admitted() {
    let now = Instant::now();
    let mut schedule = schedule(4, 2, 1, 100);
    schedule.hold(&[1, 2]);
    let mut dialed = Vec::new();
    let mut dial_all = |schedule: &mut Schedule| {
        while let Next::Dial(attempt, at) = schedule.next(now) {
            dialed.push((at.host, at.port));
            assert_eq!(schedule.settle(attempt.key), Some(at));
        }
        std::mem::take(&mut dialed)
    };
    let mut first = dial_all(&mut schedule);
    first.sort_unstable();
    assert_eq!(first, [(0, 0), (0, 1), (3, 0), (3, 1)]);
    assert_eq!(schedule.next(now), Next::Wait, "hosts are held");
    schedule.admit(2);
    schedule.admit(2);
    assert!(schedule.has_work());
    assert_eq!(dial_all(&mut schedule), [(2, 0), (2, 1)]);
    assert_eq!(schedule.next(now), Next::Wait);
    schedule.rule_out(1);
    assert_eq!(schedule.next(now), Next::Done);
}

proptest! {
    #![proptest_config(fleet_core::regressions!("schedule", 96))]

    /// For any network, each endpoint gets its true outcome once, a host never has more than two
    /// attempts and connections, sockets stay within their room, and the schedule ends.
    #[test]
    fn every_endpoint_is_settled_once_within_the_limits(
        hosts in 1u32..60,
        ports in 1u8..6,
        tries in 1u8..4,
        room in 1usize..80,
        seed in any::<u64>(),
    ) {
        let action = |at: At, nth: u8| {
            let mix = (seed ^ u64::from(at.host) << 20 ^ u64::from(at.port) << 8 ^ u64::from(nth))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let delay = [0, 1, 30, 90, 150, 400, 900, 1_400][(mix >> 40) as usize % 8];
            match mix >> 60 {
                0..5 => Action::Open(delay, (mix >> 50) % 700),
                5..8 => Action::Refuse(delay),
                _ => Action::Ignore,
            }
        };
        let ran = Network::run(schedule(hosts, ports, tries, room), action);
        prop_assert_eq!(ran.outcomes.len(), hosts as usize * usize::from(ports));
        prop_assert!(ran.most_of_a_host <= HOST_CONNECTIONS);
        prop_assert!(ran.most_sockets <= room);
        prop_assert!(ran.oldest_socket < RETRANSMISSION);
        for (at, outcome) in &ran.outcomes {
            let actions: BTreeSet<_> = (0..tries).map(|nth| match action(*at, nth) {
                Action::Open(..) => Outcome::Open,
                Action::Refuse(_) => Outcome::Refused,
                Action::Ignore => Outcome::Silent,
            }).collect();
            prop_assert!(actions.contains(outcome) || *outcome == Outcome::Silent, "{:?} {:?}", at, outcome);
            let at_once = action(*at, 0);
            if let Action::Open(0..=90, _) = at_once {
                prop_assert_eq!(*outcome, Outcome::Open);
            }
        }
        prop_assert!(ran.dialed.values().all(|dialed| dialed.len() <= usize::from(tries)));
    }
}
