//! Assigns each driver name to one plugin when several claim it. Pure, except for the lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

/// Driver names, each with the plugins that ever claimed it. The owner is the first plugin in alphabetical order,
/// independent of the start order: a restart changes nothing.
#[derive(Debug, Default)]
pub(crate) struct DriverNames(Mutex<BTreeMap<String, BTreeSet<String>>>);

/// Most names that one plugin may claim in the life of the node. A correct plugin has one.
const CLAIMS: usize = 8;

impl DriverNames {
    /// Records that a plugin uses a driver name.
    pub(crate) fn claim(&self, driver: &str, plugin: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let claims = names
            .values()
            .filter(|claimants| claimants.contains(plugin))
            .count();
        if claims < CLAIMS {
            let claimants = names.entry(driver.to_owned()).or_default();
            claimants.insert(plugin.to_owned());
        }
    }

    /// The plugin that owns a driver name.
    pub(crate) fn owner(&self, driver: &str) -> Option<String> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(driver)?.first().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabetically_first_plugin_owns_a_name() {
        let names = DriverNames::default();
        names.claim("acme", "b");
        assert_eq!(names.owner("acme").as_deref(), Some("b"));
        names.claim("acme", "a");
        assert_eq!(names.owner("acme").as_deref(), Some("a"));
        names.claim("acme", "c");
        assert_eq!(names.owner("acme").as_deref(), Some("a"));
        assert_eq!(names.owner("other"), None);
    }

    #[test]
    fn only_a_few_names_of_a_plugin_are_kept() {
        let names = DriverNames::default();
        for number in 0..100 {
            names.claim(&format!("driver{number}"), "a");
        }
        assert_eq!(names.owner("driver7").as_deref(), Some("a"));
        assert_eq!(names.owner("driver8"), None);
    }
}
