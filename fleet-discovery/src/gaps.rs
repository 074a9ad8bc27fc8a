//! What a scan left out at targets that have an outcome. Start with [`Gaps`].

/// Counts of what was not tried, or not to the end. With a gap, a scan ends as partial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Targets with an outcome although some of their ports were not tried.
    pub partly_tried: u64,
    /// Those ports, of all these targets together.
    pub untried_ports: u64,
    /// Targets that are unidentified because the time of an identification was over.
    pub cut_off: u64,
    /// How often a driver crashed or could not work.
    pub driver_failures: u64,
}

impl Gaps {
    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the counts of another part of the scan.
    pub fn add(&mut self, other: Self) {
        self.partly_tried += other.partly_tried;
        self.untried_ports += other.untried_ports;
        self.cut_off += other.cut_off;
        self.driver_failures += other.driver_failures;
    }

    /// One phrase for each kind of gap.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.partly_tried > 0 {
            reasons.push(format!(
                "{} ports of {} targets were not tried",
                self.untried_ports, self.partly_tried
            ));
        }
        if self.cut_off > 0 {
            reasons.push(format!(
                "the identification of {} targets was cut off",
                self.cut_off
            ));
        }
        if self.driver_failures > 0 {
            reasons.push(format!(
                "a driver crashed or failed {} times",
                self.driver_failures
            ));
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_gap_has_a_reason() {
        let mut gaps = Gaps::default();
        assert!(gaps.is_empty() && gaps.reasons().is_empty());
        let part = Gaps {
            partly_tried: 1,
            untried_ports: 3,
            cut_off: 2,
            driver_failures: 4,
        };
        gaps.add(part);
        gaps.add(part);
        assert_eq!(
            gaps.reasons(),
            [
                "6 ports of 2 targets were not tried",
                "the identification of 4 targets was cut off",
                "a driver crashed or failed 8 times",
            ]
        );
    }
}
