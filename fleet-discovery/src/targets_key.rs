//! Whether two scans have the same targets. [`Plan::targets_key`] ignores how the targets were written and how they
//! were cut into chunks.

use std::{collections::BTreeSet, fmt::Write};

use crate::{AddressList, ChunkCommand, Plan};

impl Plan {
    /// Returns a text that is equal for scans of the same hosts: the addresses as ranges, then the names. Ports do not
    /// count, and neither do targets that the plan skipped. A scan for announcements is never equal to a scan of
    /// addresses.
    ///
    /// The text can be long. Compare or store its hash.
    pub fn targets_key(&self) -> String {
        let addresses: AddressList = self
            .chunks
            .iter()
            .flat_map(|chunk| chunk.scope.addresses())
            .collect();
        let names: BTreeSet<String> = self
            .chunks
            .iter()
            .flat_map(|chunk| chunk.scope.names_without_address())
            .map(|(name, _)| name.as_str().to_ascii_lowercase())
            .collect();
        let services: BTreeSet<String> = self
            .chunks
            .iter()
            .filter_map(|chunk| match &chunk.command {
                ChunkCommand::Mdns(listening) => Some(listening.service.to_string()),
                ChunkCommand::List(_) | ChunkCommand::Target(_) => None,
            })
            .collect();
        let mut key = addresses.to_string();
        for name in names {
            // Writing to a string does not fail.
            let _ = write!(key, " name:{name}");
        }
        for service in services {
            let _ = write!(key, " mdns:{service}");
        }
        if self.open_scope {
            key.push_str(" open");
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use crate::{Mode, NodeProfile, Plan, PlanPolicy, ScanRequest, plan};

    fn planned(entries: &[&str], ports: &[&str]) -> Plan {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let request = ScanRequest {
            mode: Mode::List(texts(entries)),
            ports: texts(ports),
            rate: 0,
        };
        plan(&request, &NodeProfile::upstream(), &PlanPolicy::default()).expect("a plan")
    }

    #[test]
    fn the_same_hosts_have_the_same_key_however_they_are_written() {
        let key = planned(&["10.0.0.0/30"], &["80"]).targets_key();
        assert_eq!(key, "10.0.0.1-10.0.0.2");
        for (entries, ports) in [
            (&["10.0.0.1", "10.0.0.2"][..], &["80"][..]),
            (&["10.0.0.2", "10.0.0.1", "10.0.0.2"], &["80"]),
            (&["10.0.0.1-2"], &["80", "4028"]),
            (&["10.0.0.1-3", "!10.0.0.3"], &["443"]),
        ] {
            assert_eq!(planned(entries, ports).targets_key(), key, "{entries:?}");
        }
    }

    #[test]
    fn other_hosts_have_another_key() {
        let keys: std::collections::BTreeSet<String> = [
            &["10.0.0.1"][..],
            &["10.0.0.2"],
            &["10.0.0.1", "10.0.0.2"],
            &["fd00::1"],
        ]
        .into_iter()
        .map(|entries| planned(entries, &["80"]).targets_key())
        .collect();
        assert_eq!(keys.len(), 4);
    }

    #[test]
    fn many_chunks_have_one_key() {
        let plan = planned(&["10.0.0.0/16"], &["80"]);
        assert!(plan.chunks.len() > 1);
        assert_eq!(plan.targets_key(), "10.0.0.1-10.0.255.254");
    }
}
