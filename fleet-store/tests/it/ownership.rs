//! The ownership table, on both databases under concurrency. Each case is set up in the store. Then its reporter, the
//! same report in another envelope, and a second node report the device simultaneously. For every order, the table must
//! allow the outcome.

use std::collections::BTreeMap;

use fleet_core::{NodeId, RawDeviceReport};
use fleet_store::*;
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

use crate::{
    races::at_once,
    site::{Node, Row, Site, at, blank, mac, row, secret},
};

contract! {
    every_case_under_concurrency_ends_as_the_table_allows
}

const TABLE: &str = include_str!("../../../fleet-pairing/ownership.txt");
const KINDS: [&str; 3] = ["mac", "serial", "auto"];
/// The repetitions of each case. The devices of a round are reported together.
const ROUNDS: usize = 6;
/// Rows per report. Each node sends several reports, which overlap those of the other nodes.
const ROWS: usize = 8;

/// The node ids that own and hold the device, where none is the server, and whether it is at the reported endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    is_here: bool,
    owner: Option<NodeId>,
    bound: Option<Option<NodeId>>,
}

struct Nodes {
    reporter: Node,
    second: Node,
    other: NodeId,
    revoked: NodeId,
    predecessor: NodeId,
    mate: NodeId,
    revoked_mate: NodeId,
}

/// The outcomes by owner, binding and endpoint.
struct Table(BTreeMap<Words, [&'static str; 3]>);

type Words = (&'static str, &'static str, &'static str);

impl Table {
    fn read() -> Self {
        let lines = TABLE
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let case = |line: &'static str| {
            let words: Vec<_> = line.split_whitespace().collect();
            (
                (words[0], words[1], words[2]),
                [words[3], words[4], words[5]],
            )
        };
        Self(lines.map(case).collect())
    }

    /// The outcome of a node's report in a state, and the next state.
    fn outcome(
        &self,
        nodes: &Nodes,
        node: NodeId,
        state: State,
        kind: usize,
    ) -> (&'static str, State) {
        let owner = match state.owner {
            None => "server",
            Some(owner) if owner == node => "me",
            Some(owner) if owner == nodes.predecessor && node == nodes.reporter.id => "predecessor",
            Some(owner) if owner == nodes.mate && node == nodes.reporter.id => "mate",
            Some(owner) if owner == nodes.revoked_mate && node == nodes.reporter.id => {
                "revoked-mate"
            }
            Some(owner)
                if [nodes.predecessor, nodes.revoked, nodes.revoked_mate].contains(&owner) =>
            {
                "revoked"
            }
            Some(_) => "other",
        };
        let bound = match state.bound {
            None => "nobody",
            Some(None) => "server",
            Some(Some(to)) if to == node => "me",
            Some(to) if to == state.owner => "owner",
            Some(Some(_)) => "third",
        };
        let at = if state.is_here { "here" } else { "away" };
        // A record at another endpoint is `away` only where the table has a row for it.
        let outcome = self.0[&(owner, bound, at)][kind];
        let after = match outcome {
            "kept" => State {
                is_here: true,
                ..state
            },
            "updated" | "succeeded" => State {
                owner: Some(node),
                is_here: true,
                ..state
            },
            _ => state,
        };
        (outcome, after)
    }
}

/// One device of one round.
struct Case {
    words: Words,
    kind: usize,
    state: State,
    number: usize,
    /// The record that existed before.
    device: i64,
}

impl Case {
    fn ip(&self) -> String {
        format!("10.0.{}.{}", self.number / 250, self.number % 250 + 1)
    }

    fn row(&self) -> Row {
        self.row_at(false)
    }

    /// The row at the reported address, or at another one.
    fn row_at(&self, away: bool) -> Row {
        let ip = if away {
            format!("10.9.{}.{}", self.number / 250, self.number % 250 + 1)
        } else {
            self.ip()
        };
        let mac = mac(self.number);
        let serial = format!("S-{}", self.number);
        row(RawDeviceReport {
            ip: &ip,
            mac: if self.kind == 0 { &mac } else { "" },
            serial: if self.kind == 1 { &serial } else { "" },
            ..blank()
        })
    }
}

async fn every_case_under_concurrency_ends_as_the_table_allows(site: Site) {
    let table = Table::read();
    let nodes = nodes(&site).await;
    let raw = site.raw().await;
    for round in 0..ROUNDS {
        let cases = set_up(&site, &raw, &nodes, &table).await;
        let mut deliveries = Vec::new();
        let mut commands = Vec::new();
        for node in [nodes.reporter, nodes.second] {
            let command = site.running(node, "10.0.0.0/22").await.command;
            commands.push(command);
            let mut parts: Vec<Vec<Row>> = cases
                .chunks(ROWS)
                .map(|part| part.iter().map(Case::row).collect())
                .collect();
            if round % 2 == 1 {
                parts.reverse();
            }
            for part in parts {
                // Send the report twice in different envelopes. Both must get the same answer in either order.
                for _ in 0..2 {
                    let report = site.report(node, command, part.clone());
                    let store = site.store.clone();
                    deliveries.push(async move { store.record_report(report).await });
                }
            }
        }
        for answer in at_once(deliveries).await {
            answer.expect("answered");
        }
        for case in &cases {
            let mut allowed = Vec::new();
            let both = [nodes.reporter.id, nodes.second.id];
            for order in [[0, 1], [1, 0]] {
                let mut outcomes = ["", ""];
                let mut state = case.state;
                for at in order {
                    (outcomes[at], state) = table.outcome(&nodes, both[at], state, case.kind);
                }
                allowed.push((outcomes, state.owner));
            }
            let mut happened = ["", ""];
            for (at, command) in commands.iter().enumerate() {
                happened[at] = settle_report(&raw, command, case).await;
            }
            // The record's name shows whether it was inherited or updated.
            let owner = owner_of(&raw, case.device).await;
            let plain = |outcomes: [&'static str; 2]| {
                outcomes.map(|outcome| match outcome {
                    "succeeded" | "kept" => "updated",
                    other => other,
                })
            };
            let fits = allowed
                .iter()
                .any(|(outcomes, left)| plain(*outcomes) == happened && *left == owner);
            assert!(
                fits,
                "round {round}, {:?} {}: {happened:?} and then of {owner:?}, allowed are {allowed:?}",
                case.words, KINDS[case.kind]
            );
        }
        for (node, command) in [nodes.reporter, nodes.second].into_iter().zip(commands) {
            site.acked(node, command, fleet_core::outcome::AckCode::Ok)
                .await;
        }
        clear(&raw).await;
    }
    assert_eq!(
        site.number("SELECT count(*) FROM (SELECT identifier FROM device WHERE deleted_at IS NULL GROUP BY org_id, identifier HAVING count(*) > 1) AS twice")
            .await,
        0
    );
}

async fn nodes(site: &Site) -> Nodes {
    let (other, revoked, predecessor, mate, revoked_mate) = (
        site.confirmed("other").await,
        site.confirmed("revoked").await,
        site.confirmed("predecessor").await,
        site.confirmed("mate").await,
        site.confirmed("revoked-mate").await,
    );
    site.shares_site(revoked_mate, mate).await;
    for node in [revoked, predecessor, revoked_mate] {
        site.store
            .revoke_node(site.org, node, None, site.actor(), at(5))
            .await
            .expect("revoked");
    }
    let replacement = site.replacement("reporter", predecessor).await;
    site.shares_site(replacement.id, mate).await;
    Nodes {
        reporter: replacement,
        second: site.node("second").await,
        other,
        revoked,
        predecessor,
        mate,
        revoked_mate,
    }
}

/// Stores the initial record of every case.
async fn set_up(site: &Site, raw: &DatabaseConnection, nodes: &Nodes, table: &Table) -> Vec<Case> {
    let me = nodes.reporter.id;
    let mut cases = Vec::new();
    for ((owner, bound, place), kind) in table
        .0
        .keys()
        .flat_map(|words| (0..3).map(move |kind| (*words, kind)))
    {
        let owner_id = match owner {
            "me" => Some(me),
            "other" => Some(nodes.other),
            "revoked" => Some(nodes.revoked),
            "predecessor" => Some(nodes.predecessor),
            "mate" => Some(nodes.mate),
            "revoked-mate" => Some(nodes.revoked_mate),
            _ => None,
        };
        let bound_to = match bound {
            "me" => Some(Some(me)),
            "owner" => Some(owner_id),
            "third" => Some(Some(nodes.second.id)),
            "server" => Some(None),
            _ => None,
        };
        let mut case = Case {
            words: (owner, bound, place),
            kind,
            state: State {
                is_here: place == "here",
                owner: owner_id,
                bound: bound_to,
            },
            number: cases.len(),
            device: 0,
        };
        let away = !case.state.is_here;
        let known = case.row_at(away).expect("well-formed");
        let identifier = known.identifier(owner_id.unwrap_or(NodeId(0)));
        let null = |id: Option<NodeId>| id.map_or("NULL".to_owned(), |id| id.to_string());
        let sql = format!(
            "INSERT INTO device (org_id, identifier, node_id, ip, port, scheme, driver, model, manufacturer, firmware, serial, evidence, first_seen, last_seen) \
             VALUES ({}, '{identifier}', {}, '{}', 80, '', 'antminer', 'S19', '', '', '', '', 1, 1) RETURNING id",
            site.org,
            null(owner_id),
            known.endpoint.ip
        );
        case.device = number(raw, &sql).await.expect("inserted");
        if let Some(bound_to) = bound_to {
            let sql = format!(
                "INSERT INTO binding (device_id, org_id, node_id, created_at) VALUES ({}, {}, {}, 1)",
                case.device,
                site.org,
                null(bound_to)
            );
            raw.execute_unprepared(&sql).await.expect("bound");
        }
        cases.push(case);
    }
    cases
}

/// The answer for a node's row: whether it was rejected, otherwise the record's id.
async fn settle_report(
    raw: &DatabaseConnection,
    command: &fleet_core::CommandId,
    case: &Case,
) -> &'static str {
    let sql = format!(
        "SELECT refusal, device_id FROM report_row WHERE command_id = '{command}' AND ip = '{}'",
        case.ip()
    );
    let rows = raw
        .query_all_raw(Statement::from_string(raw.get_database_backend(), sql))
        .await
        .expect("read");
    assert_eq!(rows.len(), 1, "one row, however often it came");
    let refusal: Option<String> = rows[0].try_get_by_index(0).expect("a refusal");
    let device: Option<i64> = rows[0].try_get_by_index(1).expect("a device");
    match refusal.as_deref() {
        None if device == Some(case.device) => "updated",
        None => "created",
        Some("owned by another node") => "owned",
        Some("bound to another node") => "bound",
        Some("paired by the server") => "paired",
        Some("owned by a revoked node") => "revoked",
        Some("found by the server itself") => "unattributed",
        Some(reason) => panic!("{reason}"),
    }
}

async fn owner_of(raw: &DatabaseConnection, device: i64) -> Option<NodeId> {
    let sql = format!("SELECT node_id FROM device WHERE id = {device} AND deleted_at IS NULL");
    number(raw, &sql).await.map(NodeId)
}

async fn number(raw: &DatabaseConnection, sql: &str) -> Option<i64> {
    let statement = Statement::from_string(raw.get_database_backend(), sql.to_owned());
    let row = raw
        .query_one_raw(statement)
        .await
        .expect(sql)
        .expect("a row");
    row.try_get_by_index(0).expect("a number")
}

/// Clears all records between rounds, so the endpoints can be reused.
async fn clear(raw: &DatabaseConnection) {
    for table in [
        "device_event",
        "device_sighting",
        "refused_device",
        "identity_change",
        "device_alias",
        "binding",
        "report_row",
    ] {
        raw.execute_unprepared(&format!("DELETE FROM {table}"))
            .await
            .expect(table);
    }
    raw.execute_unprepared("DELETE FROM device")
        .await
        .expect("device");
}

impl Site {
    /// A confirmed node with a claimed stream that replaces a revoked node.
    pub(crate) async fn replacement(&self, name: &str, replaces: NodeId) -> Node {
        let code = NewCode {
            replaces: Some(replaces),
            ..self.new_code(self.org, name)
        };
        self.store.create_code(code).await.expect("a code");
        let new = self
            .store
            .register_node(Self::newcomer(name, name))
            .await
            .expect("registered");
        let key = secret(&format!("{name}'s key"));
        self.store
            .confirm_node(self.org, new.node, new.invitation, key, self.actor(), at(2))
            .await
            .expect("confirmed");
        let claimed = self
            .store
            .claim_stream(Self::claim(new.node, &[], at(3)))
            .await
            .expect("claimed");
        Node {
            id: new.node,
            epoch: claimed.epoch,
        }
    }
}
