//! Scans and pairings with the Python plugin of `tests/plugins/acme.py`.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use fleet_core::{AddressPolicy, DeviceFacts, Endpoint, PairOutcome, Port, TargetOutcome};
use fleet_plugin::{HostOptions, Timing};
use fleet_scan::{DefaultPassword, Guard, Login, PairableDevice, Pairer, ScanJob};

use crate::{
    PATIENCE, address, drivers, eventually, folder, job, options,
    plugins::{Device, PORT, put, put_acme, python},
    problem, quick, quick_scan, scan, scan_with, start,
};

const ACME: &str = "ACME X1 S-1 02:00:5E:00:00:01";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_identified_only_by_a_plugin_is_found_with_evidence() {
    let Some(python) =
        python("hosted::a_device_identified_only_by_a_plugin_is_found_with_evidence")
    else {
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
        assert_eq!(problem(&host), None);
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
        let facts = &found.facts;
        let texts = [
            &facts.driver,
            &facts.scheme,
            &facts.manufacturer,
            &facts.model,
            &facts.firmware,
        ];
        assert_eq!(texts, ["acme", "http", "Acme", "X1", "1.0"]);
        let mac = facts.mac.map(|mac| mac.to_string());
        assert_eq!(mac.as_deref(), Some("02:00:5E:00:00:01"));
        assert_eq!(facts.evidence, "plugin acme reported `Acme X1 1.0`");
        assert!(!found.provisional);
        assert_eq!(device.asked(), 1);
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_crashes_leaves_a_gap_and_works_in_the_next_scan() {
    let Some(python) =
        python("hosted::a_plugin_that_crashes_leaves_a_gap_and_works_in_the_next_scan")
    else {
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
    assert_eq!(summary.gaps.driver_failures, 1);
    let note = format!("driver plugin:acme crashed: {ip}:{PORT}");
    assert!(summary.notes.contains(&note), "{:?}", summary.notes);

    // The end of the process is noticed a moment after its failed answer. Until the restart, every scan has a gap.
    let until = Instant::now() + PATIENCE;
    let (summary, found) = loop {
        eventually("the restart", || problem(&host).is_none().then_some(())).await;
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
async fn a_plugin_that_stops_answering_is_restarted() {
    let Some(python) = python("hosted::a_plugin_that_stops_answering_is_restarted") else {
        return;
    };
    let folder = folder();
    put_acme(folder.path(), "acme", &python);
    let timing = Timing {
        answer_timeout: Duration::from_millis(500),
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
    let down = eventually("its end", || problem(&host)).await;
    assert_eq!(down, "is down: it left 16 calls in a row unanswered");

    eventually("the restart", || problem(&host).is_none().then_some(())).await;
    let known = address(11, 17);
    let _known = Device::start(known, &[ACME]);
    let (summary, found) = scan(&host, &[known]).await;
    assert!(summary.is_complete(), "{summary:?}");
    assert_eq!(found.len(), 1);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_plugin_answer_has_its_outcome() {
    let Some(python) = python("hosted::each_kind_of_plugin_answer_has_its_outcome") else {
        return;
    };
    let folder = folder();
    put_acme(folder.path(), "acme", &python);
    let timing = Timing {
        answer_timeout: Duration::from_secs(2),
        ..quick()
    };
    let host = start(options(folder.path(), timing)).await;
    for (number, (says, complete, noted)) in [
        ("OTHER", true, "unidentified host, no reply"),
        ("GONE", true, "unidentified host, no reply"),
        ("FAIL", true, "unidentified host, no reply"),
        ("LOGIN", true, "plugin acme: it requires a login"),
        ("SLEEP", false, "plugin:acme gave no answer within 2 s"),
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
        assert_eq!(problem(&host), None, "{says}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dialed_endpoint_counts_and_a_flood_of_output_is_harmless() {
    let Some(python) =
        python("hosted::the_dialed_endpoint_counts_and_a_flood_of_output_is_harmless")
    else {
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
    let endpoints: Vec<_> = found
        .iter()
        .map(|device| (device.endpoint.to_string(), &*device.facts.model))
        .collect();
    assert_eq!(
        endpoints,
        [
            (format!("{liar}:{PORT}"), "Liar"),
            (format!("{printer}:{PORT}"), "Printer")
        ]
    );
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_is_called_at_its_default_and_requested_ports_once_per_host() {
    let Some(python) =
        python("hosted::a_plugin_is_called_at_its_default_and_requested_ports_once_per_host")
    else {
        return;
    };
    let folder = folder();
    put_acme(folder.path(), "acme", &python);
    put_acme(folder.path(), "bcme", &python);
    // If two plugins have one driver name, the first one by file name is used.
    let host = start(options(folder.path(), quick())).await;
    let troubles: Vec<_> = host
        .drivers()
        .iter()
        .map(|driver| driver.trouble())
        .collect();
    assert_eq!(troubles[0], None);
    let second = troubles[1].as_deref().expect("is not asked");
    assert!(
        second.contains("plugin acme also has the driver name `acme`"),
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
        // Closes every connection at once.
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
async fn a_plugin_pairs_the_devices_that_it_recognizes() {
    let Some(python) = python("hosted::a_plugin_pairs_the_devices_that_it_recognizes") else {
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
        facts: DeviceFacts {
            driver: "acme".to_owned(),
            manufacturer: "Acme".to_owned(),
            ..DeviceFacts::default()
        },
    };
    // A built-in driver found the same device at another port, and spells its make differently.
    let mut elsewhere = target.clone();
    elsewhere.endpoint.port = Port::new(4028).expect("a port");
    elsewhere.facts.manufacturer = "ACME Inc".to_owned();
    for (password, expected) in [
        (Some("sesame"), PairOutcome::Paired),
        (Some("wrong"), PairOutcome::AuthFailed),
        // The second of the plugin's default logins works.
        (None, PairOutcome::Paired),
    ] {
        let login = password.map(|password| Login::new("root".to_owned(), password.to_owned()));
        for target in [&target, &elsewhere] {
            let report = pairer.pair(target, login.as_ref()).await;
            assert_eq!(report.outcome, expected, "{password:?}: {report:?}");
            let by_default = password
                .is_none()
                .then_some(DefaultPassword::Inferred(true));
            assert_eq!(report.default_password, by_default, "{report:?}");
        }
    }
    let mut other = target;
    other.facts.driver = "bcme".to_owned();
    let login = Login::new("root".to_owned(), "sesame".to_owned());
    let report = pairer.pair(&other, Some(&login)).await;
    assert_eq!(report.outcome, PairOutcome::Error);
    assert!(report.error.contains("nothing was sent"), "{report:?}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_logins_are_not_tried_if_the_node_forbids_them() {
    let Some(python) = python("hosted::default_logins_are_not_tried_if_the_node_forbids_them")
    else {
        return;
    };
    let folder = folder();
    put_acme(folder.path(), "acme", &python);
    let host = start(HostOptions {
        default_logins: false,
        ..options(folder.path(), quick())
    })
    .await;
    let ip = address(12, 1);
    let _device = Device::start(ip, &[ACME]);
    let guard = Guard::policy(AddressPolicy::DEMO);
    let pairer = Pairer::new(quick_scan(), drivers(&host), guard);
    let target = PairableDevice {
        endpoint: Endpoint {
            ip,
            port: Port::new(PORT).expect("a port"),
        },
        facts: DeviceFacts {
            driver: "acme".to_owned(),
            ..DeviceFacts::default()
        },
    };
    let report = pairer.pair(&target, None).await;
    assert_eq!(report.outcome, PairOutcome::AuthNeeded, "{report:?}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_plugin_does_not_affect_a_working_one() {
    let Some(python) = python("hosted::a_broken_plugin_does_not_affect_a_working_one") else {
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
    let note =
        "driver plugin:bad is down: it ended with status 3; its last output was `no licence`";
    assert!(
        summary.notes.iter().any(|notes| notes.starts_with(note)),
        "{:?}",
        summary.notes
    );
    host.stop().await;
}
