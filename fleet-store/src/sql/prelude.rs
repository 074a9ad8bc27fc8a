//! Names that nearly every operation uses: the query builder, ids, column types and transactions.

pub(super) use async_trait::async_trait;
pub(super) use fleet_core::{
    BrowserSessionId, ChunkState, CommandId, CommandState, DeviceId, DeviceIdentifier, Endpoint,
    Epoch, IdentityChangeId, KeyId, NodeId, OperatorId, OrgId, PairingId, PendingEnrollmentId,
    ScanId, ScanState, SecretHash, SessionId, SiteId, Timestamp, limits,
};
pub(super) use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr,
    EntityTrait, NotSet, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
    Set,
    sea_query::{Expr, LockType, OnConflict},
};

pub(super) use super::{
    counts::{count, read_count},
    transaction::{During, Failure, refuse, transaction, unreadable},
    value::{AsText, Bytes16, Bytes32, Hash, Micros},
};
pub(super) use crate::{Actor, AuditEntry, AuditResult, Principal, SqlStore, StoreError};
