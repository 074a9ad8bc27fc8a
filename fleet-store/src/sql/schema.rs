//! Comparing the entities with the actual schema, which the compiler cannot check.

use std::collections::BTreeMap;

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, IdenStatic,
    Iterable, Statement, sea_query::ColumnType,
};

use super::{entity, transaction::During};
use crate::{SqlStore, StoreError};

/// The type of a column, and whether it is nullable.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    kind: &'static str,
    nullable: bool,
}

impl SqlStore {
    /// Lists every difference between this program's rows and the tables of the database. The list is empty
    /// when they agree. Use it in tests, and for a database that was changed by hand.
    ///
    /// # Errors
    ///
    /// An error of the database.
    pub async fn schema_differences(&self) -> Result<Vec<String>, StoreError> {
        let mut differences = Vec::new();
        let database = self.reader();
        macro_rules! compare {
            ($($entity:ident)*) => {$(
                let found = compare::<entity::$entity::Entity>(database).await;
                differences.extend(found.during("schema_differences")?);
            )*};
        }
        compare!(
            org operator operator_key operator_password operator_source browser_session
            operator_link used_attempt
            audit audit_link audit_head
            site site_exclude node invitation node_key node_challenge node_session node_stream
            scan scan_share scan_request chunk sweep command report report_row report_refusal scan_event scan_host
            device device_alias device_sighting identity_change refused_device node_endpoint binding
            direct_lease direct_run
            schedule schedule_run key_fetch
            alert_org alert_channel alert_rule alert_rule_channel alert_scan alert_device alert_silence
            alert_delivery
            device_pairing device_credential pairing pairing_target forwarded_pairing
            site_block inventory_day device_event device_label device_note
        );
        Ok(differences)
    }
}

async fn compare<E: EntityTrait>(database: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    let entity = E::default();
    let table = entity.table_name();
    let mut stored = columns(database, table).await?;
    let mut differences = Vec::new();
    for column in E::Column::iter() {
        let definition = column.def();
        let expected = Shape {
            kind: kind_of(definition.get_column_type()),
            nullable: definition.is_null(),
        };
        match stored.remove(column.as_str()) {
            Some(found) if found == expected => {}
            found => differences.push(format!(
                "{table}.{}: expected {expected:?}, found {found:?}",
                column.as_str()
            )),
        }
    }
    differences.extend(
        stored
            .into_keys()
            .map(|name| format!("{table}.{name} is not known")),
    );
    Ok(differences)
}

async fn columns(
    database: &DatabaseConnection,
    table: &str,
) -> Result<BTreeMap<String, Shape>, DbErr> {
    let backend = database.get_database_backend();
    // SQLite lists a column of the primary key as nullable unless it is declared otherwise.
    let sql = if backend == DbBackend::Sqlite {
        r#"SELECT name, lower(type) AS type, CASE WHEN "notnull" = 0 AND pk = 0 THEN 'YES' ELSE 'NO' END AS nullable FROM pragma_table_info($1)"#
    } else {
        "SELECT column_name AS name, data_type AS type, is_nullable AS nullable FROM information_schema.columns WHERE table_schema = CURRENT_SCHEMA() AND table_name = $1"
    };
    let rows = database
        .query_all_raw(Statement::from_sql_and_values(backend, sql, [table.into()]))
        .await?;
    rows.into_iter()
        .map(|row| {
            let kind: String = row.try_get("", "type")?;
            let nullable: String = row.try_get("", "nullable")?;
            let shape = Shape {
                kind: stored_kind(&kind),
                nullable: nullable == "YES",
            };
            Ok((row.try_get("", "name")?, shape))
        })
        .collect()
}

fn stored_kind(name: &str) -> &'static str {
    match name {
        "bigint" | "integer" => "integer",
        "text" => "text",
        "blob" | "bytea" => "bytes",
        "boolean" => "boolean",
        _ => "unknown",
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other column type is a mistake here"
)]
fn kind_of(column: &ColumnType) -> &'static str {
    match column {
        ColumnType::BigInteger => "integer",
        ColumnType::String(_) | ColumnType::Text => "text",
        ColumnType::Blob | ColumnType::VarBinary(_) | ColumnType::Binary(_) => "bytes",
        ColumnType::Boolean => "boolean",
        _ => "unexpected",
    }
}
