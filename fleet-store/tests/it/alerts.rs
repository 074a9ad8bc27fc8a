//! Alerts: each fact has one message, each message is sent by one server at a time, and nothing is seen by other
//! organizations.

use std::{collections::BTreeSet, time::Duration};

use fleet_core::{
    AlertChannelId, AlertDeliveryId, RawDeviceReport, ScanId, ScanState, TargetOutcome, Timestamp,
    outcome::{AckCode, Code, Conclusion},
};
use fleet_inventory::{
    AfterAttempt, AlertMessage, AlertRule, AlertRuleText, ITEMS_SHOWN, RETRIED_FOR,
};
use fleet_store::*;

use crate::{
    races::at_once,
    site::{Node, Row, Site, at, blank, mac, row},
};

contract! {
    an_ended_scan_has_one_message_although_servers_race
    changes_of_devices_are_found_once
    devices_from_before_the_rule_are_not_new
    a_failed_scan_has_one_message
    a_silent_node_has_one_message_until_it_is_back
    a_silence_that_ends_in_quiet_hours_is_not_sent
    a_message_is_leased_to_one_server
    an_organization_with_many_messages_does_not_hold_up_another
    a_failed_message_can_be_retried
    a_deleted_channel_fails_its_messages
    rules_and_channels_are_limited_and_recorded
    old_messages_are_deleted
}

const RANGE: &str = "10.0.0.0/24";

impl Site {
    pub(crate) async fn channel(&self, name: &str) -> AlertChannelId {
        let new = NewAlertChannel {
            org: self.org,
            name: name.to_owned(),
            target: AlertTarget::Webhook {
                url: "https://hooks.test/secret".to_owned(),
                key: [9; 32],
            },
            shown: "https://hooks.test".to_owned(),
            now: at(1),
        };
        let created = self.store.create_alert_channel(new, self.actor()).await;
        created.expect("a channel").id
    }

    pub(crate) async fn rule(
        &self,
        event: &str,
        threshold: u32,
        quiet: &str,
        channel: AlertChannelId,
    ) {
        let new = new_rule(event, threshold, quiet, channel);
        let saved = self
            .store
            .save_alert_rule(self.org, None, new, self.actor(), at(20));
        saved.await.expect(event);
    }

    /// Runs a whole scan of the range, in which all other hosts are silent, and returns its messages.
    async fn alerted(&self, node: Node, rows: Vec<Row>) -> Vec<String> {
        let scan = self.ended(node, rows).await;
        self.store
            .alert_on_scan(scan, at(70))
            .await
            .expect("settled");
        let of_scan = |row: &AlertDeliveryRow| row.scan == Some(scan);
        let mut titles: Vec<String> = self
            .messages()
            .await
            .into_iter()
            .filter(of_scan)
            .map(|row| row.message.title)
            .collect();
        titles.sort();
        titles
    }

    async fn ended(&self, node: Node, rows: Vec<Row>) -> ScanId {
        let issued = self.running(node, RANGE).await;
        self.reported(node, issued.command, rows).await;
        let ack = Ack {
            outcomes: Some(vec![TargetOutcome::Silent.to_byte(); 254]),
            ..Self::ack(node, issued.command, AckCode::Ok)
        };
        self.store.record_ack(ack).await.expect("acked");
        issued.scan
    }

    pub(crate) async fn messages(&self) -> Vec<AlertDeliveryRow> {
        let listed = self.store.alert_deliveries(self.org, None, None, 1_000);
        listed.await.expect("read")
    }

    async fn tested(&self, channel: AlertChannelId) -> AlertDeliveryRow {
        let message = AlertMessage::of_test("ann@acme.test");
        let tested =
            self.store
                .test_alert_channel(self.org, channel, message, self.actor(), at(100));
        tested.await.expect("a test")
    }

    async fn concluded(&self, id: AlertDeliveryId, attempt: u32, after: AfterAttempt) -> bool {
        let settled = self
            .store
            .settle_alert(id, attempt, after, "HTTP 500", at(101));
        settled.await.expect("settled")
    }

    async fn leased(&self, now: Timestamp) -> Vec<(AlertDeliveryId, u32)> {
        let leased = self.store.lease_alerts(now, 100).await.expect("leased");
        let attempt = |leased: LeasedAlert| (leased.delivery.id, leased.delivery.attempts);
        leased.into_iter().map(attempt).collect()
    }
}

fn new_rule(event: &str, threshold: u32, quiet: &str, channel: AlertChannelId) -> NewAlertRule {
    let text = AlertRuleText {
        event: event.to_owned(),
        threshold,
        zone: String::new(),
        quiet: quiet.to_owned(),
    };
    NewAlertRule {
        name: event.to_owned(),
        rule: AlertRule::parse(&text).expect(event),
        channels: vec![channel],
        enabled: true,
    }
}

fn miner(host: usize, number: usize, firmware: &str) -> Row {
    row(RawDeviceReport {
        ip: &format!("10.0.0.{host}"),
        mac: &mac(number),
        manufacturer: "Bitmain",
        firmware,
        ..blank()
    })
}

async fn an_ended_scan_has_one_message_although_servers_race(site: Site) {
    let node = site.node("north").await;
    let (hook, other) = (site.channel("hook").await, site.channel("other").await);
    let both = NewAlertRule {
        channels: vec![hook, other],
        ..new_rule("device.new", 0, "", hook)
    };
    let saved = site
        .store
        .save_alert_rule(site.org, None, both, site.actor(), at(20));
    saved.await.expect("a rule");
    let scan = site
        .ended(node, (1..=25).map(|n| miner(n, n, "1")).collect())
        .await;
    let waiting = site.store.scans_to_alert(10).await.expect("read");
    assert_eq!(waiting, [scan]);
    let mut tries = Vec::new();
    for _ in 0..8 {
        let store = site.another().await;
        tries.push(async move { store.alert_on_scan(scan, at(70)).await });
    }
    let stored: u64 = at_once(tries)
        .await
        .into_iter()
        .map(|stored| stored.expect("settled"))
        .sum();
    assert_eq!(stored, 2, "one for each channel");
    assert_eq!(site.store.scans_to_alert(10).await.expect("read"), []);
    let messages = site.messages().await;
    assert_eq!(messages.len(), 2);
    for found in &messages {
        assert_eq!(found.message.title, "25 new devices at north");
        assert_eq!(
            (found.message.count, found.message.items.len()),
            (25, ITEMS_SHOWN)
        );
        assert_eq!(
            (found.event.as_str(), found.node),
            ("device.new", Some(node.id))
        );
        assert_eq!(
            (found.due_at, found.expires_at),
            (at(70), at(70).plus(RETRIED_FOR))
        );
        let first = &found.message.items[0];
        assert_eq!(
            first.endpoint.map(|at| at.to_string()).as_deref(),
            Some("10.0.0.1:80")
        );
        assert!(
            first.device.is_some() && first.text.contains("Bitmain S19"),
            "{first:?}"
        );
    }
    let elsewhere = site.other_org().await;
    let listed = site.store.alert_deliveries(elsewhere, None, None, 10).await;
    assert_eq!(listed.expect("read"), []);
}

async fn changes_of_devices_are_found_once(site: Site) {
    let node = site.node("north").await;
    let hook = site.channel("hook").await;
    for (event, threshold) in [
        ("device.new", 0),
        ("device.moved", 0),
        ("device.firmware", 0),
        ("device.missing", 2),
        ("scan.failed", 0),
    ] {
        site.rule(event, threshold, "", hook).await;
    }
    let first = || (1..=4).map(|n| miner(n, n, "1")).collect::<Vec<_>>();
    assert_eq!(
        site.alerted(node, first()).await,
        ["4 new devices at north"]
    );
    let none: [String; 0] = [];
    assert_eq!(site.alerted(node, first()).await, none);
    // Number 2 has other firmware, number 3 moved, number 4 is off, and number 5 is new.
    let second = || {
        vec![
            miner(1, 1, "1"),
            miner(2, 2, "2"),
            miner(30, 3, "1"),
            miner(5, 5, "1"),
        ]
    };
    let found = site.alerted(node, second()).await;
    let expected = [
        "1 device with other firmware at north",
        "1 moved device at north",
        "1 new device at north",
    ];
    assert_eq!(found, expected);
    // The second scan in a row without it.
    let found = site.alerted(node, second()).await;
    assert_eq!(found, ["1 missing device at north"]);
    assert_eq!(site.alerted(node, second()).await, none);
    let missing = site.messages().await.into_iter();
    let missing: Vec<_> = missing
        .filter(|row| row.event == "device.missing")
        .collect();
    let text = &missing[0].message.items[0].text;
    let expected = format!(
        "Bitmain S19 ({}) at 10.0.0.4:80 did not answer in 2 scans in a row",
        mac(4)
    );
    assert_eq!((missing.len(), text), (1, &expected));
    // It is back, and its next absence has a message of its own.
    assert_eq!(site.alerted(node, vec![miner(4, 4, "1")]).await.len(), 0);
    site.alerted(node, second()).await;
    let found = site.alerted(node, second()).await;
    assert_eq!(found, ["1 missing device at north"]);
}

async fn devices_from_before_the_rule_are_not_new(site: Site) {
    let node = site.node("north").await;
    let scan = site.ended(node, vec![miner(1, 1, "1")]).await;
    assert_eq!(
        site.store
            .alert_on_scan(scan, at(70))
            .await
            .expect("settled"),
        0
    );
    let hook = site.channel("hook").await;
    site.rule("scan.failed", 0, "", hook).await;
    // The first rule about devices comes after the first device.
    let late = new_rule("device.new", 0, "", hook);
    let saved = site
        .store
        .save_alert_rule(site.org, None, late, site.actor(), at(31));
    saved.await.expect("a rule");
    let none: [String; 0] = [];
    assert_eq!(site.alerted(node, vec![miner(1, 1, "1")]).await, none);
}

async fn a_failed_scan_has_one_message(site: Site) {
    let node = site.node("north").await;
    let hook = site.channel("hook").await;
    site.rule("scan.failed", 0, "", hook).await;
    let scan = site.scan(node, RANGE).await;
    let conclusion = Conclusion::new(ScanState::Failed, Code::Unavailable, "the node is away");
    let ended = site.store.end_scan(scan, conclusion, at(50)).await;
    assert!(ended.expect("ended"));
    for expected in [1, 0] {
        let stored = site.store.alert_on_scan(scan, at(51)).await;
        assert_eq!(stored.expect("settled"), expected);
    }
    let messages = site.messages().await;
    assert_eq!(messages[0].message.title, "A scan of node north failed");
    assert_eq!(messages[0].message.items[0].text, "the node is away");
}

async fn a_silent_node_has_one_message_until_it_is_back(site: Site) {
    // It was seen at 3 s. A second node is not silent for longer than a rule allows.
    let mut node = site.node("north").await;
    site.confirmed("never connected").await;
    let hook = site.channel("hook").await;
    site.rule("node.silent", 10, "", hook).await;
    let look = async |now| {
        let mut tries = Vec::new();
        for _ in 0..4 {
            let store = site.another().await;
            tries.push(async move { store.alert_on_nodes(at(0), now).await });
        }
        let stored = at_once(tries).await.into_iter();
        stored.map(|stored| stored.expect("settled")).sum::<u64>()
    };
    assert_eq!(look(at(603)).await, 0);
    assert_eq!(look(at(604)).await, 1);
    assert_eq!(look(at(10_000)).await, 0, "the alert is open");
    // A message that no server has tried to send would be withdrawn with the silence.
    assert_eq!(site.leased(at(10_000)).await.len(), 1);
    site.reconnect(&mut node, &[], at(10_010)).await;
    assert_eq!(look(at(10_011)).await, 1);
    assert_eq!(look(at(10_012)).await, 0);
    let found: Vec<_> = site.messages().await.into_iter().rev().collect();
    let found: Vec<_> = found
        .iter()
        .map(|row| (row.event.as_str(), row.message.title.as_str()))
        .collect();
    let expected = [
        ("node.silent", "Node north is silent"),
        ("node.back", "Node north is back"),
    ];
    assert_eq!(found, expected);
    // It is silent again.
    assert_eq!(look(at(10_011 + 601)).await, 1);
}

async fn a_silence_that_ends_in_quiet_hours_is_not_sent(site: Site) {
    let mut node = site.node("north").await;
    let hook = site.channel("hook").await;
    // The clock of the tests starts at 08:00.
    site.rule("node.silent", 10, "07:00-09:00", hook).await;
    let stored = site.store.alert_on_nodes(at(0), at(1_000)).await;
    assert_eq!(stored.expect("settled"), 1);
    let messages = site.messages().await;
    assert_eq!(messages[0].due_at, at(3_600));
    assert_eq!(messages[0].expires_at, at(3_600).plus(RETRIED_FOR));
    assert_eq!(site.leased(at(3_599)).await, []);
    site.reconnect(&mut node, &[], at(2_000)).await;
    let stored = site.store.alert_on_nodes(at(0), at(2_001)).await;
    assert_eq!(stored.expect("settled"), 0);
    assert_eq!(site.messages().await, []);
}

async fn a_message_is_leased_to_one_server(site: Site) {
    let hook = site.channel("hook").await;
    let mut sent = BTreeSet::new();
    for _ in 0..20 {
        sent.insert(site.tested(hook).await.id);
    }
    let mut tries = Vec::new();
    for _ in 0..8 {
        let store = site.another().await;
        tries.push(async move { store.lease_alerts(at(100), 5).await });
    }
    let mut leased = Vec::new();
    for found in at_once(tries).await {
        leased.extend(found.expect("leased"));
    }
    // Those that lost a race for a row see it in their next look.
    leased.extend(site.store.lease_alerts(at(100), 100).await.expect("leased"));
    let ids: Vec<_> = leased.iter().map(|leased| leased.delivery.id).collect();
    assert_eq!(ids.len(), 20, "each once");
    assert_eq!(ids.iter().copied().collect::<BTreeSet<_>>(), sent);
    assert!(leased.iter().all(|leased| leased.delivery.attempts == 1));
    let target = AlertTarget::Webhook {
        url: "https://hooks.test/secret".to_owned(),
        key: [9; 32],
    };
    assert_eq!(leased[0].target, target);
    let printed = format!("{:?}", leased[0]);
    assert!(
        !printed.contains("secret") && !printed.contains("9, 9"),
        "{printed}"
    );
    // The first server stopped: another one takes over when the lease ends, and the first has no say any more.
    let expired = at(100).plus(ALERT_LEASE);
    assert_eq!(
        site.leased(expired.minus(Duration::from_micros(1))).await,
        []
    );
    let again = site.leased(expired).await;
    assert!(
        again.len() == 20 && again.iter().all(|(_, attempt)| *attempt == 2),
        "{again:?}"
    );
    assert!(!site.concluded(ids[0], 1, AfterAttempt::Delivered).await);
    assert!(site.concluded(ids[0], 2, AfterAttempt::Delivered).await);
    assert!(
        !site.concluded(ids[0], 2, AfterAttempt::Failed).await,
        "it ended"
    );
    assert!(
        site.concluded(ids[1], 2, AfterAttempt::Again(at(500)))
            .await
    );
    assert_eq!(site.leased(at(499)).await.len(), 18, "of the other servers");
    assert_eq!(site.leased(at(500)).await, [(ids[1], 3)]);
    let delivered = Some(AlertDeliveryState::Delivered);
    let listed = site.store.alert_deliveries(site.org, delivered, None, 10);
    let listed = listed.await.expect("read");
    assert_eq!((listed.len(), listed[0].id), (1, ids[0]));
    assert_eq!(
        (listed[0].ended_at, listed[0].answer.as_str()),
        (Some(at(101)), "HTTP 500")
    );
}

async fn an_organization_with_many_messages_does_not_hold_up_another(site: Site) {
    let (many, other) = (site.channel("hook").await, site.other_org().await);
    let new = NewAlertChannel {
        org: other,
        name: "hook".to_owned(),
        target: AlertTarget::Email {
            address: "ops@other.test".to_owned(),
        },
        shown: "ops@other.test".to_owned(),
        now: at(1),
    };
    let created = site.store.create_alert_channel(new, Actor::SYSTEM).await;
    let one = created.expect("a channel").id;
    let write = async |org, channel, at| {
        let message = AlertMessage::of_test("ann@acme.test");
        let written = site
            .store
            .test_alert_channel(org, channel, message, Actor::SYSTEM, at);
        written.await.expect("is written");
    };
    for second in 10..16 {
        write(site.org, many, at(second)).await;
    }
    write(other, one, at(20)).await;
    let lease = async |most| {
        let leased = site.store.lease_alerts(at(30), most).await;
        let leased = leased.expect("leased").into_iter();
        leased.map(|one| one.delivery.org).collect::<Vec<_>>()
    };
    assert_eq!(lease(1).await, [site.org], "the oldest");
    assert_eq!(lease(1).await, [other], "has none in progress");
    write(other, one, at(21)).await;
    write(other, one, at(22)).await;
    let mut both = lease(4).await;
    both.sort_unstable();
    let mut expected = [site.org, site.org, other, other];
    expected.sort_unstable();
    assert_eq!(both, expected);
    assert_eq!(lease(100).await, [site.org; 3]);
}

async fn a_failed_message_can_be_retried(site: Site) {
    let hook = site.channel("hook").await;
    let id = site.tested(hook).await.id;
    let retry = async |now| {
        site.store
            .retry_alert(site.org, id, site.actor(), now)
            .await
    };
    let refused = retry(at(100)).await;
    let waiting = AlertDeliveryState::Waiting;
    assert!(matches!(refused, Err(AlertError::NotFailed(_, state)) if state == waiting));
    assert_eq!(site.leased(at(100)).await, [(id, 1)]);
    assert!(site.concluded(id, 1, AfterAttempt::Failed).await);
    assert_eq!(site.leased(at(90_000)).await, []);
    let again = retry(at(90_000)).await.expect("again");
    assert_eq!((again.attempts, again.answer.as_str()), (0, "HTTP 500"));
    assert_eq!(again.expires_at, at(90_000).plus(RETRIED_FOR));
    assert_eq!(site.leased(at(90_000)).await, [(id, 1)]);
    let elsewhere = site.other_org().await;
    let refused = site
        .store
        .retry_alert(elsewhere, id, site.actor(), at(1))
        .await;
    assert!(matches!(refused, Err(AlertError::DeliveryNotFound(_))));
}

async fn a_deleted_channel_fails_its_messages(site: Site) {
    let node = site.node("north").await;
    let hook = site.channel("hook").await;
    site.rule("device.new", 0, "", hook).await;
    site.tested(hook).await;
    let delete = async |org| {
        let deleted = site
            .store
            .delete_alert_channel(org, hook, site.actor(), at(105));
        deleted.await
    };
    let elsewhere = site.other_org().await;
    assert!(matches!(
        delete(elsewhere).await,
        Err(AlertError::ChannelNotFound(_))
    ));
    delete(site.org).await.expect("deleted");
    let messages = site.messages().await;
    assert_eq!(messages[0].state, AlertDeliveryState::Failed);
    assert_eq!(messages[0].answer, "not sent: the channel was deleted");
    let retried = site
        .store
        .retry_alert(site.org, messages[0].id, site.actor(), at(106))
        .await;
    assert!(matches!(retried, Err(AlertError::ChannelNotFound(_))));
    // The rule stays without a channel.
    let rules = site.store.alert_rules(site.org).await.expect("read");
    assert_eq!(rules[0].rule.channels, []);
    assert_eq!(site.alerted(node, vec![miner(1, 1, "1")]).await.len(), 0);
}

async fn rules_and_channels_are_limited_and_recorded(site: Site) {
    let hook = site.channel("hook").await;
    site.rule("device.new", 0, "", hook).await;
    let save = async |existing, new| {
        let saved = site
            .store
            .save_alert_rule(site.org, existing, new, site.actor(), at(40));
        saved.await
    };
    let taken = save(None, new_rule("device.new", 0, "", hook)).await;
    assert!(matches!(taken, Err(AlertError::NameTaken(name)) if name == "device.new"));
    let unknown = save(None, new_rule("scan.failed", 0, "", AlertChannelId(99))).await;
    assert!(matches!(unknown, Err(AlertError::ChannelNotFound(_))));
    let rules = site.store.alert_rules(site.org).await.expect("read");
    let changed = NewAlertRule {
        enabled: false,
        ..new_rule("device.missing", 5, "22:00-06:00", hook)
    };
    let saved = save(Some(rules[0].id), changed.clone())
        .await
        .expect("saved");
    assert_eq!((saved.id, saved.created_at), (rules[0].id, at(20)));
    let rules = site.store.alert_rules(site.org).await.expect("read");
    assert_eq!(
        rules,
        [AlertRuleRow {
            rule: changed,
            ..saved
        }]
    );
    for n in 1..ALERT_RULES_OF_AN_ORG {
        let name = format!("rule {n}");
        let new = NewAlertRule {
            name,
            ..new_rule("scan.failed", 0, "", hook)
        };
        save(None, new).await.expect("saved");
    }
    let many = save(None, new_rule("scan.failed", 0, "", hook)).await;
    assert!(matches!(many, Err(AlertError::TooManyRules)));
    for n in 1..ALERT_CHANNELS_OF_AN_ORG {
        site.channel(&format!("channel {n}")).await;
    }
    let new = NewAlertChannel {
        org: site.org,
        name: "one more".to_owned(),
        target: AlertTarget::Email {
            address: "ann@acme.test".to_owned(),
        },
        shown: "ann@acme.test".to_owned(),
        now: at(1),
    };
    let many = site.store.create_alert_channel(new, site.actor()).await;
    assert!(matches!(many, Err(AlertError::TooManyChannels)));
    let delete = async || {
        let deleted = site
            .store
            .delete_alert_rule(site.org, rules[0].id, site.actor(), at(50));
        deleted.await
    };
    delete().await.expect("deleted");
    assert!(matches!(delete().await, Err(AlertError::RuleNotFound(_))));
    let records = site.audited().await;
    for (action, subject) in [
        ("alert.channel.create", "(hook): https://hooks.test"),
        ("alert.rule.create", "(device.new): device.new"),
        ("alert.rule.update", "(device.missing): device.missing"),
        ("alert.rule.delete", "(device.missing)"),
    ] {
        let found = records.iter().find(|record| {
            record.entry.action == action && record.entry.subject.ends_with(subject)
        });
        assert!(found.is_some(), "{action} {subject}");
    }
}

async fn old_messages_are_deleted(site: Site) {
    let hook = site.channel("hook").await;
    for _ in 0..3 {
        site.tested(hook).await;
    }
    let leased = site.leased(at(100)).await;
    for (id, attempt) in &leased[..2] {
        assert!(site.concluded(*id, *attempt, AfterAttempt::Delivered).await);
    }
    let delete = async |before| {
        let deleted = site.store.delete_old_alerts(before, 1).await;
        deleted.expect("deleted")
    };
    assert_eq!(delete(at(101)).await, 0);
    assert_eq!([delete(at(102)).await, delete(at(102)).await], [1, 1]);
    assert_eq!(delete(at(102)).await, 0, "the third has not ended");
    assert_eq!(site.messages().await.len(), 1);
}
