//! The audit trail: one record per action. Repeated refusals are folded.

use fleet_core::NodeId;
use fleet_store::*;
use sea_orm::ConnectionTrait;

use crate::site::{Site, at, nobody};

contract! {
    refusals_alike_within_a_minute_are_one_record
    failed_sign_ins_are_counted_by_organization_account_and_source
    records_are_read_newest_first_page_by_page
    another_tenants_records_are_not_shown
    a_record_with_an_unknown_author_or_a_negative_count_is_an_error
}

fn refusal(site: &Site, actor: Actor, reason: &str, now: u64) -> AuditEntry {
    AuditEntry {
        org: Some(site.org),
        actor,
        action: "report.refuse".into(),
        subject: format!("at {now}"),
        result: AuditResult::Refused(reason.into()),
        at: at(now),
    }
}

async fn refusals_alike_within_a_minute_are_one_record(site: Site) {
    let before = site.audited().await.len();
    let node = |id| Actor {
        principal: Principal::Node(NodeId(id)),
        from: "10.0.0.1".parse().ok(),
    };
    let minute = 60;
    for entry in [
        refusal(&site, node(7), "over quota", minute),
        refusal(&site, node(7), "over quota", minute + 59),
        refusal(&site, node(7), "not in flight", minute + 59),
        refusal(&site, node(8), "over quota", minute + 59),
        refusal(&site, node(7), "over quota", minute + 60),
    ] {
        site.store.record_audit(entry).await.expect("written");
    }
    let mut found: Vec<_> = site.audited().await;
    found.truncate(found.len() - before);
    let counts: Vec<_> = found
        .iter()
        .rev()
        .map(|row| (row.entry.subject.as_str(), row.count))
        .collect();
    assert_eq!(
        counts,
        [("at 60", 2), ("at 119", 1), ("at 119", 1), ("at 120", 1)]
    );
    let counted = vec![(refusal(&site, node(7), "over quota", minute), 5)];
    let added = site.store.count_refusals(counted).await;
    added.expect("written");
    let found = site.audited().await;
    let row = found.iter().find(|row| row.entry.subject == "at 60");
    assert_eq!(row.map(|row| row.count), Some(7));
    // Successful actions are never folded.
    for _ in 0..2 {
        let done = AuditEntry::done(site.org, nobody(), "policy.set", "loopback".into(), at(1));
        site.store.record_audit(done).await.expect("written");
    }
    assert_eq!(
        site.audited()
            .await
            .iter()
            .filter(|row| row.entry.action == "policy.set")
            .count(),
        2
    );
}

async fn failed_sign_ins_are_counted_by_organization_account_and_source(site: Site) {
    let failure = |org, account: &str, from: &str| AuditEntry {
        org,
        actor: Actor {
            principal: Principal::Anonymous,
            from: from.parse().ok(),
        },
        action: "operator.sign_in".into(),
        subject: account.to_owned(),
        result: AuditResult::Refused("wrong password".into()),
        at: at(60),
    };
    let before = site.audited().await.len();
    let own = Some(site.org);
    for entry in [
        failure(None, "e-mail nobody", "192.0.2.1"),
        failure(own, "operator 1", "192.0.2.1"),
        failure(own, "operator 1", "192.0.2.1"),
        failure(own, "operator 2", "192.0.2.1"),
        failure(own, "operator 1", "192.0.2.2"),
    ] {
        site.store.record_audit(entry).await.expect("written");
    }
    let mut found = site.audited().await;
    found.truncate(found.len() - before);
    let counts: Vec<_> = found
        .iter()
        .rev()
        .map(|row| (row.entry.subject.as_str(), row.count))
        .collect();
    assert_eq!(
        counts,
        [("operator 1", 2), ("operator 2", 1), ("operator 1", 1)]
    );
}

async fn records_are_read_newest_first_page_by_page(site: Site) {
    for n in 0..5 {
        let done = AuditEntry::done(site.org, site.actor(), "test", n.to_string(), at(n));
        site.store.record_audit(done).await.expect("written");
    }
    let page = site
        .store
        .list_audit(site.org, None, 2)
        .await
        .expect("read");
    assert_eq!(
        page.iter()
            .map(|row| row.entry.subject.as_str())
            .collect::<Vec<_>>(),
        ["4", "3"]
    );
    assert_eq!(
        page[0].entry,
        AuditEntry::done(site.org, site.actor(), "test", "4".into(), at(4))
    );
    let next = site
        .store
        .list_audit(site.org, Some(page[1].id), 2)
        .await
        .expect("read");
    assert_eq!(
        next.iter()
            .map(|row| row.entry.subject.as_str())
            .collect::<Vec<_>>(),
        ["2", "1"]
    );
}

async fn another_tenants_records_are_not_shown(site: Site) {
    let other = site.other_org().await;
    let theirs = site.store.list_audit(other, None, 100).await.expect("read");
    assert!(theirs.iter().all(|row| row.entry.org == Some(other)));
    assert!(
        site.audited()
            .await
            .iter()
            .all(|row| row.entry.org == Some(site.org))
    );
}

async fn a_record_with_an_unknown_author_or_a_negative_count_is_an_error(site: Site) {
    let written = refusal(&site, nobody(), "over quota", 60);
    site.store.record_audit(written).await.expect("written");
    let raw = site.raw().await;
    for (damage, repair, named) in [
        ("principal = 'ghost'", "principal = 'anonymous'", "ghost"),
        ("count = -1", "count = 1", "-1"),
    ] {
        for (set, is_readable) in [(damage, false), (repair, true)] {
            let update = format!("UPDATE audit SET {set} WHERE refusal = 'over quota'");
            raw.execute_unprepared(&update).await.expect("changed");
            let read = site.store.list_audit(site.org, None, 100).await;
            assert_eq!(read.is_ok(), is_readable, "{set}: {read:?}");
            if let Err(error) = read {
                assert!(error.to_string().contains(named), "{error}");
            }
        }
    }
}
