//! Operations instead of bytes: each machine against a small reference model that is written to be
//! obvious, not fast. Property tests and fuzz targets run the same interpreters; every panic is a finding.

mod link;
mod registry;
mod spool;

use std::time::Instant;

/// The most operations of one run: more would only make a finding harder to read.
const MOST_OPERATIONS: usize = 512;

/// An operation as four bytes: what, and three arguments that each operation reads as it likes, so that
/// every sequence of bytes is a legal run and a shorter one is a simpler one.
pub type Op = [u8; 4];

fn ops_of(data: &[u8]) -> impl Iterator<Item = Op> {
    let (ops, _) = data.as_chunks::<4>();
    ops.iter().copied().take(MOST_OPERATIONS)
}

/// Runs the server's registry, started at any moment: only differences count.
pub fn registry_operations(origin: Instant, data: &[u8]) {
    registry::run(origin, ops_of(data));
}

/// Runs the node's link, started at any moment.
pub fn link_operations(origin: Instant, data: &[u8]) {
    link::run(origin, ops_of(data));
}

/// Runs the node's spool, started at any moment.
pub fn spool_operations(origin: Instant, data: &[u8]) {
    spool::run(origin, ops_of(data));
}

/// One of `items`, picked by an operation's argument.
fn pick<T: Copy>(items: &[T], argument: u8) -> Option<T> {
    let at = usize::from(argument).checked_rem(items.len())?;
    items.get(at).copied()
}
