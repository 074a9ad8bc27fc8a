//! Bounds of discovery and pairing requests.

use super::{Checked, Repeated, Validate, count, inner, required, text, texts};
use crate::{
    limits::{MAX_LIST, MAX_PORTS, MAX_REPORT},
    minercommand::{DeviceSelector, device_selector},
    pairing::{
        Credentials, DiscoverRequest, FleetNodePairRequest, FleetNodePairTarget, PairRequest,
        discover_request,
    },
};

/// Longer than any address, range or host name; what is longer is no target.
const TARGET: usize = 255;
/// Room for a wrong port to be named in the answer.
const PORT: usize = 32;

impl Validate for DiscoverRequest {
    const REPEATED: &'static [Repeated] = &[
        Repeated {
            field: "ip_list",
            number: 1,
            max: 1,
            inner: &[
                Repeated {
                    field: "ip_list.ip_addresses",
                    number: 1,
                    max: MAX_LIST,
                    inner: &[],
                },
                Repeated {
                    field: "ip_list.ports",
                    number: 2,
                    max: MAX_PORTS,
                    inner: &[],
                },
            ],
        },
        Repeated {
            field: "ip_range",
            number: 2,
            max: 1,
            inner: &[Repeated {
                field: "ip_range.ports",
                number: 3,
                max: MAX_PORTS,
                inner: &[],
            }],
        },
        Repeated {
            field: "nmap",
            number: 4,
            max: 1,
            inner: &[Repeated {
                field: "nmap.ports",
                number: 2,
                max: MAX_PORTS,
                inner: &[],
            }],
        },
    ];

    fn validate(&self) -> Checked {
        discover(self, MAX_LIST)
    }
}

/// Checks a request whose list may have `most` entries.
pub(super) fn discover(request: &DiscoverRequest, most: usize) -> Checked {
    match required("mode", request.mode.as_ref())? {
        discover_request::Mode::IpList(m) => {
            texts("ip_list.ip_addresses", &m.ip_addresses, most, 0, TARGET)?;
            texts("ip_list.ports", &m.ports, MAX_PORTS, 0, PORT)
        }
        discover_request::Mode::IpRange(m) => {
            text("ip_range.start_ip", &m.start_ip, 0, TARGET)?;
            text("ip_range.end_ip", &m.end_ip, 0, TARGET)?;
            texts("ip_range.ports", &m.ports, MAX_PORTS, 0, PORT)
        }
        discover_request::Mode::Mdns(m) => {
            text("mdns.service_type", &m.service_type, 0, TARGET)?;
            text("mdns.domain", &m.domain, 0, TARGET)
        }
        discover_request::Mode::Nmap(m) => {
            text("nmap.target", &m.target, 0, TARGET)?;
            texts("nmap.ports", &m.ports, MAX_PORTS, 0, PORT)
        }
    }
}

impl Validate for Credentials {
    fn validate(&self) -> Checked {
        text("username", &self.username, 0, 1_024)?;
        text(
            "password",
            self.password.as_deref().unwrap_or_default(),
            0,
            1_024,
        )
    }
}

impl Validate for PairRequest {
    fn validate(&self) -> Checked {
        self.credentials
            .iter()
            .try_for_each(|c| inner("credentials", c))?;
        inner(
            "device_selector",
            required("device_selector", self.device_selector.as_ref())?,
        )
    }
}

impl Validate for DeviceSelector {
    fn validate(&self) -> Checked {
        match required("selection_type", self.selection_type.as_ref())? {
            device_selector::SelectionType::AllDevices(m) => {
                count(
                    "all_devices.pairing_status",
                    &m.pairing_status,
                    0,
                    MAX_PORTS,
                )?;
                texts("all_devices.models", &m.models, MAX_PORTS, 0, TARGET)?;
                texts(
                    "all_devices.manufacturers",
                    &m.manufacturers,
                    MAX_PORTS,
                    0,
                    TARGET,
                )
            }
            device_selector::SelectionType::IncludeDevices(m) => texts(
                "include_devices.device_identifiers",
                &m.device_identifiers,
                MAX_REPORT,
                1,
                TARGET,
            ),
        }
    }
}

impl Validate for FleetNodePairRequest {
    fn validate(&self) -> Checked {
        count("targets", &self.targets, 1, MAX_REPORT)?;
        self.targets
            .iter()
            .enumerate()
            .try_for_each(|(i, target)| inner(&format!("targets[{i}]"), target))?;
        self.credentials
            .iter()
            .try_for_each(|c| inner("credentials", c))
    }
}

impl Validate for FleetNodePairTarget {
    fn validate(&self) -> Checked {
        text("device_identifier", &self.device_identifier, 1, 255)?;
        text("ip_address", &self.ip_address, 0, TARGET)?;
        text("port", &self.port, 0, PORT)?;
        text("url_scheme", &self.url_scheme, 0, 32)?;
        text("driver_name", &self.driver_name, 1, 50)?;
        text("manufacturer", &self.manufacturer, 0, 255)?;
        text("firmware_version", &self.firmware_version, 0, 255)
    }
}
