//! Pairing with real processes: a password passes from the command line through the server to the node. The node
//! tries it on simulated devices and stores it only sealed.

use std::{collections::BTreeMap, path::Path};

use fleet_sim::{Device, DeviceLogin, Lab, Make, Manner, Ports, Protocol, Service, Site};
use fleet_wire::fleet;

use crate::harness::{Node, World, list};

on_both_databases! {
    a_password_pairs_devices_and_is_stored_only_sealed
    a_device_that_was_replaced_by_another_gets_no_password
}

const PASSWORD: &str = "canary-of-the-site-password";

/// Creates a device with only an HTTP port at the numbered address of the range.
pub(crate) fn device(world: &World, number: u16, make: Make, login: Option<DeviceLogin>) -> Device {
    Device {
        address: world.range.address(number).into(),
        make,
        model: if matches!(make, Make::Bitaxe) {
            "BM1366 204".to_owned()
        } else {
            "Antminer S19".to_owned()
        },
        firmware: "1.0.0".to_owned(),
        mac: Some(format!("02:F1:00:00:00:{number:02X}")),
        serial: Some(format!("SN{number:08}")),
        services: vec![Service {
            port: Ports::UNPRIVILEGED.http,
            protocol: Protocol::Http,
            manner: Manner::Proper,
            delay_ms: 0,
        }],
        login,
    }
}

fn changed() -> Option<DeviceLogin> {
    Some(DeviceLogin::new("root", PASSWORD))
}

/// Returns the devices by the last number of their address.
async fn inventory(world: &World) -> BTreeMap<u16, fleet::Device> {
    let number = |ip: &str| ip.rsplit('.').next().and_then(|last| last.parse().ok());
    let devices = world.operator.devices().await.into_iter();
    devices
        .map(|device| (number(&device.ip).expect("an address"), device))
        .collect()
}

async fn statuses(world: &World) -> BTreeMap<u16, String> {
    let devices = inventory(world).await.into_iter();
    devices
        .map(|(number, device)| (number, device.pairing_status))
        .collect()
}

async fn scan(world: &World, node: i64, numbers: &[u16]) {
    let asked = numbers.iter().map(|number| world.range.address(*number));
    let scan = world.operator.start(node, list(asked)).await.scan_id;
    world.operator.history(&scan).await;
}

/// Returns the files below a directory that contain a text.
fn found_in(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(found_in(&path, text));
        } else if let Ok(bytes) = std::fs::read(&path) {
            let text = text.as_bytes();
            if bytes.windows(text.len()).any(|window| window == text) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

async fn a_password_pairs_devices_and_is_stored_only_sealed(world: World) {
    let mut node = Node::enroll(&world, "barn").await;
    node.set_log("trace");
    node.start(&world.server).await;
    let locked = DeviceLogin {
        locked: true,
        ..DeviceLogin::new("root", PASSWORD)
    };
    let site = Site {
        seed: 1,
        devices: vec![
            device(&world, 1, Make::Antminer, None),
            device(&world, 2, Make::Antminer, changed()),
            device(
                &world,
                3,
                Make::Antminer,
                Some(DeviceLogin::new("root", "yet another")),
            ),
            device(&world, 4, Make::Antminer, Some(locked)),
            device(&world, 5, Make::Bitaxe, None),
        ],
    };
    let _lab = Lab::start(site).await.expect("a site");
    scan(&world, node.id, &[1, 2, 3, 4, 5]).await;
    let id = node.id.to_string();
    let all = ["devices", "pair-all", "--node", &id];

    // Without a password, pairing finds out which devices need one. An open device is paired.
    let asked = world.fleetctl(&all).await;
    assert_eq!(asked.status, 2, "{asked:?}");
    let expected =
        |one: [&str; 5]| -> BTreeMap<u16, String> { (1..).zip(one.map(str::to_owned)).collect() };
    const WANTS: &str = "AUTHENTICATION_NEEDED";
    assert_eq!(
        statuses(&world).await,
        expected([WANTS, WANTS, WANTS, WANTS, "OPEN"])
    );

    // The password of the site opens one device. The others report that it does not.
    let secret = world.folder().join("password");
    std::fs::write(&secret, format!("{PASSWORD}\n")).expect("a file");
    let file = secret.to_str().expect("a path");
    let with_file = [&all[..], &["--password-file", file, "-o", "ndjson"]].concat();
    let tried = world.fleetctl(&with_file).await;
    assert_eq!(tried.status, 2, "{tried:?}");
    assert_eq!(tried.stdout.lines().count(), 4, "{tried:?}");
    assert!(tried.stderr.contains("1 of 4 devices paired"), "{tried:?}");
    assert_eq!(
        statuses(&world).await,
        expected([WANTS, "PAIRED", WANTS, "FAILED", "OPEN"])
    );
    let paired = inventory(&world).await.remove(&2).expect("known");
    assert_eq!(paired.bound_to_fleet_node_id, node.id);
    assert_eq!(
        paired.serial, "SN00000002",
        "the serial is readable only with the password"
    );

    // A device that still has its default password is reported as such.
    let delivered = world.folder().join("delivered");
    std::fs::write(&delivered, "root").expect("a file");
    let first = inventory(&world).await[&1].device_id.to_string();
    let file = delivered.to_str().expect("a path");
    let pair = ["devices", "pair", &first, "--node", &id];
    let default = world
        .fleetctl(&[&pair[..], &["--password-file", file]].concat())
        .await
        .succeeded();
    assert!(default.contains("default password"), "{default}");

    // Default passwords are tried only on request, and only at devices that want a password.
    let third = inventory(&world).await[&3].device_id.to_string();
    let tried = [
        "devices",
        "pair",
        &third,
        &first,
        "--node",
        &id,
        "--try-defaults",
    ];
    let tried = world.fleetctl(&tried).await;
    assert!(
        tried.stdout.contains("refused 1 default passwords"),
        "{tried:?}"
    );
    assert!(tried.stdout.contains("default password\n"), "{tried:?}");

    // An unpaired device can be paired again.
    world
        .fleetctl(&["devices", "unpair", &first])
        .await
        .succeeded();
    let released = inventory(&world).await.remove(&1).expect("known");
    assert_eq!(
        (
            released.pairing_status.as_str(),
            released.bound_to_fleet_node_id
        ),
        ("UNPAIRED", 0)
    );
    world
        .fleetctl(&[&pair[..], &["--password-file", file]].concat())
        .await
        .succeeded();
    assert_eq!(statuses(&world).await[&1], "DEFAULT_PASSWORD");

    // After the node is revoked, another node can have the device.
    world
        .fleetctl(&["nodes", "revoke", &id, "--yes"])
        .await
        .succeeded();
    node.ended().await;
    let left = inventory(&world).await;
    assert!(
        left.values()
            .all(|device| device.bound_to_fleet_node_id == 0)
    );
    let paired = |device: &&fleet::Device| {
        matches!(
            device.pairing_status.as_str(),
            "PAIRED" | "DEFAULT_PASSWORD" | "OPEN"
        )
    };
    assert_eq!(left.values().filter(paired).count(), 0, "{left:?}");
    let other = world.node("shed", &[]).await;
    scan(&world, other.id, &[1, 2]).await;
    let id = other.id.to_string();
    let second = inventory(&world).await[&2].device_id.to_string();
    let file = secret.to_str().expect("a path");
    world
        .fleetctl(&[
            "devices",
            "pair",
            &second,
            "--node",
            &id,
            "--password-file",
            file,
        ])
        .await
        .succeeded();
    let paired = inventory(&world).await.remove(&2).expect("known");
    assert_eq!(
        (
            paired.pairing_status.as_str(),
            paired.bound_to_fleet_node_id
        ),
        ("PAIRED", other.id)
    );

    // Only the file that the test wrote contains the password.
    std::fs::remove_file(&secret).expect("removed");
    assert_eq!(found_in(world.folder(), PASSWORD), Vec::<String>::new());
    assert_eq!(world.server.log_count(PASSWORD), 0);
    assert!(!node.logged().contains(PASSWORD) && !other.logged().contains(PASSWORD));
}

async fn a_device_that_was_replaced_by_another_gets_no_password(world: World) {
    let node = world.node("barn", &[]).await;
    let site = |make| Site {
        seed: 1,
        devices: vec![device(&world, 1, make, changed())],
    };
    let lab = Lab::start(site(Make::Antminer)).await.expect("a site");
    scan(&world, node.id, &[1]).await;
    lab.shutdown().await;
    let lab = Lab::start(site(Make::Bitaxe)).await.expect("a site");
    let secret = world.folder().join("password");
    std::fs::write(&secret, PASSWORD).expect("a file");
    let file = secret.to_str().expect("a path");
    let id = node.id.to_string();
    let tried = world
        .fleetctl(&[
            "devices",
            "pair-all",
            "--node",
            &id,
            "--password-file",
            file,
        ])
        .await;
    assert_eq!(tried.status, 1, "{tried:?}");
    assert!(tried.stdout.contains("nothing was sent"), "{tried:?}");
    let connections = lab.journal().connections();
    let asked: Vec<_> = connections.iter().flat_map(|one| &one.answered).collect();
    assert!(
        asked.iter().all(|asked| !asked.contains("cgi-bin")),
        "{asked:?}"
    );
}
