//! Servers that share one database. PostgreSQL counts heartbeats in a table and notifies by NOTIFY. A SQLite file has
//! one server process, so both stay in its memory and cost no write.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleet_core::ReplicaId;
use sea_orm::{
    DatabaseConnection, DbBackend, RuntimeErr, Statement,
    sea_query::{ExprTrait, Query, SelectStatement},
    sqlx::{
        self,
        postgres::{PgListener, PgPoolOptions},
    },
};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    entity::{command, node, node_stream, pairing, replica, scan},
    nodes,
};
use crate::{ENDED_FOR, Notification, Orders, Replicas, sql::prelude::*};

/// The channel of NOTIFY.
const CHANNEL: &str = "fleet";
/// Notifications that may wait for a server. It reads the rows once a second in any case.
const WAITING: usize = 1_024;
/// Connections for coordination: one listens, one counts heartbeats and notifies.
const CONNECTIONS: u32 = 2;
/// How long an operation waits for such a connection. A heartbeat that is later than this has no value.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// A server without heartbeats for this long is removed. It exceeds any difference between the clocks of servers.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// How the servers of a database coordinate.
#[derive(Debug)]
pub(crate) enum Coordination {
    /// In the memory of the one server process.
    Local(Mutex<Local>),
    /// By connections that requests never use. Otherwise, many slow requests would delay heartbeats and orders.
    Postgres(DatabaseConnection),
}

#[derive(Debug, Default)]
pub(crate) struct Local {
    heartbeats: BTreeMap<ReplicaId, (i64, [u8; 32])>,
    subscribers: Vec<mpsc::Sender<Notification>>,
}

impl Coordination {
    /// Prepares coordination through the database of a pool. Connections are opened when they are needed first.
    pub(crate) fn of(pool: &DatabaseConnection) -> Self {
        if pool.get_database_backend() == DbBackend::Sqlite {
            return Self::Local(Mutex::default());
        }
        let options = pool.get_postgres_connection_pool().connect_options();
        let connections = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with((*options).clone());
        Self::Postgres(connections.into())
    }

    /// Closes the connections.
    pub(crate) async fn close(&self) {
        match self {
            Self::Local(_) => {}
            Self::Postgres(database) => {
                let _ = database.close_by_ref().await;
            }
        }
    }
}

fn local(state: &Mutex<Local>) -> std::sync::MutexGuard<'_, Local> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Replicas for SqlStore {
    async fn count_heartbeat(
        &self,
        id: ReplicaId,
        key: [u8; 32],
        now: Timestamp,
    ) -> Result<Vec<(ReplicaId, i64)>, StoreError> {
        let database = match self.coordination() {
            Coordination::Local(state) => {
                let mut state = local(state);
                state.heartbeats.entry(id).or_insert((0, key)).0 += 1;
                let count = |(id, (n, _)): (&ReplicaId, &(i64, [u8; 32]))| (*id, *n);
                return Ok(state.heartbeats.iter().map(count).collect());
            }
            Coordination::Postgres(database) => database,
        };
        let counts = async {
            let row = replica::ActiveModel {
                id: Set(Bytes16(id.0)),
                heartbeats: Set(1),
                seen_at: Set(Micros(now)),
                encryption_key: Set(Some(Bytes32(key))),
            };
            let heartbeats = Expr::col((replica::Entity, replica::Column::Heartbeats));
            let again = OnConflict::column(replica::Column::Id)
                .value(replica::Column::Heartbeats, ExprTrait::add(heartbeats, 1))
                .update_columns([replica::Column::SeenAt, replica::Column::EncryptionKey])
                .to_owned();
            replica::Entity::insert(row)
                .on_conflict(again)
                .exec_without_returning(database)
                .await?;
            replica::Entity::delete_many()
                .filter(replica::Column::SeenAt.lt(Micros(now.minus(FORGET_AFTER))))
                .exec(database)
                .await?;
            replica::Entity::find().all(database).await
        };
        let counts = counts.await.during("count_heartbeat")?;
        let count = |row: replica::Model| (ReplicaId(row.id.0), row.heartbeats);
        Ok(counts.into_iter().map(count).collect())
    }

    async fn replica_key(&self, id: ReplicaId) -> Result<Option<[u8; 32]>, StoreError> {
        if let Coordination::Local(state) = self.coordination() {
            return Ok(local(state).heartbeats.get(&id).map(|(_, key)| *key));
        }
        let row = replica::Entity::find_by_id(Bytes16(id.0)).one(self.reader());
        let row = row.await.during("replica_key")?;
        Ok(row.and_then(|row| row.encryption_key).map(|key| key.0))
    }

    async fn orders(&self, replica: ReplicaId, now: Timestamp) -> Result<Orders, StoreError> {
        let held = || {
            node_stream::Entity::find()
                .select_only()
                .column(node_stream::Column::NodeId)
                .filter(node_stream::Column::Replica.eq(Bytes16(replica.0)))
                .filter(node_stream::Column::ReleasedAt.is_null())
                .into_query()
        };
        let orders = async {
            let revoked = node::Entity::find()
                .filter(node::Column::DeletedAt.is_not_null())
                .filter(node::Column::Id.in_subquery(held()))
                .select_only()
                .column(node::Column::Id)
                .into_tuple::<i64>()
                .all(self.reader())
                .await?;
            let unwanted = Condition::any()
                .add(Expr::exists(unwanted_scan()))
                .add(Expr::exists(canceled_pairing()));
            let canceled = command::Entity::find()
                .filter(command::Column::State.eq(AsText(CommandState::Issued)))
                .filter(command::Column::NodeId.in_subquery(held()))
                .filter(unwanted)
                .select_only()
                .columns([command::Column::NodeId, command::Column::Id])
                .into_tuple::<(i64, AsText<CommandId>)>()
                .all(self.reader())
                .await?;
            let flooded = command::Entity::find()
                // As in the index.
                .filter(Expr::col((command::Entity, command::Column::Flooded)))
                .filter(command::Column::EndedAt.gte(Micros(now.minus(ENDED_FOR))))
                .filter(command::Column::NodeId.in_subquery(held()))
                .select_only()
                .columns([command::Column::NodeId, command::Column::Id])
                .into_tuple::<(i64, AsText<CommandId>)>()
                .all(self.reader())
                .await?;
            let command = |(node, AsText(command))| (NodeId(node), command);
            Ok(Orders {
                canceled: canceled.into_iter().map(command).collect(),
                revoked: revoked.into_iter().map(NodeId).collect(),
                ended: flooded.into_iter().map(command).collect(),
            })
        };
        orders.await.during("orders")
    }

    async fn notify(&self, notification: Notification) -> Result<(), StoreError> {
        let database = match self.coordination() {
            Coordination::Local(state) => {
                // A full channel keeps its subscriber.
                local(state).subscribers.retain(|subscriber| {
                    !matches!(
                        subscriber.try_send(notification),
                        Err(TrySendError::Closed(_))
                    )
                });
                return Ok(());
            }
            Coordination::Postgres(database) => database,
        };
        let notify = Statement::from_sql_and_values(
            DbBackend::Postgres,
            "SELECT pg_notify($1, $2)",
            [CHANNEL.into(), payload(notification).into()],
        );
        let notified = database.execute_raw(notify).await;
        notified.map(drop).during("notify")
    }

    async fn notifications(&self) -> Result<mpsc::Receiver<Notification>, StoreError> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let database = match self.coordination() {
            Coordination::Local(state) => {
                local(state).subscribers.push(sender);
                return Ok(receiver);
            }
            Coordination::Postgres(database) => database,
        };
        let listener = listen(database.get_postgres_connection_pool()).await;
        let listener = listener
            .map_err(|error| DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))))
            .during("notifications")?;
        tokio::spawn(forward(listener, sender));
        Ok(receiver)
    }
}

async fn listen(pool: &sqlx::PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// Forwards notifications until the subscriber or the connection is gone.
async fn forward(mut listener: PgListener, subscriber: mpsc::Sender<Notification>) {
    loop {
        let notification = tokio::select! {
            notification = listener.try_recv() => notification,
            () = subscriber.closed() => return,
        };
        match notification {
            Ok(Some(notification)) => {
                if let Some(notification) = parse(notification.payload()) {
                    let _ = subscriber.try_send(notification);
                }
            }
            // The listener has connected again.
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "the subscription to notifications is lost");
                return;
            }
        }
    }
}

fn payload(notification: Notification) -> String {
    match notification {
        Notification::Node(node) => format!("node {node}"),
        Notification::Credentials(org) => format!("credentials {org}"),
    }
}

/// Parses what [`payload`] writes. A newer server may send other notifications, which this version ignores.
fn parse(payload: &str) -> Option<Notification> {
    let (kind, id) = payload.split_once(' ')?;
    match (kind, id.parse()) {
        ("node", Ok(id)) => Some(Notification::Node(NodeId(id))),
        ("credentials", Ok(id)) => Some(Notification::Credentials(OrgId(id))),
        _ => None,
    }
}

/// The scan of a command, if it was canceled or has ended.
fn unwanted_scan() -> SelectStatement {
    Query::select()
        .expr(Expr::val(1))
        .from(scan::Entity)
        .and_where(ExprTrait::equals(
            Expr::col((scan::Entity, scan::Column::Id)),
            (command::Entity, command::Column::ScanId),
        ))
        .cond_where(
            Condition::any()
                .add(scan::Column::CancelUntil.is_not_null())
                .add(scan::Column::State.is_not_in(nodes::open_states())),
        )
        .to_owned()
}

/// The pairing of a command, if it was canceled.
fn canceled_pairing() -> SelectStatement {
    Query::select()
        .expr(Expr::val(1))
        .from(pairing::Entity)
        .and_where(ExprTrait::equals(
            Expr::col((pairing::Entity, pairing::Column::Id)),
            (command::Entity, command::Column::PairingId),
        ))
        .and_where(pairing::Column::CanceledAt.is_not_null())
        .to_owned()
}
