//! The audit chain in both databases: who may seal it, and which changes verification detects if an attacker has the
//! database password.

use std::{collections::BTreeSet, time::Duration};

use fleet_core::{ChainFault, ChainHead, ChainVerifier, OrgId, StoredLink};
use fleet_store::*;
use sea_orm::ConnectionTrait;

use crate::site::{Site, at, nobody};

contract! {
    records_are_sealed_in_their_order_and_verify
    manual_changes_are_found_and_named
    a_record_that_counts_is_sealed_again_when_its_minute_is_over
    a_record_that_was_committed_late_is_sealed_late_and_never_left_out
    writers_and_two_sealers_at_once_leave_one_dense_chain
    every_organization_and_the_server_have_chains_of_their_own
}

async fn written(site: &Site, org: Option<OrgId>, subject: impl ToString) {
    let mut done = AuditEntry::done(site.org, site.actor(), "test", subject.to_string(), at(1));
    done.org = org;
    site.store.record_audit(done).await.expect("written");
}

async fn sealed(site: &Site, seconds: u64) -> u64 {
    site.store.seal_audit(at(seconds)).await.expect("sealed")
}

async fn head(site: &Site) -> ChainHead {
    site.store.audit_head(Some(site.org)).await.expect("read")
}

/// All faults of a chain, read in pages of two.
async fn faults(site: &Site, org: Option<OrgId>, kept: Option<ChainHead>) -> Vec<ChainFault> {
    let stored = site.store.audit_head(org).await.expect("read");
    let mut verifier = ChainVerifier::new(org, stored, kept);
    let mut faults = Vec::new();
    loop {
        let links = site.store.audit_links(org, verifier.seq(), 2).await;
        let links = links.expect("read");
        if links.is_empty() {
            break;
        }
        for link in &links {
            let link = StoredLink {
                seq: link.seq,
                hash: link.hash,
                record: link.record.as_ref().map(LinkedRecord::as_chain),
            };
            faults.extend(verifier.take(&link).err().unwrap_or_default());
        }
    }
    faults.extend(verifier.finish().err());
    faults
}

async fn records_are_sealed_in_their_order_and_verify(site: Site) {
    for n in 0..5 {
        written(&site, Some(site.org), n).await;
    }
    let rows = site.audited().await;
    assert!(rows.iter().all(|row| row.seq.is_none()));
    assert_eq!(sealed(&site, 2).await, rows.len() as u64);
    assert_eq!(sealed(&site, 2).await, 0, "nothing is sealed twice");
    let sequence: Vec<_> = site.audited().await.iter().map(|row| row.seq).collect();
    let expected: Vec<_> = (1..=rows.len() as u64).rev().map(Some).collect();
    assert_eq!(sequence, expected, "newest first");
    let kept = head(&site).await;
    assert_eq!(kept.seq, rows.len() as u64);
    assert_eq!(faults(&site, Some(site.org), Some(kept)).await, []);
    written(&site, Some(site.org), "later").await;
    sealed(&site, 3).await;
    assert_eq!(faults(&site, Some(site.org), Some(kept)).await, []);
    assert_eq!(head(&site).await.seq, kept.seq + 1);
}

async fn manual_changes_are_found_and_named(site: Site) {
    let other = site.other_org().await;
    for n in 0..9 {
        written(&site, Some(site.org), n).await;
        written(&site, Some(other), n).await;
    }
    sealed(&site, 2).await;
    let kept = head(&site).await;
    let (org, last) = (site.org.0, kept.seq);
    let changed = |seq| ChainFault::Changed { seq };
    let record =
        |seq: u64| format!("(SELECT audit_id FROM audit_link WHERE chain = {org} AND seq = {seq})");
    let theirs = format!(
        "(SELECT audit_id FROM audit_link WHERE chain = {} AND seq = 4)",
        other.0
    );
    let cases = [
        (
            "an edit",
            vec![format!(
                "UPDATE audit SET subject = 'nothing' WHERE id = {}",
                record(3)
            )],
            vec![changed(3)],
        ),
        (
            "another author",
            vec![format!(
                "UPDATE audit SET principal_id = 99 WHERE id = {}",
                record(3)
            )],
            vec![changed(3)],
        ),
        (
            "another time",
            vec![format!(
                "UPDATE audit SET at = at + 1 WHERE id = {}",
                record(3)
            )],
            vec![changed(3)],
        ),
        (
            "a refusal made a action",
            vec![format!(
                "UPDATE audit SET refusal = '' WHERE id = {}",
                record(3)
            )],
            vec![changed(3)],
        ),
        (
            "a lowered count",
            vec![format!(
                "UPDATE audit SET count = 0 WHERE id = {}",
                record(3)
            )],
            vec![changed(3)],
        ),
        (
            "a deletion",
            vec![format!("DELETE FROM audit WHERE id = {}", record(4))],
            vec![ChainFault::Deleted { seq: 4 }],
        ),
        (
            "a deletion with its link",
            vec![
                format!("DELETE FROM audit WHERE id = {}", record(4)),
                format!("DELETE FROM audit_link WHERE chain = {org} AND seq = 4"),
            ],
            vec![ChainFault::Missing { from: 4, to: 4 }],
        ),
        (
            "a deletion with the sequence moved up",
            vec![
                format!(
                    "DELETE FROM audit_link WHERE chain = {org} AND seq = {}",
                    last - 1
                ),
                format!(
                    "UPDATE audit_link SET seq = {} WHERE chain = {org} AND seq = {last}",
                    last - 1
                ),
            ],
            vec![
                changed(last - 1),
                ChainFault::Missing {
                    from: last,
                    to: last,
                },
            ],
        ),
        (
            "a reorder",
            vec![
                format!("UPDATE audit_link SET seq = 1000 WHERE chain = {org} AND seq = 5"),
                format!("UPDATE audit_link SET seq = 5 WHERE chain = {org} AND seq = 6"),
                format!("UPDATE audit_link SET seq = 6 WHERE chain = {org} AND seq = 1000"),
            ],
            vec![changed(5), changed(6), changed(7)],
        ),
        (
            "an insert",
            vec![
                format!(
                    "UPDATE audit_link SET seq = {} WHERE chain = {org} AND seq = {last}",
                    last + 1
                ),
                format!(
                    "INSERT INTO audit_link (chain, seq, audit_id, count, hash) SELECT chain, {last}, audit_id, 1, hash FROM audit_link WHERE chain = {org} AND seq = 2"
                ),
            ],
            vec![
                changed(last),
                ChainFault::Head { seq: last },
                changed(last + 1),
            ],
        ),
        (
            "a record moved to another organization",
            vec![format!(
                "UPDATE audit SET org_id = {} WHERE id = {}",
                other.0,
                record(3)
            )],
            vec![ChainFault::Deleted { seq: 3 }],
        ),
        (
            "another organization's record in its place",
            vec![
                format!("UPDATE audit SET org_id = {org} WHERE id = {theirs}"),
                format!(
                    "UPDATE audit_link SET audit_id = {theirs} WHERE chain = {org} AND seq = 3"
                ),
            ],
            vec![changed(3)],
        ),
        (
            "a cut tail",
            vec![format!(
                "DELETE FROM audit_link WHERE chain = {org} AND seq > {}",
                last - 2
            )],
            vec![ChainFault::Missing {
                from: last - 1,
                to: last,
            }],
        ),
        (
            "another head",
            vec![format!(
                "UPDATE audit_head SET hash = (SELECT hash FROM audit_link WHERE chain = {org} AND seq = 1) WHERE chain = {org}"
            )],
            vec![ChainFault::Head { seq: last }],
        ),
    ];
    let raw = site.raw().await;
    for (what, by_hand, expected) in cases {
        let backup = ["audit", "audit_link", "audit_head"];
        for table in backup {
            let copy = format!("CREATE TABLE old_{table} AS SELECT * FROM {table}");
            raw.execute_unprepared(&copy).await.expect(what);
        }
        for sql in &by_hand {
            let done = raw.execute_unprepared(sql).await.expect(what);
            assert_eq!(done.rows_affected().min(1), 1, "{what}: {sql}");
        }
        assert_eq!(
            faults(&site, Some(site.org), None).await,
            expected,
            "{what}"
        );
        for table in backup {
            for sql in [
                format!("DELETE FROM {table}"),
                format!("INSERT INTO {table} SELECT * FROM old_{table}"),
                format!("DROP TABLE old_{table}"),
            ] {
                raw.execute_unprepared(&sql).await.expect(what);
            }
        }
        assert_eq!(
            faults(&site, Some(site.org), Some(kept)).await,
            [],
            "{what}, undone"
        );
    }
    // If the tail is removed and the head is reset, only a caller with a copy of the head detects it.
    for sql in [
        format!("DELETE FROM audit_link WHERE chain = {org} AND seq = {last}"),
        format!(
            "UPDATE audit_head SET seq = {0}, hash = (SELECT hash FROM audit_link WHERE chain = {org} AND seq = {0}) WHERE chain = {org}",
            last - 1
        ),
    ] {
        raw.execute_unprepared(&sql).await.expect("done");
    }
    assert_eq!(faults(&site, Some(site.org), None).await, []);
    let cut = ChainFault::Missing {
        from: last,
        to: last,
    };
    assert_eq!(faults(&site, Some(site.org), Some(kept)).await, [cut]);
    // Sealing continues from there, but the chain differs from the original.
    written(&site, Some(site.org), "another history").await;
    sealed(&site, 3).await;
    assert_eq!(faults(&site, Some(site.org), None).await, []);
    let rewritten = ChainFault::Rewritten { seq: last };
    assert_eq!(faults(&site, Some(site.org), Some(kept)).await, [rewritten]);
}

async fn a_record_that_counts_is_sealed_again_when_its_minute_is_over(site: Site) {
    sealed(&site, 0).await;
    let before = head(&site).await.seq;
    let refused = |seconds| AuditEntry {
        org: Some(site.org),
        actor: nobody(),
        action: "node.confirm".into(),
        subject: "node 1".into(),
        result: AuditResult::Refused("no".into()),
        at: at(seconds),
    };
    site.store.record_audit(refused(60)).await.expect("written");
    assert_eq!(sealed(&site, 61).await, 1, "at once, with the first");
    for _ in 0..10 {
        site.store.record_audit(refused(62)).await.expect("written");
    }
    assert_eq!(sealed(&site, 63).await, 0, "a flood makes no links");
    assert_eq!(sealed(&site, 121).await, 1);
    assert_eq!(sealed(&site, 1_000).await, 0);
    let links = site.store.audit_links(Some(site.org), before, 10).await;
    let counts: Vec<_> = links
        .expect("read")
        .into_iter()
        .map(|link| link.record.expect("is there").count)
        .collect();
    assert_eq!(counts, [1, 11]);
    assert_eq!(faults(&site, Some(site.org), None).await, []);
    let raw = site.raw().await;
    let forgive = "UPDATE audit SET count = 1 WHERE refusal = 'no'";
    raw.execute_unprepared(forgive).await.expect("changed");
    assert_eq!(sealed(&site, 2_000).await, 0, "is no news");
    let changed = ChainFault::Changed { seq: before + 2 };
    assert_eq!(faults(&site, Some(site.org), None).await, [changed]);
}

async fn a_record_that_was_committed_late_is_sealed_late_and_never_left_out(site: Site) {
    let raw = site.raw().await;
    let insert = |id: i64| {
        format!(
            "INSERT INTO audit (id, org_id, principal, action, subject, count, at) VALUES ({id}, {}, 'system', 'test', '{id}', 1, 0)",
            site.org.0
        )
    };
    raw.execute_unprepared(&insert(2_000)).await.expect("one");
    sealed(&site, 1).await;
    raw.execute_unprepared(&insert(1_000)).await.expect("late");
    assert_eq!(sealed(&site, 2).await, 1);
    let after = head(&site).await.seq - 2;
    let links = site.store.audit_links(Some(site.org), after, 10).await;
    let ids: Vec<_> = links
        .expect("read")
        .into_iter()
        .map(|link| link.record.expect("is there").id)
        .collect();
    assert_eq!(ids, [2_000, 1_000]);
    assert_eq!(faults(&site, Some(site.org), None).await, []);
}

async fn writers_and_two_sealers_at_once_leave_one_dense_chain(site: Site) {
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let site = site.clone();
            tokio::spawn(async move {
                for n in 0..25 {
                    written(&site, Some(site.org), format!("{writer}/{n}")).await;
                }
            })
        })
        .collect();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let sealers: Vec<_> = (0..2)
        .map(|_| {
            let (site, done) = (site.clone(), done.clone());
            tokio::spawn(async move {
                let mut links = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    links += sealed(&site, 2).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                links
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("wrote");
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut links = 0;
    for sealer in sealers {
        links += sealer.await.expect("sealed");
    }
    links += sealed(&site, 2).await;
    let rows = site.audited().await;
    assert!(rows.len() > 200);
    assert_eq!(links, rows.len() as u64);
    let sequence: BTreeSet<_> = rows.iter().filter_map(|row| row.seq).collect();
    let dense: BTreeSet<_> = (1..=rows.len() as u64).collect();
    assert_eq!(sequence, dense, "each once");
    assert_eq!(faults(&site, Some(site.org), None).await, []);
}

async fn every_organization_and_the_server_have_chains_of_their_own(site: Site) {
    let other = site.other_org().await;
    written(&site, Some(site.org), "ours").await;
    written(&site, Some(other), "theirs").await;
    written(&site, None, "nobody's").await;
    sealed(&site, 2).await;
    let chains = site.store.audit_chains().await.expect("read");
    assert_eq!(chains, [None, Some(site.org), Some(other)]);
    for org in chains {
        assert_eq!(faults(&site, org, None).await, []);
        let links = site.store.audit_links(org, 0, 100).await.expect("read");
        let last = links.last().expect("one").record.clone().expect("one");
        let expected = match org {
            None => "nobody's",
            Some(org) if org == site.org => "ours",
            Some(_) => "theirs",
        };
        assert_eq!(last.subject, expected);
    }
}
