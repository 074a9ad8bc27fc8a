//! Pairing commands: one attempt per target, immediate results, and sealed credentials.

use std::net::{IpAddr, Ipv4Addr};

use fleet_agent::{AgentOptions, CredentialPart, open};
use fleet_core::outcome::AckCode;
use fleet_sim::{Device, DeviceLogin, Make, Manner, Protocol, Service, Site};
use fleet_wire::{
    RpcError,
    gateway::{FleetNodePairResult, PairOutcome},
    pairing::{Credentials, FleetNodePairRequest, FleetNodePairTarget},
};

use crate::{Running, gateway::Gateway, options, start};

const PORT: u16 = 18_081;
const PASSWORD: &str = "the site's own";

fn antminer(login: Option<DeviceLogin>, delay_ms: u64) -> Device {
    Device {
        address: Ipv4Addr::LOCALHOST.into(),
        make: Make::Antminer,
        model: "Antminer S19".to_owned(),
        firmware: "1.0.0".to_owned(),
        mac: None,
        serial: Some("SN7".to_owned()),
        services: vec![Service {
            port: PORT,
            protocol: Protocol::Http,
            manner: Manner::Proper,
            delay_ms,
        }],
        login,
    }
}

/// An identifier without an identity: the device's own serial must not contradict it.
fn identifier(name: &str) -> String {
    format!("test:{name}")
}

fn target(ip: IpAddr) -> FleetNodePairTarget {
    FleetNodePairTarget {
        device_identifier: identifier(&ip.to_string()),
        ip_address: ip.to_string(),
        port: PORT.to_string(),
        driver_name: "asicrs".to_owned(),
        manufacturer: "Bitmain".to_owned(),
        ..FleetNodePairTarget::default()
    }
}

fn request(targets: Vec<FleetNodePairTarget>) -> FleetNodePairRequest {
    FleetNodePairRequest {
        targets,
        credentials: Some(Credentials {
            username: "root".to_owned(),
            password: Some(PASSWORD.to_owned()),
            ..Credentials::default()
        }),
    }
}

fn of<'r>(results: &'r [FleetNodePairResult], ip: &str) -> &'r FleetNodePairResult {
    let found = results
        .iter()
        .find(|result| result.device_identifier == identifier(ip));
    found.unwrap_or_else(|| panic!("no result of {ip}: {results:?}"))
}

#[tokio::test]
async fn each_target_has_one_result_and_working_credentials_are_sealed() {
    let own = Some(DeviceLogin::new("root", PASSWORD));
    let site = Site {
        seed: 1,
        devices: vec![antminer(own, 0), antminer(None, 0)],
    };
    let site = start(site, 40).await;
    let gateway = Gateway::start().await;
    // The first upload fails and is retried.
    gateway.behavior().reports = vec![RpcError::unavailable("not now")];
    let _node = Running::start(&gateway, 5_000);
    let (mut stream, _) = gateway.accepted().await;
    let mut targets: Vec<_> = site.site().addresses().into_iter().map(target).collect();
    targets.push(target([8, 8, 8, 8].into()));
    targets.push(FleetNodePairTarget {
        ip_address: "010.0.0.1".to_owned(),
        device_identifier: identifier("odd"),
        ..target([10, 0, 0, 1].into())
    });
    stream.pair("p1", request(targets));
    let ack = stream.ack().await;
    assert_eq!(AckCode::from_number(ack.code), AckCode::Ok, "{ack:?}");
    let results = gateway.seen().paired;
    assert_eq!(results.len(), 4, "{results:?}");

    let first = of(&results, "127.91.40.1");
    assert_eq!(first.outcome(), PairOutcome::Paired, "{first:?}");
    assert_eq!(first.default_password_active, Some(false));
    assert_eq!(first.serial_number, "SN7");
    let sealed = first.encrypted_credentials.as_ref().expect("sealed");
    let key = [9; 32];
    let opened = open(&key, CredentialPart::Password, &sealed.password).expect("ours");
    assert_eq!(opened.as_str(), PASSWORD);
    let opened = open(&key, CredentialPart::Username, &sealed.username).expect("ours");
    assert_eq!(opened.as_str(), "root");

    let second = of(&results, "127.91.40.2");
    assert_eq!(second.outcome(), PairOutcome::AuthFailed);
    assert_eq!(second.encrypted_credentials, None);
    for other in ["8.8.8.8", "odd"] {
        let refused = of(&results, other);
        assert_eq!(refused.outcome(), PairOutcome::Error, "{refused:?}");
        assert!(!refused.error_message.is_empty());
    }
}

#[tokio::test]
async fn an_open_device_and_default_passwords_are_reported_as_such() {
    let mut bitaxe = antminer(None, 0);
    bitaxe.make = Make::Bitaxe;
    bitaxe.model = "BM1370 601".to_owned();
    let own = Some(DeviceLogin::new("root", "another password"));
    let site = Site {
        seed: 1,
        devices: vec![antminer(None, 0), bitaxe, antminer(own, 0)],
    };
    let site = start(site, 44).await;
    let gateway = Gateway::start().await;
    let _node = Running::start(&gateway, 5_000);
    let (mut stream, _) = gateway.accepted().await;
    let mut targets: Vec<_> = site.site().addresses().into_iter().map(target).collect();
    targets[1].manufacturer = "Bitaxe".to_owned();
    let with_defaults = FleetNodePairRequest {
        credentials: Some(Credentials {
            try_defaults: true,
            ..request(Vec::new()).credentials.expect("given")
        }),
        ..request(targets)
    };
    stream.pair("p1", with_defaults);
    let ack = stream.ack().await;
    assert_eq!(AckCode::from_number(ack.code), AckCode::Ok, "{ack:?}");
    let results = gateway.seen().paired;

    let first = of(&results, "127.91.44.1");
    assert_eq!(first.outcome(), PairOutcome::Paired, "{first:?}");
    assert_eq!(first.default_password_active, Some(true));
    assert!(!first.open);
    let sealed = first.encrypted_credentials.as_ref().expect("sealed");
    let opened = open(&[9; 32], CredentialPart::Password, &sealed.password).expect("ours");
    assert_eq!(opened.as_str(), "root", "the password that worked");

    let second = of(&results, "127.91.44.2");
    assert_eq!(second.outcome(), PairOutcome::Paired, "{second:?}");
    assert!(second.open);
    assert_eq!(second.encrypted_credentials, None);

    let third = of(&results, "127.91.44.3");
    assert_eq!(third.outcome(), PairOutcome::AuthFailed, "{third:?}");
    assert!(
        third.error_message.contains("1 default passwords"),
        "{third:?}"
    );
    assert_eq!(third.encrypted_credentials, None);
}

#[tokio::test]
async fn the_administrator_of_a_node_can_forbid_default_passwords() {
    let site = Site {
        seed: 1,
        devices: vec![antminer(None, 0)],
    };
    let site = start(site, 45).await;
    let gateway = Gateway::start().await;
    let options = AgentOptions {
        default_passwords: false,
        ..options(5_000)
    };
    let _node = Running::with(&gateway, options);
    let (mut stream, hello) = gateway.accepted().await;
    let announced = "default-passwords".to_owned();
    assert!(!hello.capabilities.contains(&announced), "{hello:?}");
    let targets: Vec<_> = site.site().addresses().into_iter().map(target).collect();
    let with_defaults = FleetNodePairRequest {
        credentials: Some(Credentials {
            try_defaults: true,
            ..Credentials::default()
        }),
        ..request(targets)
    };
    stream.pair("p1", with_defaults);
    let ack = stream.ack().await;
    assert_eq!(AckCode::from_number(ack.code), AckCode::Ok, "{ack:?}");
    let results = gateway.seen().paired;
    let only = of(&results, "127.91.45.1");
    assert_eq!(only.outcome(), PairOutcome::AuthNeeded, "{only:?}");
}

#[tokio::test]
async fn a_second_command_gets_busy_and_a_cancel_ends_the_first() {
    let site = Site {
        seed: 1,
        devices: vec![antminer(None, 1_500)],
    };
    let site = start(site, 41).await;
    let gateway = Gateway::start().await;
    let _node = Running::start(&gateway, 5_000);
    let (mut stream, _) = gateway.accepted().await;
    let targets: Vec<_> = site.site().addresses().into_iter().map(target).collect();
    stream.pair("p1", request(targets.clone()));
    stream.pair("p2", request(targets));
    let busy = stream.ack().await;
    assert_eq!(
        (busy.command_id.as_str(), AckCode::from_number(busy.code)),
        ("p2", AckCode::Busy)
    );
    stream.cancel("p1");
    let ack = stream.ack().await;
    assert_eq!(
        (ack.command_id.as_str(), AckCode::from_number(ack.code)),
        ("p1", AckCode::Partial)
    );
    assert!(ack.error_message.contains("canceled"), "{ack:?}");
    assert!(gateway.seen().paired.is_empty());
}
