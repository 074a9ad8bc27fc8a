//! Two organizations on one server: for all calls of an administrator of one, in any order and with any ids, no
//! answer holds anything of the other.

use std::collections::BTreeSet;

use super::{
    call::Answer,
    scene::Scene,
    table::{Row, rows},
};
use crate::harness::World;

/// Calls of a run.
const CALLS: usize = 1_500;

/// Numbers that look random and are the same in every run (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_contains_data_of_another_organization() {
    let world = World::new().await;
    let mut scene = Scene::new(&world).await;
    let rows: Vec<Row> = rows()
        .into_iter()
        .filter(|row| !row.path.contains("gateway") && !row.path.contains("grpc."))
        // A browser's session is one of its own, and never ends by another's call.
        .filter(|row| !row.path.contains(':') || row.names_something())
        // A number by chance may be the caller's own key or account: what ends these would end the run.
        .filter(|row| {
            let ends = [
                "RevokeKey",
                "RotateKey",
                "SetOperatorRole",
                "RemoveOperator",
            ];
            !ends.iter().any(|name| row.path.ends_with(name))
        })
        .collect();
    for row in &rows {
        scene.prepare(row).await;
    }
    let ours = belongings(&world, &scene).await;
    assert!(ours.len() > 10, "{ours:?}");
    let (mut dice, mut answered) = (Dice(7), 0);
    // Its own trail tells the other what it has asked for.
    let mut asked_before = BTreeSet::new();
    for _ in 0..CALLS {
        let row = &rows[dice.below(rows.len())];
        let (answer, asked) = scene.ask_at_random(row, |bound| dice.below(bound)).await;
        answered += usize::from(answer.letter() == '.');
        // A refusal may repeat what was asked.
        let answer = asked
            .iter()
            .filter(|asked| asked.len() > 8)
            .fold(answer.body.clone(), |body, asked| {
                body.replace(asked, "ASKED")
            });
        asked_before.extend(asked.iter().cloned());
        let of_trail = row.path.contains("AuditService");
        let named = |mark: &String| asked.contains(mark) || of_trail && asked_before.contains(mark);
        for mark in ours.iter().filter(|mark| !named(mark)) {
            assert!(
                !answer.contains(mark.as_str()),
                "{row}: {answer} holds {mark}"
            );
        }
    }
    assert!(answered > CALLS / 10, "{answered} of {CALLS} were answered");
}

/// Texts that nothing but the first organization has.
async fn belongings(world: &World, scene: &Scene<'_>) -> BTreeSet<String> {
    let admin = scene.operator_called('a').expect("an administrator");
    let bearer = format!("Bearer {}", admin.key);
    let mut found = BTreeSet::from([admin.email.clone(), admin.key.clone()]);
    for list in [
        "fleet.v1.NodeService/ListNodes",
        "fleet.v1.ScanService/ListScans",
        "fleet.v1.DeviceService/ListDevices",
    ] {
        let answer = Answer::to(world, list, &[("authorization", &bearer)], "{}").await;
        let listed: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        collect(&listed, &mut found);
    }
    found
}

/// The identifying texts of an answer: fingerprints, ids of scans, identifiers of devices.
fn collect(value: &serde_json::Value, into: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let identifies =
                    ["identityFingerprint", "scanId", "identifier"].contains(&name.as_str());
                if let (true, Some(text)) = (identifies, value.as_str()) {
                    into.insert(text.to_owned());
                }
                collect(value, into);
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, into)),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => {}
    }
}
