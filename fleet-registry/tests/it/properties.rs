//! Random operations, compared with the reference models.

use std::fmt;

use proptest::{collection::vec, prelude::*};

use crate::{models, now};

/// Operations of four bytes each, printed on one line.
#[derive(Clone)]
struct Ops(Vec<models::Op>);

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

fn operations() -> impl Strategy<Value = Ops> {
    vec(any::<models::Op>(), 60..200).prop_map(Ops)
}

proptest! {
    #![proptest_config(fleet_core::regressions!("registry", 1024))]
    #[test]
    fn the_registry_matches_its_model(ops in operations()) {
        models::registry_operations(now(), ops.0.as_flattened());
    }
}

proptest! {
    #![proptest_config(fleet_core::regressions!("link", 1024))]
    #[test]
    fn the_link_matches_its_model(ops in operations()) {
        models::link_operations(now(), ops.0.as_flattened());
    }
}

proptest! {
    #![proptest_config(fleet_core::regressions!("spool", 1024))]
    #[test]
    fn the_spool_matches_its_model(ops in operations()) {
        models::spool_operations(now(), ops.0.as_flattened());
    }
}
