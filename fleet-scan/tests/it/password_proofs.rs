//! Logins at simulated devices of each make that has one: the right, a wrong and no password, a lock-out, a slow device,
//! another device at the address, and the default passwords.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use fleet_core::{AddressPolicy, DeviceFacts, Endpoint, PairOutcome, Port};
use fleet_scan::{
    DefaultPassword, DriverSet, Fingerprints, Guard, Login, LoginBudget, PairReport,
    PairableDevice, Pairer, ProtocolDriver, ScanOptions,
};
use fleet_sim::{
    Device, DeviceLogin, Lab, Make, Manner, Ports, Protocol, RunningSite, Service, Site, Truth,
};
use futures::{StreamExt as _, stream};

use crate::quick;

const MAC: &str = "02:F1:00:00:00:07";
const PASSWORD: &str = "rack-7.own";
const PORTS: Ports = Ports::UNPRIVILEGED;

/// Each make with a login, by the release that has it.
const MAKES: [(Make, &str, &str); 10] = [
    (Make::Antminer, "Antminer S19", "1.0.0"),
    (Make::Whatsminer, "M30S++VH60", "20220920.15.REL"),
    (Make::Whatsminer, "M60S_VK30", "20240612.12.REL"),
    (Make::Braiins, "Antminer S9", "21.09.3"),
    (Make::Braiins, "Antminer S19 Pro", "24.09"),
    (Make::Braiins, "Antminer S21", "25.07"),
    (Make::Vnish, "Antminer S19", "1.2.0"),
    (Make::Marathon, "Antminer S21", "1.4.2"),
    (Make::SealMiner, "A2", "2025091001"),
    (Make::Auradine, "AT1500", "2.1.3"),
];

fn service(protocol: Protocol, delay_ms: u64) -> Service {
    Service {
        port: match protocol {
            Protocol::Cgminer => PORTS.cgminer,
            Protocol::Http => PORTS.http,
        },
        protocol,
        manner: Manner::Proper,
        delay_ms,
    }
}

fn device(
    (make, model, firmware): (Make, &str, &str),
    login: DeviceLogin,
    delay_ms: u64,
) -> Device {
    Device {
        address: Ipv4Addr::LOCALHOST.into(),
        make,
        model: model.to_owned(),
        firmware: firmware.to_owned(),
        mac: Some(MAC.to_owned()),
        serial: Some("SN7".to_owned()),
        services: vec![
            service(Protocol::Cgminer, delay_ms),
            service(Protocol::Http, delay_ms),
        ],
        login: Some(login),
    }
}

fn own(make: Make) -> DeviceLogin {
    DeviceLogin {
        password: PASSWORD.to_owned(),
        ..DeviceLogin::default_of(make)
    }
}

async fn start(devices: Vec<Device>, test: u8) -> RunningSite {
    let site = Site { seed: 1, devices };
    Lab::start(site.starting_at(Ipv4Addr::new(127, 97, test, 1)))
        .await
        .expect("the site starts")
}

fn target(site: &RunningSite, at: usize) -> PairableDevice {
    let device = &site.site().devices[at];
    let driver = if device.make == Make::Antminer {
        "antminer"
    } else {
        "asicrs"
    };
    PairableDevice {
        endpoint: Endpoint {
            ip: device.address,
            port: Port::new(PORTS.cgminer).expect("a port"),
        },
        facts: DeviceFacts {
            driver: driver.to_owned(),
            // The GraphQL API of Braiins OS shows no MAC, so none is known of such a device.
            mac: MAC.parse().ok().filter(|_| device.firmware != "24.09"),
            ..DeviceFacts::default()
        },
    }
}

fn pairer(options: ScanOptions) -> Pairer {
    let rules = Fingerprints::built_in();
    let web = Port::new(PORTS.http).into_iter().collect();
    let drivers = DriverSet::new(vec![
        Arc::new(ProtocolDriver::http(Arc::clone(&rules)).at(web)),
        Arc::new(ProtocolDriver::cgminer(rules)),
    ]);
    let drivers = Arc::new(drivers.expect("a set"));
    Pairer::new(options, drivers, Guard::policy(AddressPolicy::DEMO))
}

async fn pair(site: &RunningSite, at: usize, password: Option<&str>) -> PairReport {
    let username = DeviceLogin::default_of(site.site().devices[at].make).username;
    let login = password.map(|password| Login::new(username, password.to_owned()));
    pairer(quick())
        .pair(&target(site, at), login.as_ref())
        .await
}

fn asked(site: &RunningSite) -> Vec<String> {
    let connections = site.journal().connections().into_iter();
    connections.flat_map(|one| one.answered).collect()
}

/// Requests that carry a password or what was derived from it.
fn tries(asked: &[String]) -> usize {
    let carries = |request: &&String| {
        request.as_str() == "encrypted"
            || [
                "/unlock",
                "/auth/login",
                "/login.php",
                "POST /token",
                "POST /cgi-bin/luci",
            ]
            .iter()
            .any(|path| request.contains(path))
    };
    asked.iter().filter(carries).count()
}

#[tokio::test]
async fn each_make_pairs_with_the_right_password_only() {
    let devices = MAKES.map(|make| device(make, own(make.0), 0));
    let site = start(devices.into(), 0).await;
    use PairOutcome::{AuthFailed, AuthNeeded, Paired};
    for (at, (make, _, firmware)) in MAKES.into_iter().enumerate() {
        for (password, outcome) in [
            (Some(PASSWORD), Paired),
            (Some("wrong"), AuthFailed),
            (None, AuthNeeded),
        ] {
            let report = pair(&site, at, password).await;
            let of = format!("{make:?} {firmware} {password:?}: {report:?}");
            assert_eq!(report.outcome, outcome, "{of}");
            let is_paired = outcome == Paired;
            assert_eq!(report.error.is_empty(), is_paired, "{of}");
            assert!(!report.open, "{of}");
            if is_paired {
                let default = Some(DefaultPassword::Inferred(false));
                assert_eq!(report.default_password, default, "{of}");
                if firmware != "24.09" {
                    let mac = report.facts.mac.map(|mac| mac.to_string());
                    assert_eq!(mac.as_deref(), Some(MAC), "{of}");
                }
            }
        }
    }
}

#[tokio::test]
async fn another_device_at_the_address_is_sent_no_password() {
    let devices = MAKES.map(|make| device(make, own(make.0), 0));
    let site = start(devices.into(), 1).await;
    for (at, (make, _, firmware)) in MAKES.into_iter().enumerate() {
        let other = PairableDevice {
            facts: DeviceFacts {
                manufacturer: "Acme".to_owned(),
                mac: None,
                ..target(&site, at).facts
            },
            ..target(&site, at)
        };
        let login = Login::new("root".to_owned(), PASSWORD.to_owned());
        let (report, worked) = pairer(quick())
            .pair_or_default(&other, Some(&login), true)
            .await;
        assert_eq!(
            report.outcome,
            PairOutcome::Error,
            "{make:?} {firmware}: {report:?}"
        );
        assert!(report.error.contains("another device"), "{report:?}");
        assert!(worked.is_none());
    }
    assert_eq!(tries(&asked(&site)), 0, "{:?}", asked(&site));
}

#[tokio::test]
async fn the_identity_behind_the_login_must_be_the_known_one() {
    // Makes whose MAC is not readable without the login.
    let makes = [MAKES[0], MAKES[3], MAKES[5], MAKES[7], MAKES[9]];
    let devices = makes.map(|make| device(make, own(make.0), 0));
    let site = start(devices.into(), 2).await;
    for (at, (make, _, firmware)) in makes.into_iter().enumerate() {
        let known = target(&site, at);
        let other = PairableDevice {
            facts: DeviceFacts {
                mac: "02:F1:00:00:00:99".parse().ok(),
                ..known.facts.clone()
            },
            ..known
        };
        let username = DeviceLogin::default_of(make).username;
        let login = Login::new(username, PASSWORD.to_owned());
        let (report, worked) = pairer(quick())
            .pair_or_default(&other, Some(&login), false)
            .await;
        assert_eq!(
            report.outcome,
            PairOutcome::Error,
            "{make:?} {firmware}: {report:?}"
        );
        assert!(report.error.contains("MAC or serial differs"), "{report:?}");
        assert!(worked.is_none(), "no credentials are kept");
    }
}

#[tokio::test]
async fn a_locked_device_pairs_with_no_password() {
    let locked = |make| DeviceLogin {
        locked: true,
        ..own(make)
    };
    let devices = MAKES.map(|make| device(make, locked(make.0), 0));
    let site = start(devices.into(), 3).await;
    for (at, (make, _, firmware)) in MAKES.into_iter().enumerate() {
        let report = pair(&site, at, Some(PASSWORD)).await;
        assert_ne!(
            report.outcome,
            PairOutcome::Paired,
            "{make:?} {firmware}: {report:?}"
        );
        assert!(!report.error.is_empty());
    }
    let whatsminer = pair(&site, 1, Some(PASSWORD)).await;
    assert!(whatsminer.error.contains("no free token"), "{whatsminer:?}");
}

#[tokio::test]
async fn a_device_that_is_too_slow_is_sent_no_password() {
    let makes = [MAKES[1], MAKES[5]];
    let devices = makes.map(|make| device(make, own(make.0), 700));
    let site = start(devices.into(), 4).await;
    let options = ScanOptions {
        reply_timeout: Duration::from_millis(200),
        ..ScanOptions::default()
    };
    for at in 0..makes.len() {
        let login = Login::new("root".to_owned(), PASSWORD.to_owned());
        let report = pairer(options.clone())
            .pair(&target(&site, at), Some(&login))
            .await;
        assert_eq!(report.outcome, PairOutcome::Error, "{report:?}");
    }
    assert_eq!(tries(&asked(&site)), 0, "{:?}", asked(&site));
}

#[tokio::test]
async fn default_passwords_are_tried_only_on_request_and_each_once() {
    let default = |make| DeviceLogin::default_of(make);
    let mut devices: Vec<_> = MAKES
        .into_iter()
        .map(|make| device(make, default(make.0), 0))
        .collect();
    let changed = devices.len();
    devices.push(device(MAKES[5], own(Make::Braiins), 0));
    let site = start(devices, 5).await;
    for (at, (make, _, firmware)) in MAKES.into_iter().enumerate() {
        let given = Login::new("root".to_owned(), "not this".to_owned());
        let (report, worked) = pairer(quick())
            .pair_or_default(&target(&site, at), Some(&given), false)
            .await;
        assert_eq!(
            report.outcome,
            PairOutcome::AuthFailed,
            "{make:?} {firmware}: {report:?}"
        );
        assert!(worked.is_none());
        for given in [Some(&given), None] {
            let (report, worked) = pairer(quick())
                .pair_or_default(&target(&site, at), given, true)
                .await;
            let of = format!("{make:?} {firmware}: {report:?}");
            assert_eq!(report.outcome, PairOutcome::Paired, "{of}");
            assert_eq!(
                report.default_password,
                Some(DefaultPassword::Inferred(true)),
                "{of}"
            );
            let worked = worked.expect("the default credentials");
            assert_eq!(worked.password(), default(make).password, "{of}");
        }
    }
    let before = asked(&site).len();
    let given = Login::new("root".to_owned(), "root".to_owned());
    let (report, worked) = pairer(quick())
        .pair_or_default(&target(&site, changed), Some(&given), true)
        .await;
    assert_eq!(report.outcome, PairOutcome::AuthFailed, "{report:?}");
    assert!(
        report.error.contains("refused 1 default passwords"),
        "{report:?}"
    );
    assert!(worked.is_none());
    let sent = asked(&site).split_off(before);
    assert_eq!(
        tries(&sent),
        2,
        "root:root is given and a default: {sent:?}"
    );
}

#[tokio::test]
async fn default_passwords_count_against_the_budget_of_a_device() {
    let site = start(vec![device(MAKES[5], own(Make::Braiins), 0)], 6).await;
    let pairer = pairer(quick()).with_budget(LoginBudget::default());
    let given = Login::new("root".to_owned(), "not this".to_owned());
    let mut last = None;
    for _ in 0..3 {
        let (report, _) = pairer
            .pair_or_default(&target(&site, 0), Some(&given), true)
            .await;
        last = Some(report);
    }
    let last = last.expect("a report");
    assert!(last.error.contains("refused 4 passwords"), "{last:?}");
    assert_eq!(tries(&asked(&site)), 4, "{:?}", asked(&site));
}

#[tokio::test]
async fn a_make_without_a_read_only_proof_is_sent_no_password() {
    let epic = (Make::Epic, "", "");
    let mut devices = vec![device(epic, own(Make::Epic), 0)];
    devices[0].services.remove(0);
    let site = start(devices, 7).await;
    let known = target(&site, 0);
    let epic = PairableDevice {
        endpoint: Endpoint {
            port: Port::new(PORTS.http).expect("a port"),
            ..known.endpoint
        },
        ..known
    };
    let login = Login::new("root".to_owned(), PASSWORD.to_owned());
    let (report, worked) = pairer(quick())
        .pair_or_default(&epic, Some(&login), true)
        .await;
    assert_eq!(report.outcome, PairOutcome::Error, "{report:?}");
    assert!(
        report.error.contains("no read-only request proves"),
        "{report:?}"
    );
    assert!(worked.is_none());
    assert!(
        asked(&site)
            .iter()
            .all(|request| request.starts_with("GET "))
    );
}

#[tokio::test]
async fn another_device_at_the_port_of_the_login_is_sent_no_password() {
    let mut api = device(MAKES[6], own(Make::Vnish), 0);
    api.services.truncate(1);
    let mut web = device(MAKES[6], own(Make::Vnish), 0);
    web.services.remove(0);
    web.mac = Some("02:F1:00:00:00:99".to_owned());
    let (api, web) = (start(vec![api], 8).await, start(vec![web], 8).await);
    let report = pair(&api, 0, Some(PASSWORD)).await;
    assert_eq!(report.outcome, PairOutcome::Error, "{report:?}");
    assert!(report.error.contains("another device"), "{report:?}");
    let asked = asked(&web);
    assert!(!asked.is_empty(), "it was identified");
    assert_eq!(tries(&asked), 0, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn most_devices_of_the_demo_pair_with_its_login_and_the_others_say_why() {
    let site = Site::demo(96, 8_420)
        .with_logins()
        .starting_at(Ipv4Addr::new(127, 97, 16, 1));
    let site = Lab::start(site).await.expect("the site starts");
    let ports = site.site().ports();
    let targets: Vec<_> = site
        .site()
        .devices
        .iter()
        .filter_map(|device| match device.truth(&ports) {
            Truth::Identified(known) => Some((device, known)),
            Truth::Unidentified | Truth::Refused => None,
        })
        .map(|(device, known)| {
            let target = PairableDevice {
                endpoint: Endpoint {
                    ip: device.address,
                    port: Port::new(known.port).expect("a port"),
                },
                facts: DeviceFacts {
                    driver: known.driver_name,
                    manufacturer: known.manufacturer,
                    mac: known.mac.and_then(|mac| mac.parse().ok()),
                    ..DeviceFacts::default()
                },
            };
            (device.make, target)
        })
        .collect();
    let all = targets.len();
    assert_eq!(all, 96);
    let pairer = pairer(quick());
    let DeviceLogin {
        username, password, ..
    } = DeviceLogin::demo();
    let login = Login::new(username, password);
    let reports: Vec<_> = stream::iter(targets)
        .map(|(make, target)| {
            let (pairer, login) = (pairer.clone(), login.clone());
            async move {
                let (report, worked) = pairer.pair_or_default(&target, Some(&login), true).await;
                (make, report, worked)
            }
        })
        .buffer_unordered(16)
        .collect()
        .await;
    let failed: Vec<_> = reports
        .iter()
        .filter(|(_, report, _)| report.outcome != PairOutcome::Paired)
        .map(|(make, report, _)| (make, &report.error))
        .collect();
    assert!(
        failed.len() * 20 <= all,
        "{} of {all}: {failed:#?}",
        failed.len()
    );
    assert!(failed.iter().all(|(_, error)| !error.is_empty()));
    for (make, report, worked) in &reports {
        let is_paired = report.outcome == PairOutcome::Paired;
        assert_eq!(
            worked.is_some(),
            is_paired && !report.open,
            "{make:?} {report:?}"
        );
    }
    let default = |(_, report, _): &&(Make, PairReport, Option<Login>)| {
        report.default_password == Some(DefaultPassword::Inferred(true))
    };
    assert!(
        reports.iter().filter(default).count() > 0,
        "some keep their default password"
    );
    assert!(reports.iter().any(|(_, report, _)| report.open));
}
