//! Discovers devices on a network: connects to ports, limits the load, and identifies what answers.
//!
//! A [`Scanner`] runs a [`ScanJob`] and returns a stream of [`ScanEvent`]s; the last one holds the [`ScanSummary`] with
//! the outcome of every target. [`Driver`]s identify what listens at an open port. The built-in drivers speak the CGMiner
//! API, HTTP, HTTPS and ePIC's API; they only read and never log in. External drivers run last.
//!
//! A job holds addresses only: [`pin_names`] resolves host names before a job is made. A job can [`Listen`] to mDNS
//! first and dial only hosts that announce a service. A [`Pairer`] tries logins when an operator requests it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use fleet_scan::{DriverSet, ScanEvent, ScanJob, ScanOptions, Scanner};
//!
//! let scanner = Scanner::new(ScanOptions::default(), Arc::new(DriverSet::built_in()));
//! let mut scan = scanner.scan(ScanJob::parse("192.168.1.0/24 10.0.0.5-40")?)?;
//! while let Some(event) = scan.next().await {
//!     if let ScanEvent::Found(device) = event {
//!         println!("{} {} {}", device.endpoint, device.facts.manufacturer, device.facts.model);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod capacity;
mod cgminer;
mod conversation;
mod dial;
mod driver;
mod drivers;
mod engine;
mod examine;
mod fingerprint;
mod guard;
mod http;
mod ip_reports;
mod job;
mod json;
mod login;
mod mdns;
mod names;
mod notes;
mod pairing;
mod probe;
mod rate;
mod text;
mod timing;
mod whatsminer;

pub use driver::{Answer, BoxFuture, Driver, DriverError, DriverSet, DriverSetError};
pub use drivers::ProtocolDriver;
pub use engine::{Scan, Scanner, can_send_arp, interfaces};
pub use examine::{Examination, Examined, Examiner, recording};
pub use fingerprint::{FingerprintError, Fingerprints, Make, RuleVerdict};
pub use guard::Guard;
pub use job::{
    FoundDevice, Interruption, SILENT_TARGETS, ScanError, ScanEvent, ScanJob, ScanOptions,
    ScanPhase, ScanProgress, ScanSummary, TargetsError,
};
pub use login::{Authenticated, DefaultPassword, Login, LoginBudget};
pub use mdns::Listen;
pub use names::{DnsResolver, LookupError, MulticastResolver, PinnedName, Resolver, pin_names};
pub use pairing::{PairReport, PairableDevice, Pairer};
pub use probe::{Ended, Exchange, Probe, Reply};

/// Entry points for fuzzing: the parsers of device replies, as functions of bytes.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz {
    /// Parses a CGMiner reply and identifies its sender.
    pub fn cgminer_reply(bytes: &[u8]) {
        crate::cgminer::fuzz(bytes);
    }

    /// Parses an HTTP response and identifies its sender.
    pub fn http_response(bytes: &[u8]) {
        crate::http::fuzz(bytes);
    }

    /// Parses a rule file, and matches it and the built-in rules against the answer after the byte `0xff`.
    pub fn fingerprint_file(bytes: &[u8]) {
        crate::fingerprint::fuzz(bytes);
    }

    /// Matches the JSON of an answer against every built-in rule.
    pub fn device_json(bytes: &[u8]) {
        crate::fingerprint::fuzz(&[b"\xff", bytes].concat());
    }

    /// Parses a frame of Whatsminer API 3.
    pub fn whatsminer_frame(bytes: &[u8]) {
        crate::whatsminer::fuzz(bytes);
    }

    /// Parses a datagram as the announcement of each make.
    pub fn ip_report(bytes: &[u8]) {
        crate::ip_reports::fuzz(bytes);
    }

    /// Receives mDNS datagrams, separated by the bytes `0xff 0xff`, and queries what is missing.
    pub fn mdns_answer(bytes: &[u8]) {
        crate::mdns::fuzz(bytes);
    }

    /// Parses a login challenge and answers it.
    pub fn login_challenge(bytes: &[u8]) {
        crate::http::digest::fuzz(bytes);
    }

    /// Parses a response to a login as the answer of each make.
    pub fn login_token(bytes: &[u8]) {
        crate::login::token::fuzz(bytes);
    }

    /// Judges the answers of a Whatsminer to an encrypted read: the token, then the byte `0xff`, then the answer.
    pub fn whatsminer_login(bytes: &[u8]) {
        crate::login::whatsminer::fuzz(bytes);
    }
}
