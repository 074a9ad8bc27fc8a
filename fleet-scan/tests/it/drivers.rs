//! Drivers of one's own: what the engine makes of their answers, lies and crashes.

use std::{sync::Arc, time::Duration};

use fleet_core::{DeviceFacts, Port, TargetOutcome};
use fleet_scan::{
    Answer, BoxFuture, Driver, DriverError, DriverSet, Probe, ScanError, ScanJob, Scanner,
};
use fleet_sim::Site;

use crate::{job, quick, scan, start};

/// A driver that does one thing at every port.
struct Does(&'static str, Action);

enum Action {
    Crash,
    Name(&'static str),
    AskForEver,
}

impl Driver for Does {
    fn name(&self) -> &str {
        self.0
    }

    fn default_ports(&self) -> Vec<Port> {
        Vec::new()
    }

    fn precedence(&self) -> u8 {
        1
    }

    fn identify<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
    ) -> BoxFuture<'a, Result<Answer, DriverError>> {
        Box::pin(async move {
            match &self.1 {
                Action::Crash => panic!("a driver's bug"),
                Action::Name(model) => Ok(Answer::Named(Box::new(DeviceFacts {
                    driver: self.0.to_owned(),
                    model: (*model).to_owned(),
                    ..DeviceFacts::default()
                }))),
                Action::AskForEver => loop {
                    probe.ask(br#"{"command":"version"}"#, |_| false).await?;
                },
            }
        })
    }
}

fn with(drivers: Vec<Does>) -> Scanner {
    let drivers = drivers
        .into_iter()
        .map(|driver| Arc::new(driver) as Arc<dyn Driver>)
        .collect();
    Scanner::new(quick(), Arc::new(DriverSet::new(drivers).expect("a set")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_crashes_is_a_note_and_the_next_is_asked() {
    let running = start(Site::slow(3, Duration::ZERO), 30).await;
    let scanner = with(vec![
        Does("buggy", Action::Crash),
        Does("good", Action::Name("X1")),
    ]);
    let (summary, found, _) = scan(&scanner, job(running.site())).await;
    assert_eq!(found.len(), 3);
    assert_eq!(summary.gaps.driver_failures, 3);
    assert!(!summary.is_complete());
    assert!(
        summary
            .notes
            .iter()
            .any(|note| note.contains("driver buggy crashed (3 times)")),
        "{:?}",
        summary.notes
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_of_drivers_are_made_fit_for_reports() {
    let running = start(Site::slow(1, Duration::ZERO), 31).await;
    let (_, found, _) = scan(
        &with(vec![Does("rude", Action::Name("a\u{1b}[31mb\n"))]),
        job(running.site()),
    )
    .await;
    assert_eq!(found[0].facts.model, "a [31mb");
    assert_eq!(found[0].endpoint.ip, running.site().devices[0].address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_cannot_ask_without_end() {
    let running = start(Site::slow(1, Duration::ZERO), 32).await;
    let (summary, found, _) = scan(
        &with(vec![Does("curious", Action::AskForEver)]),
        job(running.site()),
    )
    .await;
    assert!(found.is_empty());
    assert_eq!(summary.outcomes, [TargetOutcome::Unidentified]);
    assert!(
        running.journal().count() <= 17,
        "{}",
        running.journal().count()
    );
}

#[tokio::test]
async fn a_scan_without_ports_or_with_too_many_does_not_start() {
    let error = |ports: Vec<Port>| {
        let job = ScanJob {
            ports,
            ..ScanJob::new(vec![[127, 90, 33, 1].into()])
        };
        let scanner = with(vec![Does("good", Action::Name("X1"))]);
        scanner.scan(job).expect_err("no scan")
    };
    assert_eq!(error(Vec::new()), ScanError::NoPorts);
    let many: Vec<Port> = (1..=65).filter_map(Port::new).collect();
    assert_eq!(error(many), ScanError::TooManyPorts(65));
}
