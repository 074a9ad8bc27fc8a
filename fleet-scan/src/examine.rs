//! Shows a person how a device is identified: what each port answered, and what every rule made of it.
//!
//! [`Examiner`] asks as a scan does, and keeps the conversation. `examine/recording.rs` writes it as a fixture.

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

/// What one port of a device answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// What was dialed.
    pub endpoint: Endpoint,
    /// What became of it.
    pub outcome: Examined,
    /// Every request that was sent, in order.
    pub exchanges: Vec<Exchange>,
    /// Every rule that knows the protocol, the one that identified the device first.
    pub rules: Vec<RuleVerdict>,
}

/// What became of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Examined {
    /// A driver identified the device.
    Identified(Box<DeviceFacts>),
    /// It answered, and no driver knows it. What it answered first, escaped.
    Unidentified(String),
    /// It did not answer, or could not be dialed.
    Failed(DriverError),
}

/// Examines ports one by one. Clones share pace and guard.
#[derive(Debug, Clone)]
pub struct Examiner {
    options: ScanOptions,
    drivers: Arc<DriverSet>,
    dialer: Arc<Dialer>,
}

impl Examiner {
    /// An examiner that dials what `guard` allows, at the pace of `options`.
    pub fn new(options: ScanOptions, drivers: Arc<DriverSet>, guard: Guard) -> Self {
        let dialer = Arc::new(Dialer::new(&options, guard));
        Self {
            options,
            drivers,
            dialer,
        }
    }

    /// Asks the built-in drivers of a port, in the order of a scan. Cancel-safe: when dropped, the connection is
    /// closed.
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
                Ok(Answer::Stranger { evidence }) => return Examined::Unidentified(evidence),
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
