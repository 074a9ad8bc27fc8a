//! The bounds of every message that our side receives, checked before a handler sees it.
//!
//! Two steps: [`count_repeated`] counts elements in the encoded form, so that a small body cannot grow into a large
//! tree; [`Validate`] checks what was decoded. Strings are measured in Unicode code points, byte fields in bytes. What
//! the texts mean (an address, a port, a scheme) is for the domain types to say.

mod accounts;
mod admin;
mod audit;
mod fleet;
mod gateway;
mod pairing;
mod prescan;

use std::fmt;

pub(crate) use prescan::count_repeated;

use crate::RpcError;

/// A field that broke its bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct BrokenBound {
    /// The path of the field, as in the definition: `ack.notes[3]`.
    pub field: String,
    /// What is allowed, and what came.
    pub rule: String,
}

impl BrokenBound {
    fn new(field: impl Into<String>, rule: impl fmt::Display) -> Self {
        Self {
            field: field.into(),
            rule: rule.to_string(),
        }
    }

    /// The same bound seen from the message around it.
    fn within(self, outer: &str) -> Self {
        Self {
            field: format!("{outer}.{}", self.field),
            rule: self.rule,
        }
    }
}

impl From<BrokenBound> for RpcError {
    fn from(broken: BrokenBound) -> Self {
        Self::invalid_argument(broken.to_string())
    }
}

/// How often a repeated field may occur, checked on the encoded message.
#[derive(Debug, Clone, Copy)]
pub struct Repeated {
    /// The path of the field, for the error.
    pub field: &'static str,
    /// The number of the field.
    pub number: u32,
    /// The most occurrences.
    pub max: usize,
    /// Repeated fields of the messages in it.
    pub inner: &'static [Repeated],
}

/// A message whose bounds can be checked.
///
/// The servers call this on every request message. Bounds inside the elements of a report are not part of it: a bad
/// element rejects itself only, and is judged where reports are parsed.
pub trait Validate {
    /// Bounds that must hold before the message is decoded.
    const REPEATED: &'static [Repeated] = &[];

    /// Checks every bound.
    ///
    /// # Errors
    ///
    /// The first field that breaks its bound.
    fn validate(&self) -> Result<(), BrokenBound>;
}

type Checked = Result<(), BrokenBound>;

/// A string of `min` to `max` code points.
fn text(field: &str, value: &str, min: usize, max: usize) -> Checked {
    // Bytes are an upper limit of code points, so that most texts need no counting.
    let length = if value.len() <= max && value.len() >= min * 4 {
        value.len()
    } else {
        value.chars().count()
    };
    range(field, length, min, max, "characters")
}

/// Bytes, `min` to `max` of them.
fn bytes(field: &str, value: &[u8], min: usize, max: usize) -> Checked {
    range(field, value.len(), min, max, "bytes")
}

/// Elements, `min` to `max` of them.
fn count<T>(field: &str, values: &[T], min: usize, max: usize) -> Checked {
    range(field, values.len(), min, max, "elements")
}

/// At most `most` strings of `min` to `max` code points.
fn texts(field: &str, values: &[String], most: usize, min: usize, max: usize) -> Checked {
    count(field, values, 0, most)?;
    values
        .iter()
        .enumerate()
        .try_for_each(|(i, value)| text(&format!("{field}[{i}]"), value, min, max))
}

fn range(field: &str, found: usize, min: usize, max: usize, unit: &str) -> Checked {
    if (min..=max).contains(&found) {
        return Ok(());
    }
    Err(BrokenBound::new(
        field,
        match (min, max) {
            (0, _) => format!("at most {max} {unit}, found {found}"),
            (min, max) if min == max => format!("exactly {max} {unit}, found {found}"),
            (min, max) => format!("{min} to {max} {unit}, found {found}"),
        },
    ))
}

/// An id: greater than 0.
fn id(field: &str, value: i64) -> Checked {
    if value > 0 {
        Ok(())
    } else {
        Err(BrokenBound::new(
            field,
            format_args!("must be greater than 0, found {value}"),
        ))
    }
}

/// An id that may be 0, or a cursor.
fn not_negative(field: &str, value: i64) -> Checked {
    if value >= 0 {
        Ok(())
    } else {
        Err(BrokenBound::new(
            field,
            format_args!("must not be negative, found {value}"),
        ))
    }
}

/// A number of at most `max`.
fn at_most(field: &str, value: i64, max: i64) -> Checked {
    not_negative(field, value)?;
    if value <= max {
        Ok(())
    } else {
        Err(BrokenBound::new(
            field,
            format_args!("at most {max}, found {value}"),
        ))
    }
}

/// A message that must be there.
fn required<'a, T>(field: &str, value: Option<&'a T>) -> Result<&'a T, BrokenBound> {
    value.ok_or_else(|| BrokenBound::new(field, "is required"))
}

/// An inner message, its fields named from outside.
fn inner(field: &str, message: &impl Validate) -> Checked {
    message.validate().map_err(|broken| broken.within(field))
}

/// Messages without any bound.
macro_rules! unbounded {
    ($($message:ty),* $(,)?) => {
        $(impl crate::Validate for $message {
            fn validate(&self) -> Result<(), crate::BrokenBound> {
                Ok(())
            }
        })*
    };
}
use unbounded;
