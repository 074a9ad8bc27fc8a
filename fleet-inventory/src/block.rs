//! The map of a site: the last outcome of each IPv4 address, in blocks of 256. Start with [`Cell::observe`], which adds
//! an outcome of a scan, and [`Cell::state`], which decides what the map shows.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr, str::FromStr, time::Duration};

use fleet_core::{TargetOutcome, Timestamp, parse_literal};

/// The number of addresses of a block.
pub const CELLS: usize = 256;

/// The most blocks of one announced subnet that the map shows before a scan: those of a /16, the largest target.
const ANNOUNCED: u32 = 256;

/// A /24 network of IPv4 addresses, ordered by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockNumber(u32);

impl BlockNumber {
    /// The block of an address.
    pub fn of(ip: Ipv4Addr) -> Self {
        Self(ip.to_bits() >> 8)
    }

    /// Reads the upper 24 bits of the addresses of a block.
    pub fn from_number(number: i64) -> Option<Self> {
        let number = u32::try_from(number).ok()?;
        (number < 1 << 24).then_some(Self(number))
    }

    /// The upper 24 bits of its addresses.
    pub fn number(self) -> i64 {
        i64::from(self.0)
    }

    /// The address of a cell.
    pub fn address(self, cell: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0 << 8 | u32::from(cell))
    }
}

impl fmt::Display for BlockNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/24", self.address(0))
    }
}

/// A text that is not the network of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an IPv4 network of length 24, such as 10.0.0.0/24")]
pub struct NotABlock;

impl FromStr for BlockNumber {
    type Err = NotABlock;

    fn from_str(text: &str) -> Result<Self, NotABlock> {
        let (ip, length) = text.split_once('/').ok_or(NotABlock)?;
        let Some(std::net::IpAddr::V4(ip)) = parse_literal(ip) else {
            return Err(NotABlock);
        };
        let block = Self::of(ip);
        if length == "24" && block.address(0) == ip {
            Ok(block)
        } else {
            Err(NotABlock)
        }
    }
}

/// The blocks of the subnets that nodes announce, as texts such as `10.0.0.5/22`. Texts that are no IPv4 network, and
/// the blocks of a subnet after its first 256, are left out.
pub fn announced_blocks<'a>(subnets: impl IntoIterator<Item = &'a str>) -> BTreeSet<BlockNumber> {
    let mut blocks = BTreeSet::new();
    for subnet in subnets {
        let Some((ip, length)) = subnet.split_once('/') else {
            continue;
        };
        let (Some(std::net::IpAddr::V4(ip)), Ok(length)) =
            (parse_literal(ip), length.parse::<u32>())
        else {
            continue;
        };
        if length > 32 {
            continue;
        }
        let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
        let first = (ip.to_bits() & !hosts) >> 8;
        let last = (ip.to_bits() | hosts) >> 8;
        blocks.extend((first..=last.min(first + ANNOUNCED - 1)).map(BlockNumber));
    }
    blocks
}

/// An outcome that a scan reports about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressOutcome {
    /// The outcome.
    pub outcome: TargetOutcome,
    /// When the scan started, which orders scans.
    pub scan: Timestamp,
    /// When the outcome was reported.
    pub at: Timestamp,
}

/// What the scans of a site know about one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// The last outcome and the start of its scan, to the millisecond; none if no scan had the address as a target.
    pub last: Option<(TargetOutcome, Timestamp)>,
    /// When the address last answered, to the second.
    pub answered: Option<Timestamp>,
}

impl Cell {
    /// Adds an outcome. Within one scan the best outcome of its chunks counts, as in the scan summary. The outcome of a
    /// later scan replaces it, and the outcome of an earlier scan, which may arrive later, changes nothing. The result
    /// does not depend on the order of observations.
    #[must_use]
    pub fn observe(self, seen: AddressOutcome) -> Self {
        let scan = whole(seen.scan, 1_000);
        let last = match self.last {
            Some((known, started)) if started > scan => (known, started),
            Some((known, started)) if started == scan => (known.max(seen.outcome), scan),
            Some(_) | None => (seen.outcome, scan),
        };
        let answered = answers(seen.outcome).then(|| whole(seen.at, 1_000_000));
        Self {
            last: Some(last),
            answered: self.answered.max(answered),
        }
    }

    /// What the map shows. `device_seen` is the last report of a device that has the address now: reports arrive before
    /// the outcomes of their chunk, so the map fills while a chunk runs.
    pub fn state(self, excluded: bool, device_seen: Option<Timestamp>) -> CellState {
        if excluded {
            return CellState::Excluded;
        }
        let is_current = |seen: Timestamp| self.last.is_none_or(|(_, scan)| seen >= scan);
        if device_seen.is_some_and(is_current) {
            return CellState::Identified;
        }
        match self.last {
            None => CellState::NeverScanned,
            Some((TargetOutcome::Skipped, _)) => CellState::Excluded,
            Some((TargetOutcome::NotReached, _)) => CellState::NotReached,
            Some((TargetOutcome::Silent, _)) => CellState::Silent,
            Some((TargetOutcome::Refused, _)) => CellState::Refused,
            Some((TargetOutcome::Unidentified, _)) => CellState::Unidentified,
            Some((TargetOutcome::Identified, _)) => CellState::Identified,
        }
    }
}

/// The state of an address on the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CellState {
    /// No scan had the address as a target.
    NeverScanned,
    /// The site or the node excludes the address.
    Excluded,
    /// The last scan did not finish a probe of it.
    NotReached,
    /// Nothing answered.
    Silent,
    /// The host refused the connection.
    Refused,
    /// A host answered that no driver recognized.
    Unidentified,
    /// A device answered.
    Identified,
}

impl CellState {
    /// The byte in the API: that of the outcome in a node's acknowledgment, and 6 for an address that was never
    /// scanned.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::NotReached => 0,
            Self::Silent => 1,
            Self::Refused => 2,
            Self::Unidentified => 3,
            Self::Identified => 4,
            Self::Excluded => 5,
            Self::NeverScanned => 6,
        }
    }
}

/// Whether an outcome shows that a host answered. A refusal is an answer too.
fn answers(outcome: TargetOutcome) -> bool {
    match outcome {
        TargetOutcome::Refused | TargetOutcome::Unidentified | TargetOutcome::Identified => true,
        TargetOutcome::Skipped | TargetOutcome::NotReached | TargetOutcome::Silent => false,
    }
}

/// Rounds a time down to whole units of microseconds, as it is stored.
fn whole(time: Timestamp, unit: i64) -> Timestamp {
    let rest = u64::try_from(time.as_micros().rem_euclid(unit)).unwrap_or(0);
    time.minus(Duration::from_micros(rest))
}

#[cfg(test)]
mod tests {
    use TargetOutcome as T;
    use proptest::prelude::*;

    use super::*;

    const OUTCOMES: [TargetOutcome; 6] = [
        T::Skipped,
        T::NotReached,
        T::Silent,
        T::Refused,
        T::Unidentified,
        T::Identified,
    ];

    fn second(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn seen(outcome: TargetOutcome, scan: i64, at: i64) -> AddressOutcome {
        AddressOutcome {
            outcome,
            scan: second(scan),
            at: second(at),
        }
    }

    #[track_caller]
    fn check(observations: &[AddressOutcome], last: (TargetOutcome, i64), answered: Option<i64>) {
        let cell = observations
            .iter()
            .fold(Cell::default(), |cell, one| cell.observe(*one));
        let expected = Cell {
            last: Some((last.0, second(last.1))),
            answered: answered.map(second),
        };
        assert_eq!(cell, expected, "{observations:?}");
    }

    #[test]
    fn a_later_scan_replaces_the_outcome_and_keeps_the_time_of_the_last_answer() {
        check(&[seen(T::Silent, 1, 2)], (T::Silent, 1), None);
        check(
            &[seen(T::Identified, 1, 2), seen(T::Silent, 5, 6)],
            (T::Silent, 5),
            Some(2),
        );
        check(
            &[seen(T::Refused, 1, 2), seen(T::NotReached, 5, 6)],
            (T::NotReached, 5),
            Some(2),
        );
    }

    #[test]
    fn the_best_outcome_of_one_scan_counts() {
        check(
            &[seen(T::Identified, 1, 2), seen(T::Silent, 1, 3)],
            (T::Identified, 1),
            Some(2),
        );
        check(
            &[seen(T::Skipped, 1, 2), seen(T::Silent, 1, 3)],
            (T::Silent, 1),
            None,
        );
    }

    #[test]
    fn an_earlier_scan_that_reports_later_changes_no_outcome() {
        check(
            &[seen(T::Silent, 5, 6), seen(T::Identified, 1, 9)],
            (T::Silent, 5),
            Some(9),
        );
    }

    #[test]
    fn the_map_shows_devices_before_the_outcomes_of_their_chunk() {
        let silent = Cell::default().observe(seen(T::Silent, 10, 12));
        let skipped = Cell::default().observe(seen(T::Skipped, 10, 12));
        for (cell, excluded, device, expected) in [
            (Cell::default(), false, None, CellState::NeverScanned),
            (Cell::default(), true, None, CellState::Excluded),
            (Cell::default(), false, Some(1), CellState::Identified),
            (silent, false, None, CellState::Silent),
            // The device was seen before the scan that found its address silent.
            (silent, false, Some(9), CellState::Silent),
            (silent, false, Some(10), CellState::Identified),
            (silent, true, Some(20), CellState::Excluded),
            (skipped, false, None, CellState::Excluded),
        ] {
            let state = cell.state(excluded, device.map(second));
            assert_eq!(state, expected, "{cell:?} {excluded} {device:?}");
        }
    }

    #[test]
    fn the_bytes_of_states_are_those_of_outcomes() {
        for outcome in OUTCOMES {
            let cell = Cell::default().observe(seen(outcome, 1, 1));
            assert_eq!(cell.state(false, None).to_byte(), outcome.to_byte());
        }
        assert_eq!(Cell::default().state(false, None).to_byte(), 6);
    }

    #[test]
    fn blocks_are_read_as_they_are_written() {
        for text in ["10.0.0.0/24", "0.0.0.0/24", "255.255.255.0/24"] {
            let block: BlockNumber = text.parse().expect(text);
            assert_eq!(block.to_string(), text);
            assert_eq!(BlockNumber::from_number(block.number()), Some(block));
            assert_eq!(BlockNumber::of(block.address(255)), block);
        }
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/25",
            "10.0.0.1/24",
            "fd00::/24",
            "x/24",
        ] {
            assert_eq!(text.parse::<BlockNumber>(), Err(NotABlock), "{text}");
        }
        assert_eq!(BlockNumber::from_number(1 << 24), None);
        assert_eq!(BlockNumber::from_number(-1), None);
    }

    #[test]
    fn announced_subnets_have_the_blocks_of_their_addresses() {
        for (subnets, expected) in [
            (vec!["10.0.0.5/24"], vec!["10.0.0.0/24"]),
            (vec!["10.0.1.5/23"], vec!["10.0.0.0/24", "10.0.1.0/24"]),
            (vec!["10.0.0.128/25", "10.0.0.1/25"], vec!["10.0.0.0/24"]),
            (vec!["10.0.0.1/32"], vec!["10.0.0.0/24"]),
            (
                vec!["fd00::1/64", "eth0", "10.0.0.1/33", "10.0.0.1"],
                vec![],
            ),
        ] {
            let blocks = announced_blocks(subnets.iter().copied());
            let texts: Vec<String> = blocks.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{subnets:?}");
        }
        assert_eq!(announced_blocks(["10.0.0.1/8"]).len(), 256);
        assert_eq!(announced_blocks(["0.0.0.0/0"]).len(), 256);
    }

    fn observation() -> impl Strategy<Value = AddressOutcome> {
        (0..6_usize, 0..4_i64, 0..9_i64)
            .prop_map(|(outcome, scan, later)| seen(OUTCOMES[outcome], scan, scan + later))
    }

    proptest! {
        #[test]
        fn the_order_of_observations_changes_nothing(
            (ordered, shuffled) in prop::collection::vec(observation(), 0..8)
                .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        ) {
            let fold = |all: &[AddressOutcome]| all.iter().fold(Cell::default(), |cell, one| cell.observe(*one));
            prop_assert_eq!(fold(&ordered), fold(&shuffled));
            // A model: the best outcome of the last scan, and the last answer of all.
            let newest = ordered.iter().map(|one| one.scan).max();
            let of_newest = ordered.iter().filter(|one| Some(one.scan) == newest);
            prop_assert_eq!(fold(&ordered).last.map(|last| last.0), of_newest.map(|one| one.outcome).max());
            let answers = ordered.iter().filter(|one| one.outcome >= T::Refused);
            prop_assert_eq!(fold(&ordered).answered, answers.map(|one| one.at).max());
        }

        #[test]
        fn an_observation_counts_once(first in observation(), again in observation()) {
            let once = Cell::default().observe(first).observe(again);
            prop_assert_eq!(once.observe(again).observe(first), once);
        }
    }
}
