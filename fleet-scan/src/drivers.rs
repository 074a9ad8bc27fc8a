//! The built-in drivers: each combines a protocol, its ports, and the rules that identify devices.
//!
//! All of them are a [`ProtocolDriver`].

use std::sync::Arc;

use fleet_core::Port;

use crate::{
    cgminer, conversation,
    driver::{Answer, BoxFuture, Driver, DriverError, DriverSet},
    fingerprint::{Fingerprints, Protocol},
    http,
    probe::Probe,
    whatsminer,
};

/// The CGMiner API often reports the model and firmware that pages omit.
const API_PRECEDENCE: u8 = 100;

/// Below the CGMiner API, which most of these devices also serve. A device then need not wait for this port.
const WHATSMINER_PRECEDENCE: u8 = 90;

/// Above plain HTTP. Devices that serve both give the same answers, and some use the plain port only for redirects.
const TLS_PRECEDENCE: u8 = 60;

/// Below every API.
const HTTP_PRECEDENCE: u8 = 50;

/// Identifies devices by one protocol, read-only and without a login.
#[derive(Debug, Clone)]
pub struct ProtocolDriver {
    name: &'static str,
    protocol: Protocol,
    encrypts: bool,
    precedence: u8,
    ports: Vec<Port>,
    rules: Arc<Fingerprints>,
}

impl ProtocolDriver {
    /// Web servers, at port 80.
    pub fn http(rules: Arc<Fingerprints>) -> Self {
        Self::new("http", Protocol::Http, HTTP_PRECEDENCE, http::PORT, rules)
    }

    /// Web servers at port 443, with TLS, or without it if they answer a handshake in plain HTTP. Certificates are not
    /// verified, because devices use self-signed ones.
    pub fn https(rules: Arc<Fingerprints>) -> Self {
        let driver = Self::new(
            "https",
            Protocol::Http,
            TLS_PRECEDENCE,
            http::TLS_PORT,
            rules,
        );
        Self {
            encrypts: true,
            ..driver
        }
    }

    /// The CGMiner API, at port 4028.
    pub fn cgminer(rules: Arc<Fingerprints>) -> Self {
        Self::new(
            "cgminer",
            Protocol::Cgminer,
            API_PRECEDENCE,
            cgminer::PORT,
            rules,
        )
    }

    /// ePIC's HTTP API, at the port of the CGMiner API.
    pub fn epic(rules: Arc<Fingerprints>) -> Self {
        Self::new("epic", Protocol::Epic, API_PRECEDENCE, cgminer::PORT, rules)
    }

    /// Whatsminer API 3, at port 4433.
    pub fn whatsminer(rules: Arc<Fingerprints>) -> Self {
        Self::new(
            "whatsminer",
            Protocol::Whatsminer,
            WHATSMINER_PRECEDENCE,
            whatsminer::PORT,
            rules,
        )
    }

    fn new(
        name: &'static str,
        protocol: Protocol,
        precedence: u8,
        port: u16,
        rules: Arc<Fingerprints>,
    ) -> Self {
        let ports = Port::new(port).into_iter().collect();
        Self {
            name,
            protocol,
            encrypts: false,
            precedence,
            ports,
            rules,
        }
    }

    /// Returns the driver with other ports, in this order.
    #[must_use]
    pub fn at(self, ports: Vec<Port>) -> Self {
        Self { ports, ..self }
    }
}

impl Driver for ProtocolDriver {
    fn name(&self) -> &str {
        self.name
    }

    fn default_ports(&self) -> Vec<Port> {
        self.ports.clone()
    }

    fn precedence(&self) -> u8 {
        self.precedence
    }

    fn identify<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
    ) -> BoxFuture<'a, Result<Answer, DriverError>> {
        Box::pin(async move {
            if self.encrypts {
                probe.encrypt();
            }
            let answer = conversation::identify(probe, &self.rules, self.protocol).await;
            // A server without TLS at this port answers the handshake in plain HTTP.
            let is_plain = matches!(answer, Err(DriverError::Protocol(_)))
                && probe.first_words().starts_with(b"HTTP/1.");
            if !self.encrypts || !is_plain {
                return answer;
            }
            probe.start_over();
            conversation::identify(probe, &self.rules, self.protocol).await
        })
    }

    fn fingerprints(&self) -> Option<&Fingerprints> {
        Some(&self.rules)
    }
}

impl DriverSet {
    /// The built-in drivers with the built-in rules.
    pub fn built_in() -> Self {
        Self::with_fingerprints(Fingerprints::built_in())
    }

    /// The built-in drivers with the given rules.
    pub fn with_fingerprints(rules: Arc<Fingerprints>) -> Self {
        let drivers = [
            ProtocolDriver::http(Arc::clone(&rules)),
            ProtocolDriver::cgminer(Arc::clone(&rules)),
            ProtocolDriver::epic(Arc::clone(&rules)),
            ProtocolDriver::https(Arc::clone(&rules)),
            ProtocolDriver::whatsminer(rules),
        ];
        Self::unchecked(
            drivers
                .map(|driver| Arc::new(driver) as Arc<dyn Driver>)
                .into(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_order_and_precedence_of_the_built_in_drivers_are_a_table() {
        let set = DriverSet::built_in();
        let drivers: Vec<_> = set
            .all()
            .map(|driver| {
                let ports = driver.default_ports();
                let ports: Vec<u16> = ports.into_iter().map(Port::number).collect();
                (driver.name(), driver.precedence(), ports)
            })
            .collect();
        assert_eq!(
            drivers,
            [
                ("http", 50, vec![80]),
                ("cgminer", 100, vec![4028]),
                ("epic", 100, vec![4028]),
                ("https", 60, vec![443]),
                ("whatsminer", 90, vec![4433]),
            ]
        );
        let port = |number| Port::new(number).expect("a port");
        let all = vec!["http", "cgminer", "epic", "https", "whatsminer"];
        for (number, asked, precedence) in [
            (4028, vec!["cgminer", "epic"], 100),
            (80, vec!["http"], 50),
            (443, vec!["https"], 60),
            (4433, vec!["whatsminer"], 90),
            (8080, all.clone(), 100),
            (22, all, 100),
        ] {
            let at = set.at(port(number));
            let names: Vec<_> = at.iter().map(|driver| driver.name()).collect();
            assert_eq!(names, asked, "{number}");
            assert_eq!(set.precedence_at(port(number)), precedence, "{number}");
        }
        assert_eq!(set.default_ports(), [4028, 4433, 443, 80].map(port));
    }
}
