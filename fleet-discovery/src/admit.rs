//! The admission of a report: whether each row is new, repeated or refused, and whether the command may report that
//! many rows. The caller decides about ownership. Start with [`admit`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::{AddressPolicy, DeviceReport, Endpoint, HostReport, RejectReason, canonical};

use crate::{Scope, shown::shown};

/// The answer to an earlier row of the command at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownRow {
    /// The device was stored.
    Accepted {
        /// The identifier as sent.
        identifier: String,
    },
    /// The device was refused because of its ownership or identity.
    Rejected {
        /// The identifier as sent.
        identifier: String,
        /// The reason of the refusal.
        reason: RejectReason,
    },
}

impl KnownRow {
    fn identifier(&self) -> &str {
        match self {
            Self::Accepted { identifier } | Self::Rejected { identifier, .. } => identifier,
        }
    }
}

/// The decision about one row of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowVerdict<D> {
    /// A device to store, with the caller's decision. Counts towards the quota.
    Accepted {
        /// The device.
        report: DeviceReport,
        /// The caller's decision.
        decision: D,
    },
    /// A device in the scope that the caller refused. The row is stored, which gives a repetition the same answer.
    /// Counts towards the quota.
    Refused {
        /// The device.
        report: DeviceReport,
        /// The caller's reason.
        reason: RejectReason,
        /// The example for the tally of the reason; escaped and bounded.
        example: String,
    },
    /// A row that was stored before. It gets the same answer as then, and nothing changes.
    Repeated {
        /// Whether the device was accepted.
        accepted: bool,
    },
    /// A row that is not stored. It is malformed, out of scope, of a class that is never scanned, or at an endpoint
    /// where the command reported another identifier.
    Rejected {
        /// The reason of the rejection.
        reason: RejectReason,
        /// The example for the tally of the reason; escaped and bounded.
        example: String,
    },
}

/// A report with more rows than its command may still store. None of its rows is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the report would make {rows} rows of a command that may report {quota}")]
pub struct OverQuota {
    /// Stored rows of the command plus the new rows of this report.
    pub rows: u64,
    /// Maximum number of rows of the command.
    pub quota: u64,
}

/// Decides about the rows of a report in order. The checks are form, scope, class and repetition; then `decide`
/// checks ownership and identity. Returns one verdict per row. Accepted devices close an open scope.
///
/// `rows_stored` counts the stored rows of the command. `known` holds at least the stored rows at the endpoints of
/// this report. A row that occurs twice in the report is a repetition.
///
/// # Errors
///
/// [`OverQuota`] if the report has more new rows than the command may still store. The scope is unchanged, and the
/// caller must discard the effects of `decide`.
pub fn admit<D>(
    scope: &mut Scope,
    addresses: AddressPolicy,
    rows_stored: u64,
    known: &BTreeMap<Endpoint, KnownRow>,
    reports: Vec<Result<DeviceReport, (RejectReason, String)>>,
    mut decide: impl FnMut(&DeviceReport) -> Result<D, RejectReason>,
) -> Result<Vec<RowVerdict<D>>, OverQuota> {
    let quota = scope.quota();
    let mut narrowed = scope.clone();
    let mut fresh: BTreeMap<Endpoint, KnownRow> = BTreeMap::new();
    let mut verdicts = Vec::with_capacity(reports.len());
    for row in reports {
        let mut report = match row {
            Ok(report) => report,
            Err((reason, example)) => {
                verdicts.push(RowVerdict::Rejected { reason, example });
                continue;
            }
        };
        report.endpoint.ip = canonical(report.endpoint.ip);
        let endpoint = report.endpoint;
        let rejected = |report: &DeviceReport, reason| RowVerdict::Rejected {
            reason,
            example: example_of(report),
        };
        if let Err(reason) = narrowed.check(endpoint) {
            verdicts.push(rejected(&report, reason));
            continue;
        }
        if addresses.admit(endpoint.ip).is_err() {
            verdicts.push(rejected(&report, RejectReason::AddressClass));
            continue;
        }
        // Before the quota: a node that lost our answer
        // sends its rows again, which must not cost quota.
        if let Some(row) = known.get(&endpoint).or_else(|| fresh.get(&endpoint)) {
            // The sent identifier is compared, because the
            // record may have got a stronger one since.
            verdicts.push(if row.identifier() == report.sent_identifier {
                RowVerdict::Repeated {
                    accepted: matches!(row, KnownRow::Accepted { .. }),
                }
            } else {
                rejected(&report, RejectReason::AlreadyReported)
            });
            continue;
        }
        let rows = rows_stored.saturating_add(fresh.len() as u64 + 1);
        if rows > quota {
            return Err(OverQuota { rows, quota });
        }
        let identifier = report.sent_identifier.clone();
        let (row, verdict) = match decide(&report) {
            Ok(decision) => {
                // A refused device may belong to a foreign
                // subnet, so it must not close an open scope.
                narrowed.narrow(endpoint);
                (
                    KnownRow::Accepted { identifier },
                    RowVerdict::Accepted { report, decision },
                )
            }
            Err(reason) => (
                KnownRow::Rejected { identifier, reason },
                RowVerdict::Refused {
                    reason,
                    example: example_of(&report),
                    report,
                },
            ),
        };
        fresh.insert(endpoint, row);
        verdicts.push(verdict);
    }
    *scope = narrowed;
    Ok(verdicts)
}

/// Decides about the unidentified hosts of a report: form, scope and class. Returns the hosts to store in order, each
/// once, and the reason and example of each other one.
///
/// `hosts_stored` counts the hosts that the command has stored, and `known` holds at least those at the addresses of
/// this report. A known host is stored again and does not count.
///
/// # Errors
///
/// [`OverQuota`] if the command would store more hosts than it may store devices.
pub fn admit_hosts(
    scope: &Scope,
    addresses: AddressPolicy,
    hosts_stored: u64,
    known: &BTreeSet<IpAddr>,
    reports: Vec<Result<HostReport, (RejectReason, String)>>,
) -> Result<HostVerdicts, OverQuota> {
    let quota = scope.quota();
    let mut verdicts = HostVerdicts::default();
    let mut seen = BTreeSet::new();
    let mut rows = hosts_stored;
    for row in reports {
        let host = match row {
            Ok(host) => host,
            Err(refused) => {
                verdicts.refused.push(refused);
                continue;
            }
        };
        let outside = host.open_ports.iter().find_map(|port| {
            let endpoint = Endpoint {
                ip: host.ip,
                port: *port,
            };
            scope.check(endpoint).err()
        });
        let class = addresses.admit(host.ip).err();
        if let Some(reason) = outside.or(class.map(|_| RejectReason::AddressClass)) {
            verdicts.refused.push((reason, host.ip.to_string()));
        } else if seen.insert(host.ip) {
            rows += u64::from(!known.contains(&host.ip));
            if rows > quota {
                return Err(OverQuota { rows, quota });
            }
            verdicts.accepted.push(host);
        }
    }
    Ok(verdicts)
}

/// The decisions about the unidentified hosts of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostVerdicts {
    /// The hosts to store, each once.
    pub accepted: Vec<HostReport>,
    /// The reason of each refusal, with an example.
    pub refused: Vec<(RejectReason, String)>,
}

/// Formats the row as the example of a tally.
fn example_of(report: &DeviceReport) -> String {
    format!("{} {}", report.endpoint, shown(&report.sent_identifier))
}

#[cfg(test)]
mod tests {
    use fleet_core::{RawDeviceReport, RawHostReport};

    use super::*;

    type Row = Result<DeviceReport, (RejectReason, String)>;

    fn row(identifier: &str, ip: &str, port: &str) -> Row {
        let raw = RawDeviceReport {
            identifier,
            ip,
            port,
            driver: "antminer",
            ..RawDeviceReport::default()
        };
        DeviceReport::parse(raw).map_err(|reason| (reason, ip.to_owned()))
    }

    fn stored(row: &Row, reason: Option<RejectReason>) -> (Endpoint, KnownRow) {
        let report = row.as_ref().expect("well-formed");
        let identifier = report.sent_identifier.clone();
        let known = match reason {
            None => KnownRow::Accepted { identifier },
            Some(reason) => KnownRow::Rejected { identifier, reason },
        };
        (report.endpoint, known)
    }

    fn judge(
        scope: &mut Scope,
        rows_stored: u64,
        known: impl IntoIterator<Item = (Endpoint, KnownRow)>,
        rows: Vec<Row>,
    ) -> Result<Vec<String>, OverQuota> {
        let known = known.into_iter().collect();
        let verdicts = admit(
            scope,
            AddressPolicy::default(),
            rows_stored,
            &known,
            rows,
            |report| {
                if report.sent_identifier.starts_with("theirs") {
                    Err(RejectReason::OwnedByOtherNode)
                } else {
                    Ok(())
                }
            },
        )?;
        Ok(verdicts
            .into_iter()
            .map(|verdict| match verdict {
                RowVerdict::Accepted { .. } => "accepted".to_owned(),
                RowVerdict::Refused { reason, .. } => format!("refused: {reason}"),
                RowVerdict::Repeated { accepted } => format!("repeated: {accepted}"),
                RowVerdict::Rejected { reason, .. } => format!("rejected: {reason}"),
            })
            .collect())
    }

    fn scope(text: &str) -> Scope {
        text.parse().expect(text)
    }

    #[test]
    fn a_bad_row_never_fails_its_neighbors() {
        let mut scope = scope("1|exact|10.0.0.1-10.0.0.9|80");
        let rows = vec![
            row("a", "10.0.0.1", "80"),
            row("b", "10.0.0.1x", "80"),
            row("c", "10.0.0.10", "80"),
            row("d", "10.0.0.2", "81"),
            row("theirs", "10.0.0.3", "80"),
            row("e", "10.0.0.4", "80"),
        ];
        assert_eq!(
            judge(&mut scope, 0, [], rows),
            Ok(vec![
                "accepted".into(),
                "rejected: bad address".into(),
                "rejected: address out of scope".into(),
                "rejected: port out of scope".into(),
                "refused: owned by another node".into(),
                "accepted".into(),
            ])
        );
    }

    #[test]
    fn a_repeated_row_is_answered_as_the_first_time() {
        let mut scope = scope("1|exact|10.0.0.1-10.0.0.2|80");
        let (a, theirs) = (row("a", "10.0.0.1", "80"), row("theirs", "10.0.0.2", "80"));
        let first = vec![
            a.clone(),
            a.clone(),
            theirs.clone(),
            theirs.clone(),
            row("b", "10.0.0.1", "80"),
        ];
        assert_eq!(
            judge(&mut scope, 0, [], first.clone()),
            Ok(vec![
                "accepted".into(),
                "repeated: true".into(),
                "refused: owned by another node".into(),
                "repeated: false".into(),
                "rejected: already reported as another device".into(),
            ])
        );
        let known = [
            stored(&a, None),
            stored(&theirs, Some(RejectReason::OwnedByOtherNode)),
        ];
        assert_eq!(
            judge(&mut scope, 2, known, first),
            Ok(vec![
                "repeated: true".into(),
                "repeated: true".into(),
                "repeated: false".into(),
                "repeated: false".into(),
                "rejected: already reported as another device".into(),
            ])
        );
    }

    #[test]
    fn over_quota_nothing_is_taken() {
        let mut open = scope("1|unpinned|a.lan=|80");
        let rows = vec![row("a", "10.0.0.1", "80"), row("b", "10.0.0.2", "80")];
        assert_eq!(
            judge(&mut open, 7, [], rows.clone()),
            Err(OverQuota { rows: 9, quota: 8 })
        );
        assert_eq!(open, scope("1|unpinned|a.lan=|80"));
        assert!(judge(&mut open, 6, [], rows).is_ok());
        assert_eq!(open, scope("1|unpinned|a.lan=10.0.0.1+10.0.0.2|80"));
    }

    #[test]
    fn repetitions_and_rejections_do_not_count_towards_the_quota() {
        let mut scope = scope("1|exact|10.0.0.1|80");
        let a = row("a", "10.0.0.1", "80");
        let rows = vec![
            a.clone(),
            a.clone(),
            row("b", "10.0.0.1", "80"),
            row("c", "10.0.0.2", "80"),
        ];
        assert!(judge(&mut scope, 1, [stored(&a, None)], rows).is_ok());
    }

    #[test]
    fn an_open_scope_closes_by_accepted_devices_only() {
        let mut open = scope("1|subnet|?|80");
        let rows = vec![
            row("a", "8.8.8.8", "80"),
            row("theirs", "10.1.0.1", "80"),
            row("b", "10.2.0.1", "80"),
            row("c", "10.1.0.1", "80"),
            row("d", "10.2.3.255", "80"),
        ];
        assert_eq!(
            judge(&mut open, 0, [], rows),
            Ok(vec![
                "rejected: address class".into(),
                "refused: owned by another node".into(),
                "accepted".into(),
                "rejected: address out of scope".into(),
                "accepted".into(),
            ])
        );
        assert_eq!(open, scope("1|subnet|10.2.0.0|80"));
    }

    fn host(ip: &str, ports: &[u32]) -> Result<HostReport, (RejectReason, String)> {
        let raw = RawHostReport {
            ip,
            open_ports: ports,
            ..RawHostReport::default()
        };
        HostReport::parse(raw).map_err(|reason| (reason, ip.to_owned()))
    }

    #[test]
    fn hosts_are_judged_by_form_scope_and_class_and_kept_once() {
        let scope = scope("1|exact|10.0.0.1-10.0.0.9|22,80");
        let rows = vec![
            host("10.0.0.1", &[22, 80]),
            host("10.0.0.1", &[80]),
            host("10.0.0.10", &[80]),
            host("10.0.0.2", &[80, 443]),
            host("10.0.0.3x", &[80]),
            host("10.0.0.9", &[22]),
        ];
        let judged = admit_hosts(&scope, AddressPolicy::default(), 0, &BTreeSet::new(), rows);
        let judged = judged.expect("within the quota");
        let accepted: Vec<_> = judged
            .accepted
            .iter()
            .map(|host| host.ip.to_string())
            .collect();
        assert_eq!(accepted, ["10.0.0.1", "10.0.0.9"]);
        let refused: Vec<_> = judged.refused.iter().map(|(reason, _)| *reason).collect();
        assert_eq!(
            refused,
            [
                RejectReason::AddressOutOfScope,
                RejectReason::PortOutOfScope,
                RejectReason::Address
            ]
        );
    }

    #[test]
    fn an_open_scope_bounds_the_hosts_and_is_not_closed_by_them() {
        let open = scope("1|unpinned|a.lan=|80");
        let rows = |last: u8| vec![host(&format!("10.0.0.{last}"), &[80])];
        let policy = AddressPolicy::default();
        let known = BTreeSet::from(["10.0.0.8".parse().expect("an address")]);
        assert!(admit_hosts(&open, policy, 7, &known, rows(9)).is_ok());
        assert_eq!(
            admit_hosts(&open, policy, 8, &known, rows(9)),
            Err(OverQuota { rows: 9, quota: 8 })
        );
        assert!(admit_hosts(&open, policy, 8, &known, rows(8)).is_ok());
        let public = vec![host("8.8.8.8", &[80])];
        let judged = admit_hosts(&open, policy, 0, &known, public).expect("within the quota");
        assert_eq!(
            judged.refused,
            [(RejectReason::AddressClass, "8.8.8.8".to_owned())]
        );
    }
}
