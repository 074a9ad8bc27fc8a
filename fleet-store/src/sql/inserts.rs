//! Multi-row inserts within the databases' limits of binds.

use sea_orm::{
    ActiveModelTrait, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel, Iterable,
    sea_query::OnConflict,
};

/// SQLite takes 32,766 binds in a statement, PostgreSQL 65,535.
const BINDS: usize = 32_000;

/// Rows of an entity that fit one statement.
fn rows_a_statement<E: EntityTrait>() -> usize {
    BINDS / E::Column::iter().count().max(1)
}

/// Inserts all rows; the columns they set must be the same.
pub(crate) async fn all<A>(db: &impl ConnectionTrait, rows: Vec<A>) -> Result<(), DbErr>
where
    A: ActiveModelTrait + Send,
{
    in_statements(db, rows, |insert| insert).await
}

/// Inserts all rows, with this answer to conflicts.
pub(crate) async fn all_or<A>(
    db: &impl ConnectionTrait,
    rows: Vec<A>,
    conflict: OnConflict,
) -> Result<(), DbErr>
where
    A: ActiveModelTrait + Send,
{
    in_statements(db, rows, |insert| insert.on_conflict(conflict.clone())).await
}

async fn in_statements<A>(
    db: &impl ConnectionTrait,
    rows: Vec<A>,
    finish: impl Fn(sea_orm::InsertMany<A>) -> sea_orm::InsertMany<A> + Send,
) -> Result<(), DbErr>
where
    A: ActiveModelTrait + Send,
{
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let part: Vec<A> = rows
            .by_ref()
            .take(rows_a_statement::<A::Entity>())
            .collect();
        finish(A::Entity::insert_many(part))
            .exec_without_returning(db)
            .await?;
    }
    Ok(())
}

/// Inserts all rows and answers them as stored, in no promised order.
pub(crate) async fn returning<A>(
    db: &impl ConnectionTrait,
    rows: Vec<A>,
) -> Result<Vec<<A::Entity as EntityTrait>::Model>, DbErr>
where
    A: ActiveModelTrait + Send,
    <A::Entity as EntityTrait>::Model: IntoActiveModel<A>,
{
    let mut stored = Vec::with_capacity(rows.len());
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let part: Vec<A> = rows
            .by_ref()
            .take(rows_a_statement::<A::Entity>())
            .collect();
        stored.extend(A::Entity::insert_many(part).exec_with_returning(db).await?);
    }
    Ok(stored)
}
