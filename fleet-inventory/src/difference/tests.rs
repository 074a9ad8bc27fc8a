//! Tables of pairs of results, and properties over random pairs against a simple model.

use EndpointOutcome as E;
use fleet_core::Serial;
use proptest::prelude::*;

use super::*;
use crate::samples::{location, seen};

fn later<'a>(seen: &'a [Seen], outcomes: &[(&str, EndpointOutcome)]) -> Later<'a> {
    Later {
        seen,
        rejected: BTreeSet::new(),
        outcomes: outcomes
            .iter()
            .map(|(at, outcome)| (location(at), *outcome))
            .collect(),
    }
}

/// Formats a row as its group, its device, and the changed fields or the reason.
fn lines(rows: &[Row]) -> Vec<String> {
    rows.iter()
        .map(|row| {
            let fields: Vec<&str> = row.changed.iter().map(|field| field.as_str()).collect();
            let why = row.reason.map_or("", Reason::as_str);
            format!("{} {} {}{why}", row.group, row.device, fields.join(","))
                .trim_end()
                .to_owned()
        })
        .collect()
}

#[track_caller]
fn check(before: &[Seen], later: &Later<'_>, expected: &[&str]) {
    assert_eq!(lines(&difference(before, later)), expected);
}

#[test]
fn devices_are_new_moved_changed_or_unchanged() {
    let before = [
        seen(1, "10.0.0.1:80", "1.0"),
        seen(2, "10.0.0.2:80", "1.0"),
        seen(3, "10.0.0.3:80", "1.0"),
    ];
    let after = [
        seen(1, "10.0.0.1:80", "1.0"),
        seen(2, "10.0.0.2:80", "1.1"),
        seen(3, "10.0.0.30:80", "1.1"),
        seen(4, "10.0.0.4:80", "1.0"),
    ];
    check(
        &before,
        &later(&after, &[]),
        &[
            "new 4",
            "moved 3 address,firmware",
            "changed 2 firmware",
            "unchanged 1",
        ],
    );
    check(&[], &later(&after[..1], &[]), &["new 1"]);
    check(&[], &later(&[], &[]), &[]);
}

#[test]
fn a_device_is_missing_only_if_its_endpoint_was_probed_and_nothing_is_there() {
    let before = [seen(1, "10.0.0.1:80", "1.0")];
    for (outcome, expected) in [
        (E::Silent, "missing 1 its address did not answer"),
        (E::Refused, "missing 1 its address refused the connection"),
        (E::NotReached, "undecided 1 its address was not reached"),
        (E::Skipped, "undecided 1 its address was skipped"),
        (E::PortNotScanned, "undecided 1 its port was not scanned"),
        (E::NotATarget, "undecided 1 its address was not a target"),
        (
            E::NotAnnounced,
            "undecided 1 it sent no announcement, and the scan probed only announced hosts",
        ),
        (
            E::Unknown,
            "undecided 1 the node reported no outcome for its address",
        ),
        (
            E::Answered,
            "undecided 1 its address answered without being identified",
        ),
    ] {
        check(
            &before,
            &later(&[], &[("10.0.0.1:80", outcome)]),
            &[expected],
        );
    }
    check(
        &before,
        &later(&[], &[]),
        &["undecided 1 its address was not a target"],
    );
}

#[test]
fn another_device_at_the_address_leaves_the_former_one_undecided() {
    let before = [seen(1, "10.0.0.1:80", "1.0")];
    let after = [seen(2, "10.0.0.1:80", "1.0")];
    check(
        &before,
        &later(&after, &[("10.0.0.1:80", E::Answered)]),
        &["new 2", "undecided 1 another device answers at its address"],
    );
}

#[test]
fn a_rejected_device_is_not_missing() {
    let before = [seen(1, "10.0.0.1:80", "1.0")];
    let mut later = later(&[], &[("10.0.0.1:80", E::Silent)]);
    later.rejected.insert(DeviceId(1));
    check(
        &before,
        &later,
        &["undecided 1 it was reported, and the report was rejected"],
    );
}

#[test]
fn two_devices_that_exchange_their_addresses_have_both_moved() {
    let before = [seen(1, "10.0.0.1:80", "1.0"), seen(2, "10.0.0.2:80", "1.0")];
    let after = [seen(1, "10.0.0.2:80", "1.0"), seen(2, "10.0.0.1:80", "1.0")];
    check(
        &before,
        &later(&after, &[]),
        &["moved 2 address", "moved 1 address"],
    );
}

#[test]
fn a_re_imaged_device_has_changed() {
    let before = [seen(1, "10.0.0.1:4028", "1.0")];
    let mut after = [seen(1, "10.0.0.1:80", "Braiins 24.09")];
    after[0].facts.manufacturer = "Braiins".into();
    after[0].facts.serial = Serial::new("B2");
    // The serial was unknown before, which is not a difference.
    let expected = "changed 1 port,manufacturer,firmware";
    check(&before, &later(&after, &[]), &[expected]);
}

#[test]
fn a_device_at_two_endpoints_moved_only_if_no_address_is_common() {
    let before = [seen(1, "10.0.0.1:80", "1.0"), seen(1, "10.0.0.2:80", "1.0")];
    let after = [seen(1, "10.0.0.2:80", "1.0")];
    check(&before, &later(&after, &[]), &["unchanged 1"]);
    // It is missing only if neither endpoint answered.
    check(
        &before,
        &later(
            &[],
            &[("10.0.0.1:80", E::Silent), ("10.0.0.2:80", E::NotReached)],
        ),
        &["undecided 1 its address was not reached"],
    );
    check(
        &before,
        &later(
            &[],
            &[("10.0.0.1:80", E::Silent), ("10.0.0.2:80", E::Refused)],
        ),
        &["missing 1 its address did not answer"],
    );
}

#[test]
fn an_address_of_another_site_is_another_host() {
    let before = [
        seen(1, "10.0.0.1:80", "1.0"),
        seen(2, "2/10.0.0.1:80", "1.0"),
    ];
    // The host at the same address of the other site answered, and says nothing about this one.
    let after = [seen(2, "2/10.0.0.1:80", "1.0")];
    let outcomes = [("10.0.0.1:80", E::Silent), ("2/10.0.0.1:80", E::Answered)];
    check(
        &before,
        &later(&after, &outcomes),
        &["missing 1 its address did not answer", "unchanged 2"],
    );
    check(
        &before,
        &later(&after, &outcomes[1..]),
        &["unchanged 2", "undecided 1 its address was not a target"],
    );
    let elsewhere = [seen(1, "2/10.0.0.1:80", "1.0")];
    let found = difference(&before[..1], &later(&elsewhere, &[]));
    assert_eq!(lines(&found), ["moved 1 site"]);
}

#[test]
fn groups_are_read_as_they_are_written() {
    for group in Group::ALL {
        assert_eq!(group.as_str().parse(), Ok(group));
    }
    let error = "gone".parse::<Group>().expect_err("no group");
    assert!(error.to_string().contains("`gone` is not a group: use new"));
}

/// A result of few devices at few endpoints, at most one sighting for each.
fn result() -> impl Strategy<Value = Vec<Seen>> {
    proptest::collection::btree_map(0_i64..6, (0_u8..6, 0_u8..3), 0..6).prop_map(|devices| {
        let mut taken = BTreeSet::new();
        devices
            .into_iter()
            .filter(|(_, (host, _))| taken.insert(*host))
            .map(|(device, (host, firmware))| {
                let firmware = ["", "1.0", "1.1"][usize::from(firmware)];
                seen(device, &format!("10.0.0.{host}:80"), firmware)
            })
            .collect()
    })
}

fn outcomes() -> impl Strategy<Value = Vec<EndpointOutcome>> {
    proptest::collection::vec(proptest::sample::select(E::ALL.to_vec()), 6)
}

/// The group of a device, written differently from the code.
fn model(device: i64, before: &[Seen], later: &Later<'_>) -> Option<Group> {
    let find = |seen: &[Seen]| seen.iter().find(|one| one.device.0 == device).cloned();
    Some(match (find(before), find(later.seen)) {
        (None, None) => return None,
        (None, Some(_)) => Group::New,
        (Some(was), Some(is)) if was.endpoint.ip != is.endpoint.ip => Group::Moved,
        (Some(was), Some(is)) => {
            let known = !was.facts.firmware.is_empty() && !is.facts.firmware.is_empty();
            if known && was.facts.firmware != is.facts.firmware {
                Group::Changed
            } else {
                Group::Unchanged
            }
        }
        (Some(was), None) => {
            let free = later.seen.iter().all(|one| one.endpoint != was.endpoint);
            let probed = matches!(
                later.outcomes.get(&was.location()),
                Some(E::Silent | E::Refused)
            );
            if free && probed && !later.rejected.contains(&was.device) {
                Group::Missing
            } else {
                Group::Undecided
            }
        }
    })
}

proptest! {
    #[test]
    fn every_device_is_in_exactly_one_row_and_in_the_group_of_the_model(
        before in result(),
        after in result(),
        outcomes in outcomes(),
        rejected in proptest::collection::btree_set(0_i64..6, 0..3),
    ) {
        let later = Later {
            seen: &after,
            rejected: rejected.into_iter().map(DeviceId).collect(),
            outcomes: (0..).zip(outcomes).map(|(host, outcome): (u8, _)| (location(&format!("10.0.0.{host}:80")), outcome)).collect(),
        };
        let rows = difference(&before, &later);
        for device in 0..6 {
            let groups: Vec<Group> = rows.iter().filter(|row| row.device.0 == device).map(|row| row.group).collect();
            let expected: Vec<Group> = model(device, &before, &later).into_iter().collect();
            prop_assert_eq!(groups, expected);
        }
        prop_assert!(rows.is_sorted_by_key(|row| (row.group, row.endpoint(), row.device)));
    }

    #[test]
    fn a_result_differs_from_itself_in_nothing(result in result()) {
        let rows = difference(&result, &Later { seen: &result, ..Later::default() });
        prop_assert!(rows.iter().all(|row| row.group == Group::Unchanged && row.changed.is_empty()));
        prop_assert_eq!(rows.len(), result.len());
    }

    #[test]
    fn new_and_absent_exchange_when_the_results_do(before in result(), after in result()) {
        let count = |rows: &[Row], groups: &[Group]| rows.iter().filter(|row| groups.contains(&row.group)).count();
        let forward = difference(&before, &Later { seen: &after, ..Later::default() });
        let backward = difference(&after, &Later { seen: &before, ..Later::default() });
        let absent = [Group::Missing, Group::Undecided];
        prop_assert_eq!(count(&forward, &[Group::New]), count(&backward, &absent));
        prop_assert_eq!(count(&forward, &[Group::Moved]), count(&backward, &[Group::Moved]));
        prop_assert_eq!(count(&forward, &[Group::Changed]), count(&backward, &[Group::Changed]));
    }
}
