//! The message about facts of one scan or one node: a title, and the first items with a count. Start with
//! [`AlertMessage`].

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{DeviceId, Endpoint, SiteId, text::visible};

use super::{AlertEvent, AlertRule, DeviceFact};
use crate::difference::Seen;

/// The items that a message lists. The others are counted.
pub const ITEMS_SHOWN: usize = 20;
/// The longest text of a reported fact, in characters.
const LONGEST: usize = 80;

/// A message for people and programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertMessage {
    /// One line.
    pub title: String,
    /// The first items.
    pub items: Vec<AlertItem>,
    /// The number of all items.
    pub count: u64,
}

/// A line of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertItem {
    /// The device, if the line is about one.
    pub device: Option<DeviceId>,
    /// Where it is or was.
    pub endpoint: Option<Endpoint>,
    /// The line.
    pub text: String,
}

impl AlertMessage {
    /// Groups the facts that a rule selects: all devices of one scan are one message. None if it selects none.
    ///
    /// `sites` names the sites of the scan. Each line names its site if there are several.
    pub fn of_devices(
        rule: &AlertRule,
        facts: &[DeviceFact],
        sites: &BTreeMap<SiteId, String>,
    ) -> Option<Self> {
        let selected: Vec<&DeviceFact> = facts.iter().filter(|fact| rule.selects(fact)).collect();
        if selected.is_empty() {
            return None;
        }
        let count = selected.len();
        let (one, many) = match rule.event {
            AlertEvent::NewDevice => ("new device", "new devices"),
            AlertEvent::DeviceMissing => ("missing device", "missing devices"),
            AlertEvent::DeviceMoved => ("moved device", "moved devices"),
            AlertEvent::FirmwareChanged => {
                ("device with other firmware", "devices with other firmware")
            }
            AlertEvent::NodeSilent | AlertEvent::ScanFailed => return None,
        };
        let noun = if count == 1 { one } else { many };
        let at: BTreeSet<SiteId> = selected.iter().map(|fact| fact.seen().site).collect();
        let shown = selected.iter().take(ITEMS_SHOWN);
        Some(Self {
            title: format!("{count} {noun} at {}", names(&at, sites)),
            items: shown.map(|fact| item(fact, sites)).collect(),
            count: count as u64,
        })
    }

    /// The message about a scan that failed on some of its nodes: each with its name and the reason. `nodes` is the
    /// number of all nodes of the scan. None if no node failed.
    pub fn of_failed_scan(failed: &[(String, String)], nodes: usize) -> Option<Self> {
        let (first, reason) = failed.first()?;
        if nodes <= 1 {
            let title = format!("A scan of node {} failed", printable(first));
            return Some(Self::of_one(title, printable(reason)));
        }
        let item = |(node, reason): &(String, String)| AlertItem {
            device: None,
            endpoint: None,
            text: format!("node {}: {}", printable(node), printable(reason)),
        };
        Some(Self {
            title: format!("A scan failed on {} of {nodes} nodes", failed.len()),
            items: failed.iter().take(ITEMS_SHOWN).map(item).collect(),
            count: failed.len() as u64,
        })
    }

    /// The message about a failed scan of the server's own network.
    pub fn of_failed_direct_scan(reason: &str) -> Self {
        let title = "A scan of the server's own network failed".to_owned();
        Self::of_one(title, printable(reason))
    }

    /// The message about a silent node.
    pub fn of_silent_node(node: &str, minutes: u32) -> Self {
        let title = format!("Node {} is silent", printable(node));
        let unit = if minutes == 1 { "minute" } else { "minutes" };
        let text = format!(
            "The server received nothing from it for more than {minutes} {unit}. Its devices are not scanned meanwhile."
        );
        Self::of_one(title, text)
    }

    /// The message about a node that was silent.
    pub fn of_returned_node(node: &str) -> Self {
        let title = format!("Node {} is back", printable(node));
        Self::of_one(
            title,
            "The server receives its heartbeats again.".to_owned(),
        )
    }

    /// The message that an operator sends to a channel to test it.
    pub fn of_test(operator: &str) -> Self {
        let text = format!("{} sent it to test this channel.", printable(operator));
        Self::of_one("Test message".to_owned(), text)
    }

    fn of_one(title: String, text: String) -> Self {
        Self {
            title,
            items: vec![AlertItem {
                device: None,
                endpoint: None,
                text,
            }],
            count: 1,
        }
    }
}

/// The sites of a message in a few words.
fn names(at: &BTreeSet<SiteId>, sites: &BTreeMap<SiteId, String>) -> String {
    let named: Vec<String> = at.iter().map(|site| site_name(*site, sites)).collect();
    match named.as_slice() {
        [one] => one.clone(),
        [one, other] => format!("{one} and {other}"),
        several => format!("{} sites", several.len()),
    }
}

fn site_name(site: SiteId, sites: &BTreeMap<SiteId, String>) -> String {
    match sites.get(&site) {
        Some(name) => printable(name),
        None => "an unknown site".to_owned(),
    }
}

fn item(fact: &DeviceFact, sites: &BTreeMap<SiteId, String>) -> AlertItem {
    let seen = fact.seen();
    let (name, endpoint) = (name(seen), seen.endpoint);
    let mut text = match fact {
        DeviceFact::New(_) => format!("{name} at {endpoint}"),
        DeviceFact::Missing { scans: 1, .. } => {
            format!("{name} at {endpoint} did not answer in the last scan")
        }
        DeviceFact::Missing { scans, .. } => {
            format!("{name} at {endpoint} did not answer in {scans} scans in a row")
        }
        DeviceFact::Moved { from, .. } => format!("{name} moved from {from} to {endpoint}"),
        DeviceFact::Firmware { from, is } => format!(
            "{name} at {endpoint} has firmware {} instead of {}",
            printable(&is.facts.firmware),
            printable(from)
        ),
    };
    if sites.len() > 1 {
        text = format!("{}: {text}", site_name(seen.site, sites));
    }
    AlertItem {
        device: Some(seen.device),
        endpoint: Some(endpoint),
        text,
    }
}

/// The make, the model and the hardware address as far as they are known.
fn name(seen: &Seen) -> String {
    let facts = &seen.facts;
    let mac = facts.mac.map(|mac| format!("({mac})")).unwrap_or_default();
    let parts = [printable(&facts.manufacturer), printable(&facts.model), mac];
    let known: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if known.is_empty() {
        return "A device".to_owned();
    }
    known.join(" ")
}

/// A text that devices or operators chose, as a part of one line: without unsafe characters, and cut.
fn printable(text: &str) -> String {
    let cut: String = text.trim().chars().take(LONGEST).collect();
    visible(&cut).into_owned()
}
