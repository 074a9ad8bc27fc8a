//! The order in which endpoints are tried first: each once, neighbors far apart, without storing the order. Pure.

/// Hosts that are visited on one port before the next port. Two attempts at one host are far apart (20 ms at full rate),
/// and yet a host is finished within a block.
const BLOCK: u32 = 1_024;

/// A lazy permutation of all (host, port) pairs.
///
/// It steps through the hosts by the golden section of their number. Any run of visits is therefore spread evenly over
/// the address range and its subnets (three-distance theorem).
#[derive(Debug, Clone)]
pub(super) struct Walk {
    hosts: u32,
    ports: u8,
    stride: u32,
    /// Hosts in earlier blocks.
    block: u32,
    /// Endpoints visited in this block.
    at: u32,
}

impl Walk {
    /// Covers hosts `0..hosts` and ports `0..ports`.
    pub(super) fn new(hosts: u32, ports: u8) -> Self {
        Self {
            hosts,
            ports,
            stride: stride(hosts),
            block: 0,
            at: 0,
        }
    }

    /// Returns whether every endpoint was visited.
    pub(super) fn is_over(&self) -> bool {
        self.block >= self.hosts || self.ports == 0
    }
}

impl Iterator for Walk {
    type Item = (u32, u8);

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over() {
            return None;
        }
        let size = BLOCK.min(self.hosts - self.block);
        let visit = u64::from(self.block + self.at % size);
        // Less than `hosts`, and less than `ports`.
        let host = (visit * u64::from(self.stride) % u64::from(self.hosts)) as u32;
        let port = (self.at / size) as u8;
        self.at += 1;
        if self.at >= size * u32::from(self.ports) {
            self.block += size;
            self.at = 0;
        }
        Some((host, port))
    }
}

/// The first number from the golden section of `hosts` upwards that is coprime to it.
fn stride(hosts: u32) -> u32 {
    let golden = (f64::from(hosts) * 0.618_033_988_75) as u32;
    (golden.max(1)..hosts)
        // Any other stride would visit some hosts again and some never.
        .find(|stride| greatest_common_divisor(*stride, hosts) == 1)
        .unwrap_or(1)
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_waits_a_block_for_its_next_port() {
        let order: Vec<_> = Walk::new(1_500, 2).collect();
        assert_eq!(order.len(), 3_000);
        assert_eq!(order[0], (0, 0));
        assert_eq!(order[1_024], (0, 1));
        assert_eq!(order[2_048].1, 0, "the second block begins");
        assert_eq!(order[2_048 + 476].1, 1);
    }

    #[test]
    fn any_run_of_visits_is_spread_over_all_subnets() {
        for (hosts, subnet, run, most) in [
            (65_536, 256, 256, 3),
            (65_536, 256, 1_024, 6),
            (1_024, 256, 64, 18),
            (1_022, 256, 16, 6),
        ] {
            let order: Vec<_> = Walk::new(hosts, 1).map(|(host, _)| host / subnet).collect();
            let mut counts = vec![0; (hosts / subnet) as usize + 1];
            let mut busiest = 0;
            for (at, subnet) in order.iter().enumerate() {
                counts[*subnet as usize] += 1;
                busiest = busiest.max(counts[*subnet as usize]);
                if let Some(left_behind) = (at + 1).checked_sub(run) {
                    counts[order[left_behind] as usize] -= 1;
                }
            }
            assert!(busiest <= most, "{busiest} of {run} in one subnet");
        }
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("walk", 64))]

        #[test]
        fn every_endpoint_is_visited_once(hosts in 0u32..5_000, ports in 0u8..8) {
            let mut order: Vec<_> = Walk::new(hosts, ports).collect();
            order.sort_unstable();
            let all: Vec<_> = (0..hosts)
                .flat_map(|host| (0..ports).map(move |port| (host, port)))
                .collect();
            prop_assert_eq!(order, all);
        }
    }
}
