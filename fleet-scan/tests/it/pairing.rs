//! Logins at simulated Antminers: what opens, what does not, and what is never sent.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
};

use fleet_core::{AddressPolicy, DeviceFacts, Endpoint, Mac, PairOutcome, Port, Serial};
use fleet_scan::{
    Answer, Authenticated, BoxFuture, DefaultPassword, Driver, DriverError, DriverSet, Guard,
    Login, LoginBudget, PairReport, PairableDevice, Pairer, Probe,
};
use fleet_sim::{Device, DeviceLogin, Make, Manner, Protocol, RunningSite, Service, Site};

use crate::{quick, start};

const PORT: u16 = 18_080;

fn site(devices: Vec<(Make, Option<DeviceLogin>)>) -> Site {
    let device = |(make, login)| Device {
        address: Ipv4Addr::LOCALHOST.into(),
        make,
        model: "Antminer S19".to_owned(),
        firmware: "1.0.0".to_owned(),
        mac: Some("02:F1:00:00:00:07".to_owned()),
        serial: Some("SN7".to_owned()),
        services: vec![Service {
            port: PORT,
            protocol: Protocol::Http,
            manner: Manner::Proper,
            delay_ms: 0,
        }],
        login,
    };
    Site {
        seed: 1,
        devices: devices.into_iter().map(device).collect(),
    }
}

fn target(site: &RunningSite, at: usize) -> PairableDevice {
    PairableDevice {
        endpoint: Endpoint {
            ip: site.site().devices[at].address,
            port: Port::new(PORT).expect("a port"),
        },
        facts: facts("asicrs", "Bitmain"),
    }
}

fn facts(driver: &str, manufacturer: &str) -> DeviceFacts {
    DeviceFacts {
        driver: driver.to_owned(),
        manufacturer: manufacturer.to_owned(),
        ..DeviceFacts::default()
    }
}

async fn pair(site: &RunningSite, at: usize, password: Option<&str>) -> PairReport {
    pair_as(
        &target(site, at),
        password,
        Guard::policy(AddressPolicy::DEMO),
    )
    .await
}

async fn pair_as(target: &PairableDevice, password: Option<&str>, guard: Guard) -> PairReport {
    let pairer = Pairer::new(quick(), Arc::new(DriverSet::built_in()), guard);
    let login = password.map(|word| Login::new("root".to_owned(), word.to_owned()));
    pairer.pair(target, login.as_ref()).await
}

fn asked(site: &RunningSite) -> Vec<String> {
    let connections = site.journal().connections().into_iter();
    connections.flat_map(|one| one.answered).collect()
}

#[tokio::test]
async fn another_name_of_the_driver_is_accepted_only_if_the_caller_knows_it() {
    let site = start(site(vec![(Make::Antminer, None)]), 69).await;
    let login = Login::new("root".to_owned(), "root".to_owned());
    let renamed = PairableDevice {
        facts: facts("antminer", "Bitmain"),
        ..target(&site, 0)
    };
    let pairer = || {
        let guard = Guard::policy(AddressPolicy::DEMO);
        Pairer::new(quick(), Arc::new(DriverSet::built_in()), guard)
    };
    let refused = pairer().pair(&renamed, Some(&login)).await;
    assert!(
        refused.error.contains("driver asicrs, not antminer"),
        "{refused:?}"
    );
    let knows =
        |device: &DeviceFacts, theirs: &str| device.driver == "asicrs" && theirs == "antminer";
    let paired = pairer()
        .with_drivers(knows)
        .pair(&renamed, Some(&login))
        .await;
    assert_eq!(paired.outcome, PairOutcome::Paired, "{paired:?}");
    let other = PairableDevice {
        facts: facts("proto", "Bitmain"),
        ..renamed
    };
    let refused = pairer()
        .with_drivers(knows)
        .pair(&other, Some(&login))
        .await;
    assert_eq!(refused.outcome, PairOutcome::Error, "{refused:?}");
}

#[tokio::test]
async fn a_login_opens_its_own_device() {
    let own = Some(DeviceLogin::new("root", "own"));
    let locked = Some(DeviceLogin {
        locked: true,
        ..DeviceLogin::delivered()
    });
    let site = start(
        site(vec![
            (Make::Antminer, None),
            (Make::Antminer, own),
            (Make::Antminer, locked),
        ]),
        60,
    )
    .await;
    use PairOutcome::{AuthFailed, AuthNeeded, Error, Paired};
    for (at, password, outcome, default) in [
        (0, None, AuthNeeded, None),
        (0, Some("root"), Paired, Some(true)),
        (0, Some("own"), AuthFailed, None),
        (1, Some("root"), AuthFailed, None),
        (1, Some("own"), Paired, Some(false)),
        (2, Some("root"), Error, None),
    ] {
        let report = pair(&site, at, password).await;
        assert_eq!(
            (
                report.outcome,
                report.default_password.map(DefaultPassword::is_active)
            ),
            (outcome, default),
            "{at} {password:?}: {report:?}"
        );
        assert_eq!(report.error.is_empty(), outcome == Paired, "{report:?}");
        if outcome == Paired {
            let device = report.facts;
            assert_eq!(
                device.mac.map(|mac| mac.to_string()).as_deref(),
                Some("02:F1:00:00:00:07")
            );
            assert_eq!(device.serial.as_ref().map(|s| s.as_str()), Some("SN7"));
            assert_eq!(device.model, "Antminer S19");
        }
    }
}

#[tokio::test]
async fn a_device_gets_few_wrong_passwords_over_all_requests_of_the_server() {
    let site = start(site(vec![(Make::Antminer, None)]), 64).await;
    let budget = LoginBudget::default();
    let pair = async |password: &str| {
        let guard = Guard::policy(AddressPolicy::DEMO);
        let pairer = Pairer::new(quick(), Arc::new(DriverSet::built_in()), guard)
            .with_budget(budget.clone());
        let login = Login::new("root".to_owned(), password.to_owned());
        pairer.pair(&target(&site, 0), Some(&login)).await
    };
    for _ in 0..6 {
        let right = pair("root").await;
        assert_eq!(right.outcome, PairOutcome::Paired, "{right:?}");
    }
    for _ in 0..4 {
        let wrong = pair("wrong").await;
        assert_eq!(wrong.outcome, PairOutcome::AuthFailed, "{wrong:?}");
    }
    let before = asked(&site).len();
    let refused = pair("root").await;
    assert_eq!(refused.outcome, PairOutcome::Error);
    assert!(refused.error.contains("refused 4 passwords"), "{refused:?}");
    assert_eq!(asked(&site).len(), before, "nothing was sent");
}

#[tokio::test]
async fn credentials_go_only_to_the_device_that_the_server_named() {
    let site = start(
        site(vec![
            (Make::Bitaxe, None),
            (Make::Antminer, None),
            (Make::Router, None),
        ]),
        61,
    )
    .await;
    let antminer = target(&site, 1);
    for (target, why) in [
        (target(&site, 0), "another device"),
        (
            PairableDevice {
                facts: facts("antminer", "Bitmain"),
                ..antminer.clone()
            },
            "another device",
        ),
        (
            PairableDevice {
                facts: facts("asicrs", "MicroBT"),
                ..antminer.clone()
            },
            "another device",
        ),
        (target(&site, 2), "no known device answers"),
    ] {
        let report = pair_as(&target, Some("root"), Guard::policy(AddressPolicy::DEMO)).await;
        assert_eq!(report.outcome, PairOutcome::Error);
        assert!(report.error.contains(why), "{}", report.error);
    }
    let asked = asked(&site);
    assert!(
        !asked.iter().any(|path| path.contains("get_system_info")),
        "{asked:?}"
    );
}

/// A driver outside of the product, which shows a MAC only behind its login.
#[derive(Debug)]
struct Plugin {
    /// The name of its driver.
    driver: &'static str,
    /// Whether it recognizes the device.
    recognizes: bool,
    asks_silent: bool,
    behind: Option<Mac>,
}

impl Driver for Plugin {
    fn name(&self) -> &str {
        "plugin:acme"
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

    fn asks_silent(&self) -> bool {
        self.asks_silent
    }

    fn owns(&self, driver: &str) -> bool {
        driver == self.driver
    }

    fn identify<'a>(&'a self, _: &'a mut Probe<'_>) -> BoxFuture<'a, Result<Answer, DriverError>> {
        Box::pin(async {
            if self.recognizes {
                Ok(Answer::Named(Box::new(facts(self.driver, "Acme"))))
            } else {
                Err(DriverError::Protocol(
                    "configured for another port".to_owned(),
                ))
            }
        })
    }

    fn authenticate<'a>(
        &'a self,
        _: &'a mut Probe<'_>,
        _: &'a DeviceFacts,
        _: Option<&'a Login>,
    ) -> BoxFuture<'a, Result<Authenticated, DriverError>> {
        let device = DeviceFacts {
            mac: self.behind,
            ..facts(self.driver, "Acme")
        };
        assert!(
            self.recognizes,
            "it got a login for a device that it does not recognize"
        );
        Box::pin(async {
            Ok(Authenticated::Accepted {
                device: Box::new(device),
                default_password: None,
            })
        })
    }
}

#[tokio::test]
async fn a_device_that_its_plugin_does_not_recognize_is_paired_by_the_driver_that_found_it() {
    let site = start(site(vec![(Make::Antminer, None)]), 70).await;
    let plugin: Arc<dyn Driver> = Arc::new(Plugin {
        driver: "asicrs",
        recognizes: false,
        asks_silent: false,
        behind: None,
    });
    let drivers = DriverSet::built_in().with([plugin]).expect("a set");
    let guard = Guard::policy(AddressPolicy::DEMO);
    let pairer = Pairer::new(quick(), Arc::new(drivers), guard);
    let login = Login::new("root".to_owned(), "root".to_owned());
    let paired = pairer.pair(&target(&site, 0), Some(&login)).await;
    assert_eq!(paired.outcome, PairOutcome::Paired, "{paired:?}");
    // Nobody recognizes this one, so the plugin's reason counts.
    let nobody = Endpoint {
        port: Port::new(PORT + 1).expect("a port"),
        ..target(&site, 0).endpoint
    };
    let nobody = PairableDevice {
        endpoint: nobody,
        ..target(&site, 0)
    };
    let _listener = TcpListener::bind((nobody.endpoint.ip, PORT + 1)).expect("a port");
    let failed = pairer.pair(&nobody, Some(&login)).await;
    assert!(
        failed.error.contains("configured for another port"),
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_device_without_an_open_port_is_paired_only_by_a_plugin_that_knows_such_devices() {
    let endpoint = Endpoint {
        ip: Ipv4Addr::new(127, 90, 71, 1).into(),
        port: Port::new(PORT).expect("a port"),
    };
    let target = PairableDevice {
        endpoint,
        facts: facts("virtual", "Acme"),
    };
    let login = Login::new("root".to_owned(), "root".to_owned());
    let paired = async |asks_silent, guard| {
        let plugin: Arc<dyn Driver> = Arc::new(Plugin {
            driver: "virtual",
            recognizes: true,
            asks_silent,
            behind: None,
        });
        let drivers = DriverSet::built_in().with([plugin]).expect("a set");
        let pairer = Pairer::new(quick(), Arc::new(drivers), guard);
        pairer.pair(&target, Some(&login)).await.outcome
    };
    let demo = || Guard::policy(AddressPolicy::DEMO);
    assert_eq!(paired(true, demo()).await, PairOutcome::Paired);
    assert_eq!(paired(false, demo()).await, PairOutcome::Error);
    let forbids = Guard::new(|_| Err("not here".to_owned()));
    assert_eq!(paired(true, forbids).await, PairOutcome::Error);
}

#[tokio::test]
async fn a_plugin_pairs_only_the_device_that_the_server_named() {
    let site = start(site(vec![(Make::Antminer, None)]), 67).await;
    let (known, other): (Option<Mac>, Option<Mac>) = (
        "02:F1:00:00:00:07".parse().ok(),
        "02:F1:00:00:00:99".parse().ok(),
    );
    for (behind, outcome) in [
        (known, PairOutcome::Paired),
        (None, PairOutcome::Paired),
        (other, PairOutcome::Error),
    ] {
        let plugin: Arc<dyn Driver> = Arc::new(Plugin {
            driver: "acme",
            recognizes: true,
            asks_silent: false,
            behind,
        });
        let drivers = DriverSet::built_in().with([plugin]).expect("a set");
        let guard = Guard::policy(AddressPolicy::DEMO);
        let pairer = Pairer::new(quick(), Arc::new(drivers), guard).with_neighbors(|_| None);
        let target = PairableDevice {
            facts: DeviceFacts {
                mac: known,
                ..facts("acme", "Acme")
            },
            ..target(&site, 0)
        };
        let login = Login::new("root".to_owned(), "word".to_owned());
        let report = pairer.pair(&target, Some(&login)).await;
        assert_eq!(report.outcome, outcome, "{behind:?}: {report:?}");
    }
}

#[tokio::test]
async fn a_plugin_does_not_rename_a_device_that_another_driver_named() {
    let site = start(site(vec![(Make::Antminer, None)]), 68).await;
    let behind: Option<Mac> = "02:F1:00:00:00:07".parse().ok();
    for (recorded, kept) in [
        ("Acme", true),
        ("ACME ", true),
        ("", true),
        ("Bitmain", false),
    ] {
        let plugin: Arc<dyn Driver> = Arc::new(Plugin {
            driver: "acme",
            recognizes: true,
            asks_silent: false,
            behind,
        });
        let drivers = DriverSet::built_in().with([plugin]).expect("a set");
        let guard = Guard::policy(AddressPolicy::DEMO);
        let pairer = Pairer::new(quick(), Arc::new(drivers), guard).with_neighbors(|_| None);
        let target = PairableDevice {
            facts: facts("acme", recorded),
            ..target(&site, 0)
        };
        let login = Login::new("root".to_owned(), "word".to_owned());
        let report = pairer.pair(&target, Some(&login)).await;
        assert_eq!(
            report.outcome,
            PairOutcome::Paired,
            "{recorded}: {report:?}"
        );
        let shown = if kept { "Acme" } else { "" };
        assert_eq!(report.facts.manufacturer, shown, "{recorded}");
        assert_eq!(report.facts.mac, behind, "{recorded}");
    }
}

/// How often a request with a login reached a device.
fn logins(site: &RunningSite) -> usize {
    let asked = asked(site).into_iter();
    asked
        .filter(|path| path.contains("get_system_info") || path.contains("unlock"))
        .count()
}

#[tokio::test]
async fn no_password_goes_to_a_device_whose_link_or_answers_hide_the_known_mac() {
    let site = start(site(vec![(Make::Antminer, None), (Make::Vnish, None)]), 65).await;
    let known: Option<Mac> = "02:F1:00:00:00:07".parse().ok();
    let other: Option<Mac> = "02:F1:00:00:00:99".parse().ok();
    let pair = async |at: usize, facts: DeviceFacts, neighbor: Option<Mac>| {
        let guard = Guard::policy(AddressPolicy::DEMO);
        let pairer = Pairer::new(quick(), Arc::new(DriverSet::built_in()), guard)
            .with_neighbors(move |_| neighbor);
        let target = PairableDevice {
            facts,
            ..target(&site, at)
        };
        let make = [Make::Antminer, Make::Vnish][at];
        let DeviceLogin {
            username, password, ..
        } = DeviceLogin::default_of(make);
        let login = Login::new(username, password);
        pairer.pair(&target, Some(&login)).await
    };
    // An Antminer shows its MAC only behind the login. Its link must have the recorded one.
    let antminer = DeviceFacts {
        mac: known,
        ..facts("asicrs", "Bitmain")
    };
    let refused = pair(0, antminer.clone(), other).await;
    assert_eq!(refused.outcome, PairOutcome::Error);
    assert!(refused.error.contains("02:F1:00:00:00:99"), "{refused:?}");
    assert_eq!(logins(&site), 0, "{:?}", asked(&site));
    for neighbor in [known, None] {
        let paired = pair(0, antminer.clone(), neighbor).await;
        assert_eq!(paired.outcome, PairOutcome::Paired, "{paired:?}");
    }
    // Behind a router, the MAC behind the login decides: nothing is sealed for another device.
    let mistaken = DeviceFacts {
        mac: other,
        ..antminer
    };
    let refused = pair(0, mistaken, None).await;
    assert_eq!(refused.outcome, PairOutcome::Error, "{refused:?}");
    // A VNish device shows its MAC to everybody, so its link is not asked.
    let vnish = DeviceFacts {
        mac: known,
        ..facts("asicrs", "")
    };
    let paired = pair(1, vnish, other).await;
    assert_eq!(paired.outcome, PairOutcome::Paired, "{paired:?}");
}

#[tokio::test]
async fn no_password_goes_to_a_device_that_stopped_showing_its_mac_or_serial() {
    let mut hiding = site(vec![(Make::Vnish, None), (Make::Vnish, None)]);
    hiding.devices[0].mac = None;
    hiding.devices[1].serial = None;
    let site = start(hiding, 66).await;
    let DeviceLogin {
        username, password, ..
    } = DeviceLogin::default_of(Make::Vnish);
    let login = Login::new(username, password);
    let by_mac = DeviceFacts {
        mac: "02:F1:00:00:00:07".parse().ok(),
        ..facts("asicrs", "")
    };
    let by_serial = DeviceFacts {
        serial: Serial::new("SN7"),
        ..facts("asicrs", "")
    };
    for (at, facts, named) in [(0, by_mac, "MAC"), (1, by_serial, "serial")] {
        let guard = Guard::policy(AddressPolicy::DEMO);
        let pairer =
            Pairer::new(quick(), Arc::new(DriverSet::built_in()), guard).with_neighbors(|_| None);
        let target = PairableDevice {
            facts,
            ..target(&site, at)
        };
        let report = pairer.pair(&target, Some(&login)).await;
        assert_eq!(report.outcome, PairOutcome::Error, "{report:?}");
        let text = format!("does not show its {named}");
        assert!(report.error.contains(&text), "{report:?}");
    }
    assert_eq!(logins(&site), 0, "{:?}", asked(&site));
}

#[tokio::test]
async fn an_open_device_is_paired_without_a_login_and_the_guard_judges_each_dial() {
    let site = start(site(vec![(Make::Bitaxe, None)]), 62).await;
    let bitaxe = PairableDevice {
        facts: DeviceFacts {
            manufacturer: "Bitaxe".to_owned(),
            ..target(&site, 0).facts
        },
        ..target(&site, 0)
    };
    let report = pair_as(&bitaxe, Some("x"), Guard::policy(AddressPolicy::DEMO)).await;
    assert!(
        report.open && report.outcome == PairOutcome::Paired,
        "{report:?}"
    );
    let before = site.journal().count();
    let report = pair_as(&bitaxe, Some("x"), Guard::default()).await;
    assert!(report.error.contains("loopback"), "{report:?}");
    assert_eq!(site.journal().count(), before, "nothing was dialed");
}

#[tokio::test]
async fn simulated_makes_with_a_login_pair_with_their_default_password() {
    let makes = [Make::Vnish, Make::Braiins, Make::Proto, Make::SealMiner];
    let locked = |make| DeviceLogin {
        locked: true,
        ..DeviceLogin::default_of(make)
    };
    let open = makes.iter().map(|make| (*make, None));
    let shut = makes.iter().map(|make| (*make, Some(locked(*make))));
    let site = start(site(open.chain(shut).collect()), 63).await;
    for (at, make) in makes.into_iter().chain(makes).enumerate() {
        let known = target(&site, at);
        let driver = if make == Make::Proto {
            "proto"
        } else {
            "asicrs"
        };
        let facts = DeviceFacts {
            driver: driver.to_owned(),
            manufacturer: String::new(),
            ..known.facts.clone()
        };
        let DeviceLogin {
            username, password, ..
        } = DeviceLogin::default_of(make);
        let pairer = Pairer::new(
            quick(),
            Arc::new(DriverSet::built_in()),
            Guard::policy(AddressPolicy::DEMO),
        );
        let login = Login::new(username, password);
        let report = pairer
            .pair(&PairableDevice { facts, ..known }, Some(&login))
            .await;
        if at < makes.len() {
            assert_eq!(report.outcome, PairOutcome::Paired, "{make:?}: {report:?}");
            assert_eq!(
                report.default_password,
                Some(DefaultPassword::Inferred(true)),
                "{make:?}"
            );
            let mac = report.facts.mac.map(|mac| mac.to_string());
            assert_eq!(mac.as_deref(), Some("02:F1:00:00:00:07"), "{make:?}");
        } else {
            assert_ne!(report.outcome, PairOutcome::Paired, "{make:?} is locked");
        }
    }
}
