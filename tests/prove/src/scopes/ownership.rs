//! Three nodes report devices that move, change their identity and are bound, while nodes are revoked. After every row,
//! the records are compared with the previous ones. Every changed record must have belonged to its reporter or to no
//! node. Start with [`run`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use fleet_core::{
    AddressPolicy, DeviceId, DeviceReport, Endpoint, NodeId, RawDeviceReport, SiteId,
};
use fleet_discovery::{KnownRow, RowVerdict, Scope, admit};
use fleet_pairing::{Binding, DeviceRecord, Inventory, Reporter};

use crate::random::Random;

/// The addresses in the command of each node: a subset of the devices' addresses.
const SCOPES: [&str; 3] = [
    "1|exact|10.0.0.0-10.0.0.3|80,4028",
    "1|exact|10.0.0.2-10.0.0.5|80,4028",
    "1|exact|10.0.0.0-10.0.0.5|80",
];

/// The state between two operations.
struct World {
    records: Vec<DeviceRecord>,
    live: [bool; 3],
}

/// Runs operations of four bytes each.
pub(super) fn run(data: &[u8]) {
    let mut world = World {
        records: Vec::new(),
        live: [true; 3],
    };
    let (ops, _) = data.as_chunks::<4>();
    for op in ops {
        world.step(*op);
    }
}

impl World {
    fn step(&mut self, [what, a, b, c]: [u8; 4]) {
        match what % 16 {
            0 => self.revoke(usize::from(a) % 3),
            1 => self.bind(a, b),
            2 => self.found_by_the_server(a),
            _ => {
                let seed = u32::from_le_bytes([what, a, b, c]);
                self.report(usize::from(a) % 3, seed.into());
            }
        }
        let identifiers: BTreeSet<_> = self.records.iter().map(|r| &r.identifier).collect();
        assert_eq!(
            identifiers.len(),
            self.records.len(),
            "one record an identifier"
        );
    }

    fn revoke(&mut self, at: usize) {
        self.live[at] = false;
        for record in &mut self.records {
            if record.owner == Some(node(at)) {
                record.owner_live = false;
            }
            if record.binding == Binding::Node(node(at)) {
                record.binding = Binding::Free;
            }
        }
        // New nodes take the places of the revoked ones.
        if self.live == [false; 3] {
            self.live = [true; 3];
        }
    }

    fn bind(&mut self, which: u8, whom: u8) {
        let live = self.live;
        let count = self.records.len().max(1);
        if let Some(record) = self.records.get_mut(usize::from(which) % count) {
            let at = usize::from(whom) % 3;
            record.binding = match whom % 5 {
                0 => Binding::Server,
                1 => Binding::Free,
                _ if live[at] => Binding::Node(node(at)),
                _ => Binding::Free,
            };
        }
    }

    /// Removes the attribution of a record, as if the server itself had found the device.
    fn found_by_the_server(&mut self, which: u8) {
        let count = self.records.len().max(1);
        if let Some(record) = self.records.get_mut(usize::from(which) % count) {
            (record.owner, record.site) = (None, None);
        }
    }

    fn report(&mut self, at: usize, seed: u64) {
        if !self.live[at] {
            return;
        }
        let mut random = Random::new(seed);
        let rows: Vec<DeviceReport> = (0..1 + random.below(6)).map(|_| row(&mut random)).collect();
        let mut known = BTreeMap::new();
        let first = self.judge(at, &rows, &mut known);
        let (records, rows_stored) = (self.records.clone(), known.len());
        let second = self.judge(at, &rows, &mut known);
        assert_eq!(first, second, "a repeated report is answered otherwise");
        assert_eq!(records, self.records, "a repeated report changed records");
        assert_eq!(rows_stored, known.len(), "a repeated report stored rows");
    }

    /// Judges a report as the server does and returns which rows were accepted.
    fn judge(
        &mut self,
        at: usize,
        rows: &[DeviceReport],
        known: &mut BTreeMap<Endpoint, KnownRow>,
    ) -> Vec<bool> {
        let reporter = node(at);
        let mut scope: Scope = SCOPES[at].parse().unwrap_or_else(|error| panic!("{error}"));
        let closed = scope.clone();
        let mut inventory = Inventory::new(self.records.clone());
        let verdicts = admit(
            &mut scope,
            AddressPolicy::default(),
            known.len() as u64,
            &*known,
            rows.iter().cloned().map(Ok).collect(),
            |report| {
                assert_eq!(
                    closed.check(report.endpoint),
                    Ok(()),
                    "asked about an unknown device"
                );
                let before = listed(&inventory);
                let of_own_site = Reporter {
                    node: reporter,
                    site: SiteId(reporter.0),
                    replaces: None,
                };
                let decided = inventory.decide(of_own_site, report);
                let by = (reporter, report.endpoint);
                changes(&before, &listed(&inventory), by, decided.is_ok());
                decided.map_err(|refused| refused.reason)
            },
        );
        let Ok(verdicts) = verdicts else {
            panic!("a report of distinct endpoints cannot pass the quota of an exact scope");
        };
        assert_eq!(scope, closed, "an exact scope never changes");
        // The store assigns ids to new records.
        self.records = listed(&inventory);
        let next = self
            .records
            .iter()
            .map(|record| record.id.0)
            .max()
            .unwrap_or(0)
            .max(0)
            + 1;
        let created = self
            .records
            .iter_mut()
            .filter(|r| Inventory::is_provisional(r.id));
        for (record, id) in created.zip(next..) {
            record.id = DeviceId(id);
        }
        // The next report is of another scan.
        for record in &mut self.records {
            record.seen_at = None;
        }
        self.records.sort_unstable_by_key(|record| record.id);
        let mut taken = Vec::new();
        for verdict in verdicts {
            let (row, accepted) = match verdict {
                RowVerdict::Accepted { report, .. } => (Some((report, None)), true),
                RowVerdict::Refused { report, reason, .. } => (Some((report, Some(reason))), false),
                RowVerdict::Repeated { accepted } => (None, accepted),
                RowVerdict::Rejected { .. } => (None, false),
            };
            taken.push(accepted);
            if let Some((report, refused)) = row {
                let identifier = report.sent_identifier;
                let row = match refused {
                    None => KnownRow::Accepted { identifier },
                    Some(reason) => KnownRow::Rejected { identifier, reason },
                };
                known.insert(report.endpoint, row);
            }
        }
        assert!(known.len() as u64 <= closed.quota(), "over quota");
        taken
    }
}

fn listed(inventory: &Inventory) -> Vec<DeviceRecord> {
    inventory.records().cloned().collect()
}

/// I7: a changed record belonged to the reporter or was free, and belongs to the reporter now. A rejected row
/// changes nothing. A binding changes only when its record is merged into another.
fn changes(
    before: &[DeviceRecord],
    after: &[DeviceRecord],
    (reporter, endpoint): (NodeId, Endpoint),
    taken: bool,
) {
    let ended = || {
        before
            .iter()
            .filter(|was| after.iter().all(|record| record.id != was.id))
    };
    for record in after {
        let Some(was) = before.iter().find(|was| was.id == record.id) else {
            assert!(taken && record.owner == Some(reporter), "{record:?}");
            continue;
        };
        if was == record {
            continue;
        }
        assert!(taken, "a refused row changed {was:?} to {record:?}");
        assert!(
            may_write(was, reporter, endpoint),
            "{reporter:?} took {was:?}"
        );
        let kept = was.binding == record.binding;
        let inherited =
            was.binding == Binding::Free && ended().any(|gone| gone.binding == record.binding);
        assert!(
            kept || inherited,
            "a report binds nobody: {was:?} {record:?}"
        );
        assert_eq!(record.owner, Some(reporter), "{record:?}");
    }
    // A record may be merged into another if the reporter may write both. Its binding moves with it.
    for was in ended() {
        assert!(
            taken && may_write(was, reporter, endpoint),
            "{was:?} is gone"
        );
        let goes_on = after.iter().any(|record| record.binding == was.binding);
        assert!(was.binding == Binding::Free || goes_on, "{was:?} was bound");
    }
}

/// The rule of SPEC 7, implemented a second time in the simplest form.
fn may_write(record: &DeviceRecord, reporter: NodeId, endpoint: Endpoint) -> bool {
    match record.binding {
        Binding::Server => false,
        Binding::Node(bound) => bound == reporter,
        Binding::Free => {
            let is_claim = record.owner.is_some() && !record.owner_live;
            record.owner == Some(reporter) || (is_claim && record.endpoint == Some(endpoint))
        }
    }
}

fn node(at: usize) -> NodeId {
    NodeId(i64::try_from(at).unwrap_or(0) + 1)
}

/// Returns a device with or without MAC and serial at one of six addresses.
fn row(random: &mut Random) -> DeviceReport {
    let pick = |random: &mut Random, some: &[&'static str]| some[random.size(some.len())];
    let ip = Ipv4Addr::new(10, 0, 0, random.below(7) as u8).to_string();
    let identifier = format!("id-{}", random.below(4));
    let raw = RawDeviceReport {
        identifier: &identifier,
        ip: &ip,
        port: pick(random, &["80", "4028", "443"]),
        driver: "antminer",
        model: pick(random, &["", "", "S19", "M50"]),
        manufacturer: pick(random, &["", "Bitmain", "MicroBT"]),
        mac: pick(
            random,
            &[
                "",
                "",
                "02:00:5e:00:00:01",
                "02:00:5e:00:00:02",
                "02:00:5e:00:00:03",
            ],
        ),
        serial: pick(random, &["", "", "SN1", "SN2"]),
        ..RawDeviceReport::default()
    };
    DeviceReport::parse(raw).unwrap_or_else(|reason| panic!("a row of ours is refused: {reason}"))
}
