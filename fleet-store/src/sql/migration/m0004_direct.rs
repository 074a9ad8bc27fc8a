//! Leases of the addresses that the server itself is dialing: while one is there, no place at its address
//! is attributed to a node.

use sea_orm_migration::prelude::*;

pub(super) struct Direct;

impl MigrationName for Direct {
    fn name(&self) -> &str {
        "m0004_direct"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Direct {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let column = |name: &'static str| ColumnDef::new(name).not_null().to_owned();
        let lease = Table::create()
            .table("direct_lease")
            .col(column("org_id").big_integer())
            .col(column("ip").text())
            .col(column("scan_id").text())
            .col(column("until").big_integer())
            .primary_key(Index::create().col("org_id").col("ip"))
            .foreign_key(
                ForeignKey::create()
                    .from("direct_lease", "org_id")
                    .to("org", "id")
                    .on_delete(ForeignKeyAction::Restrict),
            )
            .to_owned();
        manager.create_table(lease).await
    }
}

#[cfg(test)]
mod tests {
    use fleet_core::{OrgId, ScanId, Timestamp};

    use super::super::upgrade;
    use crate::{DialRequest, Direct as _};

    #[tokio::test]
    async fn what_a_node_had_before_is_excluded_after() {
        upgrade::upgraded(2, &[], |store| async move {
            let now = Timestamp::from_micros(10);
            let addresses = ["10.0.0.7", "10.0.0.8"].map(|ip| ip.parse().expect("an address"));
            let request = DialRequest {
                org: OrgId(1),
                scan: ScanId::new(now, [1; 10]),
                addresses: addresses.to_vec(),
                until: now,
                now,
            };
            let released = store.release_for_dialing(request).await.expect("released");
            assert_eq!(released.allowed, addresses[1..]);
            assert_eq!(released.excluded[0].node_name, "north");
        })
        .await;
    }
}
