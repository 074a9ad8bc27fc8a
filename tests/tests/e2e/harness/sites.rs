//! Simulated sites, each test's on addresses of its own.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use fleet_sim::{Manner, Ports, Site, Truth};

/// Where simulated devices listen; a node's own defaults need privileges.
pub(crate) const PORTS: [u16; 2] = [Ports::UNPRIVILEGED.cgminer, Ports::UNPRIVILEGED.http];

/// The same as a request has them.
pub(crate) fn ports() -> Vec<String> {
    PORTS.iter().map(ToString::to_string).collect()
}

/// 65,536 loopback addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    second: u8,
}

impl Range {
    /// The next that no other test of this process has.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(100);
        let second = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(second >= 100, "more tests than ranges of addresses");
        Self { second }
    }

    /// The address with this number.
    pub(crate) fn address(self, number: u16) -> Ipv4Addr {
        let [third, fourth] = number.to_be_bytes();
        Ipv4Addr::new(127, self.second, third, fourth)
    }

    /// The network of this prefix length that begins at the range's first address.
    pub(crate) fn network(self, prefix: u8) -> String {
        format!("{}/{prefix}", self.address(0))
    }

    /// A mix of makes from the first host address on, malformed and slow ones too; none that would keep
    /// a scan waiting for its silence.
    pub(crate) fn mixed(self, devices: usize) -> Site {
        let mut site = Site::demo(devices, u64::from(self.second));
        site.devices.retain(|device| {
            let quiet = |manner: &Manner| *manner == Manner::Silent;
            !device.services.iter().any(|service| quiet(&service.manner))
        });
        site.starting_at(self.address(1))
    }

    /// Devices of many makes, all of which name themselves, each `step` addresses from the next, and each
    /// thinking for `delay` before every answer.
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

    /// Devices side by side from the first host address on, each thinking for `delay` before it answers.
    pub(crate) fn crowd(self, devices: usize, delay: Duration) -> Site {
        Site::slow(devices, delay).starting_at(self.address(1))
    }
}
