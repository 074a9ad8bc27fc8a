//! Lists have pages, and lists that operators make longer have a bound.

use fleet_store::*;

use crate::site::{Site, at};

contract! {
    lists_have_pages_by_key
    open_codes_of_an_organization_are_limited
}

async fn lists_have_pages_by_key(site: Site) {
    let mut nodes = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        nodes.push(site.node(name).await.id);
    }
    let mut codes = Vec::new();
    for code in ["1", "2", "3"] {
        codes.push(site.code(code).await);
    }
    for node in &nodes[3..] {
        let revoked = site
            .store
            .revoke_node(site.org, *node, None, site.actor(), at(5));
        revoked.await.expect("revoked");
    }
    let page = |after: i64| ListPage { after, limit: 2 };
    let live = async |after| {
        let rows = site.store.list_nodes(site.org, page(after)).await;
        let rows = rows.expect("read").into_iter();
        rows.map(|row| (row.id, row.name)).collect::<Vec<_>>()
    };
    let (first, last) = (live(0).await, live(nodes[1].0).await);
    assert_eq!(
        (first, last),
        (
            vec![(nodes[0], "a".to_owned()), (nodes[1], "b".to_owned())],
            vec![(nodes[2], "c".to_owned())]
        )
    );
    assert_eq!(live(nodes[2].0).await, []);
    let revoked = async |after, limit| {
        let rows = site
            .store
            .list_revoked_nodes(site.org, ListPage { after, limit });
        let rows = rows.await.expect("read").into_iter();
        rows.map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(revoked(0, 1).await, [nodes[4]]);
    assert_eq!(revoked(nodes[4].0, 1).await, [nodes[3]]);
    assert_eq!(revoked(nodes[3].0, 1).await, []);
    let open = async |after| {
        let rows = site.store.list_codes(site.org, page(after)).await;
        let rows = rows.expect("read").into_iter();
        rows.map(|row| (row.id, row.created_by)).collect::<Vec<_>>()
    };
    let ann = || "ann@acme.test".to_owned();
    assert_eq!(open(0).await, [(codes[2], ann()), (codes[1], ann())]);
    assert_eq!(open(codes[1].0).await, [(codes[0], ann())]);
    let members = async |after| {
        let rows = site.store.list_members(site.org, page(after), at(5)).await;
        let rows = rows.expect("read").into_iter();
        rows.map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(members(0).await, [site.operator]);
    assert_eq!(members(site.operator.0).await, []);
}

async fn open_codes_of_an_organization_are_limited(site: Site) {
    let other = site.other_org().await;
    for number in 0..OPEN_CODES {
        site.code(&number.to_string()).await;
    }
    let new = || site.new_code(site.org, "more");
    let refused = site.store.create_code(new()).await;
    assert!(
        matches!(refused, Err(CreateCodeError::TooMany)),
        "{refused:?}"
    );
    site.code_of(other, "of another organization").await;
    let open = site.store.list_codes(site.org, ListPage::FIRST).await;
    let newest = open.expect("read")[0].id;
    let canceled = site
        .store
        .cancel_code(site.org, newest, site.actor(), at(1));
    canceled.await.expect("canceled");
    site.store.create_code(new()).await.expect("room for one");
}
