//! Runs [`admit`] and the model on the same reports and pins, in any order and with any content. Start with
//! [`report_admission`].

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use fleet_core::{AddressPolicy, DeviceReport, Endpoint, Port, RawDeviceReport, RejectReason};

use super::model::{Answer, Model, Row, Where};
use crate::{KnownRow, RowVerdict, Scope, admit};

/// Maximum number of operations in one run.
const MOST_OPERATIONS: usize = 64;
/// Maximum number of rows in one report.
const ROWS: u8 = 24;
/// Number of different ports in rows: two more than an open scope accepts.
const PORTS: u16 = 12;
const NAMES: [&str; 2] = ["a.lan", "b.lan"];
/// The identifier of a device that belongs to another node.
const THEIRS: u8 = 3;

/// For any sequence of reports and pins, scope and admission decide as the model does. Stored rows are within the
/// scope and the policy (I7). The quota holds (I8). A repeated report changes nothing (I12).
///
/// The first four bytes determine the scope. Every further four bytes are one operation.
pub fn report_admission(data: &[u8]) {
    let (ops, _) = data.as_chunks::<4>();
    let Some((first, ops)) = ops.split_first() else {
        return;
    };
    let mut run = Run::new(*first);
    for op in ops.iter().take(MOST_OPERATIONS) {
        run.step(*op);
    }
}

struct Run {
    scope: Scope,
    policy: AddressPolicy,
    known: BTreeMap<Endpoint, KnownRow>,
    model: Model,
}

impl Run {
    fn new([kind, addresses, ports, policy]: [u8; 4]) -> Self {
        let listed: Vec<IpAddr> = (0..16_u8)
            .filter(|n| n % 8 == 0 || addresses >> (n % 8) & 1 == 1)
            .map(address)
            .filter(|ip| *ip == fleet_core::canonical(*ip))
            .collect();
        let (targets, text) = match kind % 5 {
            0 | 1 => {
                let list: crate::AddressList = listed.iter().copied().collect();
                let word = if kind % 5 == 0 { "exact" } else { "announced" };
                (Where::Listed(listed), format!("{word}|{list}"))
            }
            2 => (
                Where::Pinned(NAMES.map(|name| (name.to_owned(), None)).to_vec()),
                format!("pinned|{}=?,{}=?", NAMES[0], NAMES[1]),
            ),
            3 => (Where::Subnet(None), "subnet|?".to_owned()),
            _ => (
                Where::Unpinned(Vec::new()),
                format!("unpinned|{}=", NAMES[0]),
            ),
        };
        let given: Vec<u16> = (1..=4).filter(|n| ports >> n & 1 == 1).collect();
        let (ports, port_text) = if given.is_empty() {
            (None, "*".to_owned())
        } else {
            let texts: Vec<String> = given.iter().map(u16::to_string).collect();
            let announced = if ports & 1 == 1 { "~" } else { "" };
            (Some(given), format!("{announced}{}", texts.join(",")))
        };
        let text = format!("1|{text}|{port_text}");
        let scope: Scope = text
            .parse()
            .unwrap_or_else(|error| panic!("a scope in canonical form is refused: {error}"));
        Self {
            scope,
            policy: AddressPolicy {
                carrier_shared: policy & 1 == 1,
                loopback: policy & 2 == 2,
            },
            known: BTreeMap::new(),
            model: Model {
                targets,
                ports,
                ports_seen: Vec::new(),
                stored: Vec::new(),
            },
        }
    }

    fn step(&mut self, [what, a, b, c]: [u8; 4]) {
        if what % 4 == 0 {
            self.pin(a, b, c);
        } else {
            let mut seed = u32::from_le_bytes([what, a, b, c]);
            let rows: Vec<Row> = (0..a % ROWS).map(|_| row(&mut seed)).collect();
            let first = self.report(&rows);
            let stored = self.known.clone();
            let scope = self.scope.clone();
            if first.is_some() {
                let again = self.report(&rows);
                assert_eq!(self.known, stored, "a repeated report stored something");
                assert_eq!(self.scope, scope, "a repeated report changed the scope");
                assert_eq!(again.map(counted), first.map(counted), "answered otherwise");
            }
        }
        self.check();
    }

    /// Processes a report with the product and with the model.
    fn report(&mut self, rows: &[Row]) -> Option<Vec<Answer>> {
        let before = self.scope.clone();
        let verdicts = admit(
            &mut self.scope,
            self.policy,
            self.known.len() as u64,
            &self.known,
            rows.iter().map(parsed).collect(),
            |report| {
                if report.sent_identifier == THEIRS.to_string() {
                    Err(RejectReason::OwnedByOtherNode)
                } else {
                    Ok(())
                }
            },
        );
        let expected = self
            .model
            .report(rows, self.policy, |identifier| identifier != THEIRS);
        let Ok(verdicts) = verdicts else {
            assert_eq!(self.scope, before, "an over-long report changed the scope");
            assert_eq!(expected, None, "over quota to us, not to the model");
            return None;
        };
        let mut answers = Vec::new();
        for (row, verdict) in rows.iter().zip(&verdicts) {
            answers.push(match verdict {
                RowVerdict::Accepted { report, .. } => {
                    self.store(report, None);
                    Answer::Accepted
                }
                RowVerdict::Refused { report, reason, .. } => {
                    self.store(report, Some(*reason));
                    Answer::Refused
                }
                RowVerdict::Repeated { accepted } => Answer::Repeated(*accepted),
                RowVerdict::Rejected { example, .. } => {
                    assert!(!example.is_empty(), "no example for {row:?}");
                    Answer::Rejected
                }
            });
        }
        assert_eq!(verdicts.len(), rows.len(), "one verdict a row");
        assert_eq!(Some(&answers), expected.as_ref(), "{rows:?} in {before}");
        Some(answers)
    }

    fn store(&mut self, report: &DeviceReport, refused: Option<RejectReason>) {
        let identifier = report.sent_identifier.clone();
        let row = match refused {
            None => KnownRow::Accepted { identifier },
            Some(reason) => KnownRow::Rejected { identifier, reason },
        };
        let before = self.known.insert(report.endpoint, row);
        assert_eq!(before, None, "{} is stored twice", report.endpoint);
    }

    fn pin(&mut self, name: u8, count: u8, from: u8) {
        let name = NAMES[usize::from(name) % NAMES.len()];
        let answer: Vec<IpAddr> = (0..count % 10)
            .map(|n| address(from.wrapping_add(n) % 32))
            .collect();
        // The result is not compared here. The model compares what may be reported afterwards.
        let _ = self.scope.pin(name, Ok(&answer), self.policy);
        self.model.pin(name, &answer, self.policy);
        let awaits = matches!(&self.model.targets, Where::Pinned(names) if names.iter().any(|(_, answer)| answer.is_none()));
        assert_eq!(self.scope.awaits_pins(), awaits, "{}", self.scope);
    }

    /// Checks the invariants.
    fn check(&self) {
        let scope = &self.scope;
        assert!(self.known.len() <= self.model.quota(), "{scope}");
        assert_eq!(scope.quota(), self.model.quota() as u64, "{scope}");
        for n in 0..32 {
            for number in 1..=PORTS {
                let (ip, Some(port)) = (address(n), Port::new(number)) else {
                    continue;
                };
                let expected = if !self.model.holds_address(ip) {
                    Err(RejectReason::AddressOutOfScope)
                } else if !self.model.holds_port(number) {
                    Err(RejectReason::PortOutOfScope)
                } else {
                    Ok(())
                };
                assert_eq!(scope.check(Endpoint { ip, port }), expected, "{ip} {scope}");
            }
        }
        for (endpoint, row) in &self.known {
            assert!(
                self.policy.admit(endpoint.ip).is_ok(),
                "{endpoint} is stored"
            );
            if matches!(row, KnownRow::Accepted { .. }) {
                assert_eq!(scope.check(*endpoint), Ok(()), "{endpoint} is stored");
            }
        }
        assert_eq!(scope.to_string().parse().as_ref(), Ok(scope), "its text");
    }
}

/// Returns how many rows the answer to the node counts as accepted, and how many as rejected.
fn counted(answers: Vec<Answer>) -> (usize, usize) {
    let taken = answers
        .iter()
        .filter(|answer| matches!(answer, Answer::Accepted | Answer::Repeated(true)))
        .count();
    (taken, answers.len() - taken)
}

/// Addresses of every kind that a node may name: two subnets of a site, and addresses that it must never name.
fn address(n: u8) -> IpAddr {
    match n % 32 {
        n @ 0..12 => Ipv4Addr::new(10, 0, 0, n).into(),
        n @ 12..16 => Ipv4Addr::new(10, 0, 4, n).into(),
        n @ 16..20 => Ipv4Addr::new(10, 0, 0, n - 16).to_ipv6_mapped().into(),
        n @ 20..24 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into(),
        24 => Ipv4Addr::new(8, 8, 8, 8).into(),
        25 => Ipv4Addr::new(169, 254, 169, 254).into(),
        26 => Ipv4Addr::new(100, 100, 100, 200).into(),
        27 => Ipv4Addr::new(100, 64, 0, 1).into(),
        28 => Ipv4Addr::LOCALHOST.into(),
        29 => Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254).into(),
        30 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0x0a00, 1).into(),
        _ => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// Returns the next row of a report: a step of a linear congruential generator with Knuth's constants.
fn row(seed: &mut u32) -> Row {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    let [_, a, b, c] = seed.to_le_bytes();
    Row {
        ip: address(a),
        port: 1 + u16::from(b) % PORTS,
        identifier: c & 3,
        malformed: c >> 4 == 0,
    }
}

fn parsed(row: &Row) -> Result<DeviceReport, (RejectReason, String)> {
    let (ip, port) = (row.ip.to_string(), row.port.to_string());
    let raw = RawDeviceReport {
        identifier: &row.identifier.to_string(),
        ip: &ip,
        port: if row.malformed { "0" } else { &port },
        driver: "antminer",
        ..RawDeviceReport::default()
    };
    DeviceReport::parse(raw).map_err(|reason| (reason, ip.clone()))
}
