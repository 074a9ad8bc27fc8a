//! Ready-made sites: the demo's mix, slow devices for kill tests, one device per variant, and a lab network.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use ipnetwork::Ipv4Network;

use super::{
    Device, DeviceLogin, Make, Malformation, Manner, Ports, Protocol, Service, Site, SiteError,
};
use crate::rng::SplitMix;

/// The first address of ready-made sites. On Linux, all of 127.0.0.0/8 is local.
const LOOPBACK_BASE: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);

/// The share of each make in a mixed site, in percent.
const MIX: [(Make, usize); 13] = [
    (Make::Antminer, 34),
    (Make::Whatsminer, 16),
    (Make::Braiins, 9),
    (Make::LuxOs, 8),
    (Make::Avalon, 7),
    (Make::Vnish, 6),
    (Make::Bitaxe, 6),
    (Make::Proto, 5),
    (Make::SealMiner, 3),
    (Make::NerdAxe, 2),
    (Make::Marathon, 2),
    (Make::Auradine, 1),
    (Make::Epic, 1),
];

/// The longest delay of a device in a mixed site, in milliseconds.
const SLOWEST_MS: usize = 400;

impl Site {
    /// A mix of `miners` identifiable devices. About one host in forty answers but cannot be identified (at least four:
    /// garbage, silence, a printer, a router). Addresses are consecutive from 127.77.0.1, ports are
    /// [`Ports::UNPRIVILEGED`]. One miner in eight is slow (up to 400 ms), one in twelve malformed.
    pub fn demo(miners: usize, seed: u64) -> Self {
        let mut rng = SplitMix::new(seed);
        let mut devices: Vec<Device> = (0..miners)
            .map(|number| mixed_miner(&mut rng, number))
            .collect();
        let unidentified = (miners / 40).max(4);
        devices.extend((0..unidentified).map(|number| unidentified_host(&mut rng, number)));
        rng.shuffle(&mut devices);
        Self { seed, devices }.starting_at(LOOPBACK_BASE)
    }

    /// Gives every device a login that [`DeviceLogin::demo`] describes, and the web server that its make needs for it.
    /// One in ten keeps its default password.
    #[must_use]
    pub fn with_logins(mut self) -> Self {
        for (number, device) in self.devices.iter_mut().enumerate() {
            if !device.make.has_login() {
                continue;
            }
            device.login = Some(if number % 10 == 7 {
                DeviceLogin::default_of(device.make)
            } else {
                DeviceLogin::demo()
            });
            let has_web = device
                .services
                .iter()
                .any(|service| service.protocol == Protocol::Http);
            if device.make.has_web_login() && !has_web {
                device
                    .services
                    .push(service(Protocol::Http, Manner::Proper, 0));
            }
        }
        self
    }

    /// `devices` stock Antminers with a delay of `delay` before every answer. Tests use it to interrupt scans.
    pub fn slow(devices: usize, delay: Duration) -> Self {
        let mut rng = SplitMix::new(devices as u64);
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let devices = (0..devices)
            .map(|_| {
                let mut device = new_device(&mut rng, Make::Antminer);
                device.services = vec![service(Protocol::Cgminer, Manner::Proper, delay_ms)];
                device
            })
            .collect();
        Self { seed: 0, devices }.starting_at(LOOPBACK_BASE)
    }

    /// One device for every make and combination of services, and one for every behavior and malformation.
    pub fn one_of_everything(seed: u64) -> Self {
        let mut rng = SplitMix::new(seed);
        let mut devices = Vec::new();
        for make in Make::ALL {
            for protocols in combinations(make) {
                for entry in 0..make.catalogue().len() {
                    let mut device = device_of(&mut rng, make, entry);
                    device.services = protocols
                        .iter()
                        .map(|p| service(*p, Manner::Proper, 0))
                        .collect();
                    devices.push(device);
                }
            }
        }
        for make in Make::ALL.into_iter().filter(|make| make.speaks_cgminer()) {
            for malformation in Malformation::ALL {
                let mut device = new_device(&mut rng, make);
                device.services = vec![service(
                    Protocol::Cgminer,
                    Manner::Malformed(malformation),
                    0,
                )];
                devices.push(device);
            }
        }
        for protocol in [Protocol::Cgminer, Protocol::Http] {
            for manner in [
                Manner::Dripping,
                Manner::Garbage,
                Manner::Silent,
                Manner::HangsUp,
            ] {
                let mut device = new_device(&mut rng, Make::Antminer);
                device.services = vec![service(protocol, manner, 0)];
                devices.push(device);
            }
        }
        for manner in [Manner::Garbage, Manner::Silent, Manner::HangsUp] {
            let mut device = new_device(&mut rng, Make::LuxOs);
            device.services = vec![
                service(Protocol::Cgminer, manner, 0),
                service(Protocol::Http, Manner::Proper, 0),
            ];
            devices.push(device);
        }
        Self { seed, devices }.starting_at(LOOPBACK_BASE)
    }

    /// The devices of [`Site::demo`] at random host addresses of a network, on [`Ports::REAL`]. The first host address
    /// stays free for a gateway. `devices` includes unidentifiable hosts.
    ///
    /// # Errors
    /// [`SiteError::NoRoom`] if the network is too small.
    pub fn in_network(network: Ipv4Network, devices: usize, seed: u64) -> Result<Self, SiteError> {
        let mut site = Self::demo(devices, seed);
        site.devices.truncate(devices);
        site.on_ports(Ports::REAL).scattered(network, seed)
    }

    /// Stock Antminers at random host addresses that answer correctly without delay. Only the network slows a scan
    /// down.
    ///
    /// # Errors
    /// [`SiteError::NoRoom`] if the network is too small.
    pub fn uniform(network: Ipv4Network, devices: usize, seed: u64) -> Result<Self, SiteError> {
        let site = Self::slow(devices, Duration::ZERO).on_ports(Ports::REAL);
        Self { seed, ..site }.scattered(network, seed)
    }

    /// Moves the devices to random host addresses of a network, except its first.
    fn scattered(mut self, network: Ipv4Network, seed: u64) -> Result<Self, SiteError> {
        let size = 1u64 << (32 - u32::from(network.prefix()));
        let mut hosts: Vec<u32> = (2..size.saturating_sub(1))
            .map(|host| u32::from(network.network()) + host as u32)
            .collect();
        if hosts.len() < self.devices.len() {
            return Err(SiteError::NoRoom {
                network,
                room: hosts.len(),
                devices: self.devices.len(),
            });
        }
        // Other numbers than those from which the devices were made.
        SplitMix::new(seed ^ 0x006c_616e).shuffle(&mut hosts);
        for (device, host) in self.devices.iter_mut().zip(hosts) {
            device.address = IpAddr::V4(Ipv4Addr::from(host));
        }
        self.devices.sort_by_key(|device| device.address);
        Ok(self)
    }

    /// Moves the devices to consecutive addresses from `first`, so several sites can run together.
    #[must_use]
    pub fn starting_at(mut self, first: Ipv4Addr) -> Self {
        for (device, offset) in self.devices.iter_mut().zip(0u32..) {
            device.address = IpAddr::V4(Ipv4Addr::from(u32::from(first).saturating_add(offset)));
        }
        self
    }

    /// Moves every service to the given port of its protocol.
    #[must_use]
    pub fn on_ports(mut self, ports: Ports) -> Self {
        for service in self
            .devices
            .iter_mut()
            .flat_map(|device| &mut device.services)
        {
            service.port = match service.protocol {
                Protocol::Cgminer => ports.cgminer,
                Protocol::Http => ports.http,
            };
        }
        self
    }
}

fn service(protocol: Protocol, manner: Manner, delay_ms: u64) -> Service {
    let port = match protocol {
        Protocol::Cgminer => Ports::UNPRIVILEGED.cgminer,
        Protocol::Http => Ports::UNPRIVILEGED.http,
    };
    Service {
        port,
        protocol,
        manner,
        delay_ms,
    }
}

/// The combinations of services that devices of a make offer.
fn combinations(make: Make) -> Vec<Vec<Protocol>> {
    let mut ways = vec![vec![Protocol::Http]];
    if make.speaks_cgminer() {
        ways.push(vec![Protocol::Cgminer]);
        ways.push(vec![Protocol::Cgminer, Protocol::Http]);
    }
    ways
}

/// Of every 24 miners, 3 are slow and 2 are malformed. The choice is not random, so small sites have them too.
fn mixed_miner(rng: &mut SplitMix, number: usize) -> Device {
    let mut draw = rng.below(100);
    let make = MIX
        .iter()
        .find(|(_, share)| {
            let hit = draw < *share;
            draw = draw.saturating_sub(*share);
            hit
        })
        .map_or(Make::Antminer, |(make, _)| *make);
    let mut device = new_device(rng, make);
    let delay_ms = if number.is_multiple_of(8) {
        100 + rng.below(SLOWEST_MS - 99) as u64
    } else {
        rng.below(6) as u64
    };
    let manner = match number % 24 {
        5 => Manner::Malformed(Malformation::ALL[rng.below(Malformation::ALL.len())]),
        17 => Manner::Malformed(Malformation::MissingComma),
        11 => Manner::Dripping,
        _ => Manner::Proper,
    };
    device.services = if make.speaks_cgminer() {
        let mut services = vec![service(Protocol::Cgminer, manner, delay_ms)];
        if rng.below(3) == 0 {
            services.push(service(Protocol::Http, Manner::Proper, delay_ms));
        }
        services
    } else {
        let manner = if manner == Manner::Dripping {
            manner
        } else {
            Manner::Proper
        };
        vec![service(Protocol::Http, manner, delay_ms)]
    };
    device
}

/// A host that answers but is not an identifiable miner.
fn unidentified_host(rng: &mut SplitMix, number: usize) -> Device {
    let (make, services) = match number % 6 {
        0 => (
            Make::PlainCgminer,
            vec![service(Protocol::Cgminer, Manner::Garbage, 0)],
        ),
        1 => (
            Make::PlainCgminer,
            vec![service(Protocol::Cgminer, Manner::Silent, 0)],
        ),
        2 => (
            Make::Printer,
            vec![service(Protocol::Http, Manner::Proper, 0)],
        ),
        3 => (
            Make::Router,
            vec![service(Protocol::Http, Manner::Proper, 0)],
        ),
        4 => (
            Make::PlainCgminer,
            vec![service(Protocol::Cgminer, Manner::HangsUp, 0)],
        ),
        _ => (
            Make::PlainCgminer,
            vec![service(Protocol::Cgminer, Manner::Proper, 0)],
        ),
    };
    let mut device = new_device(rng, make);
    device.services = services;
    device
}

fn new_device(rng: &mut SplitMix, make: Make) -> Device {
    let entry = rng.below(make.catalogue().len());
    device_of(rng, make, entry)
}

/// A device without services yet. One in ten has no readable serial, and one in ten no readable MAC.
fn device_of(rng: &mut SplitMix, make: Make, entry: usize) -> Device {
    let (model, firmware) = make.catalogue().get(entry).copied().unwrap_or_default();
    let [a, b, c] = make.oui();
    let tail = rng.next().to_be_bytes();
    let mac = format!(
        "{a:02X}:{b:02X}:{c:02X}:{:02X}:{:02X}:{:02X}",
        tail[0], tail[1], tail[2]
    );
    let serial = format!("SN{:010}", rng.next() % 10_000_000_000);
    let lacks = rng.below(10);
    Device {
        login: None,
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        make,
        model: model.to_owned(),
        firmware: firmware.to_owned(),
        // A Proto rig always reports its MAC.
        mac: (lacks != 0 || make == Make::Proto).then_some(mac),
        serial: (lacks != 1).then_some(serial),
        services: Vec::new(),
    }
}
