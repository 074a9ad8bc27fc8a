//! Pairing commands for nodes: each part is sent once. Results are judged one by one, and they are stored even if the
//! requesting operator no longer exists.

use fleet_core::{
    CommandId, DeviceId, PairOutcome, PairRejectReason, PairResult, PairingId, PairingStatus,
    RawPairResult, ReplicaId,
    limits::{COMMAND_DEADLINE, PAIRING_LEASE},
    outcome::{AckCode, Code},
};
use fleet_pairing::Binding;
use fleet_store::*;

use crate::{
    races::at_once,
    site::{Node, Site, at, command_id, unique},
};

contract! {
    a_result_sets_the_status_and_the_binding_together
    a_report_delivered_again_changes_nothing
    only_requested_results_are_accepted_and_each_once
    sealed_credentials_are_deleted_with_the_binding
    devices_that_were_never_reported_have_failed
    a_node_that_pairs_runs_nothing_else
    a_part_is_sent_once_and_the_next_follows_its_ack
    a_busy_node_ends_it
    without_a_stream_it_is_not_sent
    a_server_that_is_gone_leaves_nothing_to_send
    a_node_that_comes_back_without_it_has_lost_it
    a_node_that_still_pairs_goes_on_under_its_new_stream
    a_node_that_says_nothing_runs_into_the_deadline
    canceling_sends_no_more_and_keeps_received_results
    a_result_of_a_device_that_was_released_is_not_taken
    a_part_whose_devices_were_released_is_not_sent
    another_nodes_device_is_not_taken_by_a_result
    all_unpaired_leaves_out_devices_that_need_a_password
    another_tenant_sees_nothing_of_it
    results_race_unpairing_and_revocation
    a_replacement_pairs_the_devices_of_a_lost_node_again
    a_forwarded_pairing_is_taken_once_and_only_by_its_server
    a_forwarded_pairing_that_ends_leaves_no_credentials
}

impl Site {
    async fn targets(&self, node: Node, selection: PairSelection) -> PairTargets {
        self.store
            .pair_targets(self.org, node.id, selection)
            .await
            .expect("read")
    }

    /// Devices that a node found.
    async fn several(&self, node: Node, count: usize) -> Vec<DeviceId> {
        let mut devices = Vec::new();
        for _ in 0..count {
            let n = unique();
            let ip = format!("10.{}.{}.7", n >> 8 & 255, n & 255);
            devices.push(self.found_by(node, &ip).await);
        }
        devices
    }

    async fn target(&self, node: Node, device: DeviceId) -> PairTarget {
        let rows = self.devices().await;
        let row = rows.iter().find(|row| row.id == device).expect("known");
        let selection = PairSelection {
            identifiers: vec![row.identifier.to_string()],
            all_unpaired: false,
            with_password: true,
        };
        let found = self.targets(node, selection).await;
        found.targets.into_iter().next().expect("a target")
    }

    async fn create_pairing(
        &self,
        node: Node,
        parts: Vec<Vec<PairTarget>>,
    ) -> Result<PairingId, CreatePairingError> {
        self.create_forwarded(node, parts, None).await
    }

    async fn create_forwarded(
        &self,
        node: Node,
        parts: Vec<Vec<PairTarget>>,
        forwarded: Option<ForwardedCredentials>,
    ) -> Result<PairingId, CreatePairingError> {
        let id = PairingId::new(at(unique()), [5; 10]);
        let new = NewPairing {
            id,
            org: self.org,
            node: node.id,
            operator: self.operator,
            parts,
            forwarded,
            now: at(100),
        };
        self.store.create_pairing(new, self.actor()).await?;
        Ok(id)
    }

    async fn step(&self, node: Node, pairing: PairingId) -> (CommandId, PairingStep) {
        let command = command_id();
        let step = self
            .store
            .issue_pairing(pairing, Some(node.epoch), command, at(101))
            .await
            .expect("issued");
        (command, step)
    }

    /// A pairing of these devices with its one command in flight.
    async fn pairing(&self, node: Node, devices: &[DeviceId]) -> (PairingId, CommandId) {
        let mut targets = Vec::new();
        for device in devices {
            targets.push(self.target(node, *device).await);
        }
        let pairing = self
            .create_pairing(node, vec![targets])
            .await
            .expect("created");
        let (command, step) = self.step(node, pairing).await;
        assert!(matches!(step, PairingStep::Issued { .. }), "{step:?}");
        (pairing, command)
    }

    async fn identifier(&self, device: DeviceId) -> String {
        let rows = self.devices().await;
        let row = rows.iter().find(|row| row.id == device);
        row.expect("known").identifier.to_string()
    }

    async fn row(&self, device: DeviceId, outcome: PairOutcome) -> PairRow {
        PairRow {
            result: PairResult::parse(RawPairResult {
                identifier: &self.identifier(device).await,
                outcome: Some(outcome),
                ..RawPairResult::default()
            })
            .expect("well-formed"),
            sealed: (outcome == PairOutcome::Paired).then(|| SealedCredentials {
                username: vec![1; 52],
                password: vec![2; 52],
            }),
        }
    }

    async fn results(
        &self,
        node: Node,
        command: CommandId,
        rows: Vec<PairRow>,
    ) -> Result<(u64, u64), ReportError> {
        let report = NewPairResults {
            node: node.id,
            org: self.org,
            from: None,
            command,
            rows: rows.into_iter().map(Ok).collect(),
            now: at(110),
        };
        let answer = self.store.record_pair_results(report).await?;
        Ok((answer.accepted, answer.rejected))
    }

    /// The results of a pairing as `device status`, and its end. Checks that their sequence is dense.
    async fn came_of(&self, pairing: PairingId) -> (Vec<(DeviceId, PairingStatus)>, Option<Code>) {
        let page = self
            .store
            .read_pairing(self.org, pairing, 0, 10_000)
            .await
            .expect("read")
            .expect("there");
        let dense: Vec<i64> = (1..=page.results.len() as i64).collect();
        let sequences: Vec<i64> = page.results.iter().map(|row| row.sequence).collect();
        assert_eq!(sequences, dense, "results are dense");
        assert_eq!(page.pairing.done, page.results.len() as u64);
        let mut results: Vec<_> = page
            .results
            .iter()
            .map(|row| (row.device, row.result))
            .collect();
        results.sort_unstable_by_key(|(device, _)| *device);
        let ended = page.pairing.ended.map(|(code, _)| code);
        if ended.is_some() {
            assert_eq!(
                page.pairing.done, page.pairing.targets,
                "nothing is left out"
            );
        }
        (results, ended)
    }
}

async fn a_result_sets_the_status_and_the_binding_together(site: Site) {
    let north = site.node("north").await;
    let devices = site.several(north, 5).await;
    let (pairing, command) = site.pairing(north, &devices).await;
    let mut open = site.row(devices[4], PairOutcome::Paired).await;
    open.result.open = true;
    let mut default = site.row(devices[1], PairOutcome::Paired).await;
    default.result.default_password = Some(true);
    let rows = vec![
        site.row(devices[0], PairOutcome::Paired).await,
        default,
        site.row(devices[2], PairOutcome::AuthNeeded).await,
        site.row(devices[3], PairOutcome::Error).await,
        open,
    ];
    assert_eq!(
        site.results(north, command, rows).await.expect("taken"),
        (5, 0)
    );
    use PairingStatus::{AuthenticationNeeded, DefaultPassword, Failed, Open, Paired};
    let expected = [Paired, DefaultPassword, AuthenticationNeeded, Failed, Open];
    for (device, status) in devices.iter().zip(expected) {
        let known = site.pairing_of(*device).await;
        assert_eq!(known.status, status);
        let bound = if status.is_paired() {
            Binding::Node(north.id)
        } else {
            Binding::Free
        };
        assert_eq!(known.binding, bound, "{status}");
        assert_eq!(known.has_credentials, status.is_paired());
    }
    let expected: Vec<_> = devices.iter().copied().zip(expected).collect();
    assert_eq!(site.came_of(pairing).await, (expected.clone(), None));
    site.acked(north, command, AckCode::Ok).await;
    assert_eq!(site.came_of(pairing).await, (expected, Some(Code::Ok)));
    let bound = site
        .store
        .list_bound_devices(site.org, None, fleet_store::ListPage::FIRST)
        .await;
    assert!(
        bound
            .expect("read")
            .iter()
            .all(|row| row.assigned_by == Some(site.operator)),
        "the node that requested it is the binder"
    );
}

async fn a_report_delivered_again_changes_nothing(site: Site) {
    let north = site.node("north").await;
    let devices = site.several(north, 2).await;
    let (pairing, command) = site.pairing(north, &devices).await;
    let row = site.row(devices[0], PairOutcome::Paired).await;
    for _ in 0..3 {
        let rows = vec![row.clone(), row.clone()];
        assert_eq!(
            site.results(north, command, rows).await.expect("taken"),
            (2, 0)
        );
        assert_eq!(
            site.came_of(pairing).await.0,
            [(devices[0], PairingStatus::Paired)]
        );
    }
    let results = site.audited().await;
    let results = results
        .iter()
        .filter(|row| row.entry.action == "pairing.result")
        .count();
    assert_eq!(results, 1);
    site.acked(north, command, AckCode::Ok).await;
    let late = site.results(north, command, vec![row]).await;
    assert!(matches!(late, Err(ReportError::NotInFlight(_))), "{late:?}");
}

async fn only_requested_results_are_accepted_and_each_once(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    let devices = site.several(north, 2).await;
    let (pairing, command) = site.pairing(north, &devices[..1]).await;
    let asked = site.row(devices[0], PairOutcome::AuthFailed).await;
    let other = site.row(devices[0], PairOutcome::Paired).await;
    let unasked = site.row(devices[1], PairOutcome::Paired).await;
    let malformed = (PairRejectReason::Outcome, "x".to_owned());
    let report = NewPairResults {
        node: north.id,
        org: site.org,
        from: None,
        command,
        rows: vec![Ok(unasked), Err(malformed), Ok(asked), Ok(other)],
        now: at(110),
    };
    let answer = site
        .store
        .record_pair_results(report.clone())
        .await
        .expect("taken");
    assert_eq!((answer.accepted, answer.rejected), (1, 3));
    assert_eq!(
        site.came_of(pairing).await.0,
        [(devices[0], PairingStatus::AuthenticationNeeded)]
    );
    assert_eq!(site.pairing_of(devices[1]).await, DevicePairing::NONE);
    let refused = site.audited().await;
    let mut reasons: Vec<_> = refused
        .iter()
        .filter(|row| row.entry.action == "pairing.refuse")
        .map(|row| match &row.entry.result {
            AuditResult::Refused(why) => why.split(", such as").next().unwrap_or("").to_owned(),
            AuditResult::Done => String::new(),
        })
        .collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        [
            "already reported with another outcome",
            "no known outcome",
            "not asked for"
        ]
    );
    // Another node may not report results for the command.
    let report = NewPairResults {
        node: south.id,
        ..report
    };
    let refused = site.store.record_pair_results(report).await;
    assert!(matches!(refused, Err(ReportError::NotInFlight(_))));
}

async fn sealed_credentials_are_deleted_with_the_binding(site: Site) {
    let (north, south) = (site.node("north").await, site.confirmed("south").await);
    let kept = "SELECT count(*) FROM device_credential";
    for released_by in 0..3 {
        let device = site.several(north, 1).await[0];
        let (_, command) = site.pairing(north, &[device]).await;
        let row = site.row(device, PairOutcome::Paired).await;
        site.results(north, command, vec![row])
            .await
            .expect("taken");
        site.acked(north, command, AckCode::Ok).await;
        assert_eq!(site.number(kept).await, 1);
        match released_by {
            0 => {
                site.unbind(device).await;
            }
            1 => {
                site.unbind(device).await;
                site.bind(south, device).await.expect("bound");
            }
            _ => site.revoke(north.id).await,
        }
        assert_eq!(site.number(kept).await, 0, "{released_by}");
        assert!(!site.pairing_of(device).await.has_credentials);
        assert_eq!(
            site.pairing_of(device).await.status,
            PairingStatus::Unpaired
        );
    }
}

async fn devices_that_were_never_reported_have_failed(site: Site) {
    let north = site.node("north").await;
    let devices = site.several(north, 2).await;
    let (pairing, command) = site.pairing(north, &devices).await;
    let row = site.row(devices[0], PairOutcome::Paired).await;
    site.results(north, command, vec![row])
        .await
        .expect("taken");
    site.acked(north, command, AckCode::Ok).await;
    let (results, ended) = site.came_of(pairing).await;
    assert_eq!(
        results,
        [
            (devices[0], PairingStatus::Paired),
            (devices[1], PairingStatus::Failed)
        ]
    );
    assert_eq!(ended, Some(Code::Ok));
    assert_eq!(
        site.pairing_of(devices[1]).await.status,
        PairingStatus::Failed
    );
}

async fn a_node_that_pairs_runs_nothing_else(site: Site) {
    let north = site.node("north").await;
    let device = site.several(north, 1).await[0];
    let target = site.target(north, device).await;
    // A scan is in flight.
    let scanning = site.running(north, "10.0.0.0/24").await;
    let busy = site.create_pairing(north, vec![vec![target.clone()]]).await;
    assert!(matches!(busy, Err(CreatePairingError::Busy(_))), "{busy:?}");
    site.acked(north, scanning.command, AckCode::Ok).await;
    // Pairing is in progress.
    let (_, command) = site.pairing(north, &[device]).await;
    let busy = site.create_pairing(north, vec![vec![target]]).await;
    assert!(matches!(busy, Err(CreatePairingError::Busy(_))), "{busy:?}");
    let never = NewScan {
        queueing: Queueing::Never,
        ..site.new_scan(north.id, "10.0.1.0/24", &["80"])
    };
    let busy = site.store.create_scan(never, site.actor()).await;
    assert!(matches!(busy, Err(CreateScanError::Busy(_))), "{busy:?}");
    site.scan(north, "10.0.2.0/24").await;
    assert_eq!(site.issue(north).await, None);
    assert_eq!(site.store.nodes_with_work(at(20)).await.expect("read"), []);
    site.acked(north, command, AckCode::Ok).await;
    assert!(site.issue(north).await.is_some(), "the queue goes on");
}

async fn a_part_is_sent_once_and_the_next_follows_its_ack(site: Site) {
    let north = site.node("north").await;
    let devices = site.several(north, 3).await;
    let mut parts = Vec::new();
    for device in &devices {
        parts.push(vec![site.target(north, *device).await]);
    }
    let pairing = site
        .create_pairing(north, parts.clone())
        .await
        .expect("created");
    for (part, device) in parts.iter().zip(&devices) {
        let (command, step) = site.step(north, pairing).await;
        assert!(
            matches!(&step, PairingStep::Issued { targets, .. } if targets == part),
            "{step:?}"
        );
        assert_eq!(site.step(north, pairing).await.1, PairingStep::Waits);
        assert_eq!(site.issue(north).await, None);
        let row = site.row(*device, PairOutcome::Paired).await;
        site.results(north, command, vec![row])
            .await
            .expect("taken");
        site.acked(north, command, AckCode::Ok).await;
    }
    assert_eq!(site.step(north, pairing).await.1, PairingStep::Over);
    assert_eq!(site.came_of(pairing).await.1, Some(Code::Ok));
}

async fn a_busy_node_ends_it(site: Site) {
    let north = site.node("north").await;
    let devices = site.several(north, 1).await;
    let (pairing, command) = site.pairing(north, &devices).await;
    site.acked(north, command, AckCode::Busy).await;
    assert_eq!(site.came_of(pairing).await.1, Some(Code::ResourceExhausted));
    assert_eq!(site.step(north, pairing).await.1, PairingStep::Over);
}

async fn without_a_stream_it_is_not_sent(site: Site) {
    let north = site.node("north").await;
    let devices = site.several(north, 1).await;
    let target = site.target(north, devices[0]).await;
    let pairing = site
        .create_pairing(north, vec![vec![target]])
        .await
        .expect("created");
    let step = site
        .store
        .issue_pairing(pairing, None, command_id(), at(101))
        .await;
    assert_eq!(step.expect("issued"), PairingStep::Over);
    let (results, ended) = site.came_of(pairing).await;
    assert_eq!(ended, Some(Code::Unavailable));
    assert_eq!(results, [(devices[0], PairingStatus::Failed)]);
    assert_eq!(
        site.pairing_of(devices[0]).await,
        DevicePairing::NONE,
        "what was not tried has not failed"
    );
}

async fn a_server_that_is_gone_leaves_nothing_to_send(site: Site) {
    let north = site.node("north").await;
    let devices = site.several(north, 1).await;
    let target = site.target(north, devices[0]).await;
    let pairing = site
        .create_pairing(north, vec![vec![target]])
        .await
        .expect("created");
    let sweep = async |now| site.store.sweep_pairings(now).await.expect("swept");
    let lease = at(100).plus(PAIRING_LEASE);
    sweep(at(129)).await;
    assert_eq!(site.came_of(pairing).await.1, None);
    assert!(
        site.store
            .renew_pairing(pairing, at(120))
            .await
            .expect("kept")
    );
    sweep(lease).await;
    assert_eq!(site.came_of(pairing).await.1, None, "it was kept");
    sweep(at(120).plus(PAIRING_LEASE)).await;
    assert_eq!(site.came_of(pairing).await.1, Some(Code::Unavailable));
    assert!(
        !site
            .store
            .renew_pairing(pairing, at(200))
            .await
            .expect("read")
    );
    let page = site
        .store
        .read_pairing(site.org, pairing, 0, 10)
        .await
        .expect("read")
        .expect("there");
    let (_, reason) = page.pairing.ended.expect("ended");
    assert!(reason.contains("run it again"), "{reason}");
}

async fn a_node_that_comes_back_without_it_has_lost_it(site: Site) {
    let mut north = site.node("north").await;
    let devices = site.several(north, 2).await;
    let (pairing, command) = site.pairing(north, &devices).await;
    let row = site.row(devices[0], PairOutcome::Paired).await;
    site.results(north, command, vec![row.clone()])
        .await
        .expect("taken");
    let claimed = site.reconnect(&mut north, &[], at(120)).await;
    assert_eq!(claimed.adopted, []);
    let (results, ended) = site.came_of(pairing).await;
    assert_eq!(ended, Some(Code::Unavailable));
    assert_eq!(
        results,
        [
            (devices[0], PairingStatus::Paired),
            (devices[1], PairingStatus::Failed)
        ]
    );
    assert_eq!(site.step(north, pairing).await.1, PairingStep::Over);
    let late = site.results(north, command, vec![row]).await;
    assert!(matches!(late, Err(ReportError::NotInFlight(_))));
}

async fn a_node_that_still_pairs_goes_on_under_its_new_stream(site: Site) {
    let mut north = site.node("north").await;
    let before = north;
    let devices = site.several(north, 1).await;
    let (pairing, command) = site.pairing(north, &devices).await;
    let claimed = site.reconnect(&mut north, &[command], at(120)).await;
    assert_eq!(claimed.adopted.len(), 1);
    assert_eq!(claimed.adopted[0].command, command);
    assert!(!claimed.adopted[0].canceled);
    assert_eq!(
        site.acked(before, command, AckCode::Ok).await,
        Acked::Stale,
        "an old stream has no say"
    );
    let row = site.row(devices[0], PairOutcome::Paired).await;
    site.results(north, command, vec![row])
        .await
        .expect("taken");
    assert_eq!(
        site.acked(north, command, AckCode::Ok).await,
        Acked::Pairing(pairing)
    );
    assert_eq!(site.came_of(pairing).await.1, Some(Code::Ok));
}

async fn a_node_that_says_nothing_runs_into_the_deadline(site: Site) {
    let north = site.node("north").await;
    let devices = site.several(north, 1).await;
    let (pairing, command) = site.pairing(north, &devices).await;
    // The requester is gone, but the node still has the command.
    site.store.sweep_pairings(at(700)).await.expect("swept");
    let swept = site.store.sweep_commands(at(700)).await.expect("swept");
    assert_eq!(swept, Expired::default());
    assert_eq!(site.came_of(pairing).await.1, None);
    site.sweep_until(701, 821).await;
    let deadline = at(101).plus(COMMAND_DEADLINE);
    let swept = site.store.sweep_commands(deadline).await.expect("swept");
    assert_eq!(swept.commands, [(north.id, command)]);
    assert_eq!(swept.pairings, [pairing]);
    assert_eq!(site.came_of(pairing).await.1, Some(Code::DeadlineExceeded));
    assert_eq!(
        site.pairing_of(devices[0]).await.status,
        PairingStatus::Failed
    );
}

async fn canceling_sends_no_more_and_keeps_received_results(site: Site) {
    let north = site.node("north").await;
    let devices = site.several(north, 2).await;
    let parts = vec![
        vec![site.target(north, devices[0]).await],
        vec![site.target(north, devices[1]).await],
    ];
    let pairing = site.create_pairing(north, parts).await.expect("created");
    let (command, _) = site.step(north, pairing).await;
    let cancel = async || {
        site.store
            .cancel_pairing(site.org, pairing, site.actor(), at(105))
            .await
            .expect("canceled")
    };
    assert_eq!(cancel().await, Some((north.id, command)));
    assert_eq!(cancel().await, Some((north.id, command)));
    let row = site.row(devices[0], PairOutcome::Paired).await;
    site.results(north, command, vec![row])
        .await
        .expect("taken");
    site.acked(north, command, AckCode::Partial).await;
    let (results, ended) = site.came_of(pairing).await;
    assert_eq!(ended, Some(Code::Canceled));
    assert_eq!(
        results,
        [
            (devices[0], PairingStatus::Paired),
            (devices[1], PairingStatus::Failed)
        ]
    );
    assert_eq!(site.pairing_of(devices[1]).await, DevicePairing::NONE);
    assert_eq!(cancel().await, None);
    assert_eq!(site.step(north, pairing).await.1, PairingStep::Over);
}

async fn a_result_of_a_device_that_was_released_is_not_taken(site: Site) {
    let north = site.node("north").await;
    let devices = site.several(north, 1).await;
    let (pairing, command) = site.pairing(north, &devices).await;
    assert_eq!(site.unbind(devices[0]).await, Changed::Yes);
    let row = site.row(devices[0], PairOutcome::Paired).await;
    assert_eq!(
        site.results(north, command, vec![row])
            .await
            .expect("judged"),
        (0, 1)
    );
    assert_eq!(site.pairing_of(devices[0]).await, DevicePairing::NONE);
    site.acked(north, command, AckCode::Ok).await;
    assert_eq!(
        site.came_of(pairing).await,
        (vec![(devices[0], PairingStatus::Unpaired)], Some(Code::Ok))
    );
}

async fn a_part_whose_devices_were_released_is_not_sent(site: Site) {
    let north = site.node("north").await;
    let devices = site.several(north, 2).await;
    let parts = vec![
        vec![site.target(north, devices[0]).await],
        vec![site.target(north, devices[1]).await],
    ];
    let pairing = site.create_pairing(north, parts).await.expect("created");
    site.unbind(devices[0]).await;
    assert_eq!(site.step(north, pairing).await.1, PairingStep::Waits);
    site.unbind(devices[1]).await;
    assert_eq!(site.step(north, pairing).await.1, PairingStep::Over);
    let unpaired = |device| (device, PairingStatus::Unpaired);
    assert_eq!(
        site.came_of(pairing).await,
        (devices.into_iter().map(unpaired).collect(), Some(Code::Ok))
    );
}

async fn another_nodes_device_is_not_taken_by_a_result(site: Site) {
    let (north, south) = (site.node("north").await, site.confirmed("south").await);
    let devices = site.several(north, 1).await;
    let (_, command) = site.pairing(north, &devices).await;
    site.bind(south, devices[0]).await.expect("bound");
    let row = site.row(devices[0], PairOutcome::Paired).await;
    assert_eq!(
        site.results(north, command, vec![row])
            .await
            .expect("judged"),
        (0, 1)
    );
    let known = site.pairing_of(devices[0]).await;
    assert_eq!(known.binding, Binding::Node(south));
    assert!(!known.has_credentials);
}

async fn all_unpaired_leaves_out_devices_that_need_a_password(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    let devices = site.several(north, 4).await;
    site.several(south, 1).await;
    let (_, command) = site.pairing(north, &devices[..2]).await;
    let rows = vec![
        site.row(devices[0], PairOutcome::Paired).await,
        site.row(devices[1], PairOutcome::AuthNeeded).await,
    ];
    site.results(north, command, rows).await.expect("taken");
    site.acked(north, command, AckCode::Ok).await;
    site.bind(south.id, devices[3]).await.expect("bound");
    let all = async |with_password| {
        let selection = PairSelection {
            identifiers: Vec::new(),
            all_unpaired: true,
            with_password,
        };
        let found = site.targets(north, selection).await;
        assert_eq!(found.refused, []);
        found
            .targets
            .iter()
            .map(|target| target.device)
            .collect::<Vec<_>>()
    };
    assert_eq!(all(false).await, [devices[2]]);
    assert_eq!(all(true).await, [devices[1], devices[2]]);
    // An explicit selection pairs paired devices again. Other devices get a reason.
    let selection = PairSelection {
        identifiers: vec![
            site.identifier(devices[0]).await,
            site.identifier(devices[3]).await,
            "serial:NOBODY".to_owned(),
        ],
        all_unpaired: true,
        with_password: false,
    };
    let found = site.targets(north, selection).await;
    assert_eq!(
        found
            .targets
            .iter()
            .map(|target| target.device)
            .collect::<Vec<_>>(),
        [devices[0], devices[2]]
    );
    let whys: Vec<_> = found.refused.iter().map(|(_, why)| why.as_str()).collect();
    assert!(
        whys.iter().any(|why| why.contains("no such device")),
        "{whys:?}"
    );
    assert!(
        whys.iter().any(|why| why.contains("unpair it first")),
        "{whys:?}"
    );
}

async fn another_tenant_sees_nothing_of_it(site: Site) {
    let other = site.other_org().await;
    let north = site.node("north").await;
    let devices = site.several(north, 1).await;
    let (pairing, _) = site.pairing(north, &devices).await;
    let seen = site.store.read_pairing(other, pairing, 0, 10).await;
    assert_eq!(seen.expect("read"), None);
    let canceled = site
        .store
        .cancel_pairing(other, pairing, site.actor(), at(105))
        .await;
    assert!(matches!(canceled, Err(CancelPairingError::NotFound(_))));
    let selection = PairSelection {
        identifiers: vec![site.identifier(devices[0]).await],
        all_unpaired: true,
        with_password: true,
    };
    let found = site.store.pair_targets(other, north.id, selection).await;
    assert_eq!(found.expect("read").targets, []);
}

/// For every order, a device is bound to a live node or to none. A sealed credential exists only as long as its
/// binding.
async fn results_race_unpairing_and_revocation(site: Site) {
    for round in 0..6 {
        let north = site.node(&format!("north {round}")).await;
        let devices = site.several(north, 4).await;
        let (_, command) = site.pairing(north, &devices).await;
        let mut rows = Vec::new();
        for device in &devices {
            rows.push(site.row(*device, PairOutcome::Paired).await);
        }
        let contest = |what: usize| {
            let (site, rows, devices) = (site.clone(), rows.clone(), devices.clone());
            async move {
                match what % 3 {
                    0 => {
                        // Rejected if the revocation came first.
                        let _ = site.results(north, command, rows).await;
                    }
                    1 => {
                        for device in devices {
                            site.unbind(device).await;
                        }
                    }
                    _ if round % 2 == 0 => site.revoke(north.id).await,
                    _ => {}
                }
            }
        };
        at_once((round..round + 3).map(contest).collect()).await;
        for device in devices {
            let known = site.pairing_of(device).await;
            if round % 2 == 0 {
                assert_eq!(known, DevicePairing::NONE, "its node is gone");
            } else {
                assert_eq!(known.has_credentials, known.status.is_paired());
                assert_eq!(known.binding != Binding::Free, known.status.is_paired());
            }
        }
    }
}

async fn a_replacement_pairs_the_devices_of_a_lost_node_again(site: Site) {
    let north = site.node("north").await;
    let device = site.found_by(north, "10.0.0.7").await;
    let named = site.identifier(device).await;
    assert!(named.starts_with("auto:"), "{named}");
    let (_, command) = site.pairing(north, &[device]).await;
    let paired = vec![site.row(device, PairOutcome::Paired).await];
    let taken = site.results(north, command, paired).await;
    assert_eq!(taken.expect("taken"), (1, 0));
    site.revoke(north.id).await;
    let released = site.pairing_of(device).await;
    assert_eq!(
        (released.status, released.binding, released.has_credentials),
        (PairingStatus::Unpaired, Binding::Free, false)
    );

    // The replacement node may pair the device only after it has reported it.
    let heir = site.replacement("heir", north.id).await;
    let selection = || PairSelection {
        identifiers: Vec::new(),
        all_unpaired: true,
        with_password: true,
    };
    assert_eq!(site.targets(heir, selection()).await.targets, []);
    let scan = site.running(heir, "10.0.0.7").await;
    let rows = vec![crate::site::plain("10.0.0.7", "80")];
    assert_eq!(site.reported(heir, scan.command, rows).await, (1, 0));
    site.acked(heir, scan.command, AckCode::Ok).await;
    assert_ne!(site.identifier(device).await, named, "re-keyed");
    assert_eq!(site.devices().await.len(), 1, "one record");

    let (pairing, command) = site.pairing(heir, &[device]).await;
    let paired = vec![site.row(device, PairOutcome::Paired).await];
    let taken = site.results(heir, command, paired).await;
    assert_eq!(taken.expect("taken"), (1, 0));
    site.acked(heir, command, AckCode::Ok).await;
    let (statuses, ended) = site.came_of(pairing).await;
    assert_eq!(statuses, [(device, PairingStatus::Paired)]);
    assert_eq!(ended, Some(Code::Ok));
    let again = site.pairing_of(device).await;
    assert_eq!(again.binding, Binding::Node(heir.id));
    assert!(again.has_credentials);
}

/// A pairing of two devices, in two parts, that waits for another server.
async fn forwarded(site: &Site, node: Node, holder: ReplicaId) -> PairingId {
    let devices = site.several(node, 2).await;
    let mut parts = Vec::new();
    for device in devices {
        parts.push(vec![site.target(node, device).await]);
    }
    let credentials = ForwardedCredentials {
        replica: holder,
        sealed: vec![9; 80],
    };
    let created = site.create_forwarded(node, parts, Some(credentials)).await;
    created.expect("created")
}

async fn taken(site: &Site, server: ReplicaId, seconds: u64) -> Vec<ForwardedPairing> {
    let taken = site.store.take_forwarded(server, at(seconds)).await;
    taken.expect("read")
}

async fn a_forwarded_pairing_is_taken_once_and_only_by_its_server(site: Site) {
    let north = site.node("north").await;
    let [holder, other] = [ReplicaId([1; 16]), ReplicaId([2; 16])];
    let pairing = forwarded(&site, north, holder).await;
    assert_eq!(taken(&site, other, 110).await, []);
    let expected = ForwardedPairing {
        pairing,
        node: north.id,
        parts: 2,
        sealed: vec![9; 80],
    };
    assert_eq!(taken(&site, holder, 120).await, [expected]);
    assert_eq!(taken(&site, holder, 121).await, []);
    // The lease counts from the moment at which it was taken.
    let lease = PAIRING_LEASE.as_secs();
    site.store
        .sweep_pairings(at(100 + lease + 1))
        .await
        .expect("swept");
    let (_, step) = site.step(north, pairing).await;
    assert!(matches!(step, PairingStep::Issued { .. }), "{step:?}");
}

async fn a_forwarded_pairing_that_ends_leaves_no_credentials(site: Site) {
    let north = site.node("north").await;
    let holder = ReplicaId([1; 16]);
    let canceled = forwarded(&site, north, holder).await;
    site.store
        .cancel_pairing(site.org, canceled, site.actor(), at(101))
        .await
        .expect("canceled");
    assert_eq!(taken(&site, holder, 102).await, []);
    forwarded(&site, north, holder).await;
    let lease = PAIRING_LEASE.as_secs();
    site.store
        .sweep_pairings(at(100 + lease))
        .await
        .expect("swept");
    assert_eq!(taken(&site, holder, 103).await, []);
}
