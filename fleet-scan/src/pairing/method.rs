//! The port and the method of a device's login. Read [`Pairer::authenticate`] first.

use fleet_core::{DeviceFacts, Endpoint, Port};

use super::Pairer;
use crate::{
    driver::DriverError,
    fingerprint::{Fingerprints, KnownLogin, LoginRule},
    login::{self, Authenticated, IsExpected, Login},
    probe::Probe,
};

/// The rule of a device, with its login.
struct Rule<'r> {
    rules: &'r Fingerprints,
    name: &'r str,
    known: &'r LoginRule,
}

impl Pairer {
    /// Tries the login that the rule defines. Without one, uses the driver's login.
    pub(super) async fn authenticate(
        &self,
        endpoint: Endpoint,
        device: &DeviceFacts,
        rule: Option<&str>,
        login: Option<&Login>,
        is_expected: &IsExpected<'_>,
    ) -> Result<Authenticated, DriverError> {
        let rules = self.drivers.all().find_map(|driver| driver.fingerprints());
        if let (Some(rules), Some(rule)) = (rules, rule)
            && let Some(known) = rules.login(rule)
        {
            let rule = Rule {
                rules,
                name: rule,
                known,
            };
            return self.by_rule(endpoint, rule, login, is_expected).await;
        }
        let door = self
            .drivers
            .all()
            .find_map(|driver| Some((driver, driver.login_port(device, endpoint.port)?)));
        let Some((driver, port)) = door else {
            return Ok(Authenticated::Unsupported);
        };
        let mut probe = self.open(Endpoint { port, ..endpoint }).await?;
        driver.authenticate(&mut probe, device, login).await
    }

    async fn by_rule(
        &self,
        endpoint: Endpoint,
        Rule { rules, name, known }: Rule<'_>,
        login: Option<&Login>,
        is_expected: &IsExpected<'_>,
    ) -> Result<Authenticated, DriverError> {
        let port = match &known.kind {
            // These two methods send nothing.
            KnownLogin::Open | KnownLogin::Unprovable => {
                let mut probe = Probe::unconnected(&self.dialer, endpoint, &self.options);
                return login::by_rule(&mut probe, rules, name, known, login, is_expected).await;
            }
            KnownLogin::Digest(_) | KnownLogin::Token(_) => {
                self.web_port(endpoint.port, known.port)
            }
            KnownLogin::Encrypted(_) => self.api_port(endpoint.port),
        };
        let opened = self.open(Endpoint { port, ..endpoint }).await;
        let mut probe = match (opened, &known.kind) {
            // A device with only API 3 has no port of API 2.
            (Err(DriverError::Broken(_) | DriverError::Silence), KnownLogin::Encrypted(_))
                if port != endpoint.port =>
            {
                return Ok(Authenticated::Unprovable);
            }
            (opened, _) => opened?,
        };
        login::by_rule(&mut probe, rules, name, known, login, is_expected).await
    }

    /// Whether one of these drivers has a port as its own.
    fn claims(&self, drivers: &[&str], port: Port) -> bool {
        let mut named = self
            .drivers
            .all()
            .filter(|driver| drivers.contains(&driver.name()));
        named.any(|driver| driver.default_ports().contains(&port))
    }

    /// The first own port of a driver.
    fn own_port(&self, name: &str) -> Option<Port> {
        let driver = self.drivers.all().find(|driver| driver.name() == name)?;
        driver.default_ports().first().copied()
    }

    /// The port of the device's web server: the port where the device was identified, unless it is that of an API. The
    /// rule can name another port, which counts unless the device was identified at a port that no driver claims.
    fn web_port(&self, at: Port, of_rule: Option<Port>) -> Port {
        let is_api = self.claims(&["cgminer", "epic", "whatsminer", "https"], at);
        let is_usual = is_api || self.claims(&["http"], at);
        let web = self.own_port("http").filter(|_| is_api);
        of_rule.filter(|_| is_usual).or(web).unwrap_or(at)
    }

    /// The port of the CGMiner API: the port where the device was identified, unless it is that of another driver.
    fn api_port(&self, at: Port) -> Port {
        let is_other = self.claims(&["whatsminer", "http", "https"], at);
        let api = self.own_port("cgminer").filter(|_| is_other);
        api.unwrap_or(at)
    }
}
