//! Finds devices on a network and names them: reachability, politeness, identification by drivers.
//!
//! [`Scanner`] runs a [`ScanJob`] and sends what it finds as [`ScanEvent`]s while it goes on; the [`ScanSummary`]
//! says what became of every target. What is behind an open port is asked by [`Driver`]s; built in are the
//! CGMiner API, HTTP with and without TLS, and ePIC's API, all read-only and without any login; others can be external,
//! and are asked last. Host names are pinned to addresses before a job is made,
//! by [`pin_names`]; a scan itself knows no names. A job may [`Listen`] to mDNS first, and dial only who announces a
//! service. [`Pairer`] tries logins, where an operator asks for it. Target grammar
//! and plans are fleet-discovery's.
//!
//! ```no_run
//! # async fn example() -> Result<(), fleet_scan::ScanError> {
//! use std::{sync::Arc, time::Duration};
//! use fleet_scan::{DriverSet, ScanEvent, ScanJob, ScanOptions, Scanner};
//!
//! let scanner = Scanner::new(ScanOptions::default(), Arc::new(DriverSet::built_in()));
//! let job = ScanJob {
//!     budget: Duration::from_secs(60),
//!     ..ScanJob::new((1..255).map(|host| [192, 168, 1, host].into()).collect())
//! };
//! let (sink, mut events) = tokio::sync::mpsc::channel(64);
//! let scan = tokio::spawn(async move { scanner.run(job, sink, Default::default()).await });
//! while let Some(event) = events.recv().await {
//!     if let ScanEvent::Found(device) = event {
//!         println!("{} {} {}", device.endpoint, device.facts.manufacturer, device.facts.model);
//!     }
//! }
//! # drop(scan);
//! # Ok(())
//! # }
//! ```

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
mod job;
mod json;
mod login;
mod mdns;
mod names;
mod notes;
mod pace;
mod pairing;
mod probe;
mod shares;
mod text;
mod timing;
mod whatsminer;

pub use driver::{Answer, BoxFuture, Driver, DriverError, DriverSet, DriverSetError};
pub use drivers::ProtocolDriver;
pub use engine::Scanner;
pub use examine::{Examination, Examined, Examiner};
pub use fingerprint::{FingerprintError, Fingerprints, Make, RuleVerdict};
pub use guard::Guard;
pub use job::{
    FoundDevice, Interruption, ScanError, ScanEvent, ScanJob, ScanOptions, ScanProgress,
    ScanSummary,
};
pub use login::{Authenticated, Login};
pub use mdns::Listen;
pub use names::{DnsResolver, LookupError, PinnedName, Resolver, pin_names};
pub use pairing::{PairReport, PairableDevice, Pairer};
pub use probe::{Ended, Exchange, Probe, Reply};

/// Entry points for fuzzing: the parsers of what devices say, as functions of bytes.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz {
    /// Reads a CGMiner reply and what it says of its maker.
    pub fn cgminer_reply(bytes: &[u8]) {
        crate::cgminer::fuzz(bytes);
    }

    /// Reads an HTTP response and what its page says of its maker.
    pub fn http_response(bytes: &[u8]) {
        crate::http::fuzz(bytes);
    }

    /// Reads a rule file, and matches it and the built-in rules against an answer behind the byte `0xff`.
    pub fn fingerprint_file(bytes: &[u8]) {
        crate::fingerprint::fuzz(bytes);
    }

    /// Matches the JSON of an answer against every built-in rule.
    pub fn device_json(bytes: &[u8]) {
        crate::fingerprint::fuzz(&[b"\xff", bytes].concat());
    }

    /// Reads a frame of Whatsminer API 3.
    pub fn whatsminer_frame(bytes: &[u8]) {
        crate::whatsminer::fuzz(bytes);
    }

    /// Hears datagrams of mDNS, parted by the bytes `0xff 0xff`, and asks what is missing.
    pub fn mdns_answer(bytes: &[u8]) {
        crate::mdns::fuzz(bytes);
    }

    /// Reads a challenge to log in, and answers it.
    pub fn login_challenge(bytes: &[u8]) {
        crate::http::digest::fuzz(bytes);
    }
}
