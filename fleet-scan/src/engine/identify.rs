//! Runs the drivers on an open port, over the connection that proved it open, and external drivers on a host. A driver
//! that panics loses only its own answer.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc};

use fleet_core::{DeviceFacts, Endpoint, limits::PRINTER_PORTS};
use futures::FutureExt;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::host::PortVerdict;
use crate::{
    dial::Dialer,
    driver::{Answer, Driver, DriverError},
    job::{FoundDevice, ScanOptions},
    mdns::Attributes,
    probe::Probe,
    text,
};

/// Characters of a driver failure in a note.
const TROUBLE: usize = 200;

/// Characters of an unidentified host's reply in a note.
const REPLY_EXCERPT: usize = 160;

/// The failure of an external driver that still runs when the time for its host is over.
const CUT_OFF: &str = "was cut off, because the time for one host was over";

/// The result of the drivers.
#[derive(Debug)]
pub(super) struct Identified {
    pub(super) verdict: PortVerdict,
    /// Failures of drivers.
    pub(super) failures: Vec<DriverFailure>,
    /// The requests that the drivers sent, one line each.
    pub(super) sent: Vec<String>,
}

/// A failure of a driver, as a kind of note, and where it happened.
#[derive(Debug)]
pub(super) struct DriverFailure {
    pub(super) kind: String,
    pub(super) endpoint: Endpoint,
}

impl DriverFailure {
    fn crash(driver: &str, endpoint: Endpoint) -> Self {
        Self::of(driver, "crashed", endpoint)
    }

    fn of(driver: &str, what: &str, endpoint: Endpoint) -> Self {
        Self {
            kind: kind(driver, what),
            endpoint,
        }
    }
}

/// The kind of note for a driver failure.
pub(super) fn kind(driver: &str, what: &str) -> String {
    format!("driver {driver} {}", text::bounded(what, TROUBLE))
}

pub(super) async fn identify(
    drivers: Vec<Arc<dyn Driver>>,
    dialer: Arc<Dialer>,
    options: ScanOptions,
    endpoint: Endpoint,
    stream: TcpStream,
    attributes: Attributes,
) -> Identified {
    let mut failures = Vec::new();
    let mut probe = Probe::new(&dialer, endpoint, stream, &options).announced(attributes);
    // One limit for all drivers, so a slow device cannot hold its connection for their sum.
    // `failures` is outside, so it survives the limit.
    let asked = timeout(
        options.identify_timeout,
        ask(&drivers, &mut probe, &mut failures),
    )
    .await;
    let verdict = match asked {
        Ok(Some((precedence, Answer::Named(identification)))) => {
            PortVerdict::Named(precedence, Box::new(device(endpoint, *identification)))
        }
        Ok(Some((_, Answer::Unidentified { evidence }))) => {
            PortVerdict::Unidentified(text::bounded(&evidence, REPLY_EXCERPT))
        }
        Ok(Some((_, Answer::Foreign)) | None) => {
            PortVerdict::Unidentified(text::quotable(probe.first_words(), REPLY_EXCERPT))
        }
        Err(_) => PortVerdict::CutOff(text::quotable(probe.first_words(), REPLY_EXCERPT)),
    };
    Identified {
        verdict,
        failures,
        sent: probe.into_sent(),
    }
}

/// A port, its endpoint, and the drivers to ask about it.
pub(super) type ExternalQuestion = (u8, Endpoint, Vec<Arc<dyn Driver>>);

/// Runs external drivers one after the other until one identifies the host, or until the time for one host is over.
pub(super) async fn identify_external(
    questions: Vec<ExternalQuestion>,
    dialer: Arc<Dialer>,
    options: ScanOptions,
) -> (u8, Identified) {
    let mut failures = Vec::new();
    let mut reply = String::new();
    // The port of the answer, or the first port.
    let mut answered = questions.first().map_or(0, |(port, ..)| *port);
    let mut over = pin!(sleep(options.external_timeout));
    'host: for (port, endpoint, drivers) in questions {
        for driver in drivers {
            // External drivers dial by themselves, so the rate and the guard apply here.
            if let Err(reason) = dialer.acquire(endpoint).await {
                tracing::debug!(%endpoint, reason, "no plugin is asked");
                break;
            }
            let mut probe = Probe::unconnected(&dialer, endpoint, &options);
            let answer = tokio::select! {
                biased;
                answer = question(&*driver, &mut probe) => answer,
                () = &mut over => {
                    failures.push(DriverFailure::of(driver.name(), CUT_OFF, endpoint));
                    break 'host;
                }
            };
            match answer {
                Some(Ok(Answer::Named(identification))) => {
                    let device = Box::new(device(endpoint, *identification));
                    let verdict = PortVerdict::Named(driver.precedence(), device);
                    let identified = Identified {
                        verdict,
                        failures,
                        sent: Vec::new(),
                    };
                    return (port, identified);
                }
                Some(Ok(Answer::Unidentified { evidence })) if reply.is_empty() => {
                    answered = port;
                    reply = text::bounded(&evidence, REPLY_EXCERPT);
                }
                Some(Ok(Answer::Unidentified { .. } | Answer::Foreign)) => {}
                Some(Err(DriverError::Unusable(what))) => {
                    failures.push(DriverFailure::of(driver.name(), &what, endpoint));
                }
                Some(Err(error)) => {
                    tracing::debug!(%endpoint, driver = driver.name(), %error, "not identified");
                }
                None => failures.push(DriverFailure::crash(driver.name(), endpoint)),
            }
        }
    }
    let identified = Identified {
        verdict: PortVerdict::Unidentified(reply),
        failures,
        // The drivers dial by themselves.
        sent: Vec::new(),
    };
    (answered, identified)
}

/// Returns the answer of a driver, or none if it panicked.
async fn question(
    driver: &dyn Driver,
    probe: &mut Probe<'_>,
) -> Option<Result<Answer, DriverError>> {
    AssertUnwindSafe(async { driver.identify(probe).await })
        .catch_unwind()
        .await
        .ok()
}

/// Returns the first answer that is not [`Answer::Foreign`], with its driver's precedence.
async fn ask(
    drivers: &[Arc<dyn Driver>],
    probe: &mut Probe<'_>,
    failures: &mut Vec<DriverFailure>,
) -> Option<(u8, Answer)> {
    // A printer prints all bytes that arrive at its raw port.
    if PRINTER_PORTS.contains(&probe.endpoint().port.number()) {
        return None;
    }
    for driver in drivers {
        match question(&**driver, probe).await {
            Some(Ok(Answer::Foreign)) => {}
            Some(Ok(answer)) => return Some((driver.precedence(), answer)),
            // A host that is silent in one protocol is silent in the next, which would only take its time again.
            Some(Err(DriverError::Silence | DriverError::Forbidden(_))) => return None,
            Some(Err(DriverError::Unusable(what))) => {
                failures.push(DriverFailure::of(driver.name(), &what, probe.endpoint()));
            }
            Some(Err(
                error @ (DriverError::Closed | DriverError::Broken(_) | DriverError::Protocol(_)),
            )) => {
                tracing::debug!(endpoint = %probe.endpoint(), driver = driver.name(), %error, "not identified");
            }
            None => failures.push(DriverFailure::crash(driver.name(), probe.endpoint())),
        }
        probe.start_over();
    }
    None
}

/// Uses the dialed endpoint and bounds the texts for a report.
fn device(endpoint: Endpoint, facts: DeviceFacts) -> FoundDevice {
    FoundDevice {
        endpoint,
        facts: text::fit(facts),
        provisional: false,
    }
}
