//! Tables of scans, silences, quiet hours and attempts, and properties over random series of scans.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fleet_core::{DeviceId, EndpointOutcome, SiteId, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::{
    difference::{Later, Seen},
    samples::{location, seen},
};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(0).plus(Duration::from_secs(seconds))
}

fn rule(event: &str, threshold: u32) -> AlertRule {
    let text = AlertRuleText {
        event: event.to_owned(),
        threshold,
        ..AlertRuleText::default()
    };
    AlertRule::parse(&text).expect(event)
}

/// The state of one organization over a series of scans.
#[derive(Default)]
struct Series {
    known: BTreeMap<DeviceId, Known>,
    first_seen: BTreeMap<DeviceId, Timestamp>,
    now: u64,
}

impl Series {
    /// Ends a scan, and returns its facts. Hosts without an outcome are not targets.
    fn scan(&mut self, seen: &[Seen], outcomes: &[(&str, EndpointOutcome)]) -> Vec<DeviceFact> {
        self.now += 100;
        for one in seen {
            let now = at(self.now);
            self.first_seen.entry(one.device).or_insert(now);
        }
        let outcomes = outcomes
            .iter()
            .map(|(at, outcome)| (location(at), *outcome));
        let scan = Observed {
            later: Later {
                seen,
                rejected: BTreeSet::new(),
                outcomes: outcomes.collect(),
            },
            first_seen: self.first_seen.clone(),
        };
        let found = observe(&self.known, &scan, at(50));
        for known in found.changed {
            self.known.insert(known.seen.device, known);
        }
        found.facts
    }

    fn lines(&mut self, seen: &[Seen], outcomes: &[(&str, EndpointOutcome)]) -> Vec<String> {
        let facts = self.scan(seen, outcomes);
        facts.iter().map(line).collect()
    }
}

fn line(fact: &DeviceFact) -> String {
    let device = fact.seen().device;
    match fact {
        DeviceFact::New(_) => format!("new {device}"),
        DeviceFact::Missing { scans, .. } => format!("missing {device} {scans}"),
        DeviceFact::Moved { from, is } => format!("moved {device} {from} {}", is.endpoint.ip),
        DeviceFact::Firmware { from, is } => {
            format!("firmware {device} {from} {}", is.facts.firmware)
        }
    }
}

const SILENT: EndpointOutcome = EndpointOutcome::Silent;

#[test]
fn every_change_is_a_fact_of_one_scan() {
    let mut series = Series::default();
    let first = [seen(1, "10.0.0.1:80", "1"), seen(2, "10.0.0.2:80", "1")];
    assert_eq!(series.lines(&first, &[]), ["new 1", "new 2"]);
    assert_eq!(series.lines(&first, &[]), Vec::<String>::new());
    let changed = [seen(1, "10.0.0.9:80", "1"), seen(2, "10.0.0.2:80", "2")];
    let expected = ["moved 1 10.0.0.1 10.0.0.9", "firmware 2 1 2"];
    assert_eq!(series.lines(&changed, &[("10.0.0.1:80", SILENT)]), expected);
    assert_eq!(series.lines(&changed, &[]), Vec::<String>::new());
    // An unknown firmware is no change, and the known one stays.
    let unknown = [seen(2, "10.0.0.2:80", "")];
    assert_eq!(series.lines(&unknown, &[]), Vec::<String>::new());
    assert_eq!(series.lines(&changed[1..], &[]), Vec::<String>::new());
}

#[test]
fn an_absence_is_counted_in_scans_that_probed_the_endpoint() {
    let mut series = Series::default();
    let device = [seen(1, "10.0.0.1:80", "1")];
    series.scan(&device, &[]);
    for (outcome, expected) in [
        (Some(SILENT), "missing 1 1"),
        (None, ""),
        (Some(EndpointOutcome::NotReached), ""),
        (Some(EndpointOutcome::Refused), "missing 1 2"),
        (Some(EndpointOutcome::Answered), ""),
        (Some(SILENT), "missing 1 3"),
    ] {
        let outcomes = outcome.map(|outcome| ("10.0.0.1:80", outcome));
        let found = series.lines(&[], outcomes.as_slice()).join(",");
        assert_eq!(found, expected, "{outcome:?}");
    }
    // The device is back, and its next absence counts from one.
    assert_eq!(series.lines(&device, &[]), Vec::<String>::new());
    let silent = [("10.0.0.1:80", SILENT)];
    assert_eq!(series.lines(&[], &silent), ["missing 1 1"]);
    // It returns at another address after its absence.
    let elsewhere = [seen(1, "10.0.0.5:80", "1")];
    let moved = ["moved 1 10.0.0.1 10.0.0.5"];
    assert_eq!(series.lines(&elsewhere, &silent), moved);
}

#[test]
fn a_device_of_two_ranges_that_are_scanned_in_turn_moves_once() {
    let mut series = Series::default();
    let (here, there) = (seen(1, "10.0.0.1:80", "1"), seen(1, "10.0.1.1:80", "1"));
    assert_eq!(series.lines(std::slice::from_ref(&here), &[]), ["new 1"]);
    let moved = ["moved 1 10.0.0.1 10.0.1.1"];
    assert_eq!(series.lines(std::slice::from_ref(&there), &[]), moved);
    for again in [&here, &there, &here] {
        let found = series.lines(std::slice::from_ref(again), &[]);
        assert_eq!(found, Vec::<String>::new());
    }
    // The scan probed the other address too, so the device did move.
    let probed = [("10.0.0.1:80", SILENT)];
    assert_eq!(series.lines(&[there], &probed), moved);
}

#[test]
fn a_device_that_was_known_before_the_rules_is_not_new() {
    let mut series = Series::default();
    series.first_seen.insert(DeviceId(1), at(10));
    let both = [seen(1, "10.0.0.1:80", "1"), seen(2, "10.0.0.2:80", "1")];
    assert_eq!(series.lines(&both, &[]), ["new 2"]);
}

#[test]
fn a_rule_selects_its_facts_and_a_missing_device_once() {
    let missing = |scans| DeviceFact::Missing {
        was: seen(1, "10.0.0.1:80", "1"),
        scans,
    };
    let new = DeviceFact::New(seen(1, "10.0.0.1:80", "1"));
    for (event, threshold, fact, expected) in [
        ("device.new", 0, &new, true),
        ("device.moved", 0, &new, false),
        ("device.missing", 3, &new, false),
        ("device.missing", 3, &missing(2), false),
        ("device.missing", 3, &missing(3), true),
        ("device.missing", 3, &missing(4), false),
        ("device.missing", 0, &missing(2), true),
        ("scan.failed", 0, &new, false),
    ] {
        let found = rule(event, threshold).selects(fact);
        assert_eq!(found, expected, "{event} {threshold} {fact:?}");
    }
}

#[test]
fn rules_that_are_not_valid_are_refused_with_the_value() {
    for (event, threshold, zone, quiet, expected) in [
        ("device.lost", 0, "", "", "`device.lost` is not an event"),
        (
            "device.new",
            3,
            "",
            "",
            "device.new has no threshold, and 3",
        ),
        ("device.missing", 101, "", "", "is 101 scans: use 1 to 100"),
        ("node.silent", 1, "", "", "is 1 minutes: use 2 to 10080"),
        (
            "device.new",
            0,
            "Mars/One",
            "",
            "`Mars/One` is not a time zone",
        ),
        ("device.new", 0, "", "8-9", "`8-9` is not a blackout window"),
        (
            "device.new",
            0,
            "",
            "00:00-24:00",
            "leave no minute of the week",
        ),
    ] {
        let text = AlertRuleText {
            event: event.to_owned(),
            threshold,
            zone: zone.to_owned(),
            quiet: quiet.to_owned(),
        };
        let error = AlertRule::parse(&text).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    for event in AlertEvent::ALL {
        let rule = rule(event.as_str(), 0);
        assert_eq!(
            (rule.event, rule.threshold),
            (event, event.default_threshold())
        );
        assert_eq!(AlertRule::parse(&rule.text()), Ok(rule));
    }
}

#[test]
fn a_message_of_a_quiet_hour_waits_for_its_end() {
    let time = |text: &str| crate::zone::to_timestamp(text.parse().expect(text));
    for (windows, now, expected) in [
        ("", "2026-11-30T23:30:00Z", "2026-11-30T23:30:00Z"),
        (
            "22:00-06:00",
            "2026-11-30T20:59:59Z",
            "2026-11-30T20:59:59Z",
        ),
        (
            "22:00-06:00",
            "2026-11-30T21:00:00Z",
            "2026-12-01T05:00:00Z",
        ),
        (
            "22:00-06:00",
            "2026-12-01T04:59:00Z",
            "2026-12-01T05:00:00Z",
        ),
        (
            "sat,sun 00:00-24:00",
            "2026-11-28T12:00:00Z",
            "2026-11-29T23:00:00Z",
        ),
    ] {
        let hours = QuietHours::parse("Europe/Berlin", windows).expect(windows);
        assert_eq!(hours.release(time(now)), time(expected), "{windows} {now}");
    }
}

#[test]
fn a_node_has_one_alert_from_its_silence_to_its_return() {
    let minutes = |count: u64| at(count * 60);
    for (alerted, seen, started, now, expected) in [
        // It never connected.
        (false, None, 0, 100, Silence::Unchanged),
        (false, Some(50), 0, 60, Silence::Unchanged),
        (false, Some(50), 0, 61, Silence::Begins),
        // The server did not run meanwhile.
        (false, Some(50), 55, 64, Silence::Unchanged),
        (false, Some(50), 55, 66, Silence::Begins),
        (true, Some(50), 0, 61, Silence::Unchanged),
        (true, Some(50), 61, 62, Silence::Unchanged),
        (true, Some(61), 0, 62, Silence::Ends),
    ] {
        let allowed = Duration::from_secs(600);
        let found = silence(
            alerted,
            seen.map(minutes),
            minutes(started),
            allowed,
            minutes(now),
        );
        assert_eq!(found, expected, "{alerted} {seen:?} {started} {now}");
    }
}

/// Names of the sites 1, 2 and so on.
fn sites(names: &[&str]) -> BTreeMap<SiteId, String> {
    let named = (1..).map(SiteId).zip(names);
    named
        .map(|(site, name)| (site, (*name).to_owned()))
        .collect()
}

#[test]
fn a_message_about_several_sites_names_the_site_of_each_device() {
    let names = sites(&["north", "south", "west"]);
    let facts = |texts: &[&str]| {
        let fact = |(n, text): (i64, &&str)| DeviceFact::New(seen(n, text, "1"));
        (1..).zip(texts).map(fact).collect::<Vec<_>>()
    };
    for (at, title, first) in [
        (
            &["10.0.0.1:80"][..],
            "1 new device at north",
            "north: Bitmain S19 at 10.0.0.1:80",
        ),
        (
            &["10.0.0.1:80", "2/10.0.0.1:80"],
            "2 new devices at north and south",
            "north: Bitmain S19 at 10.0.0.1:80",
        ),
        (
            &["3/10.0.0.1:80", "2/10.0.0.1:80", "10.0.0.1:80"],
            "3 new devices at 3 sites",
            "west: Bitmain S19 at 10.0.0.1:80",
        ),
    ] {
        let message = AlertMessage::of_devices(&rule("device.new", 0), &facts(at), &names);
        let message = message.expect(title);
        assert_eq!(
            (message.title.as_str(), message.items[0].text.as_str()),
            (title, first)
        );
    }
}

#[test]
fn a_device_is_missing_by_the_outcome_at_its_own_site() {
    let mut series = Series::default();
    let both = [seen(1, "10.0.0.1:80", "1"), seen(2, "2/10.0.0.1:80", "1")];
    series.scan(&both, &[]);
    let silent = [("10.0.0.1:80", SILENT)];
    assert_eq!(series.lines(&[], &silent), ["missing 1 1"]);
    let silent = [("10.0.0.1:80", SILENT), ("2/10.0.0.1:80", SILENT)];
    assert_eq!(series.lines(&[], &silent), ["missing 1 2", "missing 2 1"]);
}

#[test]
fn a_failed_scan_names_the_nodes_that_failed() {
    let failed = |nodes: &[&str]| {
        let node = |node: &&str| ((*node).to_owned(), "it was revoked".to_owned());
        nodes.iter().map(node).collect::<Vec<_>>()
    };
    assert_eq!(AlertMessage::of_failed_scan(&[], 2), None);
    let one = AlertMessage::of_failed_scan(&failed(&["barn"]), 1).expect("one");
    assert_eq!(one.title, "A scan of node barn failed");
    assert_eq!(one.items[0].text, "it was revoked");
    let two = AlertMessage::of_failed_scan(&failed(&["barn", "shed"]), 3).expect("two");
    assert_eq!(two.title, "A scan failed on 2 of 3 nodes");
    assert_eq!(
        (two.count, two.items[1].text.as_str()),
        (2, "node shed: it was revoked")
    );
}

#[test]
fn three_hundred_new_devices_are_one_message() {
    let devices = |count: u8| {
        let device = |n: u8| {
            let ip = format!("10.0.{}.{}:80", n / 200, n % 200 + 1);
            DeviceFact::New(seen(i64::from(n), &ip, "1"))
        };
        (0..count).map(device).collect::<Vec<_>>()
    };
    let mut facts = devices(255);
    facts.extend(
        (0..45).map(|n| DeviceFact::New(seen(300 + n, &format!("10.1.0.{}:80", n + 1), ""))),
    );
    let north = sites(&["north"]);
    let message = AlertMessage::of_devices(&rule("device.new", 0), &facts, &north).expect("some");
    assert_eq!(message.title, "300 new devices at north");
    assert_eq!((message.items.len(), message.count), (ITEMS_SHOWN, 300));
    assert_eq!(message.items[0].text, "Bitmain S19 at 10.0.0.1:80");
    assert_eq!(message.items[0].device, Some(DeviceId(0)));
    let one = AlertMessage::of_devices(&rule("device.new", 0), &devices(1), &north);
    assert_eq!(one.expect("one").title, "1 new device at north");
    let none = AlertMessage::of_devices(&rule("device.moved", 0), &facts, &north);
    assert_eq!(none, None);
}

#[test]
fn a_message_has_one_line_for_each_item_of_a_hostile_device() {
    let mut hostile = seen(1, "[fd00::1]:80", "2");
    hostile.facts.model = format!("S19\r\nBcc: x@y.test\u{202e}{}", "x".repeat(300));
    let fact = DeviceFact::Firmware {
        from: "1\n".to_owned(),
        is: hostile,
    };
    let message = AlertMessage::of_devices(&rule("device.firmware", 0), &[fact], &sites(&["a\nb"]));
    let message = message.expect("one");
    let text = &message.items[0].text;
    assert!(
        text.starts_with("Bitmain S19\u{fffd}\u{fffd}Bcc: x@y.test\u{fffd}"),
        "{text}"
    );
    assert!(
        text.ends_with("at [fd00::1]:80 has firmware 2 instead of 1"),
        "{text}"
    );
    assert!(text.len() < 250, "{text}");
    assert_eq!(message.title, "1 device with other firmware at a\u{fffd}b");
}

#[test]
fn a_message_is_sent_again_until_a_day_has_passed() {
    let expires = at(24 * 3_600);
    let half = 1 << 63;
    for (answer, attempt, now, random, expected) in [
        (Answer::Accepted, 1, 0, 0, AfterAttempt::Delivered),
        (Answer::Gone, 1, 0, 0, AfterAttempt::Failed),
        (Answer::Failed, 1, 0, 0, AfterAttempt::Again(at(1))),
        (Answer::Failed, 1, 0, half, AfterAttempt::Again(at(5))),
        (Answer::Failed, 4, 100, half, AfterAttempt::Again(at(140))),
        (
            Answer::Failed,
            40,
            100,
            half,
            AfterAttempt::Again(at(3_700)),
        ),
        (
            Answer::Failed,
            20,
            86_390,
            half,
            AfterAttempt::Again(expires),
        ),
        (Answer::Failed, 20, 86_400, half, AfterAttempt::Failed),
        (Answer::Accepted, 20, 86_401, half, AfterAttempt::Delivered),
    ] {
        let found = after_attempt(answer, attempt, expires, at(now), random);
        assert_eq!(found, expected, "{answer:?} {attempt} at {now}");
    }
}

/// One scan of six hosts: which device is at a host, if any.
fn scans() -> impl Strategy<Value = Vec<Vec<Option<i64>>>> {
    let host = prop::option::weighted(0.6, 0_i64..4);
    prop::collection::vec(prop::collection::vec(host, 6), 1..12)
}

proptest! {
    #![proptest_config(fleet_core::regressions!("alerts"))]

    /// For all series of scans: a device is new once; a fact repeats in no later scan without a change in between; and
    /// the counts of an absence ascend by one from one.
    #[test]
    fn a_fact_occurs_once(scans in scans()) {
        let mut series = Series::default();
        let mut new = BTreeSet::new();
        let mut missed: BTreeMap<DeviceId, u32> = BTreeMap::new();
        for hosts in scans {
            let mut placed = BTreeSet::new();
            let mut result = Vec::new();
            let mut outcomes = Vec::new();
            let names: Vec<String> = (1..=6).map(|host| format!("10.0.0.{host}:80")).collect();
            for (name, device) in names.iter().zip(hosts) {
                match device.filter(|device| placed.insert(*device)) {
                    Some(device) => result.push(seen(device, name, "1")),
                    None => outcomes.push((name.as_str(), SILENT)),
                }
            }
            for fact in series.scan(&result, &outcomes) {
                let device = fact.seen().device;
                match fact {
                    DeviceFact::New(_) => prop_assert!(new.insert(device)),
                    DeviceFact::Missing { scans, .. } => {
                        let count = missed.entry(device).or_default();
                        *count += 1;
                        prop_assert_eq!(scans, *count);
                    }
                    DeviceFact::Moved { from, is } => prop_assert_ne!(from, is.endpoint.ip),
                    DeviceFact::Firmware { .. } => prop_assert!(false, "no firmware changed"),
                }
            }
            for one in &result {
                missed.remove(&one.device);
                prop_assert!(new.contains(&one.device));
            }
            let again = series.scan(&result, &[]);
            prop_assert_eq!(again, Vec::new());
        }
    }

    /// Every pause is between one second and two hours, and the last attempt is at the end.
    #[test]
    fn attempts_end_after_a_day(random in any::<u64>(), attempt in 1_u32..200, now in 0_u64..86_400) {
        let expires = at(86_400);
        let AfterAttempt::Again(next) = after_attempt(Answer::Failed, attempt, expires, at(now), random) else {
            panic!("it is tried again");
        };
        prop_assert!(next > at(now) && next <= expires);
        prop_assert!(next.since(at(now)) <= Duration::from_secs(7_200));
    }

    /// A message is never released in a quiet hour, and never before now.
    #[test]
    fn messages_leave_outside_of_quiet_hours(from in 0_u32..24, hours in 1_u32..23, minute in 0_u64..20_160) {
        let windows = format!("{from:02}:00-{:02}:00", (from + hours) % 24);
        let quiet = QuietHours::parse("America/New_York", &windows).expect("valid");
        let now = at(1_790_000_000 + minute * 60);
        let release = quiet.release(now);
        prop_assert!(release >= now && quiet.release(release) == release);
    }
}
