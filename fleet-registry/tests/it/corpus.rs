//! Replays the committed fuzzing corpora.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

use crate::{models, now};

#[test]
fn the_registry_matches_its_model_on_every_corpus_input() {
    replay("registry_operations", |data| {
        models::registry_operations(now(), data)
    });
}

#[test]
fn the_link_matches_its_model_on_every_corpus_input() {
    replay("link_operations", |data| {
        models::link_operations(now(), data)
    });
}

#[test]
fn the_spool_matches_its_model_on_every_corpus_input() {
    replay("spool_operations", |data| {
        models::spool_operations(now(), data)
    });
}
