//! Enrollment of a node: code, registration, fingerprint, confirmation, and the view of the operator.

use fleet_core::{Secret, SecretKind};

use crate::harness::{Node, World, confirm, eventually, new_code};

on_both_databases! {
    a_node_enrolls_is_confirmed_and_appears_online
    a_node_fetches_its_key_after_one_paste
    an_enrollment_code_works_once
    a_different_fingerprint_is_not_confirmed
}

async fn a_node_enrolls_is_confirmed_and_appears_online(world: World) {
    let code = new_code(&world).await;
    let mut dialogue = Node::begin(&world, "barn");
    dialogue.write_line(&code).await;
    let printed = dialogue
        .read_after("Fingerprint: ")
        .await
        .expect("a fingerprint");

    let listed = world.operator.node_named("barn").await;
    assert_eq!(listed.identity_fingerprint, printed);
    assert_eq!(listed.enrollment, "awaiting_confirmation");
    let table = world.fleetctl(&["nodes", "list"]).await.succeeded();
    assert!(table.contains(&printed), "{table}");

    let key = confirm(&world, listed.fleet_node_id, &printed).await;
    dialogue.write_line(&key).await;
    dialogue.end().await.succeeded();
    let listed = world.operator.node_named("barn").await;
    assert_eq!(listed.enrollment, "confirmed");
    assert!(!listed.connected, "it does not run yet");

    let mut node = Node::enrolled(&world, "barn", listed.fleet_node_id);
    node.start(&world.server).await;
    let running = eventually("a node that is online", async || {
        let node = world.operator.node_named("barn").await;
        (node.connected && node.online).then_some(node)
    })
    .await;
    assert!(!running.version.is_empty(), "{running:?}");
    assert!(running.last_seen_at.is_some(), "{running:?}");
    let table = world.fleetctl(&["nodes", "list"]).await.succeeded();
    assert!(table.contains("online"), "{table}");

    let ended = node.terminate().await;
    assert!(ended.success(), "{ended}");
    eventually("a node that has left", async || {
        let node = world.operator.node_named("barn").await;
        (!node.connected).then_some(())
    })
    .await;
}

async fn a_node_fetches_its_key_after_one_paste(world: World) {
    let code = new_code(&world).await;
    let mut dialogue = Node::begin_with(&world, "barn", &["--wait", "300"]);
    dialogue.write_line(&code).await;
    let printed = dialogue
        .read_after("Fingerprint: ")
        .await
        .expect("a fingerprint");
    let id = eventually("a node that waits for its key", async || {
        let node = world.operator.node_named("barn").await;
        node.fetches_key.then_some(node.fleet_node_id)
    })
    .await;
    let confirm = [
        "nodes",
        "confirm",
        &id.to_string(),
        "--fingerprint",
        &printed,
    ];
    let confirmed = world.fleetctl(&confirm).await;
    assert_eq!(confirmed.status, 0, "{confirmed:?}");
    assert_eq!(confirmed.stdout, "", "the operator sees no key");
    // Nothing was pasted, so the node ends only when it has its key.
    dialogue.end().await.succeeded();
    assert!(
        world
            .operator
            .node_named("barn")
            .await
            .key_fetched_at
            .is_some()
    );
    let nodes = world.fleetctl(&["-o", "json", "nodes", "list"]).await;
    let nodes = nodes.succeeded();
    assert!(nodes.contains("keyFetchedAt"), "{nodes}");
    let mut node = Node::enrolled(&world, "barn", id);
    node.start(&world.server).await;
    let again = world.fleetctl(&confirm).await;
    assert_ne!(again.status, 0, "a code confirms once: {again:?}");
}

async fn an_enrollment_code_works_once(world: World) {
    let never_given = Secret::new(SecretKind::EnrollmentCode, &[7; 32]);
    let used = new_code(&world).await;
    let mut first = Node::begin(&world, "first");
    first.write_line(&used).await;
    first
        .read_after("Fingerprint: ")
        .await
        .expect("a fingerprint");

    for wrong in [never_given.expose(), used.as_str()] {
        let mut dialogue = Node::begin(&world, "second");
        dialogue.write_line(wrong).await;
        assert_eq!(dialogue.read_after("Fingerprint: ").await, None);
        let refused = dialogue.end().await;
        assert_ne!(refused.status, 0, "{refused:?}");
        assert!(!refused.stderr.contains(wrong), "{refused:?}");
    }
    let names: Vec<String> = world
        .operator
        .nodes()
        .await
        .into_iter()
        .map(|node| node.name)
        .collect();
    assert_eq!(names, ["first"], "a refused node leaves nothing behind");
}

async fn a_different_fingerprint_is_not_confirmed(world: World) {
    let code = new_code(&world).await;
    let mut dialogue = Node::begin(&world, "barn");
    dialogue.write_line(&code).await;
    let printed = dialogue
        .read_after("Fingerprint: ")
        .await
        .expect("a fingerprint");
    let id = world.operator.node_named("barn").await.fleet_node_id;

    let other = printed
        .chars()
        .map(|digit| if digit == '0' { '1' } else { '0' })
        .collect::<String>();
    let arguments = ["nodes", "confirm", &id.to_string(), "--fingerprint", &other];
    let refused = world.fleetctl(&arguments).await;
    assert_eq!(refused.status, 1, "{refused:?}");
    assert_eq!(refused.stdout, "", "no key leaves the server");
    assert!(refused.stderr.contains(&printed), "{refused:?}");
    let listed = world.operator.node_named("barn").await;
    assert_eq!(listed.enrollment, "awaiting_confirmation");
}
