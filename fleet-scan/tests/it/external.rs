//! External drivers: they run last, on unidentified hosts only, one question per host at a time. Their failures make a
//! scan incomplete.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use fleet_core::{AddressPolicy, DeviceFacts, Endpoint, Port, TargetOutcome};
use fleet_scan::{
    Answer, BoxFuture, Driver, DriverError, DriverSet, Guard, Probe, ScanJob, ScanOptions, Scanner,
};
use fleet_sim::{Manner, Service, Site, Truth};
use tokio::sync::watch;

use crate::{job, ports, scan, start};

/// An external driver that records its questions.
#[derive(Default)]
struct External {
    names: Option<&'static str>,
    trouble: Option<&'static str>,
    fails: bool,
    /// It may be asked about silent hosts, and has this default port.
    silent_at: Option<u16>,
    asked: Mutex<Vec<Endpoint>>,
    /// Each question waits until this many hosts have an open one.
    hosts_at_once: usize,
    /// Open questions by host, and the largest number at one host.
    open: watch::Sender<(BTreeMap<IpAddr, usize>, usize)>,
}

impl Driver for External {
    fn name(&self) -> &str {
        "external"
    }

    fn default_ports(&self) -> Vec<Port> {
        self.silent_at.and_then(Port::new).into_iter().collect()
    }

    fn asks_silent(&self) -> bool {
        self.silent_at.is_some()
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
            self.open.send_modify(|(open, most)| {
                let here = open.entry(endpoint.ip).or_default();
                *here += 1;
                *most = (*most).max(*here);
            });
            let enough = |(open, _): &(BTreeMap<_, _>, _)| open.len() >= self.hosts_at_once;
            let _ = self.open.subscribe().wait_for(enough).await;
            self.open.send_modify(|(open, _)| {
                open.entry(endpoint.ip).and_modify(|here| *here -= 1);
            });
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

impl External {
    fn scanner(self: &Arc<Self>) -> Scanner {
        let external: Arc<dyn Driver> = Arc::clone(self) as _;
        let set = DriverSet::built_in().with([external]).expect("a set");
        Scanner::new(ScanOptions::default(), Arc::new(set))
    }

    fn asked(&self) -> Vec<Endpoint> {
        self.asked.lock().expect("no test crashed").clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_unidentified_hosts_are_asked_about() {
    let running = start(Site::one_of_everything(3), 34).await;
    let site = running.site();
    let external = Arc::new(External::default());
    let (summary, _, _) = scan(&external.scanner(), job(site)).await;
    assert!(summary.is_complete(), "{summary:?}");
    let unidentified: BTreeSet<IpAddr> = site
        .devices
        .iter()
        .filter(|device| device.truth(&site.ports()) == Truth::Unidentified)
        .map(|device| device.address)
        .collect();
    assert!(!unidentified.is_empty());
    let mut asked = external.asked();
    let hosts: BTreeSet<IpAddr> = asked.iter().map(|endpoint| endpoint.ip).collect();
    assert_eq!(hosts, unidentified);
    let all = asked.len();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), all, "no endpoint twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_gets_one_question_at_a_time() {
    const HOSTS: usize = 10;
    const PORTS: std::ops::Range<u16> = 14_100..14_103;
    let mut site = Site::slow(HOSTS, Duration::ZERO);
    for device in &mut site.devices {
        let silent = |port| Service {
            port,
            manner: Manner::HangsUp,
            ..device.services[0].clone()
        };
        device.services = PORTS.map(silent).collect();
    }
    let running = start(site, 38).await;
    // Every host has its first question open at the same time. A second one of any host would be open beside it.
    let external = Arc::new(External {
        hosts_at_once: HOSTS,
        ..External::default()
    });
    let (summary, _, _) = scan(&external.scanner(), job(running.site())).await;
    assert!(summary.is_complete(), "{summary:?}");
    assert_eq!(external.asked().len(), HOSTS * PORTS.len());
    assert_eq!(external.open.borrow().1, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identification_ends_the_questions_about_a_host() {
    let running = start(Site::one_of_everything(3), 35).await;
    let site = running.site();
    let external = Arc::new(External {
        names: Some("acme"),
        ..External::default()
    });
    let (summary, found, _) = scan(&external.scanner(), job(site)).await;
    assert_eq!(summary.count(TargetOutcome::Unidentified), 0);
    let named: BTreeSet<IpAddr> = found
        .iter()
        .filter(|device| device.facts.driver == "acme")
        .map(|device| device.endpoint.ip)
        .collect();
    let asked = external.asked();
    assert_eq!(asked.len(), named.len(), "once per host");
    assert_eq!(found.len() as u64, summary.found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_default_ports_of_other_drivers_no_question_is_asked() {
    let running = start(Site::one_of_everything(3), 36).await;
    let site = running.site();
    let external = Arc::new(External::default());
    let defaults = ScanJob {
        ports: ports(site),
        ports_are_defaults: true,
        ..job(site)
    };
    let (summary, _, _) = scan(&external.scanner(), defaults).await;
    assert!(summary.is_complete());
    assert!(summary.count(TargetOutcome::Unidentified) > 0);
    assert_eq!(external.asked(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_driver_makes_a_scan_incomplete_even_if_it_is_not_needed() {
    let running = start(Site::one_of_everything(3), 37).await;
    let site = running.site();
    let broken = Arc::new(External {
        trouble: Some("is down: no license"),
        ..External::default()
    });
    let nobody = ScanJob {
        targets: Vec::new(),
        ..job(site)
    };
    let (summary, _, _) = scan(&broken.scanner(), nobody).await;
    assert!(!summary.is_complete());
    assert_eq!(summary.notes, ["driver external is down: no license"]);

    let tired = Arc::new(External {
        fails: true,
        ..External::default()
    });
    let (summary, _, _) = scan(&tired.scanner(), job(site)).await;
    assert!(!summary.is_complete());
    let asked = tired.asked().len() as u64;
    assert_eq!(summary.gaps.driver_failures, asked);
    let kind = format!("driver external is tired ({asked} times), first ");
    assert!(
        summary.notes.iter().any(|note| note.starts_with(&kind)),
        "{:?}",
        summary.notes
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_driver_that_may_is_asked_about_silent_hosts_and_only_in_short_lists() {
    const PORT: u16 = 14_777;
    let hosts = |count: u8| (1..=count).map(|host| IpAddr::from([127, 90, 39, host]));
    for (may_ask, listed, count, is_found) in [
        (true, true, 2, true),
        (false, true, 2, false),
        (true, false, 2, false),
        (true, true, 255, true),
        (true, true, 0, false),
    ] {
        let external = Arc::new(External {
            names: Some("virtual"),
            silent_at: may_ask.then_some(PORT),
            ..External::default()
        });
        // With 0, a list of one address more than the limit.
        let mut targets: Vec<IpAddr> = hosts(if count == 0 { 255 } else { count }).collect();
        if count == 0 {
            targets.extend([1, 2].map(|host| IpAddr::from([127, 90, 40, host])));
        }
        let job = ScanJob {
            ports: [PORT, PORT + 1].into_iter().filter_map(Port::new).collect(),
            guard: Guard::policy(AddressPolicy::DEMO),
            listed,
            ..ScanJob::new(targets.clone())
        };
        let (summary, found, _) = scan(&external.scanner(), job).await;
        let expected = if is_found { targets.len() } else { 0 };
        assert_eq!(found.len(), expected, "{may_ask} {listed} {count}");
        assert_eq!(external.asked().len(), expected, "at its own port only");
        let outcome = if is_found {
            TargetOutcome::Identified
        } else {
            TargetOutcome::Refused
        };
        assert_eq!(summary.count(outcome), targets.len() as u64);
    }
}

#[tokio::test]
async fn a_silent_host_that_a_driver_does_not_know_stays_silent() {
    let external = Arc::new(External {
        silent_at: Some(14_778),
        ..External::default()
    });
    let job = ScanJob {
        ports: Port::new(14_778).into_iter().collect(),
        guard: Guard::policy(AddressPolicy::DEMO),
        listed: true,
        ..ScanJob::new(vec![[127, 90, 41, 1].into()])
    };
    let (summary, found, _) = scan(&external.scanner(), job).await;
    assert_eq!((found.len(), external.asked().len()), (0, 1));
    assert_eq!(summary.outcomes, [TargetOutcome::Refused]);
    assert!(
        summary.is_complete() && summary.notes.is_empty(),
        "{summary:?}"
    );
}

/// The driver waits for a second host, which never has an open port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_for_one_host_bounds_all_questions_about_it() {
    let running = start(Site::one_of_everything(3), 42).await;
    let site = running.site();
    let unidentified = site
        .devices
        .iter()
        .find(|device| device.truth(&site.ports()) == Truth::Unidentified)
        .expect("one is not identified");
    let external = Arc::new(External {
        hosts_at_once: 2,
        ..External::default()
    });
    let driver: Arc<dyn Driver> = Arc::clone(&external) as _;
    let set = DriverSet::built_in().with([driver]).expect("a set");
    let options = ScanOptions {
        external_timeout: Duration::from_millis(100),
        ..ScanOptions::default()
    };
    let scanner = Scanner::new(options, Arc::new(set));
    let job = ScanJob {
        targets: vec![unidentified.address],
        ..job(site)
    };
    let (summary, _, _) = scan(&scanner, job).await;
    assert!(!summary.is_complete(), "{summary:?}");
    let notes = summary.notes.join("\n");
    assert!(notes.contains("driver external was cut off"), "{notes}");
    assert_eq!(summary.count(TargetOutcome::Unidentified), 1);
}
