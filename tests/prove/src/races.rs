//! Ten thousand races for devices per database. The parties are a reporting node, an operator who pairs, one who
//! unpairs, one who revokes the node, the server's own pairing, and a replacement node. The responses and their times
//! must fit an order that the rules allow (`races/judge.rs`).

mod judge;
mod round;
mod site;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use judge::{Action, Holder, Moment, Race, Violation, judge};
use round::{ENDPOINTS, Nodes};
use sea_orm::Database;
use site::Site;

use crate::{database::Scratch, random::Random};

/// Minimum number of races per database.
const RACES: u32 = 10_000;
/// Minimum percentage of races in which each party is first. Otherwise the races would prove little.
const FAIR: f64 = 1.0;
/// Seed for the start times. The machine also affects which party is first.
const SEED: u64 = 0x5eed_0006;

/// The parties that can be first.
const PARTIES: [&str; 6] = [
    "report",
    "pair",
    "unpair",
    "revoke",
    "server",
    "replacement",
];
/// Name for a race in which no action took effect.
const NOBODY: &str = "nobody";

pub(crate) fn run() -> Result<Vec<String>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut figures = Vec::new();
        for scratch in Scratch::both().await? {
            figures.extend(races(&scratch).await.context(scratch.engine)?);
            scratch.remove().await?;
        }
        Ok(figures)
    })
}

async fn races(scratch: &Scratch) -> Result<Vec<String>> {
    let site = Site::new(&scratch.store).await?;
    let raw = Database::connect(&scratch.url).await?;
    let other = site.node("other", None, "10.255.0.0/24").await?.id;
    let mut random = Random::new(SEED);
    let mut first: BTreeMap<&str, u32> = BTreeMap::new();
    let (mut count, mut dials) = (0, 0);
    for number in 0..RACES.div_ceil(ENDPOINTS) {
        let (nodes, races) = round::run(&site, &raw, number, other, &mut random).await?;
        for race in &races {
            if let Some(violation) = judge(race).first() {
                bail!("{}: {race:#?} of {nodes:#?}", describe(*violation));
            }
            *first.entry(first_binder(race, &nodes)).or_default() += 1;
            dials += race.dialed.len();
            count += 1;
        }
    }
    raw.close().await?;
    let share =
        |party| f64::from(first.get(party).copied().unwrap_or(0)) * 100.0 / f64::from(count);
    let shares: Vec<String> = PARTIES
        .into_iter()
        .chain([NOBODY])
        .map(|party| format!("{party} {:.1} %", share(party)))
        .collect();
    let shares = shares.join(", ");
    for party in PARTIES {
        ensure!(
            share(party) >= FAIR,
            "{party} came first too seldom for a race: {shares}"
        );
    }
    Ok(vec![
        format!(
            "{}: {count} races, 0 devices bound twice, 0 claimed without right; {dials} dials of the server, 0 where a node ever had anything",
            scratch.engine
        ),
        format!("{}: first came {shares}", scratch.engine),
    ])
}

fn describe(violation: Violation) -> String {
    match violation {
        Violation::BoundTwice(device) => format!("device {device} is bound twice"),
        Violation::ClaimedWithoutRight(device) => {
            format!("device {device} is claimed without right")
        }
        Violation::Dialed(moment) => {
            format!("the server dialed a node's endpoint after {moment:?}")
        }
    }
}

/// Returns the party whose successful action was answered first.
fn first_binder(race: &Race, nodes: &Nodes) -> &'static str {
    let reporter = nodes.reporter.id;
    let done = race.done.iter().filter_map(|done| {
        let party = match done.action {
            Action::Reported(node) if node == reporter => "report",
            Action::Reported(_) => "replacement",
            Action::Paired(_) => "pair",
            Action::Unpaired => "unpair",
            Action::PairedByServer => "server",
            Action::DirectOutcome => return None,
        };
        Some((done.when.answered, party))
    });
    // A revocation takes effect on the devices of its node.
    let had = race.known.is_some_and(|known| {
        known.owner == Some(reporter) || known.holder == Some(Holder::Node(reporter))
    });
    let revoked = race
        .revoked
        .iter()
        .filter(|(node, _)| had && *node == reporter)
        .map(|(_, span)| (span.answered, "revoke"));
    let first = done.chain(revoked).min();
    first.map_or(NOBODY, |(_, party): (Moment, _)| party)
}
