//! Proofs that take minutes. A test checks examples. A proof checks all cases or a large number of them, and prints its
//! figures. `cargo xtask prove boundary` and `cargo xtask prove faults` run them with a database. The lists are
//! [`BOUNDARY`] and [`faults::FAULTS`]. Each proof is a module with a `run` function that fails at the first violation.
#![expect(clippy::print_stdout, reason = "its figures are what it is for")]

mod addresses;
mod claimant;
mod codes;
mod crowd;
mod database;
mod faults;
mod live;
mod races;
mod random;
mod reports;
mod scopes;

use std::{process::ExitCode, time::Instant};

use anyhow::Result;

/// A claim and the function that proves it.
struct Proof {
    name: &'static str,
    claim: &'static str,
    /// Returns the figures, one per line.
    run: fn() -> Result<Vec<String>>,
}

/// The proofs for the trust boundary between server and nodes.
const BOUNDARY: &[Proof] = &[
    Proof {
        name: "addresses",
        claim: "every IPv4 address has the class that IANA's registry gives it, or a reason why not",
        run: addresses::run,
    },
    Proof {
        name: "scopes",
        claim: "scope, quota and ownership hold for any reports, and nothing that is repeated counts twice",
        run: scopes::run,
    },
    Proof {
        name: "codes",
        claim: "one enrollment code enrolls one node, however many race for it",
        run: codes::run,
    },
    Proof {
        name: "races",
        claim: "in any order, no device is bound twice, claimed without right, or dialed at an address of a node",
        run: races::run,
    },
    Proof {
        name: "reports",
        claim: "nothing malformed is stored, and no good neighbor of it is lost",
        run: reports::run,
    },
    Proof {
        name: "claimant",
        claim: "a node gets no record of a revoked node by a copied MAC or serial",
        run: claimant::run,
    },
    Proof {
        name: "crowd",
        claim: "one node with 64 connections neither delays other callers nor fills the memory",
        run: crowd::run,
    },
];

/// The suites by name.
const SUITES: [(&str, &[Proof]); 2] = [("boundary", BOUNDARY), ("faults", faults::FAULTS)];

/// Exit status for an invalid command line (EX_USAGE of sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == [crowd::hostile::ARGUMENT] {
        return match crowd::hostile::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let suite = words.split_first().and_then(|(name, proofs)| {
        let (_, suite) = SUITES.iter().find(|(known, _)| known == name)?;
        Some((*suite, proofs))
    });
    let Some((suite, names)) = suite else {
        println!("Usage: fleet-prove boundary|faults [PROOF]...\n");
        SUITES.iter().for_each(|(_, suite)| describe(suite));
        return ExitCode::from(USAGE);
    };
    if let Some(unknown) = names
        .iter()
        .find(|name| suite.iter().all(|proof| proof.name != **name))
    {
        println!("no proof is called `{unknown}`; there are:\n");
        describe(suite);
        return ExitCode::from(USAGE);
    }
    let asked = |proof: &&Proof| names.is_empty() || names.iter().any(|name| name == proof.name);
    let mut holds = true;
    for proof in suite.iter().filter(asked) {
        println!("=== {}: {}", proof.name, proof.claim);
        let started = Instant::now();
        match (proof.run)() {
            Ok(figures) => figures.iter().for_each(|line| println!("    {line}")),
            Err(violation) => {
                holds = false;
                println!("    VIOLATED: {violation:#}");
            }
        }
        println!("    {:.1} s", started.elapsed().as_secs_f64());
    }
    if holds {
        println!("every proof holds");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn describe(suite: &[Proof]) {
    for proof in suite {
        println!("  {:<14} {}", proof.name, proof.claim);
    }
}
