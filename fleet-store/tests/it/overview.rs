//! The overview: maps of sites from the outcomes of chunks, missing devices, and counts per day.

use fleet_core::{DeviceId, ScanId, SiteId, TargetOutcome, limits, outcome::AckCode};
use fleet_inventory::{BlockNumber, CellState, Day, DayCounts};
use fleet_store::*;
use sea_orm::ConnectionTrait;

use crate::site::{Node, Row, Site, at, mac, nobody, plain, with_mac};

contract! {
    the_outcomes_of_a_chunk_fill_the_map_of_its_site
    devices_are_on_the_map_before_their_chunk_ends
    excluded_and_announced_addresses_are_on_the_map_without_a_scan
    the_scan_that_started_last_decides
    the_blocks_of_a_site_are_read_in_pages
    a_site_keeps_the_blocks_that_were_scanned_last
    a_device_is_missing_when_its_address_was_probed_and_silent
    a_device_that_moved_is_not_missing
    days_count_each_device_once
    another_organization_sees_nothing
}

const RANGE: &str = "10.0.0.0/24";

/// The outcome bytes of 10.0.0.1 to 10.0.0.254: silent except at these hosts.
fn outcomes(of: &[(u8, TargetOutcome)]) -> Vec<u8> {
    let mut bytes = vec![TargetOutcome::Silent.to_byte(); 254];
    for (host, outcome) in of {
        bytes[usize::from(*host) - 1] = outcome.to_byte();
    }
    bytes
}

/// Starts a scan at this second.
async fn started(site: &Site, node: Node, target: &str, second: u64) -> IssuedCommand {
    let mut new = site.new_scan(node.id, target, &["80"]);
    new.queueing = Queueing::Until(at(100 * 86_400));
    site.create(new).await;
    site.issue_at(node, at(second)).await.expect("a command")
}

async fn reported(site: &Site, node: Node, issued: &IssuedCommand, rows: Vec<Row>, second: u64) {
    let report = NewReport {
        now: at(second),
        ..site.report(node, issued.command, rows)
    };
    site.store.record_report(report).await.expect("recorded");
}

async fn ended(site: &Site, node: Node, issued: &IssuedCommand, bytes: Option<Vec<u8>>, now: u64) {
    let ack = Ack {
        outcomes: bytes,
        now: at(now),
        ..Site::ack(node, issued.command, AckCode::Ok)
    };
    site.store.record_ack(ack).await.expect("acked");
}

/// Runs a scan of the range that starts at this second, reports after 10 s, and ends after 20 s.
async fn scanned(site: &Site, node: Node, second: u64, rows: Vec<Row>, bytes: Vec<u8>) -> ScanId {
    let issued = started(site, node, RANGE, second).await;
    reported(site, node, &issued, rows, second + 10).await;
    ended(site, node, &issued, Some(bytes), second + 20).await;
    issued.scan
}

async fn site_of(site: &Site, node: Node) -> SiteId {
    let sites = site.store.list_sites(site.org).await.expect("read");
    let own = sites.iter().find(|one| one.nodes.contains(&node.id));
    own.expect("a site").id
}

async fn map(site: &Site, id: SiteId) -> SiteMap {
    let map = site.store.site_map(site.org, id, None, 64).await;
    map.expect("read").expect("the site")
}

/// The IPv6 networks of a map.
fn wide(map: &SiteMap) -> Vec<String> {
    let networks = map.wide.iter();
    networks
        .map(|(network, counts)| format!("{network} {} {}", counts.devices, counts.announced))
        .collect()
}

/// The cell of an address in 10.0.0.0/24.
async fn cell(site: &Site, id: SiteId, octet: usize) -> MapCell {
    let map = map(site, id).await;
    let range: BlockNumber = RANGE.parse().expect(RANGE);
    let block = map.blocks.iter().find(|block| block.block == range);
    block.expect(RANGE).cells[octet]
}

async fn counts(site: &Site, second: u64) -> OverviewCounts {
    let counts = site.store.overview_counts(site.org, at(second)).await;
    counts.expect("counted")
}

async fn the_outcomes_of_a_chunk_fill_the_map_of_its_site(site: Site) {
    use TargetOutcome as T;
    let node = site.node("north").await;
    let bytes = outcomes(&[
        (1, T::Identified),
        (2, T::Unidentified),
        (3, T::Refused),
        (4, T::NotReached),
        (5, T::Skipped),
        // Its byte says so, but no device was accepted.
        (6, T::Identified),
    ]);
    scanned(&site, node, 20, vec![plain("10.0.0.1", "80")], bytes).await;
    let id = site_of(&site, node).await;
    let map = map(&site, id).await;
    assert_eq!((map.total, map.next, map.blocks.len()), (1, None, 1));
    let block = &map.blocks[0];
    assert_eq!(block.scanned_at, Some(at(40)));
    let states: Vec<CellState> = block.cells.iter().map(|cell| cell.state).collect();
    assert_eq!(
        states[..8],
        [
            // The network address is not a target.
            CellState::NeverScanned,
            CellState::Identified,
            CellState::Unidentified,
            CellState::Refused,
            CellState::NotReached,
            CellState::Excluded,
            CellState::Unidentified,
            CellState::Silent,
        ]
    );
    assert_eq!(states[255], CellState::NeverScanned);
    assert_eq!(block.cells[1].device, Some(DeviceId(1)));
    let answered = |octet: usize| block.cells[octet].answered;
    assert_eq!((answered(1), answered(3)), (Some(at(40)), Some(at(40))));
    assert_eq!((answered(4), answered(7)), (None, None));
    // A later scan finds the device silent. The time of its last answer stays.
    scanned(&site, node, 120, vec![], outcomes(&[])).await;
    let silent = cell(&site, id, 1).await;
    assert_eq!(
        (silent.state, silent.answered),
        (CellState::Silent, Some(at(40)))
    );
    assert_eq!(silent.device, Some(DeviceId(1)));
}

async fn devices_are_on_the_map_before_their_chunk_ends(site: Site) {
    let node = site.node("north").await;
    scanned(&site, node, 20, vec![], outcomes(&[])).await;
    let id = site_of(&site, node).await;
    let issued = started(&site, node, RANGE, 60).await;
    assert_eq!(cell(&site, id, 9).await.state, CellState::Silent);
    reported(&site, node, &issued, vec![plain("10.0.0.9", "80")], 61).await;
    let found = cell(&site, id, 9).await;
    assert_eq!(
        (found.state, found.answered),
        (CellState::Identified, Some(at(61)))
    );
    // A node without outcomes, such as an upstream one: its devices are known, and nothing else changes.
    ended(&site, node, &issued, None, 70).await;
    assert_eq!(cell(&site, id, 9).await.state, CellState::Identified);
    assert_eq!(cell(&site, id, 8).await.state, CellState::Silent);
}

async fn excluded_and_announced_addresses_are_on_the_map_without_a_scan(site: Site) {
    let mut node = site.node("north").await;
    let id = site_of(&site, node).await;
    assert_eq!(map(&site, id).await, SiteMap::default());
    let mut claim = Site::claim(node.id, &[], at(4));
    claim.hello.local_subnets = vec!["10.0.0.7/23".into(), "fd00::7/64".into()];
    let claimed = site.store.claim_stream(claim).await.expect("claimed");
    node.epoch = claimed.epoch;
    let targets = fleet_discovery::excluded_entries("10.0.0.4-6").expect("targets");
    let store = &site.store;
    store
        .exclude_targets(
            site.org,
            id,
            &targets,
            "printers",
            site.operator,
            nobody(),
            at(5),
        )
        .await
        .expect("excluded");
    let map = map(&site, id).await;
    let blocks: Vec<String> = map.blocks.iter().map(|one| one.block.to_string()).collect();
    assert_eq!(blocks, ["10.0.0.0/24", "10.0.1.0/24"]);
    assert_eq!(wide(&map), ["fd00::/64 0 true"]);
    let count = |state: CellState| {
        let cells = map.blocks.iter().flat_map(|block| &block.cells);
        cells.filter(|cell| cell.state == state).count()
    };
    assert_eq!(count(CellState::Excluded), 3);
    assert_eq!(count(CellState::NeverScanned), 512 - 3);
    // An exclude also covers outcomes of earlier scans.
    scanned(
        &site,
        node,
        20,
        vec![plain("10.0.0.5", "80")],
        outcomes(&[]),
    )
    .await;
    let raw = site.raw().await;
    let moved = "UPDATE device SET ip = 'fd00:0:0:1::9', address_key = '6fd00' WHERE id = 1";
    raw.execute_unprepared(moved).await.expect("moved");
    let listed = wide(&self::map(&site, id).await);
    assert_eq!(listed, ["fd00::/64 0 true", "fd00:0:0:1::/64 1 false"]);
    let back = "UPDATE device SET ip = '10.0.0.5', address_key = '4010' WHERE id = 1";
    raw.execute_unprepared(back).await.expect("moved");
    let excluded = cell(&site, id, 5).await;
    assert_eq!(
        (excluded.state, excluded.device),
        (CellState::Excluded, Some(DeviceId(1)))
    );
}

async fn the_scan_that_started_last_decides(site: Site) {
    use TargetOutcome as T;
    let (first, second) = (site.node("north").await, site.node("north-2").await);
    let id = site_of(&site, first).await;
    let moved = site
        .store
        .move_node(site.org, second.id, Some(id), nobody(), at(5));
    moved.await.expect("moved");
    let early = started(&site, first, RANGE, 20).await;
    let late = started(&site, second, RANGE, 40).await;
    ended(&site, second, &late, Some(outcomes(&[(7, T::Refused)])), 50).await;
    let bytes = outcomes(&[(7, T::NotReached), (8, T::Unidentified)]);
    ended(&site, first, &early, Some(bytes), 60).await;
    assert_eq!(cell(&site, id, 7).await.state, CellState::Refused);
    let silent = cell(&site, id, 8).await;
    // The earlier scan was answered later.
    assert_eq!(
        (silent.state, silent.answered),
        (CellState::Silent, Some(at(60)))
    );
}

async fn the_blocks_of_a_site_are_read_in_pages(site: Site) {
    let node = site.node("north").await;
    let issued = started(&site, node, "10.0.0.0/22", 20).await;
    let bytes = vec![TargetOutcome::Silent.to_byte(); 1_022];
    ended(&site, node, &issued, Some(bytes), 40).await;
    let id = site_of(&site, node).await;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = site.store.site_map(site.org, id, after, 3).await;
        let page = page.expect("read").expect("the site");
        assert_eq!(page.total, 4);
        seen.push(
            page.blocks
                .iter()
                .map(|one| one.block.to_string())
                .collect::<Vec<_>>(),
        );
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(
        seen,
        [
            vec!["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"],
            vec!["10.0.3.0/24"]
        ]
    );
}

async fn a_site_keeps_the_blocks_that_were_scanned_last(site: Site) {
    let node = site.node("north").await;
    let id = site_of(&site, node).await;
    let empty = if site.url.starts_with("sqlite:") {
        "x''"
    } else {
        "''::bytea"
    };
    let full = format!(
        "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {}) INSERT INTO site_block (site_id, block, org_id, outcomes, scans, answers, scanned_at) SELECT {id}, i, {}, {empty}, {empty}, {empty}, i FROM n",
        limits::SITE_BLOCKS,
        site.org
    );
    let raw = site.raw().await;
    raw.execute_unprepared(&full).await.expect("full");
    raw.close().await.expect("closed");
    scanned(&site, node, 20, vec![], outcomes(&[])).await;
    let rows = site.number("SELECT count(*) FROM site_block").await;
    assert_eq!(rows, limits::SITE_BLOCKS as i64);
    let oldest = site.number("SELECT min(block) FROM site_block").await;
    assert_eq!(oldest, 1);
    assert_eq!(
        site.number("SELECT max(block) FROM site_block").await,
        10 << 16
    );
}

async fn a_device_is_missing_when_its_address_was_probed_and_silent(site: Site) {
    use TargetOutcome as T;
    let node = site.node("north").await;
    let elsewhere = site.node("south").await;
    let rows = || {
        vec![
            plain("10.0.0.1", "80"),
            plain("10.0.0.2", "80"),
            plain("10.0.0.3", "80"),
            plain("10.0.0.4", "80"),
        ]
    };
    scanned(&site, node, 20, rows(), outcomes(&[])).await;
    scanned(
        &site,
        elsewhere,
        20,
        vec![plain("10.0.0.1", "80")],
        outcomes(&[]),
    )
    .await;
    assert_eq!(counts(&site, 50).await.missing, 0);
    let bytes = outcomes(&[(2, T::Refused), (3, T::NotReached), (4, T::Unidentified)]);
    scanned(&site, node, 100, vec![], bytes).await;
    let missing = async || {
        let query = DeviceQuery {
            search: "missing:yes".parse().expect("a search"),
            node: None,
            order: DeviceOrder::Id,
            descending: false,
            after: None,
            limit: 10,
            now: at(200),
        };
        let page = site.store.search_devices(site.org, query).await;
        let devices = page.expect("read").devices;
        let texts = devices.iter().map(|one| {
            format!(
                "{} {:?}",
                one.endpoint.expect("an endpoint"),
                one.missing_since
            )
        });
        texts.collect::<Vec<_>>()
    };
    let since = Some(at(120));
    assert_eq!(
        missing().await,
        [
            format!("10.0.0.1:80 {since:?}"),
            format!("10.0.0.2:80 {since:?}"),
        ]
    );
    assert_eq!(counts(&site, 200).await.missing, 2);
    // Another scan that does not find it changes nothing, and a report ends it.
    scanned(
        &site,
        node,
        150,
        vec![],
        outcomes(&[(3, T::NotReached), (4, T::Unidentified)]),
    )
    .await;
    assert_eq!(missing().await.len(), 2);
    scanned(
        &site,
        node,
        170,
        vec![plain("10.0.0.1", "80")],
        outcomes(&[(3, T::NotReached), (4, T::Unidentified)]),
    )
    .await;
    assert_eq!(missing().await, [format!("10.0.0.2:80 {since:?}")]);
    let days = site.store.overview_days(site.org, at(200)).await;
    let (_, today) = *days.expect("read").last().expect("a day");
    assert_eq!(today.missing, 2);
}

async fn a_device_that_moved_is_not_missing(site: Site) {
    let node = site.node("north").await;
    let at_one = with_mac("10.0.0.1", &mac(1));
    scanned(&site, node, 20, vec![at_one], outcomes(&[])).await;
    let at_two = with_mac("10.0.0.200", &mac(1));
    scanned(&site, node, 100, vec![at_two], outcomes(&[])).await;
    assert_eq!(site.devices().await.len(), 1);
    assert_eq!(counts(&site, 200).await.missing, 0);
}

async fn days_count_each_device_once(site: Site) {
    let node = site.node("north").await;
    let day = 86_400;
    let two = || vec![plain("10.0.0.1", "80"), plain("10.0.0.2", "80")];
    scanned(&site, node, 20, two(), outcomes(&[])).await;
    scanned(&site, node, 60, two(), outcomes(&[])).await;
    let three = || {
        let mut rows = two();
        rows.push(plain("10.0.0.3", "80"));
        rows
    };
    scanned(&site, node, day + 20, three(), outcomes(&[])).await;
    let counted = counts(&site, day + 50).await;
    assert_eq!(
        (counted.devices, counted.new_today, counted.scans_running),
        (3, 1, 0)
    );
    let last = async |second: u64| {
        let days = site.store.overview_days(site.org, at(second)).await;
        days.expect("read")
    };
    let of = |seen, new| DayCounts {
        seen,
        new,
        missing: 0,
    };
    let days = last(day + 50).await;
    assert_eq!(days.len(), 30);
    assert_eq!(days[29], (Day::of(at(day)), of(3, 1)));
    assert_eq!(days[28], (Day::of(at(0)), of(2, 2)));
    assert!(days[..28].iter().all(|(_, counts)| counts.is_zero()));
    // Days that nobody can see any more are deleted with the next count.
    scanned(&site, node, 40 * day, two(), outcomes(&[])).await;
    assert_eq!(site.number("SELECT count(*) FROM inventory_day").await, 1);
    assert_eq!(last(40 * day).await[29].1.seen, 2);
    let running = started(&site, node, RANGE, 40 * day + 60).await;
    assert_eq!(counts(&site, 40 * day + 61).await.scans_running, 1);
    ended(&site, node, &running, None, 40 * day + 62).await;
}

async fn another_organization_sees_nothing(site: Site) {
    let node = site.node("north").await;
    scanned(
        &site,
        node,
        20,
        vec![plain("10.0.0.1", "80")],
        outcomes(&[]),
    )
    .await;
    let id = site_of(&site, node).await;
    let other = site.other_org().await;
    let store = &site.store;
    assert_eq!(
        store.site_map(other, id, None, 64).await.expect("read"),
        None
    );
    let counted = store.overview_counts(other, at(50)).await;
    assert_eq!(counted.expect("counted"), OverviewCounts::default());
    let days = store.overview_days(other, at(50)).await.expect("read");
    assert!(days.iter().all(|(_, counts)| counts.is_zero()));
    assert_eq!(counts(&site, 50).await.devices, 1);
}
