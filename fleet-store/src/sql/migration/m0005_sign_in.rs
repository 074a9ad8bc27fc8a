//! Operators sign in by password; their keys have names and ends; a node's takeovers are remembered for all
//! servers.
//!
//! Browser sessions move to a table of their own, because SQLite cannot make `key_id` nullable in place.

use sea_orm_migration::prelude::*;

pub(super) struct SignIn;

impl MigrationName for SignIn {
    fn name(&self) -> &str {
        "m0005_sign_in"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for SignIn {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column) in columns() {
            let mut added = Table::alter();
            manager
                .alter_table(added.table(table).add_column(column).to_owned())
                .await?;
        }
        // An e-mail is free again when its operator was removed.
        manager
            .drop_index(
                Index::drop()
                    .name("operator_email")
                    .table("operator")
                    .to_owned(),
            )
            .await?;
        for table in [passwords(), sources(), sessions()] {
            manager.create_table(table).await?;
        }
        for index in indexes() {
            manager.create_index(index).await?;
        }
        manager
            .get_connection()
            .execute_unprepared(
                "INSERT INTO browser_session (hash, operator_id, key_id, created_at, expires_at, agent) \
                 SELECT s.hash, k.operator_id, s.key_id, s.created_at, s.expires_at, '' \
                 FROM operator_session s JOIN operator_key k ON k.id = s.key_id",
            )
            .await?;
        manager
            .drop_table(Table::drop().table("operator_session").to_owned())
            .await
    }
}

fn columns() -> [(&'static str, ColumnDef); 5] {
    let column = ColumnDef::new::<&'static str>;
    [
        ("operator", column("removed_at").big_integer().to_owned()),
        (
            "operator_key",
            column("name").text().not_null().default("").to_owned(),
        ),
        (
            "operator_key",
            column("last_used_at").big_integer().to_owned(),
        ),
        (
            "operator_key",
            column("expires_at").big_integer().to_owned(),
        ),
        ("node_stream", column("takeovers").text().to_owned()),
    ]
}

fn integer(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().to_owned()
}

fn text(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().not_null().to_owned()
}

fn refers(
    own: &'static str,
    column: &'static str,
    table: &'static str,
) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .from(own, column)
        .to(table, "id")
        .on_delete(ForeignKeyAction::Restrict)
        .to_owned()
}

fn passwords() -> TableCreateStatement {
    let table = "operator_password";
    Table::create()
        .table(table)
        .col(integer("operator_id").primary_key())
        .col(text("hash"))
        .col(integer("changed_at"))
        .col(ColumnDef::new("one_time_until").big_integer())
        .foreign_key(&mut refers(table, "operator_id", "operator"))
        .to_owned()
}

fn sources() -> TableCreateStatement {
    let table = "operator_source";
    Table::create()
        .table(table)
        .col(integer("operator_id"))
        .col(text("source"))
        .col(integer("seen_at"))
        .primary_key(Index::create().col("operator_id").col("source"))
        .foreign_key(&mut refers(table, "operator_id", "operator"))
        .to_owned()
}

fn sessions() -> TableCreateStatement {
    let table = "browser_session";
    Table::create()
        .table(table)
        .col(integer("id").auto_increment().primary_key())
        .col(ColumnDef::new("hash").blob().not_null())
        .col(integer("operator_id"))
        .col(ColumnDef::new("key_id").big_integer())
        .col(integer("created_at"))
        .col(integer("expires_at"))
        .col(ColumnDef::new("from_address").text())
        .col(text("agent"))
        .foreign_key(&mut refers(table, "operator_id", "operator"))
        .foreign_key(&mut refers(table, "key_id", "operator_key"))
        .to_owned()
}

fn indexes() -> Vec<IndexCreateStatement> {
    let index = |name: &'static str, table: &'static str, column: &'static str| {
        Index::create()
            .name(name)
            .table(table)
            .col(column)
            .to_owned()
    };
    vec![
        index("operator_email", "operator", "email")
            .unique()
            .cond_where(Expr::cust("removed_at IS NULL"))
            .to_owned(),
        index("operator_by_org", "operator", "org_id"),
        index("operator_key_operator", "operator_key", "operator_id"),
        index("browser_session_hash", "browser_session", "hash")
            .unique()
            .to_owned(),
        index("browser_session_operator", "browser_session", "operator_id"),
        index("browser_session_expiry", "browser_session", "expires_at"),
        index("node_stream_claimed", "node_stream", "claimed_at"),
    ]
}
