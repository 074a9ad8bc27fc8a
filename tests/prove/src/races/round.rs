//! One round: thirty devices of one network in five states. All parties act on each device simultaneously.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use fleet_core::{DeviceId, NodeId, PairingStatus};
use fleet_store::{
    BindError, Bindings as _, Changed, DialRequest, Direct as _, DirectOutcome, Enrollment as _,
    NewSightings,
};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use tokio::{task::JoinSet, time::sleep};

use super::{
    judge::{Action, Done, Holder, Interval, Known, Moment, Race},
    site::{AGAIN, Device, Node, Site, now, scan_id},
};
use crate::random::Random;

/// Races per round: the addresses of a /27.
pub(super) const ENDPOINTS: u32 = 30;
/// Number of networks of this size from the first one, all within 10.0.0.0/8.
const FIRST: u32 = u32::from_be_bytes([10, 0, 0, 0]);
/// All parties start within this time. It is about the duration of a round on the slower database, so each party is
/// first in some races.
const SPREAD: Duration = Duration::from_millis(80);
/// Endpoints that the server dials per release.
const RELEASE: usize = 3;
/// Duration of a dial by the server.
const DIAL: Duration = Duration::from_micros(500);

/// The state of a device at the start of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No record exists.
    Unknown,
    /// Found by the node.
    Found,
    /// Bound to the node that found it.
    Bound,
    /// Found by a revoked node.
    Left,
    /// Found by the server.
    Servers,
}

const STATES: [State; 5] = [
    State::Unknown,
    State::Found,
    State::Bound,
    State::Left,
    State::Servers,
];

/// The nodes of a round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nodes {
    /// Reports devices, and is revoked in the meantime.
    pub(super) reporter: Node,
    /// Replaces a revoked node.
    pub(super) replacement: Node,
    /// The node to which devices are bound.
    pub(super) other: NodeId,
}

/// An endpoint, its state at the start, and the actions on it.
struct ContestedEndpoint {
    device: Device,
    race: Mutex<Race>,
}

/// A round in progress.
struct Round {
    site: Site,
    nodes: Nodes,
    began: Instant,
    endpoints: Vec<ContestedEndpoint>,
}

/// Runs a round and returns its parties and the actions at each endpoint.
pub(super) async fn run(
    site: &Site,
    raw: &DatabaseConnection,
    number: u32,
    other: NodeId,
    random: &mut Random,
) -> Result<(Nodes, Vec<Race>)> {
    let network = FIRST + number * 32;
    let text = format!("{}/27", Ipv4Addr::from(network));
    let devices: Vec<Device> = (0..ENDPOINTS)
        .map(|at| Device {
            ip: Ipv4Addr::from(network + 1 + at).into(),
            mac: (at / 5 % 2 == 0).then(|| mac(number * ENDPOINTS + at)),
        })
        .collect();
    let in_state = |wanted: &[State]| -> Vec<Device> {
        let numbered = devices.iter().zip(STATES.iter().cycle());
        numbered
            .filter(|(_, state)| wanted.contains(state))
            .map(|(device, _)| device.clone())
            .collect()
    };
    let gone = site.node(&format!("gone-{number}"), None, &text).await?;
    for device in in_state(&[State::Left]) {
        expect(site.report(gone, &device).await?)?;
    }
    site.store
        .revoke_node(site.org, gone.id, None, site.actor(), now())
        .await?;
    let mut reporter = site
        .node(&format!("reporter-{number}"), None, &text)
        .await?;
    for device in in_state(&[State::Found, State::Bound]) {
        expect(site.report(reporter, &device).await?)?;
    }
    site.scan_again(&mut reporter, &text).await?;
    serve(site, &in_state(&[State::Servers]), Instant::now()).await?;
    let known = records(raw, network).await?;
    for device in in_state(&[State::Bound]) {
        let record = known[&device.ip][0];
        let changed = site
            .store
            .bind_device(site.org, reporter.id, record.device, site.actor(), now())
            .await?;
        expect(changed == Changed::Yes)?;
    }
    // The server has also paired half of the devices that it found.
    for device in in_state(&[State::Servers])
        .iter()
        .filter(|device| device.mac.is_none())
    {
        let record = known[&device.ip][0].device;
        let changed = site
            .store
            .unbind_device(site.org, record, site.actor(), now())
            .await?;
        expect(changed == Changed::Yes)?;
    }
    let replacement = site
        .node(&format!("replacement-{number}"), Some(gone.id), &text)
        .await?;
    let nodes = Nodes {
        reporter,
        replacement,
        other,
    };
    let known = records(raw, network).await?;
    let endpoints = devices.into_iter().map(|device| {
        let known = known.get(&device.ip).map(|records| records[0]);
        let race = Race {
            known,
            revoked: vec![(gone.id, Interval::BEFORE)],
            ..Race::default()
        };
        let race = Mutex::new(race);
        ContestedEndpoint { device, race }
    });
    let round = Arc::new(Round {
        site: site.clone(),
        nodes,
        endpoints: endpoints.collect(),
        began: Instant::now(),
    });
    round.clone().everybody(random).await?;
    for node in [reporter, replacement] {
        let went_to = reported(raw, node).await?;
        for endpoint in &round.endpoints {
            let mut race = endpoint.race();
            for done in &mut race.done {
                if done.action == Action::Reported(node.id) {
                    done.device = went_to[&endpoint.device.ip];
                }
            }
        }
    }
    let left = records(raw, network).await?;
    let races = round.endpoints.iter().map(|endpoint| {
        let mut race = endpoint.race();
        race.left = left.get(&endpoint.device.ip).cloned().unwrap_or_default();
        race.clone()
    });
    Ok((nodes, races.collect()))
}

fn mac(number: u32) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("02:00:5E:{a:02X}:{b:02X}:{c:02X}")
}

fn expect(held: bool) -> Result<()> {
    if held {
        Ok(())
    } else {
        bail!("the store refused what sets a race up")
    }
}

impl ContestedEndpoint {
    fn race(&self) -> std::sync::MutexGuard<'_, Race> {
        self.race.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    fn moment(&self) -> Moment {
        self.began.elapsed()
    }

    fn since(&self, asked: Moment) -> Interval {
        Interval {
            asked,
            answered: self.moment(),
        }
    }

    fn note(&self, at: usize, action: Action, device: DeviceId, when: Interval) {
        let done = Done {
            action,
            device,
            when,
        };
        self.endpoints[at].race().done.push(done);
    }

    fn known(&self, at: usize) -> Option<DeviceId> {
        self.endpoints[at].race().known.map(|known| known.device)
    }

    /// Runs all parties at once, each after a random delay.
    async fn everybody(self: Arc<Self>, random: &mut Random) -> Result<()> {
        let mut parties: JoinSet<Result<()>> = JoinSet::new();
        let mut soon = || SPREAD.mul_f64(random.size(1_000) as f64 / 1_000.0);
        for at in 0..self.endpoints.len() {
            for node in [self.nodes.reporter, self.nodes.replacement] {
                let (round, delay) = (self.clone(), soon());
                parties.spawn(async move {
                    sleep(delay).await;
                    round.report(node, at).await
                });
            }
            let Some(device) = self.known(at) else {
                continue;
            };
            let (round, delay) = (self.clone(), soon());
            parties.spawn(async move {
                sleep(delay).await;
                round.pair(at, device).await
            });
            let (round, delay) = (self.clone(), soon());
            parties.spawn(async move {
                sleep(delay).await;
                round.unpair(at, device).await
            });
        }
        let (round, delay) = (self.clone(), soon());
        parties.spawn(async move {
            sleep(delay).await;
            round.revoke().await
        });
        let order = random.next();
        parties.spawn(async move { self.server(order).await });
        while let Some(ended) = parties.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn report(&self, node: Node, at: usize) -> Result<()> {
        let asked = self.moment();
        if self.site.report(node, &self.endpoints[at].device).await? {
            let when = self.since(asked);
            // The changed record is read at the end of the round.
            let unknown = DeviceId(0);
            self.note(at, Action::Reported(node.id), unknown, when);
        }
        Ok(())
    }

    async fn pair(&self, at: usize, device: DeviceId) -> Result<()> {
        let (site, to) = (&self.site, self.nodes.other);
        loop {
            let asked = self.moment();
            let bound = site
                .store
                .bind_device(site.org, to, device, site.actor(), now())
                .await;
            match bound {
                Ok(Changed::Yes) => {
                    let when = self.since(asked);
                    self.note(at, Action::Paired(to), device, when);
                    return Ok(());
                }
                Err(BindError::BeingDialed(_)) => sleep(AGAIN).await,
                Err(BindError::Storage(error)) => return Err(error.into()),
                Ok(Changed::No) | Err(_) => return Ok(()),
            }
        }
    }

    async fn unpair(&self, at: usize, device: DeviceId) -> Result<()> {
        let (site, asked) = (&self.site, self.moment());
        let released = site
            .store
            .unbind_device(site.org, device, site.actor(), now())
            .await?;
        if released == Changed::Yes {
            let when = self.since(asked);
            self.note(at, Action::Unpaired, device, when);
        }
        Ok(())
    }

    async fn revoke(&self) -> Result<()> {
        let (site, node) = (&self.site, self.nodes.reporter.id);
        let asked = self.moment();
        site.store
            .revoke_node(site.org, node, None, site.actor(), now())
            .await?;
        let when = self.since(asked);
        for endpoint in &self.endpoints {
            endpoint.race().revoked.push((node, when));
        }
        Ok(())
    }

    /// The server scans and pairs the endpoints that it may dial, a few at a time, in its own order.
    async fn server(&self, order: u64) -> Result<()> {
        let mut random = Random::new(order);
        let mut waiting: Vec<usize> = (0..self.endpoints.len()).collect();
        while !waiting.is_empty() {
            let few = RELEASE.min(waiting.len());
            let picked: Vec<usize> = (0..few)
                .map(|_| waiting.swap_remove(random.size(waiting.len())))
                .collect();
            let devices: Vec<Device> = picked
                .iter()
                .map(|at| self.endpoints[*at].device.clone())
                .collect();
            let served = serve(&self.site, &devices, self.began).await?;
            for (at, served) in picked.iter().flat_map(|at| {
                let ip = self.endpoints[*at].device.ip;
                served
                    .iter()
                    .filter(move |one| one.ip == ip)
                    .map(move |one| (*at, one))
            }) {
                let mut race = self.endpoints[at].race();
                race.dialed.push(served.dialed);
                race.done.extend(&served.done);
            }
            sleep(DIAL).await;
        }
        Ok(())
    }
}

/// The actions of the server at one endpoint.
struct Served {
    ip: IpAddr,
    dialed: Moment,
    /// The successful actions with their records.
    done: Vec<Done>,
}

/// Runs the server's own path for a few endpoints: lease, dial, store, bind, release.
async fn serve(site: &Site, devices: &[Device], began: Instant) -> Result<Vec<Served>> {
    let scan = scan_id();
    let request = DialRequest {
        org: site.org,
        scan,
        addresses: devices.iter().map(|device| device.ip).collect(),
        until: now().plus(Duration::from_secs(45)),
        now: now(),
    };
    let released = site.store.release_for_dialing(request).await?;
    let (mut served, mut rows) = (Vec::new(), Vec::new());
    for ip in released.allowed {
        sleep(DIAL).await;
        served.push(Served {
            ip,
            dialed: began.elapsed(),
            done: Vec::new(),
        });
        let device = devices.iter().find(|device| device.ip == ip);
        rows.push(device.context("not asked for")?.report()?);
    }
    let asked = began.elapsed();
    let sightings = NewSightings {
        org: site.org,
        scan,
        rows,
        seen: BTreeMap::new(),
        now: now(),
    };
    let sighted = site.store.record_direct(sightings).await?.outcomes;
    let since = |asked| Interval {
        asked,
        answered: began.elapsed(),
    };
    for (served, sighted) in served.iter_mut().zip(sighted) {
        let DirectOutcome::Stored(row) = sighted else {
            continue;
        };
        let device = row.id;
        let (action, when) = (Action::DirectOutcome, since(asked));
        served.done.push(Done {
            action,
            device,
            when,
        });
        let asked = began.elapsed();
        let bound = site
            .store
            .bind_to_server(site.org, device, PairingStatus::Paired, site.actor(), now())
            .await;
        match bound {
            Ok(Changed::Yes) => {
                let (action, when) = (Action::PairedByServer, since(asked));
                served.done.push(Done {
                    action,
                    device,
                    when,
                });
            }
            Err(BindError::Storage(error)) => return Err(error.into()),
            Ok(Changed::No) | Err(_) => {}
        }
    }
    site.store.give_back(site.org, scan).await?;
    Ok(served)
}

/// Returns the live records of a /27 by address, with owner and holder, read directly from the database.
async fn records(raw: &DatabaseConnection, network: u32) -> Result<BTreeMap<IpAddr, Vec<Known>>> {
    let endpoints: Vec<String> = (1..=ENDPOINTS)
        .map(|at| format!("'{}'", Ipv4Addr::from(network + at)))
        .collect();
    let sql = format!(
        "SELECT d.ip, d.id, d.node_id, b.device_id, b.node_id FROM device d LEFT JOIN binding b ON b.device_id = d.id \
         WHERE d.deleted_at IS NULL AND d.ip IN ({}) ORDER BY d.id",
        endpoints.join(", ")
    );
    let rows = raw
        .query_all_raw(Statement::from_string(raw.get_database_backend(), sql))
        .await?;
    let mut records: BTreeMap<IpAddr, Vec<Known>> = BTreeMap::new();
    for row in rows {
        let ip: String = row.try_get_by_index(0)?;
        let owner: Option<i64> = row.try_get_by_index(2)?;
        let bound: Option<i64> = row.try_get_by_index(3)?;
        let to: Option<i64> = row.try_get_by_index(4)?;
        let holder = to.map_or(Holder::Server, |node| Holder::Node(NodeId(node)));
        records.entry(ip.parse()?).or_default().push(Known {
            device: DeviceId(row.try_get_by_index(1)?),
            owner: owner.map(NodeId),
            holder: bound.map(|_| holder),
        });
    }
    Ok(records)
}

/// Returns the records that a node's accepted reports changed, by address, read directly from the database.
async fn reported(raw: &DatabaseConnection, node: Node) -> Result<BTreeMap<IpAddr, DeviceId>> {
    let sql = format!(
        "SELECT ip, device_id FROM report_row WHERE command_id = '{}' AND refusal IS NULL",
        node.command
    );
    let rows = raw
        .query_all_raw(Statement::from_string(raw.get_database_backend(), sql))
        .await?;
    let mut found = BTreeMap::new();
    for row in rows {
        let ip: String = row.try_get_by_index(0)?;
        let device: Option<i64> = row.try_get_by_index(1)?;
        let device = device.with_context(|| format!("the accepted row at {ip} has no record"))?;
        found.insert(ip.parse()?, DeviceId(device));
    }
    Ok(found)
}
