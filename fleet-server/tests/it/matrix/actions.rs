//! Every procedure that changes something leaves a record when it is done and when a guard refuses it, or says
//! here why not. Which procedures change something the descriptors declare.

use std::collections::BTreeSet;

use fleet_core::OrgId;
use fleet_store::{AuditResult, Principal};

use super::{
    call::Answer,
    expected,
    scene::Scene,
    table::{CALLERS, Row, rows},
};
use crate::harness::World;

/// What a procedure's records say.
#[derive(Debug)]
enum Action {
    /// The action of its record.
    Named(&'static str),
    /// Nothing is recorded when it is done, for this reason; refusals have the action.
    Silent(&'static str, &'static str),
    /// Neither, for this reason.
    Never(&'static str),
}
use Action::{Named, Never, Silent};

/// Every procedure that changes something, by its name.
const ACTIONS: &[(&str, Action)] = &[
    ("Register", Named("node.register")),
    (
        "BeginAuthHandshake",
        Silent(
            "node.handshake",
            "half a sign-in: CompleteAuthHandshake is the action",
        ),
    ),
    ("CompleteAuthHandshake", Named("node.sign_in")),
    (
        "UploadHeartbeat",
        Silent(
            "node.call",
            "a sign of life every 30 s, which last_seen_at tells",
        ),
    ),
    (
        "ReportDiscoveredDevices",
        Silent(
            "report.refuse",
            "what is accepted is in its scan's event log",
        ),
    ),
    (
        "ReportPairedDevices",
        Silent(
            "pairing.refuse",
            "what is accepted is recorded with what it did to devices",
        ),
    ),
    (
        "ControlStream",
        Silent(
            "node.call",
            "a connection, whose node has signed in on the record",
        ),
    ),
    ("CreateEnrollmentCode", Named("code.create")),
    ("CancelEnrollmentCode", Named("code.cancel")),
    ("MoveNode", Named("node.move")),
    ("RenameNode", Named("node.rename")),
    ("LabelDevices", Named("device.label")),
    ("SetDeviceNote", Named("device.note")),
    ("DeleteDevices", Named("device.delete")),
    ("CreateSite", Named("site.create")),
    ("RenameSite", Named("site.rename")),
    ("DeleteSite", Named("site.delete")),
    ("ExcludeTargets", Named("site.exclude")),
    ("RemoveExclude", Named("site.remove_exclude")),
    ("SetBlackouts", Named("site.set_blackouts")),
    ("ConfirmFleetNode", Named("node.confirm")),
    ("ConfirmFetchingNode", Named("node.confirm")),
    ("FetchNodeKey", Named("node.fetch_key")),
    ("RevokeFleetNode", Named("node.revoke")),
    ("PairDeviceToFleetNode", Named("device.pair")),
    ("UnpairDevice", Named("device.unpair")),
    ("UndoIdentityChange", Named("device.separate")),
    ("PairDiscoveredDevicesOnFleetNode", Named("pairing.start")),
    ("StartPairing", Named("pairing.start")),
    ("CancelPairing", Named("pairing.cancel")),
    ("DiscoverOnFleetNode", Named("scan.start")),
    ("StartScan", Named("scan.start")),
    ("CreateSchedule", Named("schedule.create")),
    ("UpdateSchedule", Named("schedule.update")),
    ("PauseSchedule", Named("schedule.pause")),
    ("ResumeSchedule", Named("schedule.resume")),
    ("DeleteSchedule", Named("schedule.delete")),
    ("RunSchedule", Named("scan.start")),
    ("CreateAlertChannel", Named("alert.channel.create")),
    ("DeleteAlertChannel", Named("alert.channel.delete")),
    ("TestAlertChannel", Named("alert.channel.test")),
    ("CreateAlertRule", Named("alert.rule.create")),
    ("UpdateAlertRule", Named("alert.rule.update")),
    ("DeleteAlertRule", Named("alert.rule.delete")),
    ("RetryAlertDelivery", Named("alert.retry")),
    ("CancelScan", Named("scan.cancel")),
    ("EndSession", Named("operator.end_session")),
    ("ChangePassword", Named("operator.set_password")),
    ("CreateKey", Named("operator.create_key")),
    ("RotateKey", Named("operator.rotate_key")),
    ("RevokeKey", Named("operator.revoke_key")),
    ("CreateOperator", Named("operator.create")),
    ("SetOperatorRole", Named("operator.set_role")),
    ("ResetOperatorPassword", Named("operator.reset_password")),
    ("UnlinkOperator", Named("operator.unlink")),
    ("RemoveOperator", Named("operator.remove")),
    (
        "WatchScan",
        Never("it reads; Connect has no word for a stream without side effects"),
    ),
    ("Discover", Named("direct.scan")),
    ("ScanOwnNetwork", Named("direct.scan")),
    ("Pair", Named("direct.pair")),
];

fn action(row: &Row) -> Option<&'static Action> {
    let name = row.path.rsplit('/').next().expect("a name");
    ACTIONS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, action)| action)
}

fn changes_something(row: &Row) -> bool {
    fleet_wire::methods()
        .any(|method| method.path().trim_start_matches('/') == row.path && !method.idempotent())
}

#[test]
fn every_mutating_procedure_declares_its_audit_record() {
    for row in rows().iter().filter(|row| changes_something(row)) {
        assert!(
            action(row).is_some(),
            "{} changes something: add it to ACTIONS in fleet-server/tests/it/matrix/actions.rs with the action of its audit record",
            row.path
        );
    }
    let named: BTreeSet<_> = fleet_wire::methods().map(|method| method.name()).collect();
    for (name, _) in ACTIONS {
        assert!(named.contains(name), "there is no procedure {name}");
    }
    for (name, action) in ACTIONS {
        if let Silent(_, reason) | Never(reason) = action {
            assert!(
                reason.len() > 20,
                "{name} leaves no record, without a reason: {reason}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_and_every_refusal_by_a_guard_leaves_a_record() {
    let mut wrong = Vec::new();
    for row in rows().iter().filter(|row| changes_something(row)) {
        let (Some(Named(action) | Silent(action, _)), done_is_recorded) =
            (action(row), matches!(action(row), Some(Named(_))))
        else {
            continue;
        };
        // Refusals alike within a minute are one record: each row has a world, so that its own are seen.
        let world = World::new().await;
        let mut scene = Scene::new(&world).await;
        for caller in CALLERS {
            // What the row needs is made first, so that its own records do not count.
            scene.prepare(row).await;
            let before = done(&world, action).await;
            let answer = scene.ask(row, caller, Scene::known).await;
            let recorded = match answer.letter() {
                // It had ended before: nothing was done.
                '.' if row.state == "ended" => true,
                '.' => !done_is_recorded || done(&world, action).await > before,
                // Nobody tried anything: scanners of the internet must not fill the trail.
                'U' if caller == 'n' && !is_public(row) => true,
                'U' => refused_without_credentials(&world, action).await,
                'P' | 'N' | 'F' | 'R' => refused(&world, &scene, action, caller).await,
                _ => true,
            };
            if !recorded {
                wrong.push(format!("{caller}: {} {}", answer.letter(), row));
            }
            assert_eq!(answer.letter(), expected(row, caller), "{answer:?}");
            if answer.letter() == '.' {
                scene.forget();
            }
        }
        // The databases of all rows together would need more descriptors than a process has.
        world.store.close().await;
    }
    assert!(wrong.is_empty(), "no record of\n{}", wrong.join("\n"));
}

/// Nobody needs a credential for it.
fn is_public(row: &Row) -> bool {
    ["Register", "BeginAuthHandshake", "CompleteAuthHandshake"]
        .iter()
        .any(|name| row.path.ends_with(name))
}

/// How many records of an action that was done there are, whosever.
async fn done(world: &World, action: &str) -> usize {
    let mut count = 0;
    for (_, record) in trail(world).await {
        count += usize::from(record.action == action && record.refusal.is_none());
    }
    count
}

/// Whether there is a record of a refusal of this action, or of a call as such, for this caller.
async fn refused(world: &World, scene: &Scene<'_>, action: &str, caller: char) -> bool {
    if let Some(operator) = scene.operator_called(caller) {
        let rows = fleet_store::Audit::list_audit(&world.store, operator.org, None, 1_000).await;
        return rows.expect("it reads").iter().any(|row| {
            row.name.as_ref() == Some(&operator.email)
                && [action, "operator.call"].contains(&&*row.entry.action)
                && matches!(row.entry.result, AuditResult::Refused(_))
                && matches!(row.entry.actor.principal, Principal::Operator(_))
                && row.entry.actor.from.is_some()
        });
    }
    trail(world).await.iter().any(|(org, record)| {
        record.action == action
            && record.refusal.is_some()
            && record.from.is_some()
            && record.principal == "node"
            && org.is_some()
    })
}

/// The same for callers without a valid operator credential.
async fn refused_without_credentials(world: &World, action: &str) -> bool {
    let calls = [action, "operator.call", "node.call"];
    trail(world).await.iter().any(|(_, record)| {
        calls.contains(&record.action.as_str())
            && record.refusal.is_some()
            && record.from.is_some()
            && ["anonymous", "node"].contains(&record.principal.as_str())
    })
}

/// Every record there is, by its chain: sealing leaves none out.
async fn trail(world: &World) -> Vec<(Option<OrgId>, fleet_store::LinkedRecord)> {
    use fleet_server::Environment as _;
    use fleet_store::AuditChain as _;
    let store = &world.store;
    store.seal_audit(world.clock.now()).await.expect("seals");
    let mut found = Vec::new();
    for org in store.audit_chains().await.expect("reads") {
        let links = store.audit_links(org, 0, 10_000).await.expect("reads");
        found.extend(
            links
                .into_iter()
                .filter_map(|link| Some((org, link.record?))),
        );
    }
    found
}

/// Ten thousand refusals of one actor within a minute, as fast as they come.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_leaves_a_record_a_minute() {
    const FLOOD: usize = 10_000;
    let world = std::sync::Arc::new(World::new().await);
    let viewer = world.operator(fleet_core::Role::Viewer).await;
    let before = world.audited(viewer.org, "operator.call").await.len();
    assert_eq!(before, 0);
    let begun = std::time::Instant::now();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (nodes, options) = (viewer.nodes(), viewer.options());
            tokio::spawn(async move {
                for id in 0..FLOOD / 8 {
                    let request = fleet_wire::fleet::CancelEnrollmentCodeRequest {
                        pending_enrollment_id: i64::try_from(id).expect("is small") + 1,
                    };
                    let answer = nodes
                        .cancel_enrollment_code(&request, options.clone())
                        .await;
                    answer.expect_err("is refused");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("ends");
    }
    let minutes = usize::try_from(begun.elapsed().as_secs() / 60).expect("is small") + 2;
    let rows = world.audited(viewer.org, "operator.call").await.len();
    assert!(
        (1..=minutes).contains(&rows),
        "{rows} records in {minutes} minutes"
    );
    let bearer = "Bearer fok_nobody";
    for _ in 0..100 {
        let headers = [("authorization", bearer)];
        let answer = Answer::to(&world, "fleet.v1.NodeService/ListNodes", &headers, "{}").await;
        assert_eq!(answer.letter(), 'U');
    }
    let unauthenticated = trail(&world).await;
    let unauthenticated = unauthenticated
        .iter()
        .filter(|(org, _)| org.is_none())
        .count();
    assert!(
        (1..=minutes).contains(&unauthenticated),
        "{unauthenticated} records of unauthenticated peers"
    );
}
