//! What a plugin says of itself and of devices, made fit for reports: everything is bounded and checked, nothing that
//! names an endpoint is believed. Pure. Start with [`identification`].

use fleet_core::{DeviceFacts, Endpoint, Mac, Port, Serial};
use fleet_wire::{
    Message,
    sdk::{DeviceInfo, DiscoverDeviceResponse},
};

use crate::lines::escaped;

/// Ports that one plugin may name; all drivers together announce 64.
const PORTS: usize = 16;
/// Longest driver name of a report, in characters.
const DRIVER: usize = 50;
/// Longest field of a report, in characters.
const FIELD: usize = 255;
/// Longest scheme of a report, in characters.
const SCHEME: usize = 32;
/// As much of each text is quoted in the evidence, in characters.
const QUOTED: usize = 64;
/// Longest error of a plugin that is shown, in characters.
const ERROR: usize = 200;

/// A driver's name, as it may be reported.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn driver_name(said: &str) -> Result<String, String> {
    let length = said.chars().count();
    let is_sound = (1..=DRIVER).contains(&length)
        && said.trim() == said
        && !said.chars().any(char::is_control);
    if is_sound {
        Ok(said.to_owned())
    } else {
        Err(format!(
            "its driver name is `{}`: 1 to {DRIVER} printable characters are needed",
            escaped(said.as_bytes(), QUOTED)
        ))
    }
}

/// The ports that a plugin names: those that are ports, each once, no more than there is room for.
pub(crate) fn ports(said: &[String]) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for port in said.iter().filter_map(|text| text.parse().ok()) {
        if !ports.contains(&port) && ports.len() < PORTS {
            ports.push(port);
        }
    }
    ports
}

/// What a plugin says that a device is. Host and port in it are not looked at.
pub(crate) fn identification(plugin: &str, driver: &str, said: &DeviceInfo) -> DeviceFacts {
    let quoted = |text: &str| escaped(text.as_bytes(), QUOTED);
    DeviceFacts {
        driver: driver.to_owned(),
        scheme: scheme(&said.url_scheme),
        model: field(&said.model),
        manufacturer: field(&said.manufacturer),
        firmware: field(&said.firmware_version),
        mac: said
            .mac_address
            .trim()
            .parse()
            .ok()
            .filter(|mac: &Mac| !mac.is_placeholder()),
        serial: Serial::new(&field(&said.serial_number)),
        evidence: format!(
            "plugin {plugin} says `{} {} {}`",
            quoted(&said.manufacturer),
            quoted(&said.model),
            quoted(&said.firmware_version)
        ),
    }
}

/// A device in the words of the plugins' contract, at the endpoint that is meant.
pub(crate) fn device_info(endpoint: Endpoint, device: &DeviceFacts) -> DeviceInfo {
    let serial = device.serial.as_ref();
    DeviceInfo {
        host: endpoint.ip.to_string(),
        port: endpoint.port.number().into(),
        url_scheme: device.scheme.clone(),
        serial_number: serial.map_or_else(String::new, |serial| serial.as_str().to_owned()),
        model: device.model.clone(),
        manufacturer: device.manufacturer.clone(),
        mac_address: device.mac.map_or_else(String::new, |mac| mac.to_string()),
        firmware_version: device.firmware.clone(),
        default_password_active: None,
    }
}

/// What a plugin says went wrong, for logs and notes.
pub(crate) fn error(message: &str) -> String {
    escaped(message.as_bytes(), ERROR)
}

/// Text without controls and outer blanks, of the length of a report's field.
fn field(text: &str) -> String {
    // What is cut off is not looked at.
    let clean: String = text
        .chars()
        .take(4 * FIELD)
        .filter(|c| !c.is_control())
        .collect();
    let cut: String = clean.trim().chars().take(FIELD).collect();
    cut.trim_end().to_owned()
}

/// A scheme by the grammar of RFC 3986, section 3.1, in lower case; `tcp` for everything else.
fn scheme(text: &str) -> String {
    let mut letters = text.chars();
    let is_one = letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
        && text.len() <= SCHEME;
    if is_one {
        text.to_ascii_lowercase()
    } else {
        "tcp".to_owned()
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let Some(said) = DiscoverDeviceResponse::decode(bytes)
        .ok()
        .and_then(|response| response.device)
    else {
        return;
    };
    let device = identification("plugin", "driver", &said);
    for text in [&device.model, &device.manufacturer, &device.firmware] {
        assert!(text.chars().count() <= FIELD && !text.contains(char::is_control));
    }
    assert!(!device.scheme.is_empty() && device.scheme.len() <= SCHEME);
    assert!(device.evidence.chars().count() <= 512 && !device.evidence.contains(char::is_control));
    assert!(!device.mac.is_some_and(|mac| mac.is_placeholder()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_has_a_name_that_fits_a_report() {
        assert_eq!(driver_name("proto"), Ok("proto".to_owned()));
        for wrong in ["", " proto", "pro\nto", &"x".repeat(51)] {
            assert!(driver_name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn ports_are_those_that_are_ports() {
        let said = ["443", "0", "x", "443", "80/tcp", "8080", "70000"].map(str::to_owned);
        let numbers: Vec<_> = ports(&said).iter().map(|port| port.number()).collect();
        assert_eq!(numbers, [443, 8080]);
        let many: Vec<String> = (1..=100).map(|port: u16| port.to_string()).collect();
        assert_eq!(ports(&many).len(), PORTS);
    }

    #[test]
    fn nothing_of_a_device_is_believed_that_does_not_fit() {
        let device = identification(
            "acme",
            "acme",
            &DeviceInfo {
                host: "8.8.8.8".into(),
                port: 22,
                url_scheme: "HTTPS".into(),
                serial_number: "unknown".into(),
                model: format!(" X\u{1b}1{}", "é".repeat(300)),
                manufacturer: "Acme\n".into(),
                mac_address: "00:00:00:00:00:00".into(),
                firmware_version: "1.\u{202e}0".into(),
                default_password_active: None,
            },
        );
        assert_eq!((&*device.scheme, &*device.driver), ("https", "acme"));
        assert!(device.model.starts_with("X1é"));
        assert_eq!(device.model.chars().count(), FIELD);
        assert_eq!(device.manufacturer, "Acme");
        assert_eq!((device.mac, device.serial), (None, None));
        assert!(
            device.evidence.starts_with("plugin acme says `Acme"),
            "{}",
            device.evidence
        );
        assert!(device.evidence.contains("\\u{202e}"));
        for (text, expected) in [
            ("", "tcp"),
            ("java script", "tcp"),
            ("1http", "tcp"),
            ("stratum+tcp", "stratum+tcp"),
            (&"x".repeat(33), "tcp"),
        ] {
            assert_eq!(scheme(text), expected, "{text}");
        }
    }

    #[test]
    fn what_a_plugin_knows_comes_back_to_it() {
        let endpoint = Endpoint {
            ip: [10, 0, 0, 7].into(),
            port: Port::new(443).expect("a port"),
        };
        let said = DeviceInfo {
            host: "10.0.0.7".into(),
            port: 443,
            url_scheme: "https".into(),
            serial_number: "S1".into(),
            model: "X1".into(),
            manufacturer: "Acme".into(),
            mac_address: "02:00:5E:00:00:01".into(),
            firmware_version: "1.0".into(),
            default_password_active: None,
        };
        let device = identification("acme", "acme", &said);
        assert_eq!(device_info(endpoint, &device), said);
    }
}
