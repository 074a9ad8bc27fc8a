//! The cells of a block as three byte strings: an outcome of 1 byte, the start of its scan in milliseconds of 6 bytes,
//! and the time of the last answer in seconds of 4 bytes, each in little endian. 11 bytes instead of 24 keep a block of
//! 256 addresses below 3 kB.

use fleet_core::{TargetOutcome, Timestamp};
use fleet_inventory::{CELLS, Cell};
use sea_orm::DbErr;

use crate::sql::transaction::unreadable;

/// The byte of an address that no scan had as a target.
const NEVER: u8 = u8::MAX;
const SCAN: usize = 6;
const ANSWER: usize = 4;

/// The byte strings of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CellBytes {
    pub(crate) outcomes: Vec<u8>,
    pub(crate) scans: Vec<u8>,
    pub(crate) answers: Vec<u8>,
}

pub(crate) fn write_cells(cells: &[Cell]) -> CellBytes {
    let mut bytes = CellBytes {
        outcomes: Vec::with_capacity(CELLS),
        scans: Vec::with_capacity(CELLS * SCAN),
        answers: Vec::with_capacity(CELLS * ANSWER),
    };
    for cell in cells {
        let (outcome, millis) = match cell.last {
            Some((outcome, scan)) => (outcome.to_byte(), scan.as_millis()),
            None => (NEVER, 0),
        };
        bytes.outcomes.push(outcome);
        let millis = u64::try_from(millis).unwrap_or(0).to_le_bytes();
        bytes.scans.extend(millis.into_iter().take(SCAN));
        let seconds = cell.answered.map_or(0, |at| at.as_millis() / 1_000);
        let seconds = u32::try_from(seconds).unwrap_or(0);
        bytes.answers.extend(seconds.to_le_bytes());
    }
    bytes
}

pub(crate) fn read_cells(
    outcomes: &[u8],
    scans: &[u8],
    answers: &[u8],
) -> Result<Vec<Cell>, DbErr> {
    let lengths = (outcomes.len(), scans.len(), answers.len());
    if lengths != (CELLS, CELLS * SCAN, CELLS * ANSWER) {
        let found = format!("its byte strings have the lengths {lengths:?}");
        return Err(unreadable("site_block", found));
    }
    let parts = outcomes
        .iter()
        .zip(scans.chunks_exact(SCAN))
        .zip(answers.chunks_exact(ANSWER));
    let cell = |((outcome, scan), answer): ((&u8, &[u8]), &[u8])| Cell {
        last: (*outcome != NEVER).then(|| {
            let millis = number(scan);
            let scan = Timestamp::from_micros(millis.saturating_mul(1_000));
            (TargetOutcome::from_byte(*outcome), scan)
        }),
        answered: match number(answer) {
            0 => None,
            seconds => Some(Timestamp::from_micros(seconds * 1_000_000)),
        },
    };
    Ok(parts.map(cell).collect())
}

/// A number of at most 6 bytes in little endian.
fn number(bytes: &[u8]) -> i64 {
    let add = |sum: i64, byte: &u8| sum << 8 | i64::from(*byte);
    bytes.iter().rev().fold(0, add)
}

#[cfg(test)]
mod tests {
    use fleet_inventory::AddressOutcome;

    use super::*;

    #[test]
    fn cells_are_read_as_they_were_written() {
        let now = Timestamp::from_micros(4_102_444_799_123_456);
        let mut cells = vec![Cell::default(); CELLS];
        for (cell, byte) in cells.iter_mut().zip(0..=5) {
            *cell = cell.observe(AddressOutcome {
                outcome: TargetOutcome::from_byte(byte),
                scan: now,
                at: now,
            });
        }
        let written = write_cells(&cells);
        let read = read_cells(&written.outcomes, &written.scans, &written.answers);
        assert_eq!(read.expect("cells"), cells);
        assert!(cells.iter().any(|cell| cell.answered.is_some()));
    }

    #[test]
    fn byte_strings_of_another_length_are_an_error() {
        let mut written = write_cells(&[Cell::default(); CELLS]);
        written.scans.pop();
        assert!(read_cells(&written.outcomes, &written.scans, &written.answers).is_err());
    }
}
