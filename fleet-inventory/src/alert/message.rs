//! The message about facts of one scan or one node: a title, and the first items with a count. Start with
//! [`AlertMessage`].

use fleet_core::{DeviceId, Endpoint, text::visible};

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
    pub fn of_devices(rule: &AlertRule, facts: &[DeviceFact], site: &str) -> Option<Self> {
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
        Some(Self {
            title: format!("{count} {noun} at {}", printable(site)),
            items: selected
                .iter()
                .take(ITEMS_SHOWN)
                .copied()
                .map(item)
                .collect(),
            count: count as u64,
        })
    }

    /// The message about a failed scan.
    pub fn of_failed_scan(node: &str, reason: &str) -> Self {
        let title = format!("A scan of node {} failed", printable(node));
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

fn item(fact: &DeviceFact) -> AlertItem {
    let seen = fact.seen();
    let (name, endpoint) = (name(seen), seen.endpoint);
    let text = match fact {
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
