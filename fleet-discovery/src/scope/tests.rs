//! Tables of scopes and their texts.

use super::*;

fn endpoint(ip: &str, port: u16) -> Endpoint {
    Endpoint {
        ip: fleet_core::parse_literal(ip).expect(ip),
        port: Port::new(port).expect("a port"),
    }
}

fn scope(text: &str) -> Scope {
    text.parse().expect(text)
}

#[test]
fn only_canonical_text_is_a_scope() {
    for (text, kind, targets, quota) in [
        (
            "1|exact|10.0.0.2-10.0.0.9,fd00::1|80,4028",
            ScopeKind::Exact,
            9,
            18,
        ),
        ("1|exact|10.0.0.2|~80,443,4028", ScopeKind::Announced, 1, 3),
        ("1|exact|10.0.0.2|*", ScopeKind::Open, 1, 10),
        ("1|exact|10.0.0.2|*80", ScopeKind::Open, 1, 10),
        (
            "1|announced|10.0.0.0-10.0.0.3|80",
            ScopeKind::Announced,
            4,
            4,
        ),
        (
            "1|pinned|a.lan=?,b.lan=10.0.0.7+10.0.0.8,c.lan=!too many%2C and so on|80",
            ScopeKind::Pinned,
            4,
            10,
        ),
        ("1|subnet|?|80", ScopeKind::Open, 0, 1_024),
        ("1|subnet|10.77.0.0|*", ScopeKind::Open, 0, 10_240),
        ("1|unpinned|a.lan=|80", ScopeKind::Open, 1, 8),
        (
            "1|unpinned|a.lan=10.0.0.1+10.0.0.2|80,443",
            ScopeKind::Open,
            2,
            16,
        ),
    ] {
        let scope = scope(text);
        assert_eq!(scope.to_string(), text);
        assert_eq!(
            (scope.kind(), scope.targets(), scope.quota()),
            (kind, targets, quota),
            "{text}"
        );
    }
    for text in [
        "",
        "1",
        "1|exact|10.0.0.1",
        "2|exact|10.0.0.1|80",
        "1|exact|10.0.0.1|80|",
        "1|exact|10.0.0.1|",
        "1|exact|10.0.0.1|~",
        "1|exact|10.0.0.1|80,80",
        "1|exact|10.0.0.1|443,80",
        "1|exact|10.0.0.1|080",
        "1|exact|10.0.0.2,10.0.0.1|80",
        "1|odd|10.0.0.1|80",
        "1|subnet|10.0.1.0|80",
        "1|subnet|fd00::|80",
        "1|pinned|a.lan|80",
        "1|pinned|A.lan=?|80",
        "1|pinned|a.lan=|80",
        "1|pinned|a.lan=?,a.lan=?|80",
        "1|pinned|a.lan=10.0.0.1+10.0.0.1|80",
        "1|pinned|a.lan=!%zz|80",
        "1|pinned|a.lan=!%41|80",
        "1|pinned|a.lan=!%é|80",
        "1|unpinned|=|80",
        "1|unpinned|a.lan=::ffff:10.0.0.1|80",
        "1|exact|10.0.0.1|*1,2,3,4,5,6,7,8,9,10,11",
    ] {
        assert!(text.parse::<Scope>().is_err(), "{text}");
    }
}

#[test]
fn an_exact_scope_is_closed() {
    let scope = scope("1|exact|10.0.0.2-10.0.0.9|80,4028");
    assert_eq!(scope.check(endpoint("10.0.0.2", 80)), Ok(()));
    assert_eq!(scope.check(endpoint("::ffff:10.0.0.9", 4028)), Ok(()));
    assert_eq!(
        scope.check(endpoint("10.0.0.1", 80)),
        Err(RejectReason::AddressOutOfScope)
    );
    assert_eq!(
        scope.check(endpoint("10.0.0.10", 81)),
        Err(RejectReason::AddressOutOfScope)
    );
    assert_eq!(
        scope.check(endpoint("10.0.0.2", 81)),
        Err(RejectReason::PortOutOfScope)
    );
}

#[test]
fn an_open_subnet_closes_on_the_first_device() {
    let mut open = scope("1|subnet|?|80");
    assert_eq!(
        open.check(endpoint("fd00::1", 80)),
        Err(RejectReason::AddressOutOfScope)
    );
    assert_eq!(open.check(endpoint("10.77.2.9", 80)), Ok(()));
    open.narrow(endpoint("10.77.2.9", 80));
    assert_eq!(open.to_string(), "1|subnet|10.77.0.0|80");
    assert_eq!(open.check(endpoint("10.77.3.255", 80)), Ok(()));
    assert_eq!(
        open.check(endpoint("10.77.4.0", 80)),
        Err(RejectReason::AddressOutOfScope)
    );
}

#[test]
fn open_ports_close_after_ten() {
    let mut open = scope("1|exact|10.0.0.2|*");
    for port in (1..=10).rev() {
        assert_eq!(open.check(endpoint("10.0.0.2", port)), Ok(()));
        open.narrow(endpoint("10.0.0.2", port));
    }
    assert_eq!(
        open.check(endpoint("10.0.0.2", 11)),
        Err(RejectReason::PortOutOfScope)
    );
    assert_eq!(open.check(endpoint("10.0.0.2", 3)), Ok(()));
    assert_eq!(open.to_string(), "1|exact|10.0.0.2|*1,2,3,4,5,6,7,8,9,10");
}

#[test]
fn an_unpinned_name_takes_eight_addresses() {
    let mut open = scope("1|unpinned|a.lan=|80");
    for last in 1..=8 {
        let endpoint = endpoint(&format!("10.0.0.{last}"), 80);
        assert_eq!(open.check(endpoint), Ok(()));
        open.narrow(endpoint);
        open.narrow(endpoint);
    }
    assert_eq!(
        open.check(endpoint("10.0.0.9", 80)),
        Err(RejectReason::AddressOutOfScope)
    );
    assert_eq!(open.check(endpoint("10.0.0.8", 80)), Ok(()));
    assert_eq!(open.targets(), 8);
}

#[test]
fn a_name_is_pinned_once() {
    let policy = AddressPolicy::default();
    let ip = |text: &str| fleet_core::parse_literal(text).expect("a literal");
    let mixed = [ip("10.0.0.8"), ip("8.8.8.8")];
    let mut scope = scope("1|pinned|a.lan=?,b.lan=?,c.lan=?,d.lan=?,e.lan=?|80");
    assert_eq!(
        scope.check(endpoint("10.0.0.7", 80)),
        Err(RejectReason::AddressOutOfScope)
    );
    let two = [ip("10.0.0.7"), ip("::ffff:10.0.0.7"), ip("fd00::7")];
    assert_eq!(scope.pin("A.lan", Ok(&two), policy), Ok(Pinned::Pinned));
    assert_eq!(scope.pin("a.lan", Ok(&two), policy), Ok(Pinned::Unchanged));
    assert_eq!(
        scope
            .pin("a.lan", Ok(&two[..1]), policy)
            .map_err(|e| e.to_string()),
        Err("`a.lan` was pinned otherwise before".into())
    );
    assert!(matches!(
        scope.pin("x.lan", Ok(&two), policy),
        Err(PinError::UnknownName(_))
    ));
    assert_eq!(scope.pin("b.lan", Ok(&mixed), policy), Ok(Pinned::Skipped));
    let nine: Vec<IpAddr> = (1..=9).map(|n| ip(&format!("10.0.1.{n}"))).collect();
    assert_eq!(scope.pin("c.lan", Ok(&nine), policy), Ok(Pinned::Skipped));
    assert_eq!(scope.pin("d.lan", Ok(&[]), policy), Ok(Pinned::Skipped));
    assert_eq!(
        scope.pin("e.lan", Err("no such\u{7} host"), policy),
        Ok(Pinned::Skipped)
    );
    assert_eq!(scope.check(endpoint("10.0.0.7", 80)), Ok(()));
    assert_eq!(
        scope.check(endpoint("10.0.0.8", 80)),
        Err(RejectReason::AddressOutOfScope)
    );
    let why: Vec<_> = scope
        .names_without_address()
        .map(|(name, why)| format!("{name}: {}", why.unwrap_or("?")))
        .collect();
    assert_eq!(
        why,
        [
            "b.lan: it resolves to 8.8.8.8, a public address",
            "c.lan: it resolves to more than 8 addresses",
            "d.lan: it resolves to no address",
            "e.lan: the node left it out: no such\\u{7} host",
        ]
    );
    assert_eq!((scope.targets(), scope.quota()), (6, 2));
    assert_eq!(scope.to_string().parse(), Ok(scope));
}

#[test]
fn two_names_of_one_address_are_one_target() {
    let scope = scope("1|pinned|a.lan=10.0.0.9+10.0.0.7,b.lan=10.0.0.7+10.0.0.8|80");
    let order: Vec<_> = scope.addresses().map(|ip| ip.to_string()).collect();
    assert_eq!(order, ["10.0.0.9", "10.0.0.7", "10.0.0.8"]);
    assert_eq!(scope.targets(), 3);
}

#[test]
fn only_named_scopes_take_pins() {
    let mut scope = scope("1|exact|10.0.0.1|80");
    assert!(
        scope
            .pin("a.lan", Err(""), AddressPolicy::default())
            .is_err()
    );
}
