//! Admission of every report that a node can make.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{AddressPolicy, DeviceReport, Endpoint, RawDeviceReport, RejectReason};
use fleet_discovery::{KnownRow, RowVerdict, Scope, admit};
use proptest::prelude::*;

fn row() -> impl Strategy<Value = DeviceReport> {
    let ip = prop_oneof![
        4 => (0_u8..3, 0_u8..6).prop_map(|(c, d)| format!("10.0.{c}.{d}")),
        1 => (0_u8..3).prop_map(|c| format!("10.9.{c}.1")),
        1 => Just("8.8.8.8".to_owned()),
        1 => Just("fd00::1".to_owned()),
    ];
    (ip, 1_u16..14, 0_u8..3).prop_map(|(ip, port, name)| {
        DeviceReport::parse(RawDeviceReport {
            identifier: &format!("id-{name}"),
            ip: &ip,
            port: &port.to_string(),
            driver: "antminer",
            ..RawDeviceReport::default()
        })
        .expect("well-formed")
    })
}

fn scope() -> impl Strategy<Value = Scope> {
    prop::sample::select(vec![
        "1|exact|10.0.0.0-10.0.0.3|1,2,3",
        "1|announced|10.0.1.0-10.0.1.5|~1,2,3",
        "1|exact|10.0.0.0-10.0.2.255|*",
        "1|subnet|?|1,2,3,4,5,6",
        "1|subnet|?|*",
        "1|unpinned|a.lan=|*",
        "1|unpinned|a.lan=10.0.0.1+fd00::1|1,2",
        "1|pinned|a.lan=10.0.0.1+10.0.0.2,b.lan=?|1,2",
    ])
    .prop_map(|text| text.parse().expect(text))
}

proptest! {
    #![proptest_config(fleet_core::regressions!("admission"))]

    #[test]
    fn stored_devices_lie_in_a_closed_scope_and_re_delivery_changes_nothing(
        mut scope in scope(),
        reports in prop::collection::vec(prop::collection::vec(row(), 0..24), 1..5),
    ) {
        let policy = AddressPolicy::default();
        let mut stored: BTreeMap<Endpoint, KnownRow> = BTreeMap::new();
        for report in reports {
            let rows = || report.iter().cloned().map(Ok).collect::<Vec<_>>();
            // A device is refused by its name, as ownership would.
            let decide = |report: &DeviceReport| match report.sent_identifier.as_str() {
                "id-2" => Err(RejectReason::OwnedByOtherNode),
                _ => Ok(()),
            };
            let before = scope.clone();
            let Ok(verdicts) = admit(&mut scope, policy, stored.len() as u64, &stored, rows(), decide) else {
                prop_assert_eq!(&scope, &before);
                continue;
            };
            prop_assert_eq!(verdicts.len(), report.len());
            for (row, verdict) in report.iter().zip(&verdicts) {
                let identifier = row.sent_identifier.clone();
                let known = match verdict {
                    RowVerdict::Accepted { .. } => KnownRow::Accepted { identifier },
                    RowVerdict::Refused { reason, .. } => KnownRow::Rejected { identifier, reason: *reason },
                    RowVerdict::Repeated { .. } | RowVerdict::Rejected { .. } => continue,
                };
                prop_assert!(stored.insert(row.endpoint, known).is_none(), "stored twice");
            }
            prop_assert!(stored.len() as u64 <= scope.quota());
            let after = scope.clone();
            let again = admit(&mut scope, policy, stored.len() as u64, &stored, rows(), decide).expect("no row is new");
            prop_assert_eq!(&scope, &after);
            for (first, second) in verdicts.iter().zip(&again) {
                let accepted = |verdict: &RowVerdict<()>| matches!(verdict, RowVerdict::Accepted { .. } | RowVerdict::Repeated { accepted: true });
                let is_new = matches!(second, RowVerdict::Accepted { .. } | RowVerdict::Refused { .. });
                // An open scope may have closed over a refused row; it is refused still.
                prop_assert!(!is_new, "{second:?}");
                prop_assert_eq!(accepted(first), accepted(second));
            }
        }
        let accepted: BTreeSet<Endpoint> = stored.iter().filter(|(_, row)| matches!(row, KnownRow::Accepted { .. })).map(|(at, _)| *at).collect();
        for endpoint in &accepted {
            prop_assert_eq!(scope.check(*endpoint), Ok(()));
            prop_assert!(policy.admit(endpoint.ip).is_ok());
        }
        prop_assert_eq!(scope.to_string().parse::<Scope>(), Ok(scope));
    }
}

proptest! {
    #![proptest_config(fleet_core::regressions!("admission-model"))]

    #[test]
    fn scope_and_admission_agree_with_their_model(ops in prop::collection::vec(any::<[u8; 4]>(), 2..24)) {
        fleet_discovery::fuzz::report_admission(ops.as_flattened());
    }
}
