//! Schedules: each run happens once, acts for a living operator, and waits for the previous one.

use std::time::Duration;

use fleet_core::{OperatorId, Priority, Role, ScanId, ScheduleId, outcome::AckCode};
use fleet_inventory::{Run, TimingText};
use fleet_store::*;
use sea_orm::ConnectionTrait;

use crate::{
    races::at_once,
    site::{Node, Site, at, command_id, unique},
};

contract! {
    a_run_happens_once_although_servers_race
    a_run_waits_for_the_end_of_the_previous_one
    a_run_needs_a_living_operator_who_may_start_scans
    changes_are_of_one_organization_and_recorded
    a_run_that_was_planned_for_other_targets_does_not_start
    operators_who_race_create_no_schedule_beyond_the_limit
    names_and_numbers_are_limited
    the_last_runs_are_kept
    a_run_by_hand_starts_a_scan_and_keeps_the_next_run
    servers_share_one_clock
    an_unreadable_schedule_does_not_hold_up_the_others
}

fn run(seconds: u64) -> Run {
    Run {
        due: at(seconds),
        at: at(seconds + 5),
    }
}

fn nightly(node: Node, name: &str) -> ScheduledScan {
    let timing = TimingText {
        when: "every 1h".to_owned(),
        zone: "Europe/Berlin".to_owned(),
        jitter: Duration::from_secs(30),
        blackouts: "mon 08:00-09:00".to_owned(),
    };
    let mode = fleet_discovery::Mode::Target("10.0.0.0/24".to_owned());
    ScheduledScan {
        name: name.to_owned(),
        choice: fleet_discovery::NodeChoice::Node(node.id),
        node: node.id,
        request: fleet_discovery::ScanRequest {
            mode,
            ports: vec!["80".to_owned()],
            rate: 0,
        },
        timing,
    }
}

fn id() -> ScheduleId {
    ScheduleId::new(at(unique()), [5; 10])
}

impl Site {
    fn new_schedule(&self, operator: OperatorId, node: Node, name: &str) -> NewSchedule {
        NewSchedule {
            id: id(),
            org: self.org,
            operator,
            scan: nightly(node, name),
            next: Some(run(3_600)),
            now: at(20),
        }
    }

    async fn scheduled(&self, node: Node, name: &str) -> ScheduleRow {
        let new = self.new_schedule(self.operator, node, name);
        let created = self.store.create_schedule(new, self.actor()).await;
        created.expect("created")
    }

    /// A scan for a run of a schedule at a moment.
    fn settled(&self, row: &ScheduleRow, expected: Run, seconds: u64) -> SettledRun {
        let new = NewScan {
            operator: row.operator,
            priority: Priority::Scheduled,
            id: ScanId::new(at(unique()), [4; 10]),
            now: at(seconds),
            ..self.new_scan(row.scan.node, "10.0.0.0/24", &["80"])
        };
        SettledRun {
            schedule: row.id,
            expected,
            due: expected.due,
            missed: 0,
            next: Some(run(seconds + 3_600)),
            scan: Ok(Box::new(new)),
            now: at(seconds),
        }
    }

    async fn read_schedule(&self, id: ScheduleId) -> (ScheduleRow, Vec<ScheduleRunRow>) {
        let read = self.store.schedule(self.org, id).await.expect("read");
        read.expect("known")
    }
}

async fn a_run_happens_once_although_servers_race(site: Site) {
    let node = site.node("north").await;
    let row = site.scheduled(node, "nightly").await;
    assert_eq!(row.next, Some(run(3_600)));
    let due = site.store.due_schedules(at(3_604), 10).await.expect("read");
    assert_eq!(due, [], "its jitter has not passed");
    let mut tries = Vec::new();
    for _ in 0..8 {
        let store = site.another().await;
        let due = store.due_schedules(at(3_605), 10).await.expect("read");
        assert_eq!(due, std::slice::from_ref(&row));
        let settled = site.settled(&row, run(3_600), 3_605);
        tries.push(async move { store.settle_run(settled).await });
    }
    let settled: Vec<Settled> = at_once(tries)
        .await
        .into_iter()
        .map(|settled| settled.expect("settled"))
        .collect();
    let scans: Vec<_> = settled
        .iter()
        .filter(|settled| **settled != Settled::Stale)
        .collect();
    let [Settled::Scan(scan, of)] = &scans[..] else {
        panic!("{settled:?}");
    };
    assert_eq!(*of, [node.id]);
    let listed = site.store.list_scans(site.org, None, None, 10, at(3_606));
    let listed = listed.await.expect("read");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].priority, Priority::Scheduled);
    let (row, runs) = site.read_schedule(row.id).await;
    assert_eq!(row.next, Some(run(3_605 + 3_600)));
    assert_eq!((row.runs, row.missed, row.last_scan), (1, 0, Some(*scan)));
    let kept: Vec<_> = runs.iter().map(|run| (run.due, run.scan)).collect();
    assert_eq!(kept, [(at(3_600), Some(*scan))]);
}

async fn a_run_waits_for_the_end_of_the_previous_one(site: Site) {
    let node = site.node("north").await;
    let row = site.scheduled(node, "nightly").await;
    let first = site.settled(&row, run(3_600), 3_605);
    let first = site.store.settle_run(first).await.expect("settled");
    let Settled::Scan(scan, _) = first else {
        panic!("{first:?}");
    };
    let second = SettledRun {
        missed: 2,
        ..site.settled(&row, run(7_205), 7_210)
    };
    let second = site.store.settle_run(second).await.expect("settled");
    let reason = "the scan of the previous run had not ended";
    assert_eq!(second, Settled::LeftOut(reason.to_owned()));
    let (row, runs) = site.read_schedule(row.id).await;
    assert_eq!((row.runs, row.missed, row.last_scan), (1, 2, Some(scan)));
    assert_eq!(runs[0].reason, reason);
    let command = command_id();
    let issued = site
        .store
        .issue_command(node.id, node.epoch, command, at(7_211));
    issued.await.expect("read").expect("issued");
    site.acked(node, command, AckCode::Ok).await;
    let third = site.settled(&row, run(10_810), 10_815);
    let third = site.store.settle_run(third).await.expect("settled");
    assert!(matches!(third, Settled::Scan(..)), "{third:?}");
}

async fn a_run_needs_a_living_operator_who_may_start_scans(site: Site) {
    let node = site.node("north").await;
    for (name, role, is_removed, reason) in [
        ("demoted", Role::Viewer, false, "no longer start scans"),
        ("removed", Role::Operator, true, "was revoked"),
    ] {
        let new = NewOperator {
            org: "acme".into(),
            email: format!("{name}@acme.test"),
            role: Role::Operator,
            now: at(0),
        };
        let operator = site.store.create_operator(new, Actor::SYSTEM).await;
        let operator = operator.expect("an operator");
        let new = site.new_schedule(operator, node, name);
        let created = site.store.create_schedule(new, site.actor()).await;
        let row = created.expect("created");
        let changed = if is_removed {
            let removed = site
                .store
                .remove_member(site.org, operator, site.actor(), at(30));
            removed.await
        } else {
            let changed = site
                .store
                .set_role(site.org, operator, role, site.actor(), at(30));
            changed.await
        };
        changed.expect(name);
        let settled = site.settled(&row, run(3_600), 3_605);
        let settled = site.store.settle_run(settled).await.expect("settled");
        let Settled::Paused(found) = settled else {
            panic!("{settled:?}");
        };
        assert!(found.contains(reason), "{found}");
        let (row, runs) = site.read_schedule(row.id).await;
        assert_eq!(row.paused, Some((at(3_605), found.clone())));
        assert_eq!((row.runs, runs[0].reason.clone()), (0, found));
        let due = site
            .store
            .due_schedules(at(90_000), 10)
            .await
            .expect("read");
        assert!(
            due.iter().all(|due| due.id != row.id),
            "a paused schedule has no runs"
        );
        let query = AuditQuery {
            action: "schedule.pause".to_owned(),
            ..recent()
        };
        let audit = site.store.find_audit(site.org, query).await.expect("read");
        assert_eq!(audit[0].entry.actor, Actor::SYSTEM);
        assert!(audit[0].entry.subject.contains(name), "{audit:?}");
        // The operator who resumes it takes it over.
        let resume = ScheduleChange::Resume {
            operator: site.operator,
            next: Some(run(7_200)),
        };
        let resumed = site
            .store
            .change_schedule(site.org, row.id, resume, site.actor(), at(3_700));
        let resumed = resumed.await.expect("resumed").expect("it exists");
        assert_eq!((resumed.operator, resumed.paused), (site.operator, None));
    }
    assert_eq!(
        site.store
            .list_scans(site.org, None, None, 10, at(3_606))
            .await
            .expect("read"),
        []
    );
}

fn recent() -> AuditQuery {
    AuditQuery {
        action: String::new(),
        refused: false,
        principal: None,
        before: None,
        limit: 100,
    }
}

async fn changes_are_of_one_organization_and_recorded(site: Site) {
    let other = site.other_org().await;
    let node = site.node("north").await;
    let row = site.scheduled(node, "nightly").await;
    let change = async |org, change| {
        let changed = site
            .store
            .change_schedule(org, row.id, change, site.actor(), at(30));
        changed.await
    };
    let pause = || ScheduleChange::Pause {
        reason: "paused by ann@acme.test".to_owned(),
    };
    for foreign in [pause(), ScheduleChange::Delete] {
        let refused = change(other, foreign).await;
        assert!(
            matches!(refused, Err(ScheduleError::NotFound(_))),
            "{refused:?}"
        );
    }
    assert_eq!(site.store.schedules(other).await.expect("read"), []);
    assert_eq!(
        site.store.schedule(other, row.id).await.expect("read"),
        None
    );
    let resume = || ScheduleChange::Resume {
        operator: site.operator,
        next: Some(run(5_000)),
    };
    let refused = change(site.org, resume()).await;
    assert!(
        matches!(refused, Err(ScheduleError::NotPaused(_))),
        "{refused:?}"
    );
    let paused = change(site.org, pause())
        .await
        .expect("paused")
        .expect("it");
    let expected = (at(30), "paused by ann@acme.test".to_owned());
    assert_eq!(paused.paused, Some(expected));
    let refused = change(site.org, pause()).await;
    assert!(
        matches!(refused, Err(ScheduleError::Paused(_))),
        "{refused:?}"
    );
    let settled = site.settled(&row, run(3_600), 3_605);
    let settled = site.store.settle_run(settled).await.expect("settled");
    assert_eq!(settled, Settled::Stale, "it is paused");
    let resumed = change(site.org, resume())
        .await
        .expect("resumed")
        .expect("it");
    assert_eq!((resumed.next, resumed.paused), (Some(run(5_000)), None));
    let replaced = ScheduleChange::Replace {
        scan: Box::new(nightly(node, "hourly")),
        operator: site.operator,
        next: None,
    };
    let replaced = change(site.org, replaced)
        .await
        .expect("replaced")
        .expect("it");
    assert_eq!((&*replaced.scan.name, replaced.next), ("hourly", None));
    assert_eq!(replaced.since, at(30));
    assert_eq!(
        change(site.org, ScheduleChange::Delete)
            .await
            .expect("deleted"),
        None
    );
    assert_eq!(site.store.schedules(site.org).await.expect("read"), []);
    let query = AuditQuery {
        action: "schedule.".to_owned(),
        ..recent()
    };
    let audit = site.store.find_audit(site.org, query).await.expect("read");
    let actions: Vec<&str> = audit.iter().map(|row| &*row.entry.action).collect();
    let expected = ["delete", "update", "resume", "pause", "create"];
    assert_eq!(actions, expected.map(|action| format!("schedule.{action}")));
}

async fn a_run_that_was_planned_for_other_targets_does_not_start(site: Site) {
    let node = site.node("north").await;
    let row = site.scheduled(node, "nightly").await;
    let settled = site.settled(&row, run(3_600), 3_605);
    let mut scan = row.scan.clone();
    scan.request.mode = fleet_discovery::Mode::Target("10.0.9.0/24".to_owned());
    let change = ScheduleChange::Replace {
        scan: Box::new(scan),
        operator: site.operator,
        next: Some(run(3_600)),
    };
    let changed = site
        .store
        .change_schedule(site.org, row.id, change, site.actor(), at(30));
    changed.await.expect("changed");
    let started = site.store.settle_run(settled).await.expect("settled");
    assert_eq!(started, Settled::Stale);
    let (row, runs) = site.read_schedule(row.id).await;
    assert_eq!((row.last_scan, runs.len()), (None, 0));
}

async fn operators_who_race_create_no_schedule_beyond_the_limit(site: Site) {
    let node = site.node("north").await;
    for number in 1..SCHEDULES_OF_AN_ORG {
        site.scheduled(node, &number.to_string()).await;
    }
    let mut tries = Vec::new();
    for number in 0..8 {
        let store = site.another().await;
        let new = site.new_schedule(site.operator, node, &format!("last {number}"));
        let actor = site.actor();
        tries.push(async move { store.create_schedule(new, actor).await.is_ok() });
    }
    let created = at_once(tries).await;
    assert_eq!(created.iter().filter(|created| **created).count(), 1);
    let stored = site.store.schedules(site.org).await.expect("read");
    assert_eq!(stored.len(), SCHEDULES_OF_AN_ORG);
}

async fn names_and_numbers_are_limited(site: Site) {
    let node = site.node("north").await;
    let first = site.scheduled(node, "0").await;
    let new = site.new_schedule(site.operator, node, "0");
    let refused = site.store.create_schedule(new, site.actor()).await;
    assert!(matches!(refused, Err(ScheduleError::NameTaken(name)) if name == "0"));
    // Its own name is free for itself.
    let same = ScheduleChange::Replace {
        scan: Box::new(first.scan.clone()),
        operator: site.operator,
        next: None,
    };
    let kept = site
        .store
        .change_schedule(site.org, first.id, same, site.actor(), at(30));
    kept.await.expect("kept");
    let nowhere = Node {
        id: fleet_core::NodeId(999),
        ..node
    };
    let new = site.new_schedule(site.operator, nowhere, "nowhere");
    let refused = site.store.create_schedule(new, site.actor()).await;
    assert!(
        matches!(refused, Err(ScheduleError::NodeNotFound(_))),
        "{refused:?}"
    );
    for number in 1..SCHEDULES_OF_AN_ORG {
        site.scheduled(node, &number.to_string()).await;
    }
    let new = site.new_schedule(site.operator, node, "more");
    let refused = site.store.create_schedule(new, site.actor()).await;
    assert!(
        matches!(refused, Err(ScheduleError::TooMany)),
        "{refused:?}"
    );
}

async fn the_last_runs_are_kept(site: Site) {
    let node = site.node("north").await;
    let mut row = site.scheduled(node, "nightly").await;
    for number in 0..RUNS_KEPT as u64 + 3 {
        let settled = SettledRun {
            scan: Err(format!("reason {number}")),
            ..site.settled(&row, row.next.expect("a run"), 4_000 + number)
        };
        let settled = site.store.settle_run(settled).await.expect("settled");
        assert_eq!(settled, Settled::LeftOut(format!("reason {number}")));
        row = site.read_schedule(row.id).await.0;
    }
    let (_, runs) = site.read_schedule(row.id).await;
    assert_eq!(runs.len(), RUNS_KEPT);
    assert_eq!(runs[0].reason, format!("reason {}", RUNS_KEPT + 2));
    assert_eq!(runs[RUNS_KEPT - 1].reason, "reason 3");
}

async fn a_run_by_hand_starts_a_scan_and_keeps_the_next_run(site: Site) {
    let node = site.node("north").await;
    let row = site.scheduled(node, "nightly").await;
    let now = |target| site.new_scan(node.id, target, &["80"]);
    let run_now = async |id, new| site.store.run_schedule_now(id, new, site.actor()).await;
    let scan = run_now(row.id, now("10.0.0.0/24")).await.expect("started");
    let (row, runs) = site.read_schedule(row.id).await;
    assert_eq!((row.next, row.last_scan), (Some(run(3_600)), Some(scan)));
    assert_eq!(runs[0].scan, Some(scan));
    let refused = run_now(row.id, now("10.0.0.0/24")).await;
    assert!(
        matches!(refused, Err(RunNowError::Open(open)) if open == scan),
        "{refused:?}"
    );
    let refused = run_now(row.id, now("10.0.1.0/24")).await;
    assert!(
        matches!(refused, Err(RunNowError::Changed(changed)) if changed == row.id),
        "{refused:?}"
    );
    let refused = run_now(id(), now("10.0.0.0/24")).await;
    assert!(
        matches!(refused, Err(RunNowError::NotFound(_))),
        "{refused:?}"
    );
}

async fn servers_share_one_clock(site: Site) {
    let own = at(1);
    let shared = site.store.shared_clock(own).await.expect("read");
    if site.url.starts_with("sqlite:") {
        assert_eq!(shared, own);
    } else {
        // This clock is months away from the tests' clock, and no test sets PostgreSQL's.
        assert_ne!(shared, own);
        let later = site.store.shared_clock(own).await.expect("read");
        assert!(later >= shared);
    }
}

async fn an_unreadable_schedule_does_not_hold_up_the_others(site: Site) {
    let node = site.node("north").await;
    let bad = site.scheduled(node, "bad").await.id;
    let good = site.scheduled(node, "good").await.id;
    let sql = format!("UPDATE schedule SET request = 'unreadable' WHERE id = '{bad}'");
    site.raw().await.execute_unprepared(&sql).await.expect(&sql);
    // The unreadable one does not count for the limit.
    for limit in [1, 10] {
        let due = site.store.due_schedules(at(4_000), limit).await;
        let ids: Vec<ScheduleId> = due.expect("read").iter().map(|row| row.id).collect();
        assert_eq!(ids, [good], "{limit}");
    }
    let listed = site.store.schedules(site.org).await.expect("read");
    assert_eq!(listed.len(), 1);
}
