//! Searches of the inventory: pages by cursor, facets, and errors that name the term.

use fleet_core::Role;
use fleet_wire::{
    Code,
    fleet::{DeviceOrder, GetDeviceFacetsRequest, SearchDevicesRequest, SearchDevicesResponse},
};

use crate::{
    harness::{Enrolled, Operator, Profile, World, refused},
    results::{miner, scanned},
};

async fn page(operator: &Operator, wanted: &SearchDevicesRequest) -> SearchDevicesResponse {
    let found = operator.search();
    let found = found.search_devices(wanted, operator.options()).await;
    found.expect("answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_read_page_by_page_and_its_facets_count_every_match() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let devices = (1..=7).map(|number| {
        let firmware = if number <= 5 { "1.0" } else { "2.0" };
        miner(&format!("10.0.0.{number}"), number, firmware)
    });
    scanned(&operator, &enrolled, &mut node, devices.collect(), [4; 10]).await;

    let mut wanted = SearchDevicesRequest {
        search: "firmware:1.0".into(),
        order: DeviceOrder::LastSeen.into(),
        descending: true,
        limit: 2,
        ..SearchDevicesRequest::default()
    };
    let mut found = Vec::new();
    let mut pages = 0;
    loop {
        let page = page(&operator, &wanted).await;
        found.extend(page.devices.into_iter().map(|device| device.mac));
        pages += 1;
        if page.next_cursor.is_empty() {
            break;
        }
        wanted.cursor = page.next_cursor;
    }
    found.sort_unstable();
    let expected: Vec<String> = (1..=5).map(|n| format!("02:00:5E:00:00:{n:02X}")).collect();
    assert_eq!((found, pages), (expected, 3));

    let wanted = GetDeviceFacetsRequest {
        search: "mac:02*".into(),
        ..GetDeviceFacetsRequest::default()
    };
    let facets = operator.search();
    let facets = facets.get_device_facets(&wanted, operator.options());
    let facets = facets.await.expect("answers");
    let firmware: Vec<(&str, u64)> = facets
        .firmware
        .iter()
        .map(|facet| (facet.value.as_str(), facet.count))
        .collect();
    assert_eq!((facets.total, firmware), (7, vec![("1.0", 5), ("2.0", 2)]));

    for (search, word) in [
        ("colour:red", "colour"),
        ("seen:<1x", "1x"),
        ("a\0b", "NUL"),
    ] {
        let request = SearchDevicesRequest {
            search: search.into(),
            ..SearchDevicesRequest::default()
        };
        let client = operator.search();
        let answer = client.search_devices(&request, operator.options()).await;
        let error = refused(answer, Code::InvalidArgument);
        assert!(error.to_string().contains(word), "{error}");
    }
}
