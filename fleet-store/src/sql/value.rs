//! Column types: one representation of domain values for both databases. Times are integers, values with a text
//! form are text, and hashes and keys are bytes.

use std::{fmt::Display, str::FromStr};

use fleet_core::{SecretHash, Timestamp};
use sea_orm::{
    ColIdx, DbErr, QueryResult, TryFromU64, TryGetError, TryGetable, Value,
    sea_query::{ArrayType, ColumnType, Nullable, StringLen, ValueType, ValueTypeErr},
};

/// A value stored in its text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AsText<T>(pub(crate) T);

impl<T: Display> From<AsText<T>> for Value {
    fn from(value: AsText<T>) -> Self {
        value.0.to_string().into()
    }
}

impl<T: FromStr> TryGetable for AsText<T> {
    fn try_get_by<I: ColIdx>(row: &QueryResult, index: I) -> Result<Self, TryGetError> {
        let text = String::try_get_by(row, index)?;
        text.parse()
            .map(Self)
            .map_err(|_| unreadable::<T>(&text).into())
    }
}

impl<T: FromStr> ValueType for AsText<T> {
    fn try_from(value: Value) -> Result<Self, ValueTypeErr> {
        let text = <String as ValueType>::try_from(value)?;
        text.parse().map(Self).map_err(|_| ValueTypeErr)
    }

    fn type_name() -> String {
        format!("AsText<{}>", std::any::type_name::<T>())
    }

    fn array_type() -> ArrayType {
        ArrayType::String
    }

    fn column_type() -> ColumnType {
        ColumnType::String(StringLen::None)
    }
}

impl<T> Nullable for AsText<T> {
    fn null() -> Value {
        Value::String(None)
    }
}

impl<T> TryFromU64 for AsText<T> {
    fn try_from_u64(_: u64) -> Result<Self, DbErr> {
        Err(DbErr::ConvertFromU64("AsText"))
    }
}

fn unreadable<T>(text: &str) -> DbErr {
    // The text may come from a device, so it is cut and escaped for the log.
    let head: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    DbErr::Type(format!(
        "stored text is no {}: `{head}`",
        std::any::type_name::<T>()
    ))
}

macro_rules! wrapped {
    ($($(#[$doc:meta])* $name:ident($inner:ty) as $raw:ty, $array:ident, $null:ident, $column:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub(crate) $inner);

        impl From<$name> for Value {
            fn from(value: $name) -> Self {
                value.raw().into()
            }
        }

        impl TryGetable for $name {
            fn try_get_by<I: ColIdx>(row: &QueryResult, index: I) -> Result<Self, TryGetError> {
                let raw = <$raw as TryGetable>::try_get_by(row, index)?;
                Self::read(raw).ok_or_else(|| DbErr::Type(format!("stored bytes are no {}", stringify!($name))).into())
            }
        }

        impl ValueType for $name {
            fn try_from(value: Value) -> Result<Self, ValueTypeErr> {
                Self::read(<$raw as ValueType>::try_from(value)?).ok_or(ValueTypeErr)
            }

            fn type_name() -> String {
                stringify!($name).to_owned()
            }

            fn array_type() -> ArrayType {
                ArrayType::$array
            }

            fn column_type() -> ColumnType {
                $column
            }
        }

        impl TryFromU64 for $name {
            fn try_from_u64(_: u64) -> Result<Self, DbErr> {
                Err(DbErr::ConvertFromU64(stringify!($name)))
            }
        }

        impl Nullable for $name {
            fn null() -> Value {
                Value::$null(None)
            }
        }
    )*};
}

wrapped! {
    /// A time in microseconds since the Unix epoch. Unlike text, it has the same bytes, order and precision in
    /// both databases.
    Micros(Timestamp) as i64, BigInt, BigInt, ColumnType::BigInteger;
    /// The hash of a secret.
    Hash(SecretHash) as Vec<u8>, Bytes, Bytes, ColumnType::Blob;
    /// A public key or a digest.
    Bytes32([u8; 32]) as Vec<u8>, Bytes, Bytes, ColumnType::Blob;
    /// The id of a process.
    Bytes16([u8; 16]) as Vec<u8>, Bytes, Bytes, ColumnType::Blob;
}

impl Micros {
    fn raw(self) -> i64 {
        self.0.as_micros()
    }

    #[expect(clippy::unnecessary_wraps, reason = "all four are read by one macro")]
    fn read(raw: i64) -> Option<Self> {
        Some(Self(Timestamp::from_micros(raw)))
    }
}

impl Hash {
    fn raw(self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }

    fn read(raw: Vec<u8>) -> Option<Self> {
        raw.try_into().ok().map(SecretHash::from_stored).map(Self)
    }
}

impl Bytes32 {
    fn raw(self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn read(raw: Vec<u8>) -> Option<Self> {
        raw.try_into().ok().map(Self)
    }
}

impl Bytes16 {
    fn raw(self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn read(raw: Vec<u8>) -> Option<Self> {
        raw.try_into().ok().map(Self)
    }
}
