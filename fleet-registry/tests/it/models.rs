//! Random operations against the reference models.

use std::fmt;

use fleet_registry::fuzz;
use proptest::{collection::vec, prelude::*};

use crate::now;

/// Operations of four bytes each, printed on one line.
#[derive(Clone)]
struct Ops(Vec<fuzz::Op>);

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

fn operations() -> impl Strategy<Value = Ops> {
    vec(any::<fuzz::Op>(), 60..200).prop_map(Ops)
}

proptest! {
    #![proptest_config(fleet_core::regressions!("registry", 1024))]
    #[test]
    fn a_registry_does_what_its_model_does(ops in operations()) {
        fuzz::registry_operations(now(), ops.0.as_flattened());
    }
}

proptest! {
    #![proptest_config(fleet_core::regressions!("link", 1024))]
    #[test]
    fn a_link_does_what_its_model_does(ops in operations()) {
        fuzz::link_operations(now(), ops.0.as_flattened());
    }
}

proptest! {
    #![proptest_config(fleet_core::regressions!("spool", 1024))]
    #[test]
    fn a_spool_does_what_its_model_does(ops in operations()) {
        fuzz::spool_operations(now(), ops.0.as_flattened());
    }
}
