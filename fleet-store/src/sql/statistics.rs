//! Counts of the whole database, for metrics.

use std::{collections::BTreeMap, fmt, str::FromStr};

use fleet_core::enrollment::NodeState;
use sea_orm::FromQueryResult;

use super::entity::{device, node, scan};
use crate::{Statistics, Totals, sql::prelude::*};

/// A state as the table holds it, and the number of its rows.
#[derive(Debug, FromQueryResult)]
struct OfState {
    state: String,
    rows: i64,
}

#[async_trait]
impl Statistics for SqlStore {
    async fn totals(&self) -> Result<Totals, StoreError> {
        let totals = async {
            let nodes = node::Entity::find()
                .select_only()
                .column(node::Column::State)
                .column_as(node::Column::Id.count(), "rows")
                .filter(node::Column::DeletedAt.is_null())
                .group_by(node::Column::State);
            let scans = scan::Entity::find()
                .select_only()
                .column(scan::Column::State)
                .column_as(scan::Column::Id.count(), "rows")
                .group_by(scan::Column::State);
            let devices = device::Entity::find().filter(device::Column::DeletedAt.is_null());
            Ok(Totals {
                nodes: by_state::<NodeState>(nodes.into_model().all(self.reader()).await?)?,
                scans: by_state::<ScanState>(scans.into_model().all(self.reader()).await?)?,
                devices: devices.count(self.reader()).await?,
            })
        };
        totals.await.during("totals")
    }
}

fn by_state<S>(rows: Vec<OfState>) -> Result<BTreeMap<S, u64>, DbErr>
where
    S: FromStr<Err: fmt::Display> + Ord,
{
    let read = |row: OfState| {
        let state = row
            .state
            .parse()
            .map_err(|error: S::Err| unreadable("state", error))?;
        Ok((state, read_count(row.rows)?))
    };
    rows.into_iter().map(read).collect()
}
