//! Multi-row inserts within the databases' limits of bind parameters.

use sea_orm::{
    ActiveModelTrait, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel, Iterable,
    sea_query::OnConflict,
};

/// SQLite accepts 32,766 bind parameters per statement, PostgreSQL 65,535.
const BINDS: usize = 32_000;

/// The number of rows of an entity that fit in one statement.
fn rows_per_statement<E: EntityTrait>() -> usize {
    BINDS / E::Column::iter().count().max(1)
}

/// Marks every column of a row as set, which an insert or upsert of a changed model needs.
pub(crate) fn every_column<M, A>(model: M) -> A
where
    A: ActiveModelTrait,
    M: IntoActiveModel<A>,
{
    model.into_active_model().reset_all()
}

/// Inserts all rows. They must set the same columns.
pub(crate) async fn all<A>(db: &impl ConnectionTrait, rows: Vec<A>) -> Result<(), DbErr>
where
    A: ActiveModelTrait + Send,
{
    in_statements(db, rows, |insert| insert).await
}

/// Inserts all rows, and handles conflicts with the given clause.
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
            .take(rows_per_statement::<A::Entity>())
            .collect();
        finish(A::Entity::insert_many(part))
            .exec_without_returning(db)
            .await?;
    }
    Ok(())
}

/// Inserts all rows and returns them as stored, in any order.
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
            .take(rows_per_statement::<A::Entity>())
            .collect();
        stored.extend(A::Entity::insert_many(part).exec_with_returning(db).await?);
    }
    Ok(stored)
}
