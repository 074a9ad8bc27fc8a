//! Principal may call which procedure, on whose objects, in which state: every cell of `matrix.txt`, written by hand, against
//! the live service. A procedure without a row fails the test, which names the row to add.

mod actions;
mod call;
mod scene;
mod table;
mod tenancy;

use std::collections::{BTreeMap, BTreeSet};

use call::Answer;
use fleet_core::Role;
use scene::Scene;
use table::{CALLERS, Row, rows};

use crate::{harness::World, reasons::Facts};

/// Served by the engine itself: no descriptor of ours names them.
const OF_THE_ENGINE: [&str; 5] = [
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/List",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

#[test]
fn every_procedure_has_a_row_and_every_row_a_procedure() {
    let declared: BTreeSet<&str> = fleet_wire::methods()
        .map(|method| method.path().trim_start_matches('/'))
        .chain(OF_THE_ENGINE)
        .collect();
    let rows = rows();
    let listed: BTreeSet<&str> = rows
        .iter()
        .map(|row| row.path)
        .filter(|path| !path.contains(':'))
        .collect();
    let missing: Vec<_> = declared.difference(&listed).collect();
    assert!(
        missing.is_empty(),
        "no row in fleet-server/tests/it/matrix.txt for {missing:?}: add one a state, with the code that \
         each of the callers `{}` must get (its head says what the letters mean), and JSON that goes in, such as\n{}",
        CALLERS.iter().collect::<String>(),
        "fleet.v1.YourService/Yours   running   U U U U U P . . N U .  {\"scanId\":\"$running\"}"
    );
    let unknown: Vec<_> = listed.difference(&declared).collect();
    assert!(
        unknown.is_empty(),
        "there is no such procedure: {unknown:?}"
    );
    for (at, row) in rows.iter().enumerate() {
        let twin = rows[..at]
            .iter()
            .find(|other| (other.path, other.state) == (row.path, row.state));
        assert_eq!(twin, None, "two rows for one procedure and state");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_gets_the_code_of_the_table_in_every_state() {
    let world = World::new().await;
    let mut scene = Scene::new(&world).await;
    let (mut wrong, mut reasons) = (Vec::new(), Vec::new());
    let known = crate::reasons::reasons();
    for row in rows() {
        let mut found = Vec::new();
        let mut notes = Vec::new();
        for caller in CALLERS {
            let answer = scene.ask(&row, caller, Scene::known).await;
            found.push(answer.letter());
            if answer.letter() != '.' {
                reasons.extend(unexplained(&row, caller, &answer, &known));
            }
            if expected(&row, caller) != answer.letter() {
                notes.push(format!("  {caller}: {}", answer.body));
            }
            if "xf".contains(caller) && !"UP".contains(answer.letter()) && row.names_something() {
                let unknown = scene.ask(&row, caller, Scene::unknown).await;
                let (theirs, nobodys) = (scene.shown(&answer), scene.shown(&unknown));
                if theirs != nobodys {
                    notes.push(format!(
                        "  {caller} can distinguish another organization's object from a missing one: {theirs} but {nobodys}"
                    ));
                }
            }
            if answer.letter() == '.' {
                // What was named may be used up.
                scene.forget();
            }
        }
        if !notes.is_empty() {
            wrong.push(format!("{row}\n{}\n{}", row.with(&found), notes.join("\n")));
        }
    }
    assert!(
        wrong.is_empty(),
        "expected, found and why:\n{}",
        wrong.join("\n")
    );
    assert!(
        reasons.is_empty(),
        "refusals without what docs/api.md states:\n{}",
        reasons.join("\n")
    );
}

/// States what a refusal lacks: a reason of docs/api.md with its metadata.
fn unexplained(
    row: &Row,
    caller: char,
    answer: &Answer,
    known: &BTreeMap<String, Facts>,
) -> Option<String> {
    let lacks = |text: String| Some(format!("{} {caller}: {text}: {}", row.path, answer.body));
    let Some((reason, facts)) = &answer.stated else {
        return lacks("no reason".to_owned());
    };
    let Some(documented) = known.get(reason) else {
        // The engine refuses messages that are not of its form, and knows no reasons.
        return lacks(format!("{reason} is not in the table"));
    };
    let given: BTreeSet<String> = facts.keys().cloned().collect();
    let missing: Vec<_> = documented.always.difference(&given).collect();
    let unknown: Vec<_> = given.difference(&documented.sometimes).collect();
    if missing.is_empty() && unknown.is_empty() {
        return None;
    }
    lacks(format!("{reason} lacks {missing:?} and has {unknown:?}"))
}

fn expected(row: &Row, caller: char) -> char {
    let at = CALLERS.iter().position(|known| *known == caller);
    row.cells[at.expect("a caller of the table")]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_lack_of_permission_names_the_permission_and_the_role() {
    let world = World::new().await;
    let viewer = world.operator(Role::Viewer).await;
    let bearer = format!("Bearer {}", viewer.key);
    let body = r#"{"fleetNodeId":1,"request":{"nmap":{"target":"10.0.0.1"}}}"#;
    let answer = Answer::to(
        &world,
        "fleet.v1.ScanService/PlanScan",
        &[("authorization", &bearer)],
        body,
    )
    .await;
    assert_eq!(answer.letter(), 'P');
    assert!(answer.body.contains("fleetnode:manage"), "{answer:?}");
    assert!(answer.body.contains("viewer"), "{answer:?}");
}
