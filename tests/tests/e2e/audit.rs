//! The audit trail: actions are recorded within a second, and `fleetctl` and `fleetd` detect changes made directly
//! in the database.

use std::time::Duration;

use fleet_core::Role;
use sea_orm::{ConnectionTrait, Database};
use serde_json::Value;

use crate::harness::{Done, World, eventually, new_code};

on_both_databases! {
    a_changed_record_and_a_truncated_chain_are_detected
}

async fn verified(world: &World, more: &[&str]) -> Done {
    world.fleetctl(&[&["audit", "verify"], more].concat()).await
}

async fn head(world: &World) -> String {
    world
        .fleetctl(&["audit", "head"])
        .await
        .succeeded()
        .trim()
        .to_owned()
}

async fn a_changed_record_and_a_truncated_chain_are_detected(world: World) {
    new_code(&world).await;
    let done = std::time::Instant::now();
    let first = eventually("the code on the sealed trail", async || {
        let listed = world
            .fleetctl(&["audit", "list", "--action", "code.", "-o", "json"])
            .await
            .succeeded();
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        listed[0]["seq"].is_string().then(|| listed[0].clone())
    })
    .await;
    // The records are sealed within a second; a busy machine needs as long to run the command itself.
    assert!(
        done.elapsed() < Duration::from_secs(10),
        "{:?}",
        done.elapsed()
    );
    assert_eq!(first["action"], "code.create");
    assert_eq!(first["actorName"], "admin@example.test");
    assert!(first["fromAddress"].is_string(), "{first}");

    let kept = head(&world).await;
    assert_eq!(verified(&world, &[]).await.succeeded().trim(), kept);
    let viewer = world.another_operator(Role::Operator).await;
    let refused = world.fleetctl_as(&viewer, &["audit", "list"]).await;
    assert_eq!(refused.status, 77, "{refused:?}");
    assert!(refused.stderr.contains("org:admin"), "{refused:?}");
    eventually("the refusal on the sealed trail", async || {
        let newest = ["audit", "list", "--limit", "1", "-o", "ndjson"];
        let newest: Value =
            serde_json::from_str(&world.fleetctl(&newest).await.succeeded()).ok()?;
        (newest["action"] == "operator.call" && newest["seq"].is_string()).then_some(())
    })
    .await;
    let later = head(&world).await;
    assert_ne!(later, kept);
    verified(&world, &["--expect", &kept]).await.succeeded();
    for format in ["json", "ndjson", "csv"] {
        let listed = world.fleetctl(&["audit", "list", "-o", format]).await;
        assert!(listed.succeeded().contains("code.create"), "{format}");
    }
    let offline = world
        .server
        .fleetd(&["admin", "audit-verify"])
        .await
        .succeeded();
    assert!(offline.contains(&later), "{offline}");
    let heads = world
        .server
        .fleetd(&["admin", "audit-head"])
        .await
        .succeeded();
    let ours = heads
        .lines()
        .find(|line| line.ends_with(&later))
        .expect("our chain");
    let (chain, _) = ours.split_once('=').expect("CHAIN=SEQ:HASH");

    let database = Database::connect(world.server.database_url())
        .await
        .expect("connects");
    let run = async |sql: &str| {
        database.execute_unprepared(sql).await.expect("is done");
    };
    let seq = first["seq"].as_str().expect("a number");
    run("UPDATE audit SET subject = 'another code' WHERE action = 'code.create'").await;
    let broken = verified(&world, &[]).await;
    assert_eq!(broken.status, 1, "{broken:?}");
    assert!(
        broken.stderr.contains(&format!("record {seq} was changed")),
        "{broken:?}"
    );
    let offline = world.server.fleetd(&["admin", "audit-verify"]).await;
    assert_eq!(offline.status, 1, "{offline:?}");
    assert!(
        offline
            .stderr
            .contains(&format!("record {seq} was changed")),
        "{offline:?}"
    );

    let subject = first["subject"].as_str().expect("a text");
    run(&format!(
        "UPDATE audit SET subject = '{subject}' WHERE action = 'code.create'"
    ))
    .await;
    verified(&world, &["--expect", &later]).await.succeeded();
    let (last, _) = later.split_once(':').expect("SEQ:HASH");
    let before = last.parse::<u64>().expect("a number") - 1;
    run(&format!(
        "DELETE FROM audit_link WHERE chain = {chain} AND seq > {before}"
    ))
    .await;
    run(&format!("UPDATE audit_head SET seq = {before}, hash = (SELECT hash FROM audit_link WHERE chain = {chain} AND seq = {before}) WHERE chain = {chain}")).await;
    verified(&world, &[]).await.succeeded();
    let cut = verified(&world, &["--expect", &later]).await;
    assert_eq!(cut.status, 1, "{cut:?}");
    assert!(
        cut.stderr
            .contains(&format!("records {last} to {last} are missing")),
        "{cut:?}"
    );
    let wrong = verified(&world, &["--expect", "17"]).await;
    assert_eq!(wrong.status, 64, "{wrong:?}");
    database.close().await.expect("closes");
}
