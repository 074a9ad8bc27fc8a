//! Rejected report rows: how they are counted, and when they end a command.

use fleet_core::{CommandState, RawDeviceReport, ScanState, outcome::AckCode};
use fleet_store::*;
use sea_orm::ConnectionTrait;

use crate::site::{Row, Site, blank, plain, row};

contract! {
    another_identifier_at_a_reported_endpoint_is_refused
    bad_rows_are_refused_by_themselves_and_counted
    a_command_never_stores_more_than_its_quota
    a_flood_of_refused_rows_ends_the_command
    refusals_are_one_audit_record_a_command_and_reason
}

async fn another_identifier_at_a_reported_endpoint_is_refused(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    assert_eq!(
        site.reported(node, command.command, vec![plain("10.0.0.7", "80")])
            .await,
        (1, 0)
    );
    let other = row(RawDeviceReport {
        identifier: "auto:y",
        ip: "10.0.0.7",
        ..blank()
    });
    assert_eq!(
        site.reported(node, command.command, vec![other]).await,
        (0, 1)
    );
    assert_eq!(site.devices().await.len(), 1);
}

async fn bad_rows_are_refused_by_themselves_and_counted(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let rows = vec![
        plain("10.0.0.7", "80"),
        plain("10.0.0.300", "80"),
        plain("10.0.0.8", "0"),
        plain("8.8.8.8", "80"),
        plain("10.1.0.8", "80"),
        plain("10.0.0.9", "81"),
        row(RawDeviceReport {
            ip: "10.0.0.10",
            model: "a\u{7}",
            ..blank()
        }),
        plain("10.0.0.11", "80"),
    ];
    assert_eq!(site.reported(node, command.command, rows).await, (2, 6));
    assert_eq!(site.devices().await.len(), 2);
    site.acked(node, command.command, AckCode::Ok).await;
    let ledger = site.look(command.scan).await.ledger.expect("ended");
    assert!(ledger.adds_up());
    let reasons: Vec<_> = ledger
        .rejected_reasons
        .iter()
        .map(|tally| (tally.reason.as_str(), tally.count))
        .collect();
    assert_eq!(
        reasons,
        [
            ("address out of scope", 2),
            ("bad address", 1),
            ("bad port", 1),
            ("bad text", 1),
            ("port out of scope", 1)
        ]
    );
    assert!(
        ledger.rejected_reasons[0].example.contains("8.8.8.8"),
        "the first example"
    );
}

async fn a_command_never_stores_more_than_its_quota(site: Site) {
    let node = site.node("north").await;
    // Six addresses with any ten ports each, because the request names no port.
    let new = site.new_scan(node.id, "10.0.0.0/29", &[]);
    let scan = site.create(new).await.id;
    let command = site.issue(node).await.expect("issued");
    let endpoints = |ports: std::ops::Range<u16>| -> Vec<Row> {
        (1..=6)
            .flat_map(|n| {
                ports
                    .clone()
                    .map(move |port| plain(&format!("10.0.0.{n}"), &port.to_string()))
            })
            .collect()
    };
    assert_eq!(
        site.reported(node, command.command, endpoints(1..10)).await,
        (54, 0)
    );
    // Six rows remain. An eleventh port is out of scope, so only rows within the scope count.
    assert_eq!(
        site.reported(node, command.command, endpoints(10..12))
            .await,
        (6, 6)
    );
    assert_eq!(site.number("SELECT rows FROM command").await, 60);
    assert_eq!(site.stored_events(scan).await.len(), 60);
    // Even if the stored scope admits more, the quota limits the whole report.
    let raw = site.raw().await;
    raw.execute_unprepared("UPDATE command SET rows = 59; DELETE FROM report_row")
        .await
        .expect("forgotten");
    let (log, devices) = (site.log(scan).await, site.devices().await);
    let over = site.report(node, command.command, endpoints(1..2));
    let refused = site.store.record_report(over).await;
    assert!(
        matches!(refused, Err(ReportError::OverQuota { quota: 60, .. })),
        "{refused:?}"
    );
    assert_eq!((site.log(scan).await, site.devices().await), (log, devices));
    assert_eq!(site.number("SELECT rows FROM command").await, 59);
}

async fn a_flood_of_refused_rows_ends_the_command(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let flood = || {
        (0..1_024)
            .map(|n| plain(&format!("10.9.{}.{}", n >> 8, n & 255), "80"))
            .collect::<Vec<_>>()
    };
    for n in 1..=10 {
        let answer = site
            .store
            .record_report(site.report(node, command.command, flood()))
            .await
            .expect("counted");
        assert!(!answer.ended, "report {n}");
    }
    let last = site.report(
        node,
        command.command,
        vec![plain("10.0.0.7", "80"), plain("10.9.0.1", "80")],
    );
    let answer = site
        .store
        .record_report(last.clone())
        .await
        .expect("the one that passes the bound");
    assert_eq!(
        (answer.accepted, answer.rejected, answer.ended),
        (1, 1, true)
    );
    let after = site
        .store
        .record_report(site.report(node, command.command, vec![plain("10.0.0.8", "80")]))
        .await;
    assert!(matches!(after, Err(ReportError::Flooded(id)) if id == command.command));
    let again = site.store.record_report(last).await;
    assert!(matches!(again, Err(ReportError::Flooded(_))), "{again:?}");
    let row = site.look(command.scan).await;
    assert_eq!(row.state, ScanState::Failed);
    let ledger = row.ledger.expect("ended");
    assert_eq!(
        (ledger.accepted, ledger.rejected, ledger.identified),
        (1, 10_241, 1)
    );
    assert!(ledger.adds_up());
    assert!(
        site.audited()
            .await
            .iter()
            .any(|row| row.entry.action == "node.flood")
    );
    let ended = CommandState::Ended.as_str();
    assert_eq!(
        site.number(&format!(
            "SELECT count(*) FROM command WHERE state = '{ended}'"
        ))
        .await,
        1
    );
    assert_eq!(
        site.acked(node, command.command, AckCode::Ok).await,
        Acked::Stale
    );
}

async fn refusals_are_one_audit_record_a_command_and_reason(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    for n in 1..=3 {
        let rows = vec![
            plain(&format!("10.9.0.{n}"), "80"),
            plain(&format!("10.9.1.{n}"), "80"),
            plain("10.0.0.7", "81"),
        ];
        site.reported(node, command.command, rows).await;
    }
    let records: Vec<_> = site
        .audited()
        .await
        .into_iter()
        .filter(|row| row.entry.action == "report.refuse")
        .collect();
    let mut counts: Vec<_> = records.iter().map(|row| row.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [3, 6]);
    let six = records.iter().find(|row| row.count == 6).expect("there");
    let AuditResult::Refused(reason) = &six.entry.result else {
        panic!("{six:?}")
    };
    assert!(
        reason.contains("address out of scope") && reason.contains("10.9.0.1"),
        "{reason}"
    );
    assert_eq!(six.entry.actor.principal, Principal::Node(node.id));
}
