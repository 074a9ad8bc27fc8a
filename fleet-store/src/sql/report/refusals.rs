//! Counts of the refused rows of a report. Each reason keeps its first example, for the ledger and for one
//! audit record per command and reason.

use std::collections::BTreeMap;

use fleet_core::RejectReason;
use sea_orm::sea_query::{Alias, ExprTrait};

use crate::{
    NewReport,
    sql::{audit, entity::report_refusal, inserts, prelude::*},
};

#[derive(Default)]
pub(super) struct Refusals(BTreeMap<RejectReason, Counted>);

struct Counted {
    /// All refused rows.
    all: u64,
    /// Refused rows that no earlier command of the scan had.
    fresh: u64,
    example: String,
}

impl Refusals {
    pub(super) fn add(&mut self, reason: RejectReason, example: String, earlier: bool) {
        let counted = self.0.entry(reason).or_insert(Counted {
            all: 0,
            fresh: 0,
            example,
        });
        counted.all += 1;
        counted.fresh += u64::from(!earlier);
    }

    pub(super) fn all(&self) -> u64 {
        self.0.values().map(|counted| counted.all).sum()
    }

    /// The counts for the scan's ledger.
    pub(super) fn counted(&self) -> u64 {
        self.0.values().map(|counted| counted.fresh).sum()
    }

    /// Adds the counts to the stored ones with two statements.
    pub(super) async fn save(
        &self,
        tx: &DatabaseTransaction,
        new: &NewReport,
        scan: ScanId,
    ) -> Result<(), DbErr> {
        use report_refusal::{Column, Entity};
        let tally = |(reason, counted): (&RejectReason, &Counted)| report_refusal::ActiveModel {
            scan_id: Set(AsText(scan)),
            reason: Set(reason.as_str().to_owned()),
            count: Set(count(counted.fresh)),
            example: Set(counted.example.clone()),
        };
        let fresh = self
            .0
            .iter()
            .filter(|(_, counted)| counted.fresh > 0)
            .map(tally)
            .collect();
        let sum = Expr::col((Entity, Column::Count))
            .add(Expr::col((Alias::new("excluded"), Column::Count)));
        let add = OnConflict::columns([Column::ScanId, Column::Reason])
            .value(Column::Count, sum)
            .to_owned();
        inserts::all_or(tx, fresh, add).await?;
        let record = |(reason, counted): (&RejectReason, &Counted)| {
            let entry = AuditEntry {
                org: Some(new.org),
                actor: Actor {
                    principal: Principal::Node(new.node),
                    from: new.from,
                },
                action: "report.refuse".into(),
                subject: format!("command {} of scan {}", new.command, scan),
                result: AuditResult::Refused(format!("{reason}, such as {}", counted.example)),
                at: new.now,
            };
            (
                entry,
                count(counted.all),
                Some(format!("report/{}/{reason}", new.command)),
            )
        };
        audit::write_counted(tx, self.0.iter().map(record)).await
    }
}
