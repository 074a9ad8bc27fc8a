//! The expected result of a scan, derived from the simulator's description of the site, and its comparison with
//! events, inventory and ledger. Read [`Expected`] first.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::{Endpoint, NodeId, Port, auto_identifier};
use fleet_sim::{Identity, Site, Truth};
use fleet_wire::fleet::{Device, Ledger};

use super::{History, Operator, PORTS, ScanState, found_addresses};

/// The expected result of a scan of some addresses on the ports of simulated devices.
#[derive(Debug)]
pub(crate) struct Expected {
    node: NodeId,
    asked: BTreeSet<IpAddr>,
    identified: BTreeMap<IpAddr, Identity>,
    unidentified: u64,
    /// Number of requested addresses that the plan skips.
    skipped: u64,
}

impl Expected {
    /// Derives the expectation for these addresses, scanned by this node.
    pub(crate) fn of<T: Into<IpAddr>>(
        site: &Site,
        node: i64,
        asked: impl IntoIterator<Item = T>,
    ) -> Self {
        let asked: BTreeSet<IpAddr> = asked.into_iter().map(Into::into).collect();
        let mut identified = BTreeMap::new();
        let mut unidentified = 0;
        for device in site.devices.iter().filter(|d| asked.contains(&d.address)) {
            match device.truth(&PORTS) {
                Truth::Identified(identity) => {
                    identified.insert(device.address, *identity);
                }
                Truth::Unidentified => unidentified += 1,
                Truth::Refused => {}
            }
        }
        Self {
            node: NodeId(node),
            asked,
            identified,
            unidentified,
            skipped: 0,
        }
    }

    /// Adds requested addresses that the plan skips.
    pub(crate) fn skipping(mut self, skipped: u64) -> Self {
        self.skipped = skipped;
        self
    }

    /// Returns the number of devices that must be identified.
    pub(crate) fn devices(&self) -> usize {
        self.identified.len()
    }

    /// Asserts that the scan completed, and that events, inventory and ledger contain exactly the existing devices.
    pub(crate) async fn is_history_of(&self, operator: &Operator, scan: &str) -> History {
        let history = operator.history(scan).await;
        self.is_ledger(history.ended_as(ScanState::Completed));
        self.are_events(&history);
        self.is_inventory(&operator.devices().await);
        history
    }

    fn is_ledger(&self, ledger: &Ledger) {
        adds_up(ledger);
        let identified = self.identified.len() as u64;
        let reached = self.asked.len() as u64;
        let parts = [
            ("targets", ledger.targets, reached + self.skipped),
            ("identified", ledger.identified, identified),
            ("unidentified", ledger.unidentified, self.unidentified),
            // No host is silent on loopback: the kernel refuses connections where no device listens.
            (
                "refused",
                ledger.refused,
                reached - identified - self.unidentified,
            ),
            ("skipped", ledger.skipped, self.skipped),
            ("accepted", ledger.accepted, identified),
            ("rejected", ledger.rejected, 0),
        ];
        for (name, actual, expected) in parts {
            assert_eq!(actual, expected, "{name} of {ledger:?}");
        }
    }

    fn are_events(&self, history: &History) {
        let found = found_addresses(history.events());
        let reported: BTreeMap<IpAddr, Reported> = found
            .into_iter()
            .map(|(ip, device)| {
                let row = Reported {
                    identifier: device.identifier.clone(),
                    port: device.port,
                    scheme: device.scheme.clone(),
                    driver: device.driver.clone(),
                    model: device.model.clone(),
                    manufacturer: device.manufacturer.clone(),
                    firmware: device.firmware.clone(),
                };
                (ip, row)
            })
            .collect();
        assert_eq!(reported, self.truth(), "events");
    }

    fn is_inventory(&self, devices: &[Device]) {
        let mut reported = BTreeMap::new();
        for device in devices {
            let ip: IpAddr = device.ip.parse().expect("an address");
            if !self.asked.contains(&ip) {
                continue;
            }
            assert_eq!(device.fleet_node_id, self.node.0, "{ip} was found by");
            let row = Reported {
                identifier: device.identifier.clone(),
                port: device.port,
                scheme: device.scheme.clone(),
                driver: device.driver.clone(),
                model: device.model.clone(),
                manufacturer: device.manufacturer.clone(),
                firmware: device.firmware.clone(),
            };
            let twice = reported.insert(ip, row);
            assert_eq!(twice, None, "{ip} is stored twice");
        }
        assert_eq!(reported, self.truth(), "inventory");
    }

    fn truth(&self) -> BTreeMap<IpAddr, Reported> {
        let tell =
            |(ip, identity): (&IpAddr, &Identity)| (*ip, Reported::truth(self.node, *ip, identity));
        self.identified.iter().map(tell).collect()
    }
}

/// The reported properties of one device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) identifier: String,
    pub(crate) port: u32,
    pub(crate) scheme: String,
    pub(crate) driver: String,
    pub(crate) model: String,
    pub(crate) manufacturer: String,
    pub(crate) firmware: String,
}

impl Reported {
    /// Derives the expected report of a device.
    pub(crate) fn truth(node: NodeId, ip: IpAddr, identity: &Identity) -> Self {
        let identifier = match (&identity.mac, &identity.serial) {
            (Some(mac), _) => format!("mac:{mac}"),
            (None, Some(serial)) => format!("serial:{serial}"),
            (None, None) => {
                let port = Port::new(identity.port).expect("devices listen on ports");
                let endpoint = Endpoint { ip, port };
                auto_identifier(node, endpoint, &identity.driver_name, &identity.model).to_string()
            }
        };
        Self {
            identifier,
            port: identity.port.into(),
            scheme: identity.url_scheme.clone(),
            driver: identity.driver_name.clone(),
            model: identity.model.clone(),
            manufacturer: identity.manufacturer.clone(),
            firmware: identity.firmware_version.clone(),
        }
    }
}

/// Asserts that the outcomes add up to the targets, and accepted and rejected reports to the reports.
pub(crate) fn adds_up(ledger: &Ledger) {
    let parts = ledger.identified
        + ledger.owned_elsewhere
        + ledger.unidentified
        + ledger.refused
        + ledger.silent
        + ledger.skipped
        + ledger.not_reached
        + ledger.unknown;
    assert_eq!(ledger.targets, parts, "{ledger:?}");
    assert_eq!(
        ledger.reported,
        ledger.accepted + ledger.rejected,
        "{ledger:?}"
    );
}
