//! Asks the drivers about one open port, on the connection that proved it open; and external drivers about a host,
//! question by question. A driver that crashes costs its own answer and nothing else.

use std::{panic::AssertUnwindSafe, sync::Arc};

use fleet_core::{DeviceFacts, Endpoint, limits::PRINTER_PORTS};
use futures::FutureExt;
use tokio::{net::TcpStream, time::timeout};

use super::host::PortVerdict;
use crate::{
    dial::Dialler,
    driver::{Answer, Driver, DriverError},
    job::{FoundDevice, ScanOptions},
    probe::Probe,
    text,
};

/// How much of a driver's trouble goes into a note, in characters.
const TROUBLE: usize = 200;

/// How much of what a stranger said goes into a note, in characters.
const STRANGER_WORDS: usize = 160;

/// What became of the questions.
#[derive(Debug)]
pub(super) struct Identified {
    pub(super) verdict: PortVerdict,
    /// What was wrong with drivers.
    pub(super) troubles: Vec<Trouble>,
}

/// What was wrong with a driver, as a kind of note, and where.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) kind: String,
    pub(super) endpoint: Endpoint,
}

impl Trouble {
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

/// The kind of note that tells of a driver's trouble.
pub(super) fn kind(driver: &str, what: &str) -> String {
    format!("driver {driver} {}", text::bounded(what, TROUBLE))
}

pub(super) async fn identify(
    drivers: Vec<Arc<dyn Driver>>,
    dialler: Arc<Dialler>,
    options: ScanOptions,
    endpoint: Endpoint,
    stream: TcpStream,
) -> Identified {
    let mut troubles = Vec::new();
    let mut probe = Probe::new(&dialler, endpoint, stream, &options);
    let asked = timeout(
        options.identify_timeout,
        ask(&drivers, &mut probe, &mut troubles),
    )
    .await;
    let verdict = match asked {
        Ok(Some((precedence, Answer::Named(identification)))) => {
            PortVerdict::Named(precedence, Box::new(device(endpoint, *identification)))
        }
        Ok(Some((_, Answer::Stranger { evidence }))) => {
            PortVerdict::Unidentified(text::bounded(&evidence, STRANGER_WORDS))
        }
        Ok(Some((_, Answer::Foreign)) | None) | Err(_) => {
            PortVerdict::Unidentified(text::quotable(probe.first_words(), STRANGER_WORDS))
        }
    };
    Identified { verdict, troubles }
}

/// Asks external drivers, one question after the other, until one names the host.
pub(super) async fn identify_outside(
    questions: Vec<(u8, Endpoint, Vec<Arc<dyn Driver>>)>,
    dialler: Arc<Dialler>,
    options: ScanOptions,
) -> (u8, Identified) {
    let mut troubles = Vec::new();
    let mut words = String::new();
    // The port of the answer, or the first port.
    let mut answered = questions.first().map_or(0, |(port, ..)| *port);
    for (port, endpoint, drivers) in questions {
        for driver in drivers {
            if let Err(reason) = dialler.lend_turn(endpoint).await {
                tracing::debug!(%endpoint, reason, "no plugin is asked");
                break;
            }
            let mut probe = Probe::unconnected(&dialler, endpoint, &options);
            match question(&*driver, &mut probe).await {
                Some(Ok(Answer::Named(identification))) => {
                    let device = Box::new(device(endpoint, *identification));
                    let verdict = PortVerdict::Named(driver.precedence(), device);
                    return (port, Identified { verdict, troubles });
                }
                Some(Ok(Answer::Stranger { evidence })) if words.is_empty() => {
                    answered = port;
                    words = text::bounded(&evidence, STRANGER_WORDS);
                }
                Some(Ok(Answer::Stranger { .. } | Answer::Foreign)) => {}
                Some(Err(DriverError::Unusable(what))) => {
                    troubles.push(Trouble::of(driver.name(), &what, endpoint));
                }
                Some(Err(error)) => {
                    tracing::debug!(%endpoint, driver = driver.name(), %error, "not identified");
                }
                None => troubles.push(Trouble::crash(driver.name(), endpoint)),
            }
        }
    }
    let verdict = PortVerdict::Unidentified(words);
    (answered, Identified { verdict, troubles })
}

/// What a driver says; none when it crashed over it.
async fn question(
    driver: &dyn Driver,
    probe: &mut Probe<'_>,
) -> Option<Result<Answer, DriverError>> {
    AssertUnwindSafe(async { driver.identify(probe).await })
        .catch_unwind()
        .await
        .ok()
}

/// The first answer that is not [`Answer::Foreign`], with its driver's precedence.
async fn ask(
    drivers: &[Arc<dyn Driver>],
    probe: &mut Probe<'_>,
    troubles: &mut Vec<Trouble>,
) -> Option<(u8, Answer)> {
    // Whatever is sent to a printer's raw port is printed.
    if PRINTER_PORTS.contains(&probe.endpoint().port.number()) {
        return None;
    }
    for driver in drivers {
        match question(&**driver, probe).await {
            Some(Ok(Answer::Foreign)) => {}
            Some(Ok(answer)) => return Some((driver.precedence(), answer)),
            // Who says nothing to one protocol says nothing to the next: it would only take its time again.
            Some(Err(DriverError::Silence | DriverError::Forbidden(_))) => return None,
            Some(Err(DriverError::Unusable(what))) => {
                troubles.push(Trouble::of(driver.name(), &what, probe.endpoint()));
            }
            Some(Err(
                error @ (DriverError::Closed | DriverError::Broken(_) | DriverError::Protocol(_)),
            )) => {
                tracing::debug!(endpoint = %probe.endpoint(), driver = driver.name(), %error, "not identified");
            }
            None => troubles.push(Trouble::crash(driver.name(), probe.endpoint())),
        }
        probe.start_over();
    }
    None
}

/// The endpoint is what was dialed; texts become fit for a report.
fn device(endpoint: Endpoint, facts: DeviceFacts) -> FoundDevice {
    FoundDevice {
        endpoint,
        facts: text::fit(facts),
        provisional: false,
    }
}
