//! Devices and endpoints for tests of differences and alerts.

use fleet_core::{DeviceFacts, DeviceId, Endpoint, NodeId, Port, SiteId};

use crate::difference::{Location, Seen};

/// The endpoint of a socket address.
pub(crate) fn endpoint(text: &str) -> Endpoint {
    let socket: std::net::SocketAddr = text.parse().expect(text);
    Endpoint {
        ip: socket.ip(),
        port: Port::new(socket.port()).expect(text),
    }
}

/// An endpoint of site 1, or of the site whose number and a slash precede it: `2/10.0.0.7:80`.
pub(crate) fn location(text: &str) -> Location {
    let (site, at) = text.split_once('/').unwrap_or(("1", text));
    Location {
        site: SiteId(site.parse().expect(text)),
        endpoint: endpoint(at),
    }
}

/// A device at a [`location`], reported by the node with the number of its site.
pub(crate) fn seen(device: i64, at: &str, firmware: &str) -> Seen {
    let Location { site, endpoint } = location(at);
    Seen {
        device: DeviceId(device),
        site,
        node: NodeId(site.0),
        endpoint,
        facts: DeviceFacts {
            manufacturer: "Bitmain".into(),
            model: "S19".into(),
            firmware: firmware.into(),
            ..DeviceFacts::default()
        },
    }
}
