//! Whose driver name is whose, when several plugins claim one. Pure, but for the lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

/// Driver names, each with the plugins that ever claimed it. The first in the order of names has it, whichever started
/// sooner, so that a restart changes nothing.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<BTreeMap<String, BTreeSet<String>>>);

/// Names that one plugin may claim in a node's life; a plugin has one.
const CLAIMS: usize = 8;

impl Names {
    /// A plugin says that a name is its driver's.
    pub(crate) fn claim(&self, driver: &str, plugin: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let claims = names.values().filter(|who| who.contains(plugin)).count();
        if claims < CLAIMS {
            let who = names.entry(driver.to_owned()).or_default();
            who.insert(plugin.to_owned());
        }
    }

    /// The plugin that has a name.
    pub(crate) fn owner(&self, driver: &str) -> Option<String> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(driver)?.first().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_by_name_has_it_whoever_came_first() {
        let names = Names::default();
        names.claim("acme", "b");
        assert_eq!(names.owner("acme").as_deref(), Some("b"));
        names.claim("acme", "a");
        assert_eq!(names.owner("acme").as_deref(), Some("a"));
        names.claim("acme", "c");
        assert_eq!(names.owner("acme").as_deref(), Some("a"));
        assert_eq!(names.owner("other"), None);
    }

    #[test]
    fn a_plugin_that_changes_its_name_at_every_start_is_remembered_with_a_few() {
        let names = Names::default();
        for number in 0..100 {
            names.claim(&format!("driver{number}"), "a");
        }
        assert_eq!(names.owner("driver7").as_deref(), Some("a"));
        assert_eq!(names.owner("driver8"), None);
    }
}
