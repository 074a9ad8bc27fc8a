//! Shows how a device is identified: the answer of each port, and the result of every rule.
//!
//! [`Examiner`] sends the same requests as a scan and records them. `examine/recording.rs` writes the recording as a
//! fixture.

mod recording;

use std::sync::Arc;

use fleet_core::{DeviceFacts, Endpoint};
pub use recording::recording;
use tokio::time::timeout;

use crate::{
    dial::Dialer,
    driver::{Answer, DriverError, DriverSet},
    fingerprint::RuleVerdict,
    guard::Guard,
    job::ScanOptions,
    probe::{Exchange, Notebook, Probe},
    text,
};

/// The examination of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// The dialed endpoint.
    pub endpoint: Endpoint,
    /// The result.
    pub outcome: Examined,
    /// All requests and replies, in order.
    pub exchanges: Vec<Exchange>,
    /// The results of all rules of the protocol. The rule that identified the device is first.
    pub rules: Vec<RuleVerdict>,
}

/// The result for one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Examined {
    /// A driver identified the device.
    Identified(Box<DeviceFacts>),
    /// The device answered, but no driver identified it. The text is its first reply, escaped.
    Unidentified(String),
    /// The device did not answer, or the endpoint could not be dialed.
    Failed(DriverError),
}

/// Examines ports one by one. Clones share rate limit and guard.
#[derive(Debug, Clone)]
pub struct Examiner {
    options: ScanOptions,
    drivers: Arc<DriverSet>,
    dialer: Arc<Dialer>,
}

impl Examiner {
    /// Creates an examiner that dials only endpoints that `guard` allows, at the rate of `options`.
    pub fn new(options: ScanOptions, drivers: Arc<DriverSet>, guard: Guard) -> Self {
        let dialer = Arc::new(Dialer::new(&options, guard));
        Self {
            options,
            drivers,
            dialer,
        }
    }

    /// Runs the built-in drivers of a port, in the order of a scan. Cancel-safe: dropping the future closes the
    /// connection.
    pub async fn examine(&self, endpoint: Endpoint) -> Examination {
        let failed = |error| Examination {
            endpoint,
            outcome: Examined::Failed(error),
            exchanges: Vec::new(),
            rules: Vec::new(),
        };
        let stream = match self.dialer.open(endpoint).await {
            Ok(stream) => stream,
            Err(error) => return failed(error),
        };
        let mut probe = Probe::new(&self.dialer, endpoint, stream, &self.options);
        probe.record();
        let asked = timeout(self.options.identify_timeout, self.ask(&mut probe)).await;
        let outcome = asked.unwrap_or(Examined::Failed(DriverError::Silence));
        let Notebook {
            exchanges,
            verdicts,
        } = probe.into_notebook();
        Examination {
            endpoint,
            outcome,
            exchanges,
            rules: verdicts,
        }
    }

    async fn ask(&self, probe: &mut Probe<'_>) -> Examined {
        let mut outcome = Examined::Unidentified(String::new());
        for driver in self.drivers.at(probe.endpoint().port) {
            match driver.identify(probe).await {
                Ok(Answer::Named(device)) => return Examined::Identified(device),
                Ok(Answer::Unidentified { evidence }) => return Examined::Unidentified(evidence),
                Ok(Answer::Foreign) => {
                    let words = text::quotable(probe.first_words(), text::EVIDENCE);
                    outcome = Examined::Unidentified(words);
                }
                Err(error @ (DriverError::Silence | DriverError::Forbidden(_))) => {
                    return Examined::Failed(error);
                }
                Err(error) => outcome = Examined::Failed(error),
            }
            probe.start_over();
        }
        outcome
    }
}
