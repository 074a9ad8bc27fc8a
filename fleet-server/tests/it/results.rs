//! Differences between scans: pages, files, the explanation of a result of zero.

use std::time::Duration;

use fleet_core::Role;
use fleet_server::ServerConfig;
use fleet_wire::{
    Code,
    fleet::{
        DifferenceGroup, GetScanDifferenceRequest, GetScanDifferenceResponse, GetScanRequest,
        ListScanHostsRequest, ListScansRequest, ScanChanges,
    },
    gateway::{AckCode, ControlAck, DiscoveredDeviceReport, control_stream_request},
};

use crate::harness::{
    Enrolled, Node, Operator, Profile, World, device, eventually, range, refused, request, start,
};

/// Scans ten addresses, of which the node reports these devices and outcomes. Returns the id.
pub(crate) async fn scanned(
    operator: &Operator,
    enrolled: &Enrolled,
    node: &mut Node,
    devices: Vec<DiscoveredDeviceReport>,
    outcomes: [u8; 10],
) -> String {
    let wanted = range("10.0.0.1", "10.0.0.10", &["80"]);
    let scan = start(operator, enrolled, wanted).await;
    let (command, _) = node.command().await;
    if !devices.is_empty() {
        node.report(&command, devices).await.expect("is taken");
    }
    node.say(control_stream_request::Kind::Ack(ControlAck {
        command_id: command,
        succeeded: true,
        code: AckCode::Ok.into(),
        outcomes: outcomes.to_vec().into(),
        ..ControlAck::default()
    }))
    .await;
    scan.is("SCAN_STATE_COMPLETED").await;
    scan.id
}

/// A device on port 80.
pub(crate) fn miner(ip: &str, mac: u8, firmware: &str) -> DiscoveredDeviceReport {
    DiscoveredDeviceReport {
        port: "80".into(),
        mac_address: format!("02:00:5E:00:00:{mac:02X}"),
        firmware_version: firmware.into(),
        ..device(ip)
    }
}

async fn compared(
    operator: &Operator,
    wanted: &GetScanDifferenceRequest,
) -> GetScanDifferenceResponse {
    let answer = operator
        .results()
        .get_scan_difference(wanted, operator.options())
        .await;
    answer.expect("answers")
}

impl Operator {
    /// Waits for the changes of an ended scan in the list of scans.
    async fn changes_of(&self, scan: &str) -> ScanChanges {
        let found = async {
            loop {
                let request = ListScansRequest::default();
                let listed = self.scans().list_scans(&request, self.options()).await;
                let scans = listed.expect("listed").scans;
                let row = scans.into_iter().find(|row| row.scan_id == scan);
                if let Some(changes) = row.expect("the scan").changes {
                    return changes;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), found).await;
        found.expect("the scan is compared after its end")
    }
}

/// The rows of a page as group, address and reason or changes.
fn lines(page: &GetScanDifferenceResponse) -> Vec<String> {
    let line = |row: &fleet_wire::fleet::DifferenceRow| {
        let group = row.group().as_str_name().replace("DIFFERENCE_GROUP_", "");
        let line = format!("{group} {} {}{}", row.ip, row.changed.join(","), row.reason);
        line.trim_end().to_owned()
    };
    page.rows.iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_is_the_same_in_pages_and_files() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let before = vec![
        miner("10.0.0.1", 1, "1.0"),
        miner("10.0.0.2", 2, "1.0"),
        miner("10.0.0.3", 3, "1.0"),
        miner("10.0.0.4", 4, "1.0"),
        miner("10.0.0.5", 5, "1.0"),
    ];
    let first = scanned(&operator, &enrolled, &mut node, before, [1; 10]).await;
    let after = vec![
        miner("10.0.0.1", 1, "1.0"),
        miner("10.0.0.2", 2, "1.1"),
        miner("10.0.0.6", 3, "1.0"),
        miner("10.0.0.7", 7, "1.0"),
        miner("10.0.9.9", 9, "1.0"),
    ];
    let bytes = [4, 4, 1, 2, 0, 4, 4, 3, 1, 1];
    let second = scanned(&operator, &enrolled, &mut node, after, bytes).await;

    let expected = [
        "NEW 10.0.0.7",
        "MISSING 10.0.0.4 its address refused the connection",
        "MOVED 10.0.0.6 address",
        "CHANGED 10.0.0.2 firmware",
        "UNCHANGED 10.0.0.1",
        "UNIDENTIFIED 10.0.0.8 it answered without being identified",
        "REJECTED  address out of scope, for example 10.0.9.9:80 mac:02:00:0A:00:09:09",
        "UNDECIDED 10.0.0.5 its address was not reached",
    ];
    let wanted = GetScanDifferenceRequest {
        scan_id: second.clone(),
        ..GetScanDifferenceRequest::default()
    };
    let whole = compared(&operator, &wanted).await;
    assert_eq!(lines(&whole), expected);
    assert_eq!(whole.against_scan_id, first);
    assert_eq!((whole.next_cursor, whole.explanation.as_str()), (0, ""));
    assert!(whole.counts.iter().all(|count| count.count == 1));
    assert_eq!(whole.counts.len(), 8);
    let changes = operator.changes_of(&second).await;
    assert_eq!(changes.against_scan_id, first);
    let counts = [changes.new, changes.missing, changes.moved, changes.changed];
    assert_eq!(counts, [1, 1, 1, 1]);

    // Page by page.
    let mut paged = Vec::new();
    let mut cursor = 0;
    loop {
        let page = GetScanDifferenceRequest {
            limit: 3,
            cursor,
            ..wanted.clone()
        };
        let page = compared(&operator, &page).await;
        paged.extend(lines(&page));
        cursor = page.next_cursor;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(paged, expected);

    // One group, with the counts of all.
    let missing = GetScanDifferenceRequest {
        group: DifferenceGroup::Missing.into(),
        ..wanted.clone()
    };
    let missing = compared(&operator, &missing).await;
    assert_eq!(lines(&missing), expected[1..2]);
    assert_eq!(missing.counts, whole.counts);

    // As files.
    let bearer = format!("Bearer {}", operator.key);
    let file = async |name: &str| {
        let path = format!("/api/scans/{second}/{name}");
        let headers = [("authorization", bearer.as_str())];
        let mut answer = request(world.address(), "GET", &path, &headers, "").await;
        answer.read_file().await;
        answer
    };
    let csv = file("difference.csv").await;
    assert_eq!(
        csv.header("content-type"),
        "text/csv; charset=utf-8; header=present"
    );
    let records: Vec<&str> = csv.body.lines().collect();
    assert_eq!(records.len(), expected.len() + 1, "{}", csv.body);
    assert!(records[3].starts_with("moved,"), "{}", records[3]);
    // A node has a site with its own name unless it shares one.
    let name = whole.rows[0].node_name.as_str();
    assert!(!name.is_empty());
    assert_eq!(
        (
            whole.rows[0].fleet_node_id,
            whole.rows[0].site_name.as_str()
        ),
        (enrolled.id.0, name)
    );
    let where_it_ran = format!("{name},{name},{name},{name}");
    assert!(records[3].ends_with(&where_it_ran), "{}", records[3]);
    let lines = file("difference.ndjson?group=missing").await;
    assert_eq!(lines.header("content-type"), "application/x-ndjson");
    let row: serde_json::Value = serde_json::from_str(lines.body.trim_end()).expect("a line");
    assert_eq!(
        (&row["nodeName"], &row["siteName"]),
        (&name.into(), &name.into())
    );
    let json = file(&format!("difference.json?group=missing&against={first}"))
        .await
        .json();
    assert_eq!(
        json["rows"][0]["reason"],
        "its address refused the connection"
    );
    assert_eq!(json["rows"].as_array().map(Vec::len), Some(1));
    assert_eq!(json["againstScanId"], first);
    for (name, word) in [
        ("difference.csv?group=gone", "`gone` is not a group"),
        ("difference.csv?against=x", "against"),
    ] {
        let answer = file(name).await;
        assert_eq!(answer.status, 400, "{name}");
        assert!(answer.body.contains(word), "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_scan_is_answered_with_the_reason() {
    let day = Duration::from_secs(24 * 3_600);
    let world = World::with(ServerConfig {
        rates: None,
        scans_kept: Some(day),
        last_scans_kept: false,
        ..ServerConfig::default()
    })
    .await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let devices = vec![miner("10.0.0.1", 1, "1.0")];
    let scan = scanned(&operator, &enrolled, &mut node, devices, [1; 10]).await;
    world.clock.pass(day * 2);
    // The first sweep of a server is at its start.
    let another = world.another().await;
    let get = GetScanRequest {
        scan_id: scan.clone(),
    };
    eventually(|| async {
        let answer = operator.scans().get_scan(&get, operator.options()).await;
        answer.is_err()
    })
    .await;
    drop(another);
    let answer = operator.scans().get_scan(&get, operator.options()).await;
    let hosts = ListScanHostsRequest {
        scan_id: scan.clone(),
        ..ListScanHostsRequest::default()
    };
    let scans = operator.scans();
    let hosts = scans.list_scan_hosts(&hosts, operator.options());
    let wanted = GetScanDifferenceRequest {
        scan_id: scan.clone(),
        ..GetScanDifferenceRequest::default()
    };
    let results = operator.results();
    let difference = results.get_scan_difference(&wanted, operator.options());
    for error in [
        answer.expect_err("it is removed"),
        hosts.await.expect_err("it is removed"),
        difference.await.expect_err("it is removed"),
    ] {
        assert_eq!(error.code, Code::NotFound);
        assert_eq!(error.reason().as_deref(), Some("SCAN_REMOVED"));
        assert!(
            error
                .message
                .starts_with(&format!("scan {scan} was removed"))
        );
    }
    let bearer = format!("Bearer {}", operator.key);
    for file in ["difference.csv", "hosts.csv", "events"] {
        let path = format!("/api/scans/{scan}/{file}");
        let headers = [("authorization", bearer.as_str())];
        let answer = request(world.address(), "GET", &path, &headers, "").await;
        assert_eq!(answer.status, 404, "{file}");
        assert!(
            answer.body.contains("was removed with its results"),
            "{}",
            answer.body
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_zero_explains_itself() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    for (bytes, part) in [
        ([1; 10], "10 of 10 targets did not answer"),
        ([2; 10], "10 of 10 targets refused the connection"),
        ([3; 10], "10 of 10 targets answered, but no driver"),
    ] {
        let scan = scanned(&operator, &enrolled, &mut node, Vec::new(), bytes).await;
        let wanted = GetScanDifferenceRequest {
            scan_id: scan,
            ..GetScanDifferenceRequest::default()
        };
        let found = compared(&operator, &wanted).await;
        assert!(found.explanation.contains(part), "{}", found.explanation);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_is_not_compared_with_itself() {
    let world = World::new().await;
    let operator = world.operator(Role::Viewer).await;
    let admin = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &admin).await;
    let scan = start(&admin, &enrolled, range("10.0.0.1", "10.0.0.9", &["80"])).await;
    let wanted = GetScanDifferenceRequest {
        scan_id: scan.id.clone(),
        against_scan_id: scan.id.clone(),
        ..GetScanDifferenceRequest::default()
    };
    let answer = operator
        .results()
        .get_scan_difference(&wanted, operator.options())
        .await;
    let error = refused(answer, Code::InvalidArgument);
    assert!(error.message.contains("name another scan"), "{error}");
}
