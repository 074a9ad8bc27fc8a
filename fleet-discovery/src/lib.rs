//! Scans: the target grammar, the plan of chunks, the scope in which a node may report, the admission of its reports,
//! and the final ledger.
//!
//! The crate has no clock, no randomness and no IO, and no storage or wire code. Start with [`plan`], which converts
//! a request to chunks. Then read [`Scope`] and [`admit`], which convert reports to rows. [`settle`] converts rows
//! and acks to a [`Ledger`] that adds up.

mod addresses;
mod admit;
mod choice;
mod coverage;
mod estimate;
mod event;
mod exclusion;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod gaps;
mod interfaces;
mod ledger;
mod lifecycle;
mod name;
mod node;
mod plan;
mod ports;
mod request;
mod scope;
mod service;
mod shares;
mod shown;
mod target;
mod target_set;
mod targets_key;

pub use addresses::{AddressList, InvalidAddressList};
pub use admit::{HostVerdicts, KnownRow, OverQuota, RowVerdict, admit, admit_hosts};
pub use choice::{NodeChoice, NodeChoiceError};
pub use coverage::{
    ScannedChunk, address_outcomes, endpoint_outcomes, port_outcome, quiet_hosts,
    unidentified_hosts,
};
pub use estimate::{OpenScan, PastScan, estimate, packets, queue_wait};
pub use event::{DeviceFound, HostFound, LogEvent, ScanEnded};
pub use exclusion::{Exclusion, ExclusionError, excluded_entries};
pub use gaps::Gaps;
pub use interfaces::{Interface, InterfaceKind, LowerInterface, SubnetChoice, site_subnets};
pub use ledger::{ChunkFacts, Ledger, LedgerFacts, settle};
pub use lifecycle::{
    Continuation, Expiry, NoRoom, NodeLoad, RunningScan, SWEEP_STORED_EVERY, Unfinished,
    WaitingScan, canceled, check_room, continuation, expiry, is_flooded, on_busy, on_expired,
    on_lost, queued_until,
};
pub use name::{HostName, InvalidName};
pub use node::{Announcement, NodeProfile};
pub use plan::{
    Chunk, ChunkCommand, JointPlan, OtherNode, Participant, Plan, PlanError, PlanPolicy,
    PlannedShare, check_participants, plan, plan_at_site, plan_over, warnings,
};
pub use ports::{PortsError, parse_ports};
pub use request::{Mode, ScanRequest, Tally, is_explicit};
pub use scope::{InvalidScope, PinError, Pinned, Scope, ScopeKind, pinnable};
pub use service::{IP_REPORTS, InvalidServiceType, Listening, ListeningError, ServiceType};
pub use shares::{Candidate, Coverage, coverage};
pub use target::{LOCAL_SUBNET, Target, TargetError, TargetErrorKind};
pub use target_set::{TARGET_FILE, TargetEntry, TargetSet, expand_targets};
