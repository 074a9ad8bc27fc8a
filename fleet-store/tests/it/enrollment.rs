//! Invitations and nodes: every transition and every guard of both state machines.

use fleet_core::{
    Fingerprint, NodeId, OrgId, PendingEnrollmentId, SecretHash,
    enrollment::{InvitationState, NodeState},
};
use fleet_store::*;

use crate::site::{Site, at, secret};

contract! {
    the_fingerprint_covers_both_keys_of_a_node_that_proved_them
    a_code_leads_to_a_confirmed_node
    a_code_that_cannot_be_used_says_nothing_more
    a_taken_name_or_key_leaves_the_code_usable
    only_a_pending_code_can_be_canceled
    confirming_needs_the_ids_to_belong_together
    revoking_an_awaiting_node_needs_its_invitation
    revoking_voids_everything_of_the_node
    the_sweep_expires_codes_and_unconfirmed_nodes
    a_revoked_node_leaves_its_name_and_key
    another_tenants_ids_are_not_found
    a_node_is_renamed_to_a_free_name_only
}

async fn a_code_leads_to_a_confirmed_node(site: Site) {
    let code = site.code("code").await;
    let open = site
        .store
        .list_codes(site.org, fleet_store::ListPage::FIRST)
        .await
        .expect("read");
    assert_eq!(open.len(), 1);
    assert_eq!(
        (
            open[0].id,
            open[0].state,
            open[0].created_by.as_str(),
            open[0].node
        ),
        (code, InvitationState::Pending, "ann@acme.test", None)
    );

    let new = Site::newcomer("code", "north");
    let registered = site
        .store
        .register_node(new.clone())
        .await
        .expect("registered");
    assert_eq!((registered.org, registered.invitation), (site.org, code));
    let node = site
        .store
        .node(site.org, registered.node)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(
        (node.state, node.invitation, node.name.as_str()),
        (NodeState::Pending, Some(code), "north")
    );
    assert_eq!(node.fingerprint, Fingerprint::of(&new.identity_key));
    assert_eq!(
        (node.stream, node.hello, node.open_scans, node.last_seen_at),
        (None, None, 0, None)
    );

    site.store
        .confirm_node(
            site.org,
            registered.node,
            code,
            secret("key"),
            site.actor(),
            at(5),
        )
        .await
        .expect("confirmed");
    let node = site
        .store
        .node(site.org, registered.node)
        .await
        .expect("read")
        .expect("there");
    assert_eq!((node.state, node.invitation), (NodeState::Confirmed, None));
    assert_eq!(
        site.store
            .list_codes(site.org, fleet_store::ListPage::FIRST)
            .await
            .expect("read"),
        []
    );
    let actions: Vec<_> = site
        .audited()
        .await
        .into_iter()
        .rev()
        .map(|row| row.entry.action.into_owned())
        .collect();
    assert_eq!(
        actions[2..],
        ["code.create", "node.register", "node.confirm"]
    );
}

async fn the_fingerprint_covers_both_keys_of_a_node_that_proved_them(site: Site) {
    let new = NewNode {
        keys_proved: true,
        ..Site::newcomer("both", "both")
    };
    site.code("both").await;
    let both = Fingerprint::of_both(&new.identity_key, &new.encryption_key);
    let registered = site.store.register_node(new).await.expect("registered");
    let nodes = site
        .store
        .list_nodes(site.org, fleet_store::ListPage::FIRST)
        .await
        .expect("read");
    let node = nodes.iter().find(|node| node.id == registered.node);
    assert_eq!(node.map(|node| node.fingerprint), Some(both));
}

async fn refused_code(site: &Site, code: &str, now: u64) -> bool {
    let new = NewNode {
        now: at(now),
        ..Site::newcomer(code, "someone")
    };
    matches!(
        site.store.register_node(new).await,
        Err(RegisterError::Code)
    )
}

async fn a_code_that_cannot_be_used_says_nothing_more(site: Site) {
    assert!(refused_code(&site, "unknown", 1).await);
    site.pending("used").await;
    assert!(refused_code(&site, "used", 1).await);
    let canceled = site.code("canceled").await;
    site.store
        .cancel_code(site.org, canceled, site.actor(), at(1))
        .await
        .expect("canceled");
    assert!(refused_code(&site, "canceled", 1).await);
    site.code("old").await;
    assert!(refused_code(&site, "old", 3_600).await, "before any sweep");
    assert!(!refused_code(&site, "old", 3_599).await);
}

async fn a_taken_name_or_key_leaves_the_code_usable(site: Site) {
    site.confirmed("north").await;
    site.code("code").await;
    let same_name = NewNode {
        identity_key: [1; 32],
        ..Site::newcomer("code", "north")
    };
    let refused = site.store.register_node(same_name).await;
    assert!(matches!(refused, Err(RegisterError::NameTaken(name)) if name == "north"));
    let same_key = NewNode {
        name: "south".into(),
        ..Site::newcomer("code", "north")
    };
    assert!(matches!(
        site.store.register_node(same_key).await,
        Err(RegisterError::KeyTaken)
    ));
    site.store
        .register_node(Site::newcomer("code", "south"))
        .await
        .expect("the code is as good as new");
}

async fn only_a_pending_code_can_be_canceled(site: Site) {
    let code = site.code("code").await;
    site.store
        .cancel_code(site.org, code, site.actor(), at(1))
        .await
        .expect("canceled");
    let again = site
        .store
        .cancel_code(site.org, code, site.actor(), at(1))
        .await;
    assert!(
        matches!(again, Err(CancelCodeError::NotPending(id, InvitationState::Canceled)) if id == code)
    );
    let used = site.pending("used").await.invitation;
    let used = site
        .store
        .cancel_code(site.org, used, site.actor(), at(1))
        .await;
    assert!(matches!(
        used,
        Err(CancelCodeError::NotPending(
            _,
            InvitationState::AwaitingConfirmation
        ))
    ));
    let unknown = PendingEnrollmentId(9_999);
    let unknown = site
        .store
        .cancel_code(site.org, unknown, site.actor(), at(1))
        .await;
    assert!(matches!(unknown, Err(CancelCodeError::NotFound(_))));
}

async fn confirming_needs_the_ids_to_belong_together(site: Site) {
    let (north, south) = (site.pending("north").await, site.pending("south").await);
    let confirm = |node, invitation, now| {
        let site = site.clone();
        async move {
            site.store
                .confirm_node(
                    site.org,
                    node,
                    invitation,
                    SecretHash::of("k"),
                    site.actor(),
                    at(now),
                )
                .await
        }
    };
    assert!(matches!(
        confirm(NodeId(9_999), north.invitation, 5).await,
        Err(ConfirmError::NotFound(_))
    ));
    assert!(matches!(
        confirm(north.node, south.invitation, 5).await,
        Err(ConfirmError::Refused(_))
    ));
    assert!(matches!(
        confirm(north.node, PendingEnrollmentId(9_999), 5).await,
        Err(ConfirmError::Refused(_))
    ));
    let late = confirm(north.node, north.invitation, 3_600).await;
    assert!(matches!(late, Err(ConfirmError::Refused(why)) if why.contains("expired")));
    confirm(north.node, north.invitation, 3_599)
        .await
        .expect("confirmed");
    let again = confirm(north.node, north.invitation, 5).await;
    assert!(matches!(again, Err(ConfirmError::Refused(why)) if why.contains("confirmed already")));
}

async fn revoking_an_awaiting_node_needs_its_invitation(site: Site) {
    let (north, south) = (site.pending("north").await, site.pending("south").await);
    let revoke = |invitation| {
        let site = site.clone();
        async move {
            site.store
                .revoke_node(site.org, north.node, invitation, site.actor(), at(5))
                .await
        }
    };
    assert!(
        matches!(revoke(None).await, Err(RevokeError::PendingIdMissing(id)) if id == north.node)
    );
    assert!(matches!(
        revoke(Some(south.invitation)).await,
        Err(RevokeError::Refused(_))
    ));
    revoke(Some(north.invitation)).await.expect("revoked");
    assert!(matches!(
        revoke(Some(north.invitation)).await,
        Err(RevokeError::NotFound(_))
    ));
    let open: Vec<_> = site
        .store
        .list_codes(site.org, fleet_store::ListPage::FIRST)
        .await
        .expect("read")
        .into_iter()
        .map(|code| code.id)
        .collect();
    assert_eq!(open, [south.invitation]);
}

async fn revoking_voids_everything_of_the_node(site: Site) {
    let node = site.node("north").await;
    let identity = Site::newcomer("", "north").identity_key;
    let begin = |challenge: &'static str| {
        site.store
            .begin_handshake(secret("north's key"), identity, secret(challenge), at(60))
    };
    begin("first").await.expect("begun");
    let taken = site
        .store
        .take_challenge(secret("first"), at(5))
        .await
        .expect("read")
        .expect("there");
    site.store
        .open_session(
            node.id,
            taken.key,
            secret("token"),
            at(86_400),
            site.actor(),
            at(5),
        )
        .await
        .expect("opened");
    begin("second").await.expect("begun");

    site.store
        .revoke_node(site.org, node.id, None, site.actor(), at(6))
        .await
        .expect("revoked");

    assert!(matches!(begin("third").await, Err(BeginError::Credentials)));
    assert_eq!(
        site.store
            .take_challenge(secret("second"), at(7))
            .await
            .expect("read"),
        None
    );
    assert_eq!(
        site.store
            .node_by_session(secret("token"), at(7))
            .await
            .expect("read"),
        None
    );
    assert!(
        !site
            .store
            .has_live_session(node.id, at(7))
            .await
            .expect("read")
    );
    assert!(
        !site
            .store
            .is_current(node.id, node.epoch)
            .await
            .expect("read")
    );
    assert!(
        !site
            .store
            .heartbeat(node.id, Heartbeat::default(), at(7))
            .await
            .expect("read")
    );
    assert!(matches!(
        site.store
            .claim_stream(Site::claim(node.id, &[], at(7)))
            .await,
        Err(ClaimError::NotFound(_))
    ));
    let session = site
        .store
        .open_session(
            node.id,
            taken.key,
            secret("other"),
            at(86_400),
            site.actor(),
            at(7),
        )
        .await;
    assert!(matches!(session, Err(OpenSessionError::Refused)));
    assert_eq!(
        site.store.node(site.org, node.id).await.expect("read"),
        None
    );
    assert_eq!(
        site.store
            .list_nodes(site.org, fleet_store::ListPage::FIRST)
            .await
            .expect("read"),
        []
    );
    assert_eq!(
        site.number("SELECT count(*) FROM node").await,
        1,
        "the row stays"
    );
}

async fn the_sweep_expires_codes_and_unconfirmed_nodes(site: Site) {
    site.code("unused").await;
    let waiting = site.pending("waiting").await;
    let confirmed = site.confirmed("confirmed").await;
    assert_eq!(
        site.store
            .sweep_enrollments(at(3_599))
            .await
            .expect("swept"),
        0
    );
    assert_eq!(
        site.store
            .sweep_enrollments(at(3_600))
            .await
            .expect("swept"),
        2
    );
    assert_eq!(
        site.store
            .sweep_enrollments(at(9_000))
            .await
            .expect("swept"),
        0
    );
    assert_eq!(
        site.store
            .list_codes(site.org, fleet_store::ListPage::FIRST)
            .await
            .expect("read"),
        []
    );
    let live: Vec<_> = site
        .store
        .list_nodes(site.org, fleet_store::ListPage::FIRST)
        .await
        .expect("read")
        .into_iter()
        .map(|node| node.id)
        .collect();
    assert_eq!(live, [confirmed]);
    let confirm = site
        .store
        .confirm_node(
            site.org,
            waiting.node,
            waiting.invitation,
            secret("k"),
            site.actor(),
            at(3_601),
        )
        .await;
    assert!(matches!(confirm, Err(ConfirmError::NotFound(_))));
}

async fn a_revoked_node_leaves_its_name_and_key(site: Site) {
    let first = site.confirmed("north").await;
    site.store
        .revoke_node(site.org, first, None, site.actor(), at(5))
        .await
        .expect("revoked");
    site.code("again").await;
    let again = site
        .store
        .register_node(Site::newcomer("again", "north"))
        .await
        .expect("registered");
    assert_ne!(again.node, first);
}

async fn another_tenants_ids_are_not_found(site: Site) {
    let other = site.other_org().await;
    let waiting = site.pending("north").await;
    let confirm = site
        .store
        .confirm_node(
            other,
            waiting.node,
            waiting.invitation,
            secret("k"),
            site.actor(),
            at(5),
        )
        .await;
    assert!(matches!(confirm, Err(ConfirmError::NotFound(_))));
    let revoke = site
        .store
        .revoke_node(
            other,
            waiting.node,
            Some(waiting.invitation),
            site.actor(),
            at(5),
        )
        .await;
    assert!(matches!(revoke, Err(RevokeError::NotFound(_))));
    assert_eq!(
        site.store.node(other, waiting.node).await.expect("read"),
        None
    );
    assert_eq!(
        site.store
            .list_nodes(other, fleet_store::ListPage::FIRST)
            .await
            .expect("read"),
        []
    );
    assert_eq!(
        site.store
            .list_codes(other, fleet_store::ListPage::FIRST)
            .await
            .expect("read"),
        []
    );
    let code = site.code("mine").await;
    let cancel = site
        .store
        .cancel_code(other, code, site.actor(), at(5))
        .await;
    assert!(matches!(cancel, Err(CancelCodeError::NotFound(_))));
    // Both organizations may use the same name.
    site.confirmed_in(other, "twin").await;
    site.confirmed_in(site.org, "twin2").await;
    site.code("twin code").await;
    site.store
        .register_node(Site::newcomer("twin code", "twin"))
        .await
        .expect("unique by tenant only");
}

async fn a_node_is_renamed_to_a_free_name_only(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    let rename = async |node: &crate::site::Node, org, name: &str| {
        let (name, actor) = (name.to_owned(), site.actor());
        site.store
            .rename_node(org, node.id, name, actor, at(50))
            .await
    };
    let taken = rename(&north, site.org, "south").await;
    assert!(
        matches!(&taken, Err(RenameNodeError::NameTaken { node, .. }) if *node == south.id),
        "{taken:?}"
    );
    let foreign = rename(&north, OrgId(987_654), "east").await;
    assert!(
        matches!(foreign, Err(RenameNodeError::NotFound(_))),
        "{foreign:?}"
    );
    rename(&north, site.org, "east").await.expect("renamed");
    rename(&south, site.org, "north").await.expect("renamed");
    let nodes = site
        .store
        .list_nodes(site.org, fleet_store::ListPage::FIRST)
        .await
        .expect("read");
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["east", "north"]);
    let audit = site.store.list_audit(site.org, None, 10).await;
    let subjects: Vec<String> = audit
        .expect("read")
        .into_iter()
        .filter(|row| row.entry.action == "node.rename")
        .map(|row| row.entry.subject)
        .collect();
    assert_eq!(subjects.len(), 2);
    assert!(subjects[1].ends_with("(north) to east"), "{subjects:?}");
}
