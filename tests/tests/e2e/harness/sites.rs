//! Simulated sites. Every test has its own addresses.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use fleet_sim::{Manner, Ports, Site, Truth};

/// Ports of simulated devices. The default ports of a node need privileges.
pub(crate) const PORTS: [u16; 2] = [Ports::UNPRIVILEGED.cgminer, Ports::UNPRIVILEGED.http];

/// The same ports, as texts of a request.
pub(crate) fn ports() -> Vec<String> {
    PORTS.iter().map(ToString::to_string).collect()
}

/// A range of 65,536 loopback addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    second: u8,
}

impl Range {
    /// Returns a range that no other test of this process uses.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(100);
        let second = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(second >= 100, "more tests than ranges of addresses");
        Self { second }
    }

    /// Returns the address with this number.
    pub(crate) fn address(self, number: u16) -> Ipv4Addr {
        let [third, fourth] = number.to_be_bytes();
        Ipv4Addr::new(127, self.second, third, fourth)
    }

    /// Returns the network with this prefix length at the start of the range.
    pub(crate) fn network(self, prefix: u8) -> String {
        format!("{}/{prefix}", self.address(0))
    }

    /// Creates a mix of makes from the first host address on, including malformed and slow devices.
    /// The mix contains no device that accepts a connection and never replies.
    pub(crate) fn mixed(self, devices: usize) -> Site {
        let mut site = Site::demo(devices, u64::from(self.second));
        site.devices.retain(|device| {
            let quiet = |manner: &Manner| *manner == Manner::Silent;
            !device.services.iter().any(|service| quiet(&service.manner))
        });
        site.starting_at(self.address(1))
    }

    /// Creates identifiable devices of many makes, `step` addresses apart. Each waits for `delay` before every reply.
    pub(crate) fn spread(self, devices: u16, step: u16, delay: Duration) -> Site {
        let mut site = Site::demo(usize::from(devices), u64::from(self.second));
        let named = |truth| matches!(truth, Truth::Identified(_));
        site.devices.retain(|device| named(device.truth(&PORTS)));
        assert_eq!(site.devices.len(), usize::from(devices));
        for (device, number) in site.devices.iter_mut().zip(0..) {
            device.address = self.address(5 + number * step).into();
            for service in &mut device.services {
                service.delay_ms = u64::try_from(delay.as_millis()).expect("a short delay");
            }
        }
        site
    }

    /// Creates devices at consecutive addresses from the first host address on. Each waits for `delay` before it replies.
    pub(crate) fn crowd(self, devices: usize, delay: Duration) -> Site {
        Site::slow(devices, delay).starting_at(self.address(1))
    }
}
