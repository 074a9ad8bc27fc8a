//! Sites as operators manage them: names, excluded targets, blackouts.

use std::collections::BTreeSet;

use fleet_core::{NodeId, OrgId, ScanState, SiteExcludeId, SiteId, limits};
use fleet_discovery::{TargetEntry, excluded_entries};
use fleet_inventory::Blackout;
use fleet_store::*;
use sea_orm::ConnectionTrait;

use crate::site::{Site, at, command_id};

contract! {
    a_site_is_created_renamed_and_deleted_when_it_has_no_nodes
    a_node_never_joins_a_deleted_site
    excluded_targets_have_a_reason_and_are_unique
    a_deleted_site_leaves_no_excludes
    sites_and_their_excludes_are_limited_for_the_organization
    sites_of_another_organization_do_not_exist
    a_blackout_holds_commands_back_until_it_ends
    a_blackout_that_begins_later_pauses_a_queued_scan
    a_scan_that_ignores_blackouts_runs
    a_site_whose_blackouts_are_unreadable_is_held_alone
    a_site_that_was_created_with_its_node_ends_when_the_node_moves_away
    nodes_that_exchange_their_sites_do_not_wait_for_each_other
}

impl Site {
    async fn sites(&self) -> Vec<SiteRow> {
        self.store.list_sites(self.org).await.expect("read")
    }

    async fn new_site(&self, name: &str) -> SiteId {
        let created = self.store.create_site(self.org, name, self.actor(), at(5));
        created.await.expect("created")
    }

    async fn site_of(&self, node: NodeId) -> SiteRow {
        let sites = self.sites().await;
        let found = sites.into_iter().find(|site| site.nodes.contains(&node));
        found.expect("a site")
    }

    async fn exclude(&self, site: SiteId, text: &str, reason: &str) -> Result<(), SiteError> {
        let targets: Vec<TargetEntry> = excluded_entries(text).expect("targets");
        let (org, operator, actor) = (self.org, self.operator, self.actor());
        let store = &self.store;
        store
            .exclude_targets(org, site, &targets, reason, operator, actor, at(6))
            .await
    }

    async fn black_out(&self, site: SiteId, windows: &str) {
        let new = NewBlackouts {
            zone: "UTC".parse().expect("a zone"),
            windows: Blackout::parse_list(windows).expect("windows"),
        };
        let set = self
            .store
            .set_blackouts(self.org, site, new, self.actor(), at(7));
        set.await.expect("set");
    }
}

async fn a_site_is_created_renamed_and_deleted_when_it_has_no_nodes(site: Site) {
    let node = site.confirmed("north").await;
    let barn = site.new_site("barn").await;
    let names =
        |rows: &[SiteRow]| -> Vec<String> { rows.iter().map(|row| row.name.clone()).collect() };
    assert_eq!(names(&site.sites().await), ["north", "barn"]);
    let taken = site
        .store
        .create_site(site.org, "barn", site.actor(), at(5))
        .await;
    assert!(
        matches!(taken, Err(SiteError::NameTaken { other, .. }) if other == barn),
        "{taken:?}"
    );
    let rename = |id, name: &'static str| {
        site.store
            .rename_site(site.org, id, name, site.actor(), at(6))
    };
    rename(barn, "hall").await.expect("renamed");
    // A site may be given the name that it has.
    rename(barn, "hall").await.expect("renamed");
    let taken = rename(barn, "north").await;
    assert!(
        matches!(taken, Err(SiteError::NameTaken { .. })),
        "{taken:?}"
    );

    let own = site.site_of(node).await.id;
    // It has a name that an operator chose, so that it stays without its node.
    rename(own, "north wing").await.expect("renamed");
    let delete = |id| site.store.delete_site(site.org, id, site.actor(), at(7));
    let refused = delete(own).await;
    assert!(
        matches!(refused, Err(SiteError::NotEmpty { nodes: 1, .. })),
        "{refused:?}"
    );
    let moved = site
        .store
        .move_node(site.org, node, Some(barn), site.actor(), at(8));
    moved.await.expect("moved");
    delete(own).await.expect("deleted");
    let again = delete(own).await;
    assert!(matches!(again, Err(SiteError::NotFound(_))), "{again:?}");
    let rows = site.sites().await;
    assert_eq!(
        (names(&rows), &rows[0].nodes),
        (vec!["hall".to_owned()], &vec![node])
    );

    let actions: BTreeSet<String> = site
        .audited()
        .await
        .into_iter()
        .map(|row| row.entry.action.into_owned())
        .collect();
    for action in ["site.create", "site.rename", "site.delete"] {
        assert!(actions.contains(action), "{actions:?}");
    }
}

async fn sites_and_their_excludes_are_limited_for_the_organization(site: Site) {
    let (barn, shed) = (site.new_site("barn").await, site.new_site("shed").await);
    site.exclude(barn, "10.0.0.9", "printer")
        .await
        .expect("one");
    let raw = site.raw().await;
    // As operators would do it with many calls.
    let numbers = |most: usize| {
        format!("WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {most})")
    };
    let excludes = format!(
        "{} INSERT INTO site_exclude (org_id, site_id, target, reason, created_by, created_at)
        SELECT org_id, site_id, '10.9.' || (n / 256) || '.' || (n % 256), reason, created_by, created_at FROM site_exclude, c",
        numbers(limits::ORGANIZATION_EXCLUDES - 1)
    );
    raw.execute_unprepared(&excludes).await.expect("excluded");
    let refused = site.exclude(shed, "10.0.0.10", "another").await;
    assert!(
        matches!(refused, Err(SiteError::TooManyTogether { .. })),
        "{refused:?}"
    );
    let sites = format!(
        "{} INSERT INTO site (org_id, name, created_at, time_zone, blackouts, of_node)
        SELECT org_id, name || n, created_at, time_zone, blackouts, of_node FROM site, c WHERE site.id = {shed}",
        numbers(limits::SITES - 2)
    );
    raw.execute_unprepared(&sites).await.expect("created");
    let create = |name| {
        let store = &site.store;
        store.create_site(site.org, name, site.actor(), at(9))
    };
    let refused = create("one more").await;
    assert!(
        matches!(refused, Err(SiteError::TooManySites(_))),
        "{refused:?}"
    );
    let deleted = site.store.delete_site(site.org, shed, site.actor(), at(9));
    deleted.await.expect("deleted");
    create("one more").await.expect("there is room");
}

async fn a_site_that_was_created_with_its_node_ends_when_the_node_moves_away(site: Site) {
    let names = async || -> Vec<String> {
        let rows = site.sites().await;
        rows.into_iter().map(|row| row.name).collect()
    };
    let moved = |node, to| {
        let (store, org, actor) = (site.store.clone(), site.org, site.actor());
        async move {
            store
                .move_node(org, node, to, actor, at(8))
                .await
                .expect("moved")
        }
    };
    let (north, south) = (site.confirmed("north").await, site.confirmed("south").await);
    let barn = site.new_site("barn").await;
    let (of_north, of_south) = (site.site_of(north).await.id, site.site_of(south).await.id);
    moved(north, Some(of_south)).await;
    assert_eq!(names().await, ["south", "barn"]);
    let deleted: Vec<String> = site
        .audited()
        .await
        .into_iter()
        .filter(|row| row.entry.action == "site.delete")
        .map(|row| row.entry.subject)
        .collect();
    assert_eq!(
        deleted,
        [format!("site {of_north} (north): its only node moved away")]
    );
    // Another node is there still.
    moved(south, Some(barn)).await;
    assert_eq!(names().await, ["south", "barn"]);
    moved(north, Some(barn)).await;
    assert_eq!(names().await, ["barn"]);
    // An operator created this one.
    let own = moved(north, None).await;
    moved(south, Some(own)).await;
    assert_eq!(names().await, ["barn", "north"]);
    // Nor does a site end that has rules, or that a node moves to again.
    moved(south, Some(barn)).await;
    moved(north, Some(own)).await;
    site.exclude(own, "10.0.0.9", "printer")
        .await
        .expect("excluded");
    moved(north, Some(barn)).await;
    assert_eq!(names().await, ["barn", "north"]);
}

async fn nodes_that_exchange_their_sites_do_not_wait_for_each_other(site: Site) {
    let (north, south) = (site.confirmed("north").await, site.confirmed("south").await);
    let sites = [site.site_of(north).await.id, site.site_of(south).await.id];
    for id in sites {
        site.exclude(id, "10.0.0.9", "printer")
            .await
            .expect("excluded");
    }
    for round in 0..8 {
        let (first, second) = (sites[round % 2], sites[(round + 1) % 2]);
        let mut moves = Vec::new();
        for (node, to) in [(north, second), (south, first)] {
            let (store, org, actor) = (site.another().await, site.org, site.actor());
            moves.push(async move { store.move_node(org, node, Some(to), actor, at(8)).await });
        }
        for moved in crate::races::at_once(moves).await {
            moved.expect("moved");
        }
    }
}

async fn a_node_never_joins_a_deleted_site(site: Site) {
    let node = site.confirmed("north").await;
    let barn = site.new_site("barn").await;
    let deleted = site.store.delete_site(site.org, barn, site.actor(), at(6));
    deleted.await.expect("deleted");
    let moved = site
        .store
        .move_node(site.org, node, Some(barn), site.actor(), at(7));
    let refused = moved.await;
    assert!(
        matches!(refused, Err(MoveNodeError::NoSite(_))),
        "{refused:?}"
    );
}

async fn excluded_targets_have_a_reason_and_are_unique(site: Site) {
    let barn = site.new_site("barn").await;
    site.exclude(barn, "10.0.0.9 10.0.1.0/28", "printers")
        .await
        .expect("excluded");
    let twice = site.exclude(barn, "10.0.2.1 10.0.1.5/28", "again").await;
    assert!(
        matches!(&twice, Err(SiteError::Excluded { target, .. }) if target == "10.0.1.0/28"),
        "{twice:?}"
    );
    let row = site
        .store
        .site(site.org, barn)
        .await
        .expect("read")
        .expect("a site");
    let excludes: Vec<_> = row
        .excludes
        .iter()
        .map(|one| {
            (
                one.target.as_str(),
                one.reason.as_str(),
                one.created_by.as_str(),
            )
        })
        .collect();
    // Nothing of the refused request is stored.
    assert_eq!(
        excludes,
        [
            ("10.0.0.9", "printers", "ann@acme.test"),
            ("10.0.1.0/28", "printers", "ann@acme.test")
        ]
    );
    let exclusions = row.exclusions().expect("exclusions");
    assert!(exclusions[1].contains("10.0.1.15".parse().expect("an address")));
    let remove = |id| site.store.remove_exclude(site.org, id, site.actor(), at(8));
    remove(row.excludes[0].id).await.expect("removed");
    let again = remove(row.excludes[0].id).await;
    assert!(matches!(again, Err(SiteError::NoExclude(_))), "{again:?}");
    let many: Vec<String> = (0..limits::SITE_EXCLUDES)
        .map(|n| format!("10.1.{}.{}", n / 200, n % 200 + 1))
        .collect();
    let refused = site.exclude(barn, &many.join(" "), "many").await;
    assert!(
        matches!(refused, Err(SiteError::TooMany { count: 257, .. })),
        "{refused:?}"
    );
    site.exclude(barn, &many[1..].join(" "), "many")
        .await
        .expect("excluded");
}

async fn a_deleted_site_leaves_no_excludes(site: Site) {
    let (barn, hall) = (site.new_site("barn").await, site.new_site("hall").await);
    for id in [barn, hall] {
        let excluded = site.exclude(id, "10.0.0.9 10.0.0.10", "printers").await;
        excluded.expect("excluded");
    }
    let deleted = site.store.delete_site(site.org, barn, site.actor(), at(7));
    deleted.await.expect("deleted");
    assert_eq!(site.number("SELECT count(*) FROM site_exclude").await, 2);
    let rows = site.sites().await;
    assert_eq!((rows[0].id, rows[0].excludes.len()), (hall, 2));
}

async fn sites_of_another_organization_do_not_exist(site: Site) {
    let barn = site.new_site("barn").await;
    site.exclude(barn, "10.0.0.9", "printer")
        .await
        .expect("excluded");
    let exclude: SiteExcludeId = site.sites().await[0].excludes[0].id;
    let other: OrgId = site.other_org().await;
    let (store, actor) = (&site.store, || site.actor());
    assert_eq!(store.list_sites(other).await.expect("read"), []);
    assert_eq!(store.site(other, barn).await.expect("read"), None);
    let renamed = store.rename_site(other, barn, "hall", actor(), at(6)).await;
    assert!(
        matches!(renamed, Err(SiteError::NotFound(_))),
        "{renamed:?}"
    );
    let deleted = store.delete_site(other, barn, actor(), at(6)).await;
    assert!(
        matches!(deleted, Err(SiteError::NotFound(_))),
        "{deleted:?}"
    );
    let removed = store.remove_exclude(other, exclude, actor(), at(6)).await;
    assert!(
        matches!(removed, Err(SiteError::NoExclude(_))),
        "{removed:?}"
    );
    let new = NewBlackouts {
        zone: "UTC".parse().expect("a zone"),
        windows: Vec::new(),
    };
    let set = store.set_blackouts(other, barn, new, actor(), at(6)).await;
    assert!(matches!(set, Err(SiteError::NotFound(_))), "{set:?}");
    // A site of the same name in the other organization is another one.
    store
        .create_site(other, "barn", actor(), at(6))
        .await
        .expect("created");
}

/// The time 0 of these tests is 08:00 UTC.
async fn a_blackout_holds_commands_back_until_it_ends(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    for node in [north, south] {
        site.scan(node, "10.0.0.0/24").await;
    }
    let home = site.site_of(north.id).await.id;
    site.black_out(home, "08:00-10:00").await;
    assert_eq!(site.issue_at(north, at(7_199)).await, None);
    let ready = site.store.nodes_with_work(at(7_199)).await.expect("read");
    assert_eq!(ready, [south.id]);
    // The blackout is one of its site, and ends.
    assert!(site.issue_at(south, at(7_199)).await.is_some());
    let ready = site.store.nodes_with_work(at(7_200)).await.expect("read");
    assert_eq!(ready, [north.id]);
    assert!(site.issue_at(north, at(7_200)).await.is_some());
}

async fn a_blackout_that_begins_later_pauses_a_queued_scan(site: Site) {
    let node = site.node("north").await;
    let queued = |ignores_blackout| NewScan {
        queueing: Queueing::Until(at(1_800)),
        ignores_blackout,
        ..site.new_scan(node.id, "10.0.0.0/24", &["80"])
    };
    let paused = site.create(queued(false)).await.id;
    let ignoring = site.create(queued(true)).await.id;
    let home = site.site_of(node.id).await.id;
    site.black_out(home, "08:20-10:00").await;
    let swept = site.store.sweep_commands(at(1_800)).await.expect("swept");
    assert_eq!(swept.scans, [ignoring]);
    let row = site.look(paused).await;
    let until = at(7_200).plus(limits::QUEUE_FOR);
    assert_eq!(
        (row.state, row.queued_until),
        (ScanState::Queued, Some(until))
    );
    assert_eq!(site.issue_at(node, at(7_199)).await, None);
    let issued = site.issue_at(node, at(7_200)).await.expect("a command");
    assert_eq!(issued.scan, paused);
}

async fn a_scan_that_ignores_blackouts_runs(site: Site) {
    let node = site.node("north").await;
    site.scan(node, "10.0.0.0/24").await;
    let home = site.site_of(node.id).await.id;
    site.black_out(home, "08:00-10:00").await;
    assert!(
        site.store
            .nodes_with_work(at(60))
            .await
            .expect("read")
            .is_empty()
    );
    let urgent = NewScan {
        ignores_blackout: true,
        ..site.new_scan(node.id, "10.0.0.0/30", &["80"])
    };
    let urgent = site.create(urgent).await.id;
    assert_eq!(
        site.store.nodes_with_work(at(60)).await.expect("read"),
        [node.id]
    );
    let issued = site
        .store
        .issue_command(node.id, node.epoch, command_id(), at(60));
    let issued = issued.await.expect("read").expect("a command");
    assert_eq!(issued.scan, urgent);
    let records = site.audited().await;
    let overriding = |row: &&AuditRow| row.entry.subject.contains("in spite of the blackouts");
    assert_eq!(records.iter().filter(overriding).count(), 1);
}

async fn a_site_whose_blackouts_are_unreadable_is_held_alone(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    for node in [north, south] {
        site.scan(node, "10.0.0.0/24").await;
    }
    let home = site.site_of(north.id).await.id;
    let sql = format!("UPDATE site SET blackouts = 'unreadable' WHERE id = {home}");
    site.raw().await.execute_unprepared(&sql).await.expect(&sql);
    let ready = site.store.nodes_with_work(at(60)).await.expect("read");
    assert_eq!(ready, [south.id]);
    assert_eq!(site.issue_at(north, at(60)).await, None);
    assert!(site.issue_at(south, at(60)).await.is_some());
}
