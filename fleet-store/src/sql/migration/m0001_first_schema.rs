//! The first schema: tenants and operators, nodes and their credentials, scans, the inventory.
//!
//! What belongs to a node refers to it together with its organization, so that a row can never point
//! into another tenant. Such references restrict: nodes are never deleted, only marked.

mod devices;
mod nodes;
mod operators;
mod scans;

use sea_orm_migration::prelude::*;

pub(super) struct FirstSchema;

impl MigrationName for FirstSchema {
    fn name(&self) -> &str {
        "m0001_first_schema"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for FirstSchema {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for group in [
            operators::tables(),
            nodes::tables(),
            scans::tables(),
            devices::tables(),
        ] {
            for table in group {
                manager.create_table(table).await?;
            }
        }
        for group in [
            operators::indexes(),
            nodes::indexes(),
            scans::indexes(),
            devices::indexes(),
        ] {
            for index in group {
                manager.create_index(index).await?;
            }
        }
        Ok(())
    }
}

/// A table of these columns.
pub(super) fn table<const N: usize>(
    name: &'static str,
    columns: [ColumnDef; N],
) -> TableCreateStatement {
    let mut table = Table::create().table(name).to_owned();
    for column in columns {
        table.col(column);
    }
    table
}

/// Names the columns of a primary key of several.
pub(super) trait Keyed {
    fn keyed<const N: usize>(self, columns: [&'static str; N]) -> Self;
    /// Refers to `(org_id, id)` of `node` or to another table's `id`; the referred row stays.
    fn refers<const N: usize>(
        self,
        from: [&'static str; N],
        table: &'static str,
        to: [&'static str; N],
    ) -> Self;
}

impl Keyed for TableCreateStatement {
    fn keyed<const N: usize>(mut self, columns: [&'static str; N]) -> Self {
        let mut key = Index::create();
        for column in columns {
            key.col(column);
        }
        self.primary_key(&mut key);
        self
    }

    fn refers<const N: usize>(
        mut self,
        from: [&'static str; N],
        table: &'static str,
        to: [&'static str; N],
    ) -> Self {
        let own = self.get_table_name().cloned();
        let mut key = ForeignKey::create();
        if let Some(own) = own {
            key.from_tbl(own);
        }
        key.to_tbl(table).on_delete(ForeignKeyAction::Restrict);
        for (from, to) in from.into_iter().zip(to) {
            key.from_col(from).to_col(to);
        }
        self.foreign_key(&mut key);
        self
    }
}

/// An id that the database gives and never gives again.
pub(super) fn id() -> ColumnDef {
    ColumnDef::new("id")
        .big_integer()
        .not_null()
        .auto_increment()
        .primary_key()
        .to_owned()
}

pub(super) fn integer(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().to_owned()
}

pub(super) fn text(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().not_null().to_owned()
}

pub(super) fn bytes(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).blob().not_null().to_owned()
}

pub(super) fn flag(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).boolean().not_null().to_owned()
}

/// The same column, unset at times.
pub(super) fn optional(mut column: ColumnDef) -> ColumnDef {
    column.null().to_owned()
}

pub(super) fn index<const N: usize>(
    name: &'static str,
    table: &'static str,
    columns: [&'static str; N],
) -> IndexCreateStatement {
    let mut index = Index::create().name(name).table(table).to_owned();
    for column in columns {
        index.col(column);
    }
    index
}

/// Unique; with a condition among the rows that meet it only.
pub(super) fn unique<const N: usize>(
    name: &'static str,
    table: &'static str,
    columns: [&'static str; N],
    condition: Option<&'static str>,
) -> IndexCreateStatement {
    let mut index = index(name, table, columns);
    index.unique();
    if let Some(condition) = condition {
        index.cond_where(Expr::cust(condition));
    }
    index
}
