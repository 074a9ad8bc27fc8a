//! External drivers: asked last, about strangers only, one question a host at a time; their trouble is a gap.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use fleet_core::{DeviceFacts, Endpoint, Port, TargetOutcome};
use fleet_scan::{
    Answer, BoxFuture, Driver, DriverError, DriverSet, Probe, ScanJob, ScanOptions, Scanner,
};
use fleet_sim::{Site, Truth};

use crate::{job, ports, scan, start};

/// An external driver that writes down what it is asked.
#[derive(Default)]
struct Outside {
    names: Option<&'static str>,
    trouble: Option<&'static str>,
    fails: bool,
    asked: Mutex<Vec<Endpoint>>,
    /// Questions that are open, by host, and the most there ever were.
    open: Mutex<(BTreeMap<IpAddr, usize>, usize)>,
}

impl Driver for Outside {
    fn name(&self) -> &str {
        "outside"
    }

    fn default_ports(&self) -> Vec<Port> {
        Vec::new()
    }

    fn precedence(&self) -> u8 {
        0
    }

    fn is_external(&self) -> bool {
        true
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.map(str::to_owned)
    }

    fn identify<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
    ) -> BoxFuture<'a, Result<Answer, DriverError>> {
        Box::pin(async move {
            let endpoint = probe.endpoint();
            {
                let mut open = self.open.lock().expect("no test crashed");
                let here = open.0.entry(endpoint.ip).or_default();
                *here += 1;
                let here = *here;
                open.1 = open.1.max(here);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            let mut open = self.open.lock().expect("no test crashed");
            open.0.entry(endpoint.ip).and_modify(|here| *here -= 1);
            self.asked.lock().expect("no test crashed").push(endpoint);
            if self.fails {
                return Err(DriverError::Unusable("is tired".to_owned()));
            }
            Ok(self.names.map_or(Answer::Foreign, |driver| {
                Answer::Named(Box::new(DeviceFacts {
                    driver: driver.to_owned(),
                    ..DeviceFacts::default()
                }))
            }))
        })
    }
}

impl Outside {
    fn scanner(self: &Arc<Self>) -> Scanner {
        let outside: Arc<dyn Driver> = Arc::clone(self) as _;
        let set = DriverSet::built_in().with([outside]).expect("a set");
        Scanner::new(ScanOptions::default(), Arc::new(set))
    }

    fn asked(&self) -> Vec<Endpoint> {
        self.asked.lock().expect("no test crashed").clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_strangers_are_asked_about_and_one_port_at_a_time() {
    let running = start(Site::one_of_everything(3), 34).await;
    let site = running.site();
    let outside = Arc::new(Outside::default());
    let (summary, _, _) = scan(&outside.scanner(), job(site)).await;
    assert!(summary.is_complete(), "{summary:?}");
    let strangers: BTreeSet<IpAddr> = site
        .devices
        .iter()
        .filter(|device| device.truth(&site.ports()) == Truth::Unidentified)
        .map(|device| device.address)
        .collect();
    assert!(!strangers.is_empty());
    let mut asked = outside.asked();
    let hosts: BTreeSet<IpAddr> = asked.iter().map(|endpoint| endpoint.ip).collect();
    assert_eq!(hosts, strangers);
    let all = asked.len();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), all, "no endpoint twice");
    assert_eq!(outside.open.lock().expect("no test crashed").1, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_from_outside_ends_the_questions_about_a_host() {
    let running = start(Site::one_of_everything(3), 35).await;
    let site = running.site();
    let outside = Arc::new(Outside {
        names: Some("acme"),
        ..Outside::default()
    });
    let (summary, found, _) = scan(&outside.scanner(), job(site)).await;
    assert_eq!(summary.count(TargetOutcome::Unidentified), 0);
    let named: BTreeSet<IpAddr> = found
        .iter()
        .filter(|device| device.facts.driver == "acme")
        .map(|device| device.endpoint.ip)
        .collect();
    let asked = outside.asked();
    assert_eq!(asked.len(), named.len(), "once a host");
    assert_eq!(found.len() as u64, summary.found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_asks_outside_at_ports_that_are_defaults_of_others() {
    let running = start(Site::one_of_everything(3), 36).await;
    let site = running.site();
    let outside = Arc::new(Outside::default());
    let defaults = ScanJob {
        ports: ports(site),
        ports_are_defaults: true,
        ..job(site)
    };
    let (summary, _, _) = scan(&outside.scanner(), defaults).await;
    assert!(summary.is_complete());
    assert!(summary.count(TargetOutcome::Unidentified) > 0);
    assert_eq!(outside.asked(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_does_not_work_is_a_note_and_a_gap_even_when_it_is_not_asked() {
    let running = start(Site::one_of_everything(3), 37).await;
    let site = running.site();
    let broken = Arc::new(Outside {
        trouble: Some("is down: no licence"),
        ..Outside::default()
    });
    let nobody = ScanJob {
        targets: Vec::new(),
        ..job(site)
    };
    let (summary, _, _) = scan(&broken.scanner(), nobody).await;
    assert!(!summary.is_complete());
    assert_eq!(summary.notes, ["driver outside is down: no licence"]);

    let tired = Arc::new(Outside {
        fails: true,
        ..Outside::default()
    });
    let (summary, _, _) = scan(&tired.scanner(), job(site)).await;
    assert!(!summary.is_complete());
    let asked = tired.asked().len() as u64;
    assert_eq!(summary.driver_crashes, asked);
    let kind = format!("driver outside is tired ({asked} times), first ");
    assert!(
        summary.notes.iter().any(|note| note.starts_with(&kind)),
        "{:?}",
        summary.notes
    );
}
