//! Targets that a site excludes from every scan of its nodes. Start with [`Exclusion`].

use std::net::IpAddr;

use fleet_core::limits;

use crate::{AddressList, TargetEntry, TargetError, TargetSet, shown::shown};

/// Targets that no scan of a site's nodes may include.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    entry: TargetEntry,
    /// None for patterns of octets, which can have 65,536 runs of one address and are compared octet by octet.
    addresses: Option<AddressList>,
    site: String,
    reason: String,
}

/// Why targets cannot be excluded from the scans of a site.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExclusionError {
    /// An entry is not well-formed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The text has no entries.
    #[error(
        "there is nothing to exclude: name an address, a network such as 10.0.0.0/28, or a range"
    )]
    Empty,
    /// An entry has no fixed addresses, or is an exception.
    #[error("`{0}` cannot be excluded: name an address, a network such as 10.0.0.0/28, or a range")]
    NotFixed(String),
    /// The text has too many entries.
    #[error(
        "{0} targets are too many for one site, which excludes {most} at most: combine them to networks or ranges",
        most = limits::SITE_EXCLUDES
    )]
    TooMany(usize),
}

impl Exclusion {
    /// Returns the exclusion of targets at a site. Site and reason are escaped and shortened.
    ///
    /// # Errors
    ///
    /// The text is not one entry with fixed addresses.
    pub fn new(target: &str, site: &str, reason: &str) -> Result<Self, ExclusionError> {
        let mut entries = excluded_entries(target)?;
        let (Some(entry), true) = (entries.pop(), entries.is_empty()) else {
            return Err(ExclusionError::NotFixed(shown(target)));
        };
        let addresses = match &entry {
            TargetEntry::Octets(_) => None,
            TargetEntry::Target(_) | TargetEntry::Range(..) => entry.addresses(),
        };
        Ok(Self {
            addresses,
            entry,
            site: shown(site),
            reason: shown(reason),
        })
    }

    /// Whether the exclusion covers an address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match &self.addresses {
            Some(addresses) => addresses.contains(ip),
            None => self.entry.contains(ip),
        }
    }

    /// Returns why its targets are skipped, with the site.
    pub fn skipped(&self) -> String {
        format!("excluded at site {}: {}", self.site, self.reason)
    }

    /// Returns the targets in canonical form.
    pub fn target(&self) -> &TargetEntry {
        &self.entry
    }
}

/// Reads the targets of an exclusion, in the grammar of scan targets.
///
/// # Errors
///
/// The first entry that is not well-formed or has no fixed addresses.
pub fn excluded_entries(text: &str) -> Result<Vec<TargetEntry>, ExclusionError> {
    let set = TargetSet::parse(&[text])?;
    if let Some(entry) = set.excluded().first() {
        return Err(ExclusionError::NotFixed(format!("!{entry}")));
    }
    if let Some(entry) = set.included().iter().find(|entry| !entry.is_fixed()) {
        return Err(ExclusionError::NotFixed(entry.to_string()));
    }
    match set.included().len() {
        0 => Err(ExclusionError::Empty),
        count if count > limits::SITE_EXCLUDES => Err(ExclusionError::TooMany(count)),
        _ => Ok(set.included().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excluded_targets_are_entries_with_fixed_addresses() {
        let read = |text: &str| {
            let entries = excluded_entries(text);
            entries.map(|entries| {
                let texts: Vec<String> = entries.iter().map(ToString::to_string).collect();
                texts.join(" ")
            })
        };
        assert_eq!(
            read("10.0.0.9, 10.0.1.7/24\n10.0.2.1-9 # cameras").as_deref(),
            Ok("10.0.0.9 10.0.1.0/24 10.0.2.1-9")
        );
        assert_eq!(read(" # nothing"), Err(ExclusionError::Empty));
        for entry in ["!10.0.0.9", "printer.lan", "fleetnode-local-subnet"] {
            assert_eq!(read(entry), Err(ExclusionError::NotFixed(entry.into())));
        }
        assert!(matches!(read("10.0.0.300"), Err(ExclusionError::Target(_))));
        let many = vec!["10.0.0.1"; limits::SITE_EXCLUDES + 1].join(" ");
        assert_eq!(
            read(&many),
            Err(ExclusionError::TooMany(limits::SITE_EXCLUDES + 1))
        );
    }

    #[test]
    fn an_exclusion_covers_its_addresses_and_says_why() {
        let printers = Exclusion::new("10.0.0.4-7", "barn", "printers").expect("an exclusion");
        let pattern = Exclusion::new("10.*.*.9", "barn", "switches").expect("an exclusion");
        let covers = |exclusion: &Exclusion, ip: &str| exclusion.contains(ip.parse().expect(ip));
        assert!(covers(&printers, "10.0.0.4") && covers(&printers, "::ffff:10.0.0.7"));
        assert!(!covers(&printers, "10.0.0.8"));
        assert!(covers(&pattern, "10.200.3.9") && !covers(&pattern, "10.200.3.8"));
        // A site may exclude 256 such patterns.
        assert_eq!(pattern.addresses, None);
        assert_eq!(printers.skipped(), "excluded at site barn: printers");
        let hostile = Exclusion::new("10.0.0.4", "\u{1b}[2J", "a\nb").expect("an exclusion");
        assert_eq!(hostile.skipped(), "excluded at site \\u{1b}[2J: a\\nb");
    }
}
