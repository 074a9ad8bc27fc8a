//! Lets the server scan and pair in its own networks: implements the server's `Prober` with `fleet-scan`.

use std::{sync::Arc, time::Duration};

use fleet_core::{DeviceReport, NodeId, Port};
use fleet_scan::{
    DefaultPassword, DriverSet, FoundDevice, Guard, Login, LoginBudget, PairableDevice, Pairer,
    ScanEvent, ScanJob, ScanOptions, ScanSummary, Scanner,
};
use fleet_server::{
    DirectPath, PairAnswer, PairOrder, ProbeEvent, ProbeOrder, ProbeSummary, Prober,
};
use ipnetwork::IpNetwork;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Time limit of a reply. It is short because the server leases the addresses of a batch for a few seconds only.
const REPLY: Duration = Duration::from_secs(3);
/// Time limit of the identification of a device, for the same reason.
const IDENTIFY: Duration = Duration::from_secs(8);

/// Creates the path of the server into these networks, with the built-in drivers.
pub(crate) fn path(networks: Vec<IpNetwork>, organization: Option<String>) -> DirectPath {
    let options = ScanOptions {
        reply_timeout: REPLY,
        identify_timeout: IDENTIFY,
        ..ScanOptions::default()
    };
    let drivers = Arc::new(DriverSet::built_in());
    DirectPath {
        organization,
        networks,
        prober: Arc::new(Engine {
            scanner: Scanner::new(options.clone(), drivers.clone()),
            options,
            drivers,
            login_budget: LoginBudget::default(),
        }),
    }
}

#[derive(Debug)]
struct Engine {
    scanner: Scanner,
    options: ScanOptions,
    drivers: Arc<DriverSet>,
    login_budget: LoginBudget,
}

impl Prober for Engine {
    fn default_ports(&self) -> Vec<Port> {
        self.drivers.default_ports()
    }

    fn probe<'a>(
        &'a self,
        order: ProbeOrder,
        events: mpsc::Sender<ProbeEvent>,
        cancel: CancellationToken,
    ) -> fleet_scan::BoxFuture<'a, Result<ProbeSummary, String>> {
        Box::pin(async move {
            let permit = order.permit;
            let job = ScanJob {
                ports: order.ports,
                budget: order.budget,
                guard: Guard::new(move |endpoint| permit.check(endpoint)),
                note_hosts: false,
                ..ScanJob::new(order.addresses)
            };
            let mut scan = self.scanner.scan(job).map_err(|error| error.to_string())?;
            let mut canceled = false;
            loop {
                let event = tokio::select! {
                    event = scan.next() => event.ok_or("the scan crashed")?,
                    () = cancel.cancelled(), if !canceled => {
                        canceled = true;
                        scan.cancel();
                        continue;
                    }
                };
                let event = match event {
                    ScanEvent::Ended(ScanSummary { outcomes, gaps, .. }) => {
                        return Ok(ProbeSummary { outcomes, gaps });
                    }
                    ScanEvent::Found(device) => found(device),
                    ScanEvent::Unidentified(host) => ProbeEvent::Host(host),
                    ScanEvent::Note(text) => ProbeEvent::Note(text),
                    ScanEvent::Progress(progress) => ProbeEvent::Progress(progress.done),
                };
                // The loop continues to the last event, because no connection may stay open after
                // this returns.
                if events.send(event).await.is_err() {
                    scan.cancel();
                }
            }
        })
    }

    fn pair<'a>(&'a self, order: PairOrder) -> fleet_scan::BoxFuture<'a, PairAnswer> {
        Box::pin(async move {
            let permit = order.permit;
            let guard = Guard::new(move |endpoint| permit.check(endpoint));
            let target = PairableDevice {
                endpoint: order.endpoint,
                facts: order.facts,
            };
            let login = order.login.map(|login| {
                Login::new(
                    String::clone(&login.username),
                    String::clone(&login.password),
                )
            });
            let pairer = Pairer::new(self.options.clone(), self.drivers.clone(), guard)
                .with_budget(self.login_budget.clone());
            let (report, _) = pairer
                .pair_or_default(&target, login.as_ref(), order.try_defaults)
                .await;
            PairAnswer {
                outcome: report.outcome,
                default_password: report.default_password.map(DefaultPassword::is_active),
                open: report.open,
                error: report.error,
            }
        })
    }
}

fn found(device: FoundDevice) -> ProbeEvent {
    let endpoint = device.endpoint;
    // In identifiers, 0 is the server itself.
    match DeviceReport::new(NodeId(0), endpoint, device.facts) {
        Ok(report) => ProbeEvent::Found(report),
        Err(reason) => {
            ProbeEvent::Note(format!("a device at {endpoint} cannot be stored: {reason}"))
        }
    }
}
