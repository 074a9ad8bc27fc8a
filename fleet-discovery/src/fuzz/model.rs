//! A reference model of scope and admission: lists with linear search, written for clarity and not for speed.

use std::net::{IpAddr, Ipv4Addr};

use fleet_core::{AddressPolicy, canonical};

/// The answer that a node gets for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The row is malformed, out of scope, or otherwise not stored.
    Rejected,
    /// The row is stored as a device.
    Accepted,
    /// The row is stored as refused.
    Refused,
    /// The row was stored before; true if it was accepted.
    Repeated(bool),
}

/// A row in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    pub(super) identifier: u8,
    pub(super) malformed: bool,
}

/// The addresses that a scope permits.
#[derive(Clone, Debug)]
pub(super) enum Where {
    /// These addresses.
    Listed(Vec<IpAddr>),
    /// The addresses to which names are pinned. A name without a pin has `None`; a skipped name has no addresses.
    Pinned(Vec<(String, Option<Vec<IpAddr>>)>),
    /// The aligned /22 of the first accepted device.
    Subnet(Option<Ipv4Addr>),
    /// The first eight addresses of accepted devices.
    Unpinned(Vec<IpAddr>),
}

/// A command: its scope and its stored rows.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) targets: Where,
    /// The permitted ports; `None` if the first ten reported ports count.
    pub(super) ports: Option<Vec<u16>>,
    pub(super) ports_seen: Vec<u16>,
    /// Address, port, identifier, and whether it was accepted.
    pub(super) stored: Vec<(IpAddr, u16, u8, bool)>,
}

impl Model {
    pub(super) fn holds_address(&self, ip: IpAddr) -> bool {
        let ip = canonical(ip);
        match &self.targets {
            Where::Listed(listed) => listed.contains(&ip),
            Where::Pinned(names) => names
                .iter()
                .any(|(_, answer)| answer.as_ref().is_some_and(|all| all.contains(&ip))),
            Where::Subnet(first) => match (first, ip) {
                (None, ip) => ip.is_ipv4(),
                (Some(first), IpAddr::V4(ip)) => first.to_bits() / 1_024 == ip.to_bits() / 1_024,
                (Some(_), IpAddr::V6(_)) => false,
            },
            Where::Unpinned(seen) => seen.contains(&ip) || seen.len() < 8,
        }
    }

    pub(super) fn holds_port(&self, port: u16) -> bool {
        match &self.ports {
            Some(ports) => ports.contains(&port),
            None => self.ports_seen.contains(&port) || self.ports_seen.len() < 10,
        }
    }

    pub(super) fn quota(&self) -> usize {
        let targets = match &self.targets {
            Where::Listed(listed) => listed.len(),
            Where::Pinned(names) => names
                .iter()
                .map(|(_, answer)| answer.as_ref().map_or(8, Vec::len))
                .sum(),
            Where::Subnet(_) => 1_024,
            Where::Unpinned(_) => 8,
        };
        targets * self.ports.as_ref().map_or(10, Vec::len)
    }

    /// Accepts a report as a whole, or rejects it as a whole if it exceeds the quota.
    pub(super) fn report(
        &mut self,
        rows: &[Row],
        policy: AddressPolicy,
        may_store: impl Fn(u8) -> bool,
    ) -> Option<Vec<Answer>> {
        let mut after = self.clone();
        let mut answers = Vec::new();
        for row in rows {
            answers.push(after.row(row, policy, &may_store)?);
        }
        *self = after;
        Some(answers)
    }

    fn row(
        &mut self,
        row: &Row,
        policy: AddressPolicy,
        may_store: impl Fn(u8) -> bool,
    ) -> Option<Answer> {
        let ip = canonical(row.ip);
        let outside = !self.holds_address(ip) || !self.holds_port(row.port);
        if row.malformed || outside || policy.admit(ip).is_err() {
            return Some(Answer::Rejected);
        }
        let before = self
            .stored
            .iter()
            .find(|(at, port, ..)| (*at, *port) == (ip, row.port));
        if let Some((_, _, identifier, accepted)) = before {
            return Some(if *identifier == row.identifier {
                Answer::Repeated(*accepted)
            } else {
                Answer::Rejected
            });
        }
        if self.stored.len() == self.quota() {
            return None;
        }
        let accepted = may_store(row.identifier);
        self.stored.push((ip, row.port, row.identifier, accepted));
        if !accepted {
            return Some(Answer::Refused);
        }
        match (&mut self.targets, ip) {
            (Where::Subnet(first @ None), IpAddr::V4(ip)) => *first = Some(ip),
            (Where::Unpinned(seen), ip) if !seen.contains(&ip) => seen.push(ip),
            (Where::Listed(_) | Where::Pinned(_) | Where::Subnet(_) | Where::Unpinned(_), _) => {}
        }
        if !self.ports_seen.contains(&row.port) {
            self.ports_seen.push(row.port);
        }
        Some(Answer::Accepted)
    }

    /// Processes a node's answer for a name. It counts if it is the first one and every address may be scanned.
    pub(super) fn pin(&mut self, name: &str, answer: &[IpAddr], policy: AddressPolicy) {
        let Where::Pinned(names) = &mut self.targets else {
            return;
        };
        let Some((_, answered @ None)) = names.iter_mut().find(|(known, _)| known == name) else {
            return;
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for ip in answer.iter().copied().map(canonical) {
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        let sound = addresses.len() <= 8 && addresses.iter().all(|ip| policy.admit(*ip).is_ok());
        *answered = Some(if sound { addresses } else { Vec::new() });
    }
}
