//! The audit chain. Records that were there before are sealed when a server starts.

use sea_orm_migration::prelude::*;

use super::m0001_first_schema::{Keyed as _, bytes, integer, optional, table};

pub(super) struct AuditChain;

impl MigrationName for AuditChain {
    fn name(&self) -> &str {
        "m0006_audit_chain"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for AuditChain {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in ["sealed_seq", "sealed_count", "sealed_at"] {
            // SQLite adds one column a statement.
            let add = Table::alter()
                .table("audit")
                .add_column(optional(integer(column)))
                .to_owned();
            manager.alter_table(add).await?;
        }
        let link = table(
            "audit_link",
            [
                integer("chain"),
                integer("seq"),
                integer("audit_id"),
                integer("count"),
                bytes("hash"),
            ],
        );
        // No reference to the record: a link outlives it, and says that it is gone.
        manager.create_table(link.keyed(["chain", "seq"])).await?;
        let head = table(
            "audit_head",
            [integer("chain"), integer("seq"), bytes("hash")],
        );
        manager.create_table(head.keyed(["chain"])).await?;
        let mut unsealed = Index::create()
            .name("audit_unsealed")
            .table("audit")
            .col("id")
            .to_owned();
        unsealed.cond_where(Expr::cust("sealed_count IS NULL OR sealed_count < count"));
        manager.create_index(unsealed).await
    }
}
