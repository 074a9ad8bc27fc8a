//! Reference models for fuzzing by operations instead of bytes. Each model is written to be obviously correct, not fast.
//! Property tests and fuzz targets run the same interpreters. Every panic is a finding.

mod link;
mod registry;
mod spool;

use std::time::Instant;

/// The most operations of one run. More would only make a finding harder to read.
const MOST_OPERATIONS: usize = 512;

/// An operation as four bytes: the kind and three arguments, which each operation interprets as it needs. Thus every
/// byte sequence is a valid run, and a shorter sequence is a simpler run.
pub(crate) type Op = [u8; 4];

fn ops_of(data: &[u8]) -> impl Iterator<Item = Op> {
    let (ops, _) = data.as_chunks::<4>();
    ops.iter().copied().take(MOST_OPERATIONS)
}

/// Runs operations on the server's registry. Any `origin` is valid, because only differences matter.
pub(crate) fn registry_operations(origin: Instant, data: &[u8]) {
    registry::run(origin, ops_of(data));
}

/// Runs operations on the node's link. Any `origin` is valid.
pub(crate) fn link_operations(origin: Instant, data: &[u8]) {
    link::run(origin, ops_of(data));
}

/// Runs operations on the node's spool. Any `origin` is valid.
pub(crate) fn spool_operations(origin: Instant, data: &[u8]) {
    spool::run(origin, ops_of(data));
}

/// Selects one of `items` by an operation's argument.
fn pick<T: Copy>(items: &[T], argument: u8) -> Option<T> {
    let at = usize::from(argument).checked_rem(items.len())?;
    items.get(at).copied()
}
