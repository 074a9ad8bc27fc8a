//! Failures of the environment: full disks, a second replica, broken networks. Each proof records on the client side
//! which calls succeeded, and compares the record with the stored state.

mod disk;
mod fleet;
mod network;
mod replicas;
mod tmpfs;

use crate::Proof;

/// The proofs, in the order in which they run.
pub(crate) const FAULTS: &[Proof] = &[
    Proof {
        name: "disk-sqlite",
        claim: "a full disk under SQLite loses no acknowledged answer, and service returns with the space",
        run: disk::sqlite,
    },
    Proof {
        name: "disk-postgres",
        claim: "a full tablespace under PostgreSQL loses no acknowledged answer, and service returns with the space",
        run: disk::postgres,
    },
    Proof {
        name: "replicas",
        claim: "a call through any replica acts on the node within a second, and all replicas report the same",
        run: replicas::run,
    },
    Proof {
        name: "network",
        claim: "a scan claims silence only where a probe left and an answer would have come back",
        run: network::run,
    },
];
