//! The overview and the pages of devices, from the reports and outcomes of a node to the answers of the API.

use fleet_core::Role;
use fleet_wire::{
    Code,
    fleet::{
        GetDeviceDetailRequest, GetDeviceDetailResponse, GetOverviewRequest, GetOverviewResponse,
        GetSiteMapRequest, GetSiteMapResponse, LabelDevicesRequest, ListSitesRequest,
        SearchDevicesRequest, SetDeviceNoteRequest,
    },
};

use crate::{
    harness::{Enrolled, Node, Operator, Profile, World, range, refused, start},
    results::{miner, scanned},
};

const NETWORK: &str = "10.0.0.0/24";

async fn overview(operator: &Operator) -> GetOverviewResponse {
    let request = GetOverviewRequest {};
    let answer = operator
        .overview()
        .get_overview(&request, operator.options())
        .await;
    answer.expect("answers")
}

async fn map(operator: &Operator) -> GetSiteMapResponse {
    let sites = operator
        .sites()
        .list_sites(&ListSitesRequest {}, operator.options())
        .await;
    let sites = sites.expect("answers").sites;
    let own = sites.iter().find(|site| !site.fleet_node_ids.is_empty());
    let request = GetSiteMapRequest {
        site_id: own.expect("a site").site_id,
        limit: 64,
        cursor: String::new(),
    };
    let answer = operator
        .overview()
        .get_site_map(&request, operator.options())
        .await;
    answer.expect("answers")
}

/// The outcomes of 10.0.0.1 to 10.0.0.10, and the devices there by their last octet.
fn cells(map: &GetSiteMapResponse) -> (Vec<u8>, Vec<u32>) {
    let block = map.blocks.iter().find(|block| block.network == NETWORK);
    let block = block.expect(NETWORK);
    assert_eq!(block.outcomes.len(), 256);
    let devices = block.hosts.iter().filter(|host| host.device_id > 0);
    (
        block.outcomes[1..=10].to_vec(),
        devices.map(|host| host.octet).collect(),
    )
}

async fn detail(operator: &Operator, device_id: i64) -> GetDeviceDetailResponse {
    let answer = operator
        .details()
        .get_device_detail(&GetDeviceDetailRequest { device_id }, operator.options())
        .await;
    answer.expect("answers")
}

/// Two scans: a device moved, one is missing, one was not reached.
async fn two_scans(operator: &Operator, enrolled: &Enrolled, node: &mut Node) {
    let before = (1..=5).map(|number| miner(&format!("10.0.0.{number}"), number, "1.0"));
    scanned(operator, enrolled, node, before.collect(), [1; 10]).await;
    let after = vec![
        miner("10.0.0.1", 1, "1.0"),
        miner("10.0.0.2", 2, "1.1"),
        miner("10.0.0.6", 3, "1.0"),
        miner("10.0.0.7", 7, "1.0"),
    ];
    let bytes = [4, 4, 1, 2, 0, 4, 4, 3, 1, 1];
    scanned(operator, enrolled, node, after, bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_counts_and_maps_the_results_of_scans() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    two_scans(&operator, &enrolled, &mut node).await;

    let found = overview(&operator).await;
    let counts = [
        found.devices,
        found.new_today,
        found.missing,
        found.need_password,
        found.nodes_offline,
        found.scans_running,
    ];
    assert_eq!(counts, [6, 6, 1, 0, 0, 0]);
    assert_eq!(found.days.len(), 30);
    let sums = found.days.iter().fold((0, 0, 0), |sum, day| {
        (sum.0 + day.seen, sum.1 + day.added, sum.2 + day.missing)
    });
    assert_eq!(sums, (6, 6, 1));

    let found = map(&operator).await;
    assert_eq!(found.next_cursor, "");
    assert_eq!(found.total, found.blocks.len() as u64);
    let (outcomes, devices) = cells(&found);
    assert_eq!(outcomes, [4, 4, 1, 2, 0, 4, 4, 3, 1, 1]);
    assert_eq!(devices, [1, 2, 4, 5, 6, 7]);

    // While a scan runs, its devices are on the map before the outcomes of its chunk.
    let running = start(
        &operator,
        &enrolled,
        range("10.0.0.1", "10.0.0.10", &["80"]),
    )
    .await;
    let (command, _) = node.command().await;
    node.report(&command, vec![miner("10.0.0.9", 9, "1.0")])
        .await
        .expect("is taken");
    let (outcomes, devices) = cells(&map(&operator).await);
    assert_eq!(outcomes, [4, 4, 1, 2, 0, 4, 4, 3, 4, 1]);
    assert_eq!(devices, [1, 2, 4, 5, 6, 7, 9]);
    assert_eq!(overview(&operator).await.scans_running, 1);
    drop(running);

    let unknown = GetSiteMapRequest {
        site_id: 99_999,
        ..GetSiteMapRequest::default()
    };
    let answer = operator
        .overview()
        .get_site_map(&unknown, operator.options())
        .await;
    let error = refused(answer, Code::NotFound);
    assert!(error.to_string().contains("no site 99999"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_device_in_the_overview_has_its_timeline_labels_and_note() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    two_scans(&operator, &enrolled, &mut node).await;
    let (_, devices) = cells(&map(&operator).await);
    assert!(devices.contains(&6));
    let search = async |text: &str| {
        let request = SearchDevicesRequest {
            search: text.to_owned(),
            ..SearchDevicesRequest::default()
        };
        let answer = operator
            .search()
            .search_devices(&request, operator.options())
            .await;
        answer.expect("answers").devices
    };
    let moved = search("ip:10.0.0.6").await[0].device_id;
    let found = detail(&operator, moved).await;
    let events: Vec<_> = found
        .events
        .iter()
        .map(|event| {
            (
                event.kind.as_str(),
                event.former.as_str(),
                event.became.as_str(),
            )
        })
        .collect();
    assert_eq!(
        events,
        [("address", "10.0.0.3:80", "10.0.0.6:80"), ("found", "", "")]
    );
    assert_eq!(found.ports, [80]);
    assert!(found.note.is_none());

    let missing = search("missing:yes").await;
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0].ip, "10.0.0.4");
    assert!(missing[0].missing_since.is_some());
    let events = detail(&operator, missing[0].device_id).await.events;
    assert_eq!(events[0].kind, "missing");

    let label = |add: &str, remove: &str| LabelDevicesRequest {
        device_ids: vec![moved],
        add: add.split_whitespace().map(str::to_owned).collect(),
        remove: remove.split_whitespace().map(str::to_owned).collect(),
    };
    let send = async |request: LabelDevicesRequest| {
        operator
            .details()
            .label_devices(&request, operator.options())
            .await
    };
    send(label("Rack-7 spare", "")).await.expect("labeled");
    send(label("", "spare")).await.expect("labeled");
    let error = refused(send(label("a:b", "")).await, Code::InvalidArgument);
    assert!(error.to_string().contains("label `a:b`"), "{error}");
    let error = refused(send(label("a", "a")).await, Code::InvalidArgument);
    assert!(error.to_string().contains("at once"), "{error}");
    assert_eq!(search("label:rack*").await[0].labels, ["rack-7"]);
    let note = |text: &str| SetDeviceNoteRequest {
        device_id: moved,
        text: text.to_owned(),
    };
    let write = async |request: SetDeviceNoteRequest| {
        operator
            .details()
            .set_device_note(&request, operator.options())
            .await
    };
    write(note(" fan is loud\nordered "))
        .await
        .expect("written");
    let error = refused(write(note("a\u{202e}b")).await, Code::InvalidArgument);
    assert!(error.to_string().contains("character 2"), "{error}");
    let written = detail(&operator, moved).await.note.expect("a note");
    assert_eq!(written.text, "fan is loud\nordered");
    assert!(!written.author.is_empty());
}
