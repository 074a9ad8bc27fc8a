//! Differences between the results of two scans: exact on a scripted pair of sites, the choice of the previous scan, and
//! devices whose records merged in between.

use fleet_core::{RawDeviceReport, ScanId, TargetOutcome, outcome::AckCode};
use fleet_inventory::{Group, Reason};
use fleet_store::*;

use crate::site::{Node, Row, Site, at, blank, mac, plain, row, with_mac};

contract! {
    two_sites_with_one_range_differ_exactly_by_their_own_changes
    the_previous_scan_has_the_same_targets_and_the_same_site
    a_scan_is_compared_with_any_chosen_scan_of_the_organization
    merged_records_are_one_device_in_both_results
    a_chunk_that_ran_again_counts_by_its_last_report
    a_rejected_device_is_listed_and_not_missing
    an_unfinished_scan_calls_nothing_missing
    the_changes_of_ended_scans_are_stored
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

/// Runs a whole scan of the range, in which the node reports these rows and outcomes.
async fn scanned(site: &Site, node: Node, rows: Vec<Row>, bytes: Vec<u8>) -> ScanId {
    let issued = site.running(node, RANGE).await;
    site.reported(node, issued.command, rows).await;
    let ack = Ack {
        outcomes: Some(bytes),
        ..Site::ack(node, issued.command, AckCode::Ok)
    };
    site.store.record_ack(ack).await.expect("acked");
    issued.scan
}

async fn difference(site: &Site, scan: ScanId, against: Against) -> ScanDifference {
    let found = site.store.scan_difference(site.org, scan, against, at(200));
    found.await.expect("compared")
}

fn miner(ip: &str, number: usize, manufacturer: &str, firmware: &str) -> Row {
    row(RawDeviceReport {
        ip,
        mac: &mac(number),
        manufacturer,
        firmware,
        ..blank()
    })
}

/// Formats each row as its group, its number or identifier, its endpoints, and the fields or the reason.
fn lines(difference: &ScanDifference) -> Vec<String> {
    let host = |seen: &Option<fleet_inventory::Seen>| {
        seen.as_ref()
            .map_or("-".to_owned(), |seen| seen.endpoint.to_string())
    };
    let line = |row: &fleet_inventory::Row| {
        let name = &difference.identifiers[&row.device].to_string();
        let name = name.strip_prefix("mac:02:00:5E:00:00:").unwrap_or("auto");
        let fields: Vec<&str> = row.changed.iter().map(|field| field.as_str()).collect();
        let reason = row.reason.map_or("", Reason::as_str);
        let (before, after) = (host(&row.before), host(&row.after));
        let what = format!("{}{reason}", fields.join(","));
        format!("{} {name} {before} {after} {what}", row.group)
            .trim_end()
            .to_owned()
    };
    difference.rows.iter().map(line).collect()
}

async fn two_sites_with_one_range_differ_exactly_by_their_own_changes(site: Site) {
    use TargetOutcome as T;
    let north = site.node("north").await;
    let south = site.node("south").await;
    let before = vec![
        miner("10.0.0.1", 1, "Bitmain", "1.0"),
        miner("10.0.0.2", 2, "Bitmain", "1.0"),
        miner("10.0.0.3", 3, "Bitmain", "1.0"),
        miner("10.0.0.4", 4, "Bitmain", "1.0"),
        miner("10.0.0.5", 5, "Bitmain", "1.0"),
        miner("10.0.0.6", 6, "Bitmain", "1.0"),
        miner("10.0.0.7", 7, "Bitmain", "1.0"),
        miner("10.0.0.8", 8, "Bitmain", "1.0"),
        miner("10.0.0.9", 9, "Bitmain", "1.0"),
        miner("10.0.0.10", 10, "Bitmain", "1.0"),
        plain("10.0.0.11", "80"),
        // The same MAC at two addresses: two devices.
        miner("10.0.0.30", 48, "Bitmain", "1.0"),
        miner("10.0.0.31", 48, "Bitmain", "1.0"),
    ];
    let first = scanned(&site, north, before, outcomes(&[])).await;
    let south_first = scanned(
        &site,
        south,
        vec![miner("10.0.0.1", 33, "", "1.0"), plain("10.0.0.4", "80")],
        outcomes(&[]),
    )
    .await;

    let after = vec![
        miner("10.0.0.1", 1, "Bitmain", "1.0"),
        miner("10.0.0.20", 2, "Bitmain", "1.0"),
        // Re-imaged: another make and firmware, the same MAC.
        miner("10.0.0.3", 3, "Braiins", "24.09"),
        miner("10.0.0.8", 7, "Bitmain", "1.0"),
        miner("10.0.0.7", 8, "Bitmain", "1.0"),
        // Another device where number 9 was.
        miner("10.0.0.9", 16, "Bitmain", "1.0"),
        plain("10.0.0.11", "80"),
        miner("10.0.0.12", 17, "Bitmain", "1.0"),
        miner("10.0.0.30", 48, "Bitmain", "1.0"),
        miner("10.0.0.31", 48, "Bitmain", "1.0"),
    ];
    let bytes = outcomes(&[
        (4, T::Silent),
        (5, T::Refused),
        (6, T::NotReached),
        (10, T::Unidentified),
        (13, T::Unidentified),
    ]);
    let second = scanned(&site, north, after, bytes).await;
    let found = difference(&site, second, Against::Previous).await;
    assert_eq!(found.against.as_ref().map(|scan| scan.id), Some(first));
    assert_eq!(
        lines(&found),
        [
            "new 10 - 10.0.0.9:80",
            "new 11 - 10.0.0.12:80",
            "missing 04 10.0.0.4:80 - its address did not answer",
            "missing 05 10.0.0.5:80 - its address refused the connection",
            "moved 08 10.0.0.8:80 10.0.0.7:80 address",
            "moved 07 10.0.0.7:80 10.0.0.8:80 address",
            "moved 02 10.0.0.2:80 10.0.0.20:80 address",
            "changed 03 10.0.0.3:80 10.0.0.3:80 manufacturer,firmware",
            "unchanged 01 10.0.0.1:80 10.0.0.1:80",
            "unchanged auto 10.0.0.11:80 10.0.0.11:80",
            "unchanged 30 10.0.0.30:80 10.0.0.30:80",
            "unchanged auto 10.0.0.31:80 10.0.0.31:80",
            "undecided 06 10.0.0.6:80 - its address was not reached",
            "undecided 09 10.0.0.9:80 - another device answers at its address",
            "undecided 0A 10.0.0.10:80 - its address answered without being identified",
        ]
    );
    let hosts: Vec<String> = found
        .unidentified
        .iter()
        .map(|host| host.ip.to_string())
        .collect();
    assert_eq!(hosts, ["10.0.0.10", "10.0.0.13"]);
    assert_eq!(found.rejected, []);
    assert_eq!(found.rejected_otherwise, []);

    // The same addresses, but another site: nothing there is affected.
    let south_second = scanned(
        &site,
        south,
        vec![miner("10.0.0.1", 33, "", "1.1")],
        outcomes(&[]),
    )
    .await;
    let found = difference(&site, south_second, Against::Previous).await;
    assert_eq!(
        found.against.as_ref().map(|scan| scan.id),
        Some(south_first)
    );
    assert_eq!(
        lines(&found),
        [
            "missing auto 10.0.0.4:80 - its address did not answer",
            "changed 21 10.0.0.1:80 10.0.0.1:80 firmware",
        ]
    );
}

async fn the_previous_scan_has_the_same_targets_and_the_same_site(site: Site) {
    let north = site.node("north").await;
    let other = site.node("other").await;
    let one = || vec![with_mac("10.0.0.7", &mac(1))];
    let previous = async |scan| {
        let found = difference(&site, scan, Against::Previous).await;
        found.against.map(|scan| scan.id)
    };
    let first = scanned(&site, north, one(), outcomes(&[])).await;
    assert_eq!(previous(first).await, None);
    let elsewhere = scanned(&site, other, Vec::new(), outcomes(&[])).await;
    assert_eq!(previous(elsewhere).await, None, "another site");
    // A part of the targets, and a scan that failed.
    let part = site.running(north, "10.0.0.0/25").await;
    site.acked(north, part.command, AckCode::Ok).await;
    assert_eq!(previous(part.scan).await, None, "other targets");
    let failed = site.running(north, RANGE).await;
    site.acked(north, failed.command, AckCode::Internal).await;
    let second = scanned(&site, north, one(), outcomes(&[])).await;
    assert_eq!(previous(second).await, Some(first));
    // The same hosts on other ports, written as a range.
    let again = site.new_scan(north.id, "10.0.0.1-254", &["4028"]);
    let third = site.create(again).await.id;
    assert_eq!(previous(third).await, Some(second));
    // A node of the same site.
    site.shares_site(other.id, north.id).await;
    assert_eq!(previous(elsewhere).await, Some(first));
}

async fn a_scan_is_compared_with_any_chosen_scan_of_the_organization(site: Site) {
    let north = site.node("north").await;
    let first = scanned(
        &site,
        north,
        vec![with_mac("10.0.0.7", &mac(1))],
        outcomes(&[]),
    )
    .await;
    let part = site.running(north, "10.0.0.0/30").await;
    site.reported(north, part.command, vec![with_mac("10.0.0.1", &mac(2))])
        .await;
    site.acked(north, part.command, AckCode::Ok).await;
    let found = difference(&site, part.scan, Against::Scan(first)).await;
    assert_eq!(
        lines(&found),
        [
            "new 02 - 10.0.0.1:80",
            "undecided 01 10.0.0.7:80 - its address was not a target",
        ]
    );
    // In the other direction.
    let found = difference(&site, first, Against::Scan(part.scan)).await;
    assert_eq!(found.rows[0].group, Group::New);
    let itself = site
        .store
        .scan_difference(site.org, first, Against::Scan(first), at(200))
        .await;
    assert!(matches!(itself, Err(DifferenceError::Itself(id)) if id == first));
    let other = site.other_org().await;
    for (scan, against) in [
        (first, Against::Previous),
        (part.scan, Against::Scan(first)),
    ] {
        let foreign = site.store.scan_difference(other, scan, against, at(200));
        assert!(matches!(foreign.await, Err(DifferenceError::NotFound(id)) if id == scan));
    }
}

async fn merged_records_are_one_device_in_both_results(site: Site) {
    let north = site.node("north").await;
    // Two records: one without MAC at its first address, one with a MAC at the second.
    let rows = vec![plain("10.0.0.7", "80"), with_mac("10.0.0.8", &mac(1))];
    scanned(&site, north, rows, outcomes(&[])).await;
    // The device of the first address shows the MAC. The records become one.
    let rows = vec![with_mac("10.0.0.7", &mac(1))];
    let second = scanned(&site, north, rows, outcomes(&[])).await;
    assert_eq!(site.devices().await.len(), 1);
    let found = difference(&site, second, Against::Previous).await;
    assert_eq!(lines(&found), ["unchanged 01 10.0.0.7:80 10.0.0.7:80"]);
}

async fn a_chunk_that_ran_again_counts_by_its_last_report(site: Site) {
    let mut north = site.node("north").await;
    scanned(
        &site,
        north,
        vec![miner("10.0.0.7", 1, "", "1.0")],
        outcomes(&[]),
    )
    .await;
    let issued = site.running(north, RANGE).await;
    site.reported(north, issued.command, vec![miner("10.0.0.7", 1, "", "1.0")])
        .await;
    // The node returns without the command, which is issued again.
    site.reconnect(&mut north, &[], at(40)).await;
    let again = site.issue_at(north, at(41)).await.expect("a command");
    assert_eq!(again.scan, issued.scan);
    site.reported(north, again.command, vec![miner("10.0.0.7", 1, "", "1.1")])
        .await;
    site.acked(north, again.command, AckCode::Ok).await;
    let found = difference(&site, issued.scan, Against::Previous).await;
    assert_eq!(
        lines(&found),
        ["changed 01 10.0.0.7:80 10.0.0.7:80 firmware"]
    );
}

async fn a_rejected_device_is_listed_and_not_missing(site: Site) {
    let north = site.node("north").await;
    let south = site.node("south").await;
    scanned(
        &site,
        south,
        vec![with_mac("10.0.0.7", &mac(1))],
        outcomes(&[]),
    )
    .await;
    let rows = vec![with_mac("10.0.0.7", &mac(1)), with_mac("10.0.9.9", &mac(2))];
    let scan = scanned(
        &site,
        north,
        rows,
        outcomes(&[(7, TargetOutcome::Identified)]),
    )
    .await;
    let found = difference(&site, scan, Against::Previous).await;
    assert_eq!(found.rows, []);
    let rejected: Vec<String> = found
        .rejected
        .iter()
        .map(|one| format!("{} {} {}", one.endpoint, one.reason, one.device.is_some()))
        .collect();
    assert_eq!(rejected, ["10.0.0.7:80 owned by another node true"]);
    // A report outside the scope is counted, but not stored.
    let otherwise: Vec<(&str, u64, &str)> = found
        .rejected_otherwise
        .iter()
        .map(|tally| (tally.reason.as_str(), tally.count, tally.example.as_str()))
        .collect();
    assert_eq!(
        otherwise,
        [(
            "address out of scope",
            1,
            "10.0.9.9:80 auto:0000000000000000"
        )]
    );
    assert_eq!(found.unidentified, []);
}

async fn an_unfinished_scan_calls_nothing_missing(site: Site) {
    let north = site.node("north").await;
    scanned(
        &site,
        north,
        vec![with_mac("10.0.0.7", &mac(1))],
        outcomes(&[]),
    )
    .await;
    let running = site.running(north, RANGE).await;
    let found = difference(&site, running.scan, Against::Previous).await;
    assert_eq!(
        lines(&found),
        ["undecided 01 10.0.0.7:80 - its address was not reached"]
    );
}

async fn the_changes_of_ended_scans_are_stored(site: Site) {
    let north = site.node("north").await;
    let first = scanned(&site, north, Vec::new(), outcomes(&[])).await;
    let second = scanned(&site, north, Vec::new(), outcomes(&[])).await;
    let open = site.running(north, RANGE).await.scan;
    let uncompared = async || {
        let found = site.store.uncompared_scans(8).await.expect("read");
        found.into_iter().map(|(_, scan)| scan).collect::<Vec<_>>()
    };
    let found = uncompared().await;
    assert!(
        found.contains(&first) && found.contains(&second),
        "{found:?}"
    );
    assert!(!found.contains(&open), "a scan that has not ended");
    assert_eq!(site.store.uncompared_scans(1).await.expect("read").len(), 1);
    let changes = ScanChanges {
        against: Some(first),
        new: 3,
        missing: 1,
        moved: 2,
        changed: 4,
    };
    let stored = site.store.store_scan_changes(second, changes).await;
    stored.expect("stored");
    assert_eq!(uncompared().await, [first]);
    assert_eq!(site.look(second).await.changes, Some(changes));
    assert_eq!(site.look(first).await.changes, None);
}
