//! The plugin in Python, hosted.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use fleet_core::{AddressPolicy, Endpoint, PairOutcome, Port, TargetOutcome};
use fleet_plugin::{HostOptions, Timing};
use fleet_scan::{Guard, Login, PairableDevice, Pairer, ScanJob};

use crate::{
    PATIENCE, address, drivers, eventually, folder, job, options,
    plugins::{Device, PORT, put, put_acme, python},
    quick, quick_scan, scan, scan_with, start, trouble,
};

const ACME: &str = "ACME X1 S-1 02:00:5E:00:00:01";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_only_a_plugin_knows_is_found_with_its_evidence() {
    let Some(python) = python("hosted::a_device_that_only_a_plugin_knows_is_found") else {
        return;
    };
    let folder = folder();
    put_acme(folder.path(), "acme", &python);
    let outer = crate::folder();
    for (sockets, test) in [(None, 1), (Some(outer.path().join("s")), 2)] {
        let host = start(HostOptions {
            sockets,
            ..options(folder.path(), quick())
        })
        .await;
        assert_eq!(trouble(&host), None);
        assert_eq!(host.ports(), Vec::from_iter(Port::new(PORT)));
        let (ip, silent) = (address(test, 1), address(test, 2));
        let device = Device::start(ip, &[ACME]);
        let (summary, found) = scan(&host, &[ip, silent]).await;
        assert!(summary.is_complete(), "{summary:?}");
        assert_eq!(
            summary.outcomes,
            [TargetOutcome::Identified, TargetOutcome::Refused]
        );
        let [found] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(found.endpoint.to_string(), format!("{ip}:{PORT}"));
        let texts = [
            &found.driver,
            &found.scheme,
            &found.manufacturer,
            &found.model,
            &found.firmware,
        ];
        assert_eq!(texts, ["acme", "http", "Acme", "X1", "1.0"]);
        let mac = found.mac.map(|mac| mac.to_string());
        assert_eq!(mac.as_deref(), Some("02:00:5E:00:00:01"));
        assert_eq!(found.evidence, "plugin acme says `Acme X1 1.0`");
        assert!(!found.provisional);
        assert_eq!(device.asked(), 1);
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_crashes_leaves_a_gap_and_works_in_the_next_scan() {
    let Some(python) = python("hosted::a_plugin_that_crashes_leaves_a_gap") else {
        return;
    };
    let folder = folder();
    put_acme(folder.path(), "acme", &python);
    let host = start(options(folder.path(), quick())).await;
    let ip = address(3, 1);
    let _device = Device::start(ip, &["CRASH", ACME]);
    let (summary, found) = scan(&host, &[ip]).await;
    assert!(found.is_empty(), "{found:?}");
    assert!(!summary.is_complete());
    assert_eq!(summary.driver_crashes, 1);
    let note = format!("driver plugin:acme crashed: {ip}:{PORT}");
    assert!(summary.notes.contains(&note), "{:?}", summary.notes);

    // That its process ended is noticed a moment after its answer failed; until it is back every scan has a gap.
    let until = Instant::now() + PATIENCE;
    let (summary, found) = loop {
        eventually("the restart", || trouble(&host).is_none().then_some(())).await;
        let (summary, found) = scan(&host, &[ip]).await;
        if summary.is_complete() || Instant::now() >= until {
            break (summary, found);
        }
    };
    assert!(summary.is_complete(), "{summary:?}");
    assert_eq!(found.len(), 1);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_answers_nobody_any_more_is_started_again() {
    let Some(python) = python("hosted::a_plugin_that_answers_nobody_any_more") else {
        return;
    };
    let folder = folder();
    put_acme(folder.path(), "acme", &python);
    let timing = Timing {
        answer: Duration::from_millis(500),
        ..Timing::default()
    };
    let host = start(options(folder.path(), timing)).await;
    let silent: Vec<IpAddr> = (1..=16).map(|number| address(11, number)).collect();
    let _silent: Vec<Device> = silent
        .iter()
        .map(|ip| Device::start(*ip, &["SLEEP"]))
        .collect();
    let (summary, found) = scan(&host, &silent).await;
    assert!(found.is_empty() && !summary.is_complete(), "{summary:?}");
    let down = eventually("its end", || trouble(&host)).await;
    assert_eq!(down, "is down: it left 16 questions in a row unanswered");

    eventually("the restart", || trouble(&host).is_none().then_some(())).await;
    let known = address(11, 17);
    let _known = Device::start(known, &[ACME]);
    let (summary, found) = scan(&host, &[known]).await;
    assert!(summary.is_complete(), "{summary:?}");
    assert_eq!(found.len(), 1);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_plugin_answers_is_an_answer_a_gap_or_nothing() {
    let Some(python) = python("hosted::what_a_plugin_answers") else {
        return;
    };
    let folder = folder();
    put_acme(folder.path(), "acme", &python);
    let timing = Timing {
        answer: Duration::from_secs(2),
        ..quick()
    };
    let host = start(options(folder.path(), timing)).await;
    for (number, (says, complete, noted)) in [
        ("OTHER", true, "answered and said nothing"),
        ("GONE", true, "answered and said nothing"),
        ("FAIL", true, "answered and said nothing"),
        ("LOGIN", true, "plugin acme: it wants a login"),
        ("SLEEP", false, "plugin:acme gave no answer within 2s"),
        ("GARBAGE", false, "plugin:acme gave a bad answer"),
        ("HUGE", false, "plugin:acme gave a bad answer"),
    ]
    .into_iter()
    .enumerate()
    {
        let ip = address(4, u8::try_from(number).expect("few") + 1);
        let _device = Device::start(ip, &[says]);
        let (summary, found) = scan(&host, &[ip]).await;
        assert!(found.is_empty(), "{says}: {found:?}");
        assert_eq!(summary.outcomes, [TargetOutcome::Unidentified], "{says}");
        assert_eq!(summary.is_complete(), complete, "{says}: {summary:?}");
        assert!(
            summary.notes.iter().any(|note| note.contains(noted)),
            "{says}: {:?}",
            summary.notes
        );
        assert_eq!(trouble(&host), None, "{says}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoint_is_what_was_dialed_and_a_flood_of_output_is_no_trouble() {
    let Some(python) = python("hosted::the_endpoint_is_what_was_dialed") else {
        return;
    };
    let folder = folder();
    put_acme(folder.path(), "acme", &python);
    let host = start(options(folder.path(), quick())).await;
    let (liar, printer) = (address(5, 1), address(5, 2));
    let _devices = [
        Device::start(liar, &["LIES"]),
        Device::start(printer, &["PRINT"]),
    ];
    let (summary, mut found) = scan(&host, &[liar, printer]).await;
    assert!(summary.is_complete(), "{summary:?}");
    found.sort_by_key(|device| device.endpoint.ip);
    let places: Vec<_> = found
        .iter()
        .map(|device| (device.endpoint.to_string(), &*device.model))
        .collect();
    assert_eq!(
        places,
        [
            (format!("{liar}:{PORT}"), "Liar"),
            (format!("{printer}:{PORT}"), "Printer")
        ]
    );
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_is_asked_at_its_own_ports_and_at_those_asked_for_once_a_host() {
    let Some(python) = python("hosted::a_plugin_is_asked_at_its_own_ports") else {
        return;
    };
    let folder = folder();
    put_acme(folder.path(), "acme", &python);
    put_acme(folder.path(), "bcme", &python);
    // Of two plugins with one driver name, the first in the order of files is asked.
    let host = start(options(folder.path(), quick())).await;
    let troubles: Vec<_> = host
        .drivers()
        .iter()
        .map(|driver| driver.trouble())
        .collect();
    assert_eq!(troubles[0], None);
    let second = troubles[1].as_deref().expect("is not asked");
    assert!(
        second.contains("plugin acme has the driver name `acme` too"),
        "{second}"
    );

    let ip = address(6, 1);
    let device = Device::start(ip, &["OTHER", ACME]);
    let other = std::net::TcpListener::bind((ip, PORT + 1)).expect("a free port");
    let both = ScanJob {
        ports: [PORT, PORT + 1].into_iter().filter_map(Port::new).collect(),
        ports_are_defaults: true,
        ..job(vec![ip], PORT)
    };
    let answering = std::thread::spawn(move || {
        // Whoever asks here is told nothing.
        other.incoming().map_while(Result::ok).for_each(drop);
    });
    let (_, found) = scan_with(&host, both.clone()).await;
    assert!(found.is_empty());
    assert_eq!(device.asked(), 1, "at its own port only");
    let (_, found) = scan_with(&host, both).await;
    assert_eq!((found.len(), device.asked()), (1, 2), "once named, no more");
    drop(answering);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_logs_in_to_what_it_knows() {
    let Some(python) = python("hosted::a_plugin_logs_in_to_what_it_knows") else {
        return;
    };
    let folder = folder();
    put_acme(folder.path(), "acme", &python);
    let host = start(options(folder.path(), quick())).await;
    let ip = address(7, 1);
    let _device = Device::start(ip, &[ACME]);
    let pairer = Pairer::new(
        quick_scan(),
        drivers(&host),
        Guard::policy(AddressPolicy::DEMO),
    );
    let target = PairableDevice {
        endpoint: Endpoint {
            ip,
            port: Port::new(PORT).expect("a port"),
        },
        driver: "acme".to_owned(),
        manufacturer: "Acme".to_owned(),
        mac: None,
        serial: None,
    };
    for (password, expected) in [
        (Some("sesame"), PairOutcome::Paired),
        (Some("wrong"), PairOutcome::AuthFailed),
        (None, PairOutcome::AuthNeeded),
    ] {
        let login = password.map(|password| Login::new("root".to_owned(), password.to_owned()));
        let report = pairer.pair(&target, login.as_ref()).await;
        assert_eq!(report.outcome, expected, "{password:?}: {report:?}");
    }
    let other = PairableDevice {
        driver: "bcme".to_owned(),
        ..target
    };
    let login = Login::new("root".to_owned(), "sesame".to_owned());
    let report = pairer.pair(&other, Some(&login)).await;
    assert_eq!(report.outcome, PairOutcome::Error);
    assert!(report.error.contains("nothing was sent"), "{report:?}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_plugin_beside_a_good_one_is_a_warning_and_no_more() {
    let Some(python) = python("hosted::a_bad_plugin_beside_a_good_one") else {
        return;
    };
    let folder = folder();
    put_acme(folder.path(), "acme", &python);
    put(
        folder.path(),
        "bad",
        "#!/bin/sh\necho no licence >&2\nexit 3\n",
    );
    let host = start(options(folder.path(), quick())).await;
    let ip = address(8, 1);
    let _device = Device::start(ip, &[ACME]);
    let (summary, found) = scan(&host, &[ip]).await;
    assert_eq!(found.len(), 1);
    assert!(!summary.is_complete());
    let note = "driver plugin:bad is down: it ended with status 3, and said `no licence`";
    assert!(
        summary.notes.iter().any(|told| told.starts_with(note)),
        "{:?}",
        summary.notes
    );
    host.stop().await;
}
