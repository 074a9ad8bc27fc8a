//! Asks the drivers about one open port, on the connection that proved it open. A driver that crashes costs its
//! own answer and nothing else.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use fleet_core::Endpoint;
use fleet_core::limits::PRINTER_PORTS;
use futures::FutureExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dial::Dialler;
use crate::driver::{Answer, Driver, DriverError, Identification};
use crate::job::{FoundDevice, ScanOptions};
use crate::probe::Probe;
use crate::text;

use super::host::PortVerdict;

/// How much of what a stranger said goes into a note, in characters.
const STRANGER_WORDS: usize = 160;

/// What became of the questions.
#[derive(Debug)]
pub(super) struct Identified {
    pub(super) verdict: PortVerdict,
    /// Names of drivers that crashed.
    pub(super) crashed: Vec<String>,
}

pub(super) async fn identify(
    drivers: Vec<Arc<dyn Driver>>,
    dialler: Arc<Dialler>,
    options: ScanOptions,
    endpoint: Endpoint,
    stream: TcpStream,
) -> Identified {
    let mut crashed = Vec::new();
    let mut probe = Probe::new(&dialler, endpoint, stream, &options);
    let asked = timeout(
        options.identify_timeout,
        ask(&drivers, &mut probe, &mut crashed),
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
    Identified { verdict, crashed }
}

/// The first answer that is not [`Answer::Foreign`], with its driver's precedence.
async fn ask(
    drivers: &[Arc<dyn Driver>],
    probe: &mut Probe<'_>,
    crashed: &mut Vec<String>,
) -> Option<(u8, Answer)> {
    // Whatever is sent to a printer's raw port is printed.
    if PRINTER_PORTS.contains(&probe.endpoint().port.number()) {
        return None;
    }
    for driver in drivers {
        let answer = AssertUnwindSafe(async { driver.identify(probe).await })
            .catch_unwind()
            .await;
        match answer {
            Ok(Ok(Answer::Foreign)) => {}
            Ok(Ok(answer)) => return Some((driver.precedence(), answer)),
            // Who says nothing to one protocol says nothing to the next: it would only take its time again.
            Ok(Err(DriverError::Silence | DriverError::Forbidden(_))) => return None,
            Ok(Err(
                error @ (DriverError::Closed | DriverError::Broken(_) | DriverError::Protocol(_)),
            )) => {
                tracing::debug!(endpoint = %probe.endpoint(), driver = driver.name(), %error, "not identified");
            }
            Err(_) => crashed.push(driver.name().to_owned()),
        }
        probe.start_over();
    }
    None
}

/// The endpoint is what was dialled; texts become fit for a report.
fn device(endpoint: Endpoint, identification: Identification) -> FoundDevice {
    let Identification {
        driver,
        scheme,
        model,
        manufacturer,
        firmware,
        mac,
        serial,
        evidence,
    } = identification;
    FoundDevice {
        endpoint,
        scheme: text::field(&scheme),
        driver: text::field(&driver).chars().take(50).collect(),
        model: text::field(&model),
        manufacturer: text::field(&manufacturer),
        firmware: text::field(&firmware),
        mac: mac.filter(|mac| !mac.is_placeholder()),
        serial,
        evidence: text::bounded(&evidence, text::EVIDENCE),
        provisional: false,
    }
}
