//! What holds for any request, any scope and any word of a node: coverage, limits, membership, sums.

mod admission;
mod corpus;
mod grammar;
mod interfaces;
mod ledger;
mod plans;
mod scopes;
