//! A long random walk over all scan operations, including invalid ones. The test checks the invariants after each step,
//! and the complete record at the end.

use std::time::Duration;

use fleet_core::{
    CommandId, Priority, ScanId, ScanState,
    outcome::{AckCode, Code, Conclusion},
};
use fleet_discovery::LogEvent;
use fleet_store::*;
use sea_orm::ConnectionTrait;

use crate::site::{Node, Site, at, plain};

contract! {
    logs_are_dense_and_ledgers_add_up_after_random_operations
}

const WALKS: u64 = 6;
const STEPS: usize = 120;

/// SplitMix64: small, and deterministic for each seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % sides as u64).expect("small")
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.roll(of.len())])
    }
}

/// The state of the walk, including ended scans and nodes.
struct Walk {
    site: Site,
    dice: Dice,
    seconds: u64,
    node: Node,
    /// Claimed streams, the newest last.
    streams: Vec<Node>,
    nodes: u64,
    scans: Vec<ScanId>,
    commands: Vec<(Node, CommandId)>,
}

async fn logs_are_dense_and_ledgers_add_up_after_random_operations(site: Site) {
    for seed in 0..WALKS {
        let node = site.node(&format!("node {seed}.0")).await;
        let mut walk = Walk {
            site: site.clone(),
            dice: Dice(seed),
            seconds: 20,
            node,
            streams: vec![node],
            nodes: 0,
            scans: Vec::new(),
            commands: Vec::new(),
        };
        for _ in 0..STEPS {
            walk.step(seed).await;
            let in_flight = "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM command WHERE state = 'issued' GROUP BY node_id) AS busy";
            assert!(site.number(in_flight).await <= 1, "seed {seed}");
        }
        for scan in &walk.scans {
            walk.check(*scan, seed).await;
        }
        // By the first sweep every deadline has passed. Chunks in flight then wait in the queue again, because attempts
        // are left. By the second sweep their queue time is over as well, so all scans must end. Without the time of the
        // last sweep, a jump does not count as an interruption.
        let raw = site.raw().await;
        let forget = "DELETE FROM sweep";
        for end in [10_000_000, 20_000_000] {
            raw.execute_unprepared(forget).await.expect(forget);
            site.store.sweep_commands(at(end)).await.expect("swept");
        }
        for scan in &walk.scans {
            let state = walk.check(*scan, seed).await;
            assert!(state.is_terminal(), "seed {seed}: {scan} is {state}");
        }
    }
}

impl Walk {
    async fn step(&mut self, seed: u64) {
        self.seconds += self.dice.roll(40) as u64;
        let now = at(self.seconds);
        let store = self.site.store.clone();
        match self.dice.roll(20) {
            0..3 => self.start().await,
            3..8 => {
                let by = self.dice.pick(&self.streams).expect("one at least");
                let by = if self.dice.roll(4) == 0 {
                    by
                } else {
                    self.node
                };
                if let Some(issued) = self.site.issue_at(by, now).await {
                    self.commands.push((self.node, issued.command));
                }
            }
            8..12 => self.report().await,
            12..15 => self.ack().await,
            15 => {
                let running: Vec<_> = self.commands.iter().map(|(_, command)| *command).collect();
                let running = if self.dice.roll(2) == 0 {
                    running
                } else {
                    Vec::new()
                };
                let claim = Site::claim(self.node.id, &running, now);
                if let Ok(claimed) = store.claim_stream(claim).await {
                    self.node.epoch = claimed.epoch;
                    self.streams.push(self.node);
                }
            }
            16 => {
                if let Some(scan) = self.dice.pick(&self.scans) {
                    let able = self.dice.roll(2) == 0;
                    let grace = Grace {
                        time: Duration::from_secs(5),
                        nodes: able.then_some(self.node.id).into_iter().collect(),
                    };
                    let actor = self.site.actor();
                    let org = self.site.org;
                    store
                        .cancel_scan(org, scan, grace, actor, now)
                        .await
                        .expect("answered");
                }
            }
            17 => drop(store.sweep_commands(now).await.expect("swept")),
            18 => {
                if let Some((node, command)) = self.dice.pick(&self.commands) {
                    store
                        .withdraw_command(node.id, command, now)
                        .await
                        .expect("answered");
                }
            }
            _ => self.upheaval(seed).await,
        }
    }

    /// Usually the command in flight, if there is one.
    fn any_command(&mut self) -> Option<(Node, CommandId)> {
        match self.dice.roll(4) {
            0 => self.dice.pick(&self.commands),
            _ => self.commands.last().copied(),
        }
    }

    async fn start(&mut self) {
        let target = ["10.0.0.0/29", "10.0.0.0/24", "10.0.0.0/21"][self.dice.roll(3)];
        let queueing = match self.dice.roll(4) {
            0 => Queueing::Never,
            _ => Queueing::Until(at(self.seconds + 600)),
        };
        let new = NewScan {
            priority: [Priority::Interactive, Priority::Scheduled][self.dice.roll(2)],
            queueing,
            now: at(self.seconds),
            ..self.site.new_scan(self.node.id, target, &["80"])
        };
        match self.site.store.create_scan(new, self.site.actor()).await {
            Ok(created) => self.scans.push(created.scan.id),
            Err(CreateScanError::Busy(_) | CreateScanError::QueueFull { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn report(&mut self) {
        let Some((node, command)) = self.any_command() else {
            return;
        };
        let rows = (0..self.dice.roll(6))
            .map(|_| {
                plain(
                    &format!("10.0.{}.{}", self.dice.roll(2), 1 + self.dice.roll(9)),
                    "80",
                )
            })
            .collect();
        let report = NewReport {
            now: at(self.seconds),
            ..self.site.report(node, command, rows)
        };
        match self.site.store.record_report(report).await {
            Ok(_) | Err(ReportError::NotInFlight(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn ack(&mut self) {
        let Some((node, command)) = self.any_command() else {
            return;
        };
        let code = [
            AckCode::Ok,
            AckCode::Ok,
            AckCode::Partial,
            AckCode::Busy,
            AckCode::Internal,
            AckCode::BadRequest,
        ][self.dice.roll(6)];
        let by = if node.id == self.node.id {
            self.node
        } else {
            node
        };
        let ack = Ack {
            outcomes: (self.dice.roll(2) == 0).then(|| vec![1; self.dice.roll(300)]),
            notes: vec!["a note".into(); self.dice.roll(2)],
            now: at(self.seconds),
            ..Site::ack(by, command, code)
        };
        self.site.store.record_ack(ack).await.expect("answered");
    }

    /// Rare events: a revoked node gets a replacement, or a scan is ended from outside.
    async fn upheaval(&mut self, seed: u64) {
        let now = at(self.seconds);
        let store = &self.site.store;
        if self.dice.roll(4) == 0 {
            let (org, actor) = (self.site.org, self.site.actor());
            store
                .revoke_node(org, self.node.id, None, actor, now)
                .await
                .expect("revoked");
            self.nodes += 1;
            self.node = self.site.node(&format!("node {seed}.{}", self.nodes)).await;
            self.streams = vec![self.node];
        } else if let Some(scan) = self.dice.pick(&self.scans) {
            let why = Conclusion::new(ScanState::Failed, Code::FailedPrecondition, "no stream");
            store.end_scan(scan, why, now).await.expect("answered");
        }
    }

    /// [`Site::log`] checks that sequences are dense and that there is one end.
    async fn check(&self, scan: ScanId, seed: u64) -> ScanState {
        let row = self.site.look(scan).await;
        let log = self.site.log(scan).await;
        let mut events: Vec<_> = self.site.stored_events(scan).await;
        let all = events.len();
        events.sort();
        events.dedup();
        assert_eq!(
            events.len(),
            all,
            "seed {seed}: a device of {scan} has two events"
        );
        let stored = format!(
            "SELECT count(DISTINCT ip) FROM report_row WHERE scan_id = '{scan}' AND refusal IS NULL"
        );
        assert_eq!(
            self.site.number(&stored).await as usize,
            all,
            "seed {seed}: what {scan} stored has an event"
        );
        assert!(
            row.progress.done <= row.progress.total,
            "seed {seed}: {row:?}"
        );
        assert!(row.chunks_done <= row.chunks, "seed {seed}: {row:?}");
        assert_eq!(
            row.ledger.is_some(),
            row.state.is_terminal(),
            "seed {seed}: {row:?}"
        );
        if let Some(ledger) = row.ledger {
            assert!(ledger.adds_up(), "seed {seed}: {ledger:?}");
            let before_the_end = log
                .iter()
                .take_while(|event| !matches!(event, LogEvent::Ended(_)))
                .filter(|event| matches!(event, LogEvent::Device(_)))
                .count();
            assert_eq!(
                ledger.accepted as usize, before_the_end,
                "seed {seed}: {scan}"
            );
            assert_eq!(
                ledger.identified as usize, before_the_end,
                "seed {seed}: {scan}"
            );
        }
        row.state
    }
}
