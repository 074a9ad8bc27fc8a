//! Converts a plugin's answers into report fields. Every text is bounded and checked, and endpoints in the answers are
//! ignored. Pure. Start with [`identification`].

use fleet_core::{DeviceFacts, Mac, Port, Serial, text::visible};
use fleet_wire::sdk::DeviceInfo;

use crate::lines::escaped;

/// Most ports of one plugin. All drivers together announce at most 64.
const PORTS: usize = 16;
/// Longest driver name in a report, in characters.
const DRIVER: usize = 50;
/// Longest text field in a report, in characters.
const FIELD: usize = 255;
/// Longest scheme in a report, in characters.
const SCHEME: usize = 32;
/// Longest quotation of a text in the evidence, in characters.
const QUOTED: usize = 64;
/// Longest error message of a plugin in logs and notes, in characters.
const ERROR: usize = 200;

/// Checks a driver name.
///
/// # Errors
///
/// A sentence about the plugin that quotes the invalid name.
pub(crate) fn driver_name(name: &str) -> Result<String, String> {
    let length = name.chars().count();
    let is_sound = (1..=DRIVER).contains(&length)
        && name.trim() == name
        && !name.chars().any(char::is_control);
    if is_sound {
        Ok(name.to_owned())
    } else {
        Err(format!(
            "its driver name is `{}`: 1 to {DRIVER} printable characters are needed",
            escaped(name.as_bytes(), QUOTED)
        ))
    }
}

/// Parses the ports of a plugin. Invalid ones, duplicates and those beyond the limit are dropped.
pub(crate) fn ports(texts: &[String]) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for port in texts.iter().filter_map(|text| text.parse().ok()) {
        if !ports.contains(&port) && ports.len() < PORTS {
            ports.push(port);
        }
    }
    ports
}

/// Converts a plugin's description of a device. Its host and port are ignored: only the dialed endpoint counts.
pub(crate) fn identification(plugin: &str, driver: &str, info: &DeviceInfo) -> DeviceFacts {
    let quoted = |text: &str| escaped(text.as_bytes(), QUOTED);
    DeviceFacts {
        driver: driver.to_owned(),
        scheme: scheme(&info.url_scheme),
        model: field(&info.model),
        manufacturer: field(&info.manufacturer),
        firmware: field(&info.firmware_version),
        mac: info
            .mac_address
            .trim()
            .parse()
            .ok()
            .filter(|mac: &Mac| !mac.is_placeholder()),
        serial: Serial::new(&field(&info.serial_number)),
        host_name: None,
        evidence: format!(
            "plugin {plugin} reported `{} {} {}`",
            quoted(&info.manufacturer),
            quoted(&info.model),
            quoted(&info.firmware_version)
        ),
    }
}

/// An error message of a plugin, bounded and escaped.
pub(crate) fn error(message: &str) -> String {
    escaped(message.as_bytes(), ERROR)
}

/// Removes control characters and outer whitespace, marks characters that hide or reorder text, and cuts the text to
/// the length of a report field.
fn field(text: &str) -> String {
    // Bounds the work on a huge text.
    let clean: String = text
        .chars()
        .take(4 * FIELD)
        .filter(|c| !c.is_control())
        .collect();
    let cut: String = visible(clean.trim()).chars().take(FIELD).collect();
    cut.trim_end().to_owned()
}

/// Checks a scheme by RFC 3986, section 3.1, and lower-cases it. Anything else becomes `tcp`.
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
    use fleet_wire::{Message, sdk::DiscoverDeviceResponse};

    let Some(info) = DiscoverDeviceResponse::decode(bytes)
        .ok()
        .and_then(|response| response.device)
    else {
        return;
    };
    let device = identification("plugin", "driver", &info);
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
    fn driver_names_that_do_not_fit_a_report_are_rejected() {
        assert_eq!(driver_name("proto"), Ok("proto".to_owned()));
        for wrong in ["", " proto", "pro\nto", &"x".repeat(51)] {
            assert!(driver_name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn invalid_duplicate_and_excess_ports_are_dropped() {
        let texts = ["443", "0", "x", "443", "80/tcp", "8080", "70000"].map(str::to_owned);
        let numbers: Vec<_> = ports(&texts).iter().map(|port| port.number()).collect();
        assert_eq!(numbers, [443, 8080]);
        let many: Vec<String> = (1..=100).map(|port: u16| port.to_string()).collect();
        assert_eq!(ports(&many).len(), PORTS);
    }

    #[test]
    fn invalid_fields_of_a_device_are_corrected_or_dropped() {
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
            device.evidence.starts_with("plugin acme reported `Acme"),
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
}
