//! A million runs of reports over scope and ownership. Each is compared with a simple model:
//!
//! | | |
//! |---|---|
//! | I3 | no message of an old epoch takes effect (fleet-registry's own model) |
//! | I7 | a stored device is in the closed scope of its command, and belonged to its reporter or was free |
//! | I8 | the quota is never exceeded |
//! | I12 | a repeated report changes nothing |

#[path = "../../../fleet-registry/tests/models/models.rs"]
#[expect(dead_code, reason = "only the registry's model runs here")]
mod models;
mod ownership;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Instant,
};

use anyhow::{Result, bail};

use crate::random::Random;

/// Seed of all runs.
const SEED: u64 = 0x5eed_0003_7812;

/// A kind of run.
struct Kind {
    name: &'static str,
    runs: u64,
    /// Maximum number of operations per run.
    operations: usize,
    run: fn(&[u8]),
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "scope and admission (I7, I8, I12)",
        runs: 600_000,
        operations: 8,
        run: fleet_discovery::fuzz::report_admission,
    },
    Kind {
        name: "ownership of what is admitted (I7, I12)",
        runs: 600_000,
        operations: 16,
        run: ownership::run,
    },
    Kind {
        name: "streams and epochs (I3)",
        runs: 100_000,
        operations: 48,
        run: registry,
    },
];

pub(crate) fn run() -> Result<Vec<String>> {
    let mut figures = vec![format!("seed {SEED:#x}")];
    let mut all = 0;
    for (kind, number) in KINDS.iter().zip(0..) {
        let began = Instant::now();
        let operations = runs_of(kind, number)?;
        all += kind.runs;
        figures.push(format!(
            "{} runs of {operations} operations over {}, 0 violations ({:.1} s)",
            kind.runs,
            kind.name,
            began.elapsed().as_secs_f64()
        ));
    }
    figures.push(format!("{all} cases, 0 violations of I3, I7, I8 and I12"));
    Ok(figures)
}

/// Runs a kind on every core and returns the number of operations.
fn runs_of(kind: &Kind, number: u64) -> Result<u64> {
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || part(kind, number, thread, threads)))
            .collect();
        let mut operations = 0;
        for worker in workers {
            match worker.join() {
                Ok(part) => operations += part?,
                Err(_) => bail!("a worker crashed"),
            }
        }
        Ok(operations)
    })
}

fn part(kind: &Kind, number: u64, thread: u64, threads: u64) -> Result<u64> {
    let mut operations = 0;
    for run in (thread..kind.runs).step_by(usize::try_from(threads)?) {
        let mut random = Random::new(SEED ^ number << 56 ^ run);
        let count = 2 + random.size(kind.operations);
        let data: Vec<u8> = (0..count)
            .flat_map(|_| (random.next() as u32).to_le_bytes())
            .collect();
        // The panic message has already described the violation.
        if catch_unwind(AssertUnwindSafe(|| (kind.run)(&data))).is_err() {
            bail!("run {run} of {}: {data:?}", kind.name);
        }
        operations += count as u64;
    }
    Ok(operations)
}

fn registry(data: &[u8]) {
    models::registry_operations(Instant::now(), data);
}
