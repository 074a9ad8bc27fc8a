//! The bounds of every message that this side receives, checked before a handler sees it.
//!
//! The bounds are the table bounds.txt, from which the build script generates every [`Validate`]. The check has two
//! steps. [`count_repeated`] counts elements in the encoded form, because a small body can decode to a large tree.
//! [`Validate`] then checks the decoded message. Strings are measured in Unicode code points, byte fields in bytes.
//! Domain types check the meaning of a text: an address, a port, a scheme.

mod prescan;

use std::fmt;

pub(crate) use prescan::count_repeated;

use crate::{Duration, RpcError};

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
}

impl From<BrokenBound> for RpcError {
    fn from(broken: BrokenBound) -> Self {
        Self::invalid_argument(broken.to_string())
            .with_reason("INVALID_FIELD")
            .with_fact("field", broken.field)
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

/// A name that a person gave: `min` to `max` code points, none of which hides or reorders text.
fn name(field: &str, value: &str, min: usize, max: usize) -> Checked {
    text(field, value, min, max)?;
    fleet_core::text::check_name(value).map_err(|why| BrokenBound::new(field, why))
}

/// Bytes, `min` to `max` of them.
fn bytes(field: &str, value: &[u8], min: usize, max: usize) -> Checked {
    range(field, value.len(), min, max, "bytes")
}

/// Elements, `min` to `max` of them.
fn count<T>(field: &str, values: &[T], min: usize, max: usize) -> Checked {
    range(field, values.len(), min, max, "elements")
}

/// Strings of `min` to `max` code points.
fn texts(field: &str, values: &[String], min: usize, max: usize) -> Checked {
    values
        .iter()
        .enumerate()
        .try_for_each(|(at, value)| text(&format!("{field}[{at}]"), value, min, max))
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

/// A number of 0 to `max`.
fn at_most(field: &str, value: i64, max: i64) -> Checked {
    if value < 0 {
        Err(BrokenBound::new(
            field,
            format_args!("must not be negative, found {value}"),
        ))
    } else if value > max {
        Err(BrokenBound::new(
            field,
            format_args!("at most {max}, found {value}"),
        ))
    } else {
        Ok(())
    }
}

/// A duration of `min` to `max` seconds, if there is one.
fn seconds(field: &str, value: Option<&Duration>, min: i64, max: i64) -> Checked {
    match value {
        Some(value) if !(min..=max).contains(&value.seconds) => Err(BrokenBound::new(
            field,
            format_args!("{min} to {max} seconds, found {}", value.seconds),
        )),
        Some(_) | None => Ok(()),
    }
}

/// A message or a choice that must be present.
fn required<T>(field: &str, value: Option<&T>, reason: &str) -> Checked {
    match value {
        Some(_) => Ok(()),
        None => Err(BrokenBound::new(field, reason)),
    }
}

/// Two fields of which one must be set.
fn exactly_one(field: &str, is_set: bool, other: &str, other_is_set: bool) -> Checked {
    if is_set == other_is_set {
        let rule = format_args!("set either {field} or {other}");
        return Err(BrokenBound::new(field, rule));
    }
    Ok(())
}

/// Names the field of an inner message from outside.
fn inner(field: &str, checked: Checked) -> Checked {
    checked.map_err(|broken| BrokenBound {
        field: format!("{field}.{}", broken.field),
        ..broken
    })
}

include!(concat!(env!("OUT_DIR"), "/bounds.rs"));
