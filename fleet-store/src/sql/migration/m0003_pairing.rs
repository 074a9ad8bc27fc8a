//! Pairing: who bound a device, where its pairing stands, what its node sealed, and the pairing that
//! operators asked nodes for.

use sea_orm_migration::prelude::*;

pub(super) struct Pairing;

impl MigrationName for Pairing {
    fn name(&self) -> &str {
        "m0003_pairing"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Pairing {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let assigned_by = Table::alter()
            .table("binding")
            .add_column(ColumnDef::new("assigned_by").big_integer())
            .to_owned();
        manager.alter_table(assigned_by).await?;
        for table in [
            device_pairing(),
            device_credential(),
            pairing(),
            pairing_command(),
            pairing_target(),
        ] {
            manager.create_table(table).await?;
        }
        for index in indexes() {
            manager.create_index(index).await?;
        }
        Ok(())
    }
}

fn integer(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().to_owned()
}

fn text(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().not_null().to_owned()
}

fn bytes(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).blob().not_null().to_owned()
}

/// A reference that keeps the row it points at.
fn refers<const N: usize>(
    own: &'static str,
    from: [&'static str; N],
    table: &'static str,
    to: [&'static str; N],
) -> ForeignKeyCreateStatement {
    let mut key = ForeignKey::create();
    key.from_tbl(own).to_tbl(table);
    key.on_delete(ForeignKeyAction::Restrict);
    for (from, to) in from.into_iter().zip(to) {
        key.from_col(from).to_col(to);
    }
    key
}

fn of_device(own: &'static str) -> ForeignKeyCreateStatement {
    refers(own, ["org_id", "device_id"], "device", ["org_id", "id"])
}

fn of_node(own: &'static str) -> ForeignKeyCreateStatement {
    refers(own, ["org_id", "node_id"], "node", ["org_id", "id"])
}

/// Apart from the binding: a bound device may still want credentials.
fn device_pairing() -> TableCreateStatement {
    let table = "device_pairing";
    Table::create()
        .table(table)
        .col(integer("device_id").primary_key())
        .col(integer("org_id"))
        .col(text("status"))
        .col(text("error"))
        .col(integer("changed_at"))
        .foreign_key(&mut of_device(table))
        .to_owned()
}

/// Apart from everything, so that nothing that lists devices ever reads it.
fn device_credential() -> TableCreateStatement {
    let table = "device_credential";
    Table::create()
        .table(table)
        .col(integer("device_id").primary_key())
        .col(integer("org_id"))
        .col(integer("node_id"))
        .col(bytes("username"))
        .col(bytes("password"))
        .col(integer("stored_at"))
        .foreign_key(&mut of_device(table))
        .foreign_key(&mut of_node(table))
        .to_owned()
}

fn pairing() -> TableCreateStatement {
    let table = "pairing";
    Table::create()
        .table(table)
        .col(text("id").primary_key())
        .col(integer("org_id"))
        .col(integer("node_id"))
        .col(integer("operator_id"))
        .col(integer("parts"))
        .col(integer("created_at"))
        .col(integer("kept_until"))
        .col(ColumnDef::new("canceled_at").big_integer())
        .col(ColumnDef::new("ended_at").big_integer())
        .col(ColumnDef::new("code").text())
        .col(text("reason"))
        .col(integer("last_sequence"))
        .foreign_key(&mut of_node(table))
        .foreign_key(&mut refers(table, ["operator_id"], "operator", ["id"]))
        .to_owned()
}

/// One row for each part that was sent: a part is sent once.
fn pairing_command() -> TableCreateStatement {
    let table = "pairing_command";
    Table::create()
        .table(table)
        .col(text("id").primary_key())
        .col(text("pairing_id"))
        .col(integer("part"))
        .col(integer("node_id"))
        .col(integer("epoch"))
        .col(text("state"))
        .col(integer("issued_at"))
        .col(integer("deadline"))
        .col(ColumnDef::new("ended_at").big_integer())
        .foreign_key(&mut refers(table, ["pairing_id"], "pairing", ["id"]))
        .foreign_key(&mut refers(table, ["node_id"], "node", ["id"]))
        .to_owned()
}

fn pairing_target() -> TableCreateStatement {
    let table = "pairing_target";
    Table::create()
        .table(table)
        .col(text("pairing_id"))
        .col(integer("device_id"))
        .col(integer("org_id"))
        .col(integer("part"))
        .col(text("identifier"))
        .col(text("ip"))
        .col(integer("port"))
        .col(text("scheme"))
        .col(text("driver"))
        .col(text("manufacturer"))
        .col(text("firmware"))
        .col(ColumnDef::new("outcome").text())
        .col(ColumnDef::new("default_password").boolean())
        .col(ColumnDef::new("told").text())
        .col(text("error"))
        .col(ColumnDef::new("sequence").big_integer())
        .primary_key(Index::create().col("pairing_id").col("device_id"))
        .foreign_key(&mut refers(table, ["pairing_id"], "pairing", ["id"]))
        .foreign_key(&mut of_device(table))
        .to_owned()
}

fn indexes() -> Vec<IndexCreateStatement> {
    let index = |name: &'static str, table: &'static str| {
        Index::create().name(name).table(table).to_owned()
    };
    vec![
        index("device_credential_by_node", "device_credential")
            .col("node_id")
            .to_owned(),
        // One pairing a node at a time.
        index("pairing_open", "pairing")
            .col("node_id")
            .unique()
            .cond_where(Expr::cust("ended_at IS NULL"))
            .to_owned(),
        index("pairing_command_part", "pairing_command")
            .col("pairing_id")
            .col("part")
            .unique()
            .to_owned(),
        index("pairing_command_in_flight", "pairing_command")
            .col("node_id")
            .unique()
            .cond_where(Expr::cust("state = 'issued'"))
            .to_owned(),
        index("pairing_target_identifier", "pairing_target")
            .col("pairing_id")
            .col("identifier")
            .unique()
            .to_owned(),
        index("pairing_target_device", "pairing_target")
            .col("device_id")
            .to_owned(),
    ]
}
