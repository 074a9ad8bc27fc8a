//! Conversion of counts: both databases have signed integers only.

use sea_orm::DbErr;

/// Converts a count to the signed integer that the databases store.
pub(crate) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads a count. A negative one was not written by this program and is an error.
pub(crate) fn read_count<T: TryFrom<i64>>(stored: i64) -> Result<T, DbErr> {
    stored
        .try_into()
        .map_err(|_| DbErr::Type(format!("stored count is out of range: {stored}")))
}
