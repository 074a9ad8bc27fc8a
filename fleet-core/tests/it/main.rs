//! What holds for every address and every text: classes against the registries of IANA, the corpora of fuzzing.

mod addresses;
mod corpus;
mod registry;
