//! Facts about a device. [`DeviceFacts`] is the one value for them in every crate.

use crate::{
    DeviceIdentifier, Endpoint, Mac, NamedBy, NodeId, RawDeviceReport, RejectReason, Serial, text,
};

/// The longest driver name, in characters.
const DRIVER: usize = 50;
/// The longest make, model, firmware version or serial, in characters.
const FIELD: usize = 255;
/// The longest evidence, in characters.
pub(crate) const EVIDENCE: usize = 512;

/// Facts about a device. An empty text means unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The driver that identified the device, at most 50 characters.
    pub driver: String,
    /// URL scheme in lower case, at most 32 characters; data, not a link. `tcp` for protocols that have
    /// no scheme of their own.
    pub scheme: String,
    /// At most 255 characters.
    pub model: String,
    /// At most 255 characters.
    pub manufacturer: String,
    /// Firmware version, after the name of aftermarket firmware; at most 255 characters.
    pub firmware: String,
    /// Hardware address, never a placeholder.
    pub mac: Option<Mac>,
    /// Serial number, never a placeholder.
    pub serial: Option<Serial>,
    /// The name of the host, by DNS or mDNS. It is shown, and no decision depends on it.
    pub host_name: Option<NamedBy>,
    /// The evidence that identified the device, as text for people; at most 512 characters.
    pub evidence: String,
}

impl DeviceFacts {
    /// Returns the strongest identifier that the facts yield for a device that `node` found.
    pub fn identifier(&self, node: NodeId, endpoint: Endpoint) -> DeviceIdentifier {
        DeviceIdentifier::derive(
            self.mac,
            self.serial.as_ref(),
            node,
            endpoint,
            &self.driver,
            &self.model,
        )
    }

    /// Replaces facts by those of `newer`. An unknown fact never replaces a known one. Returns whether anything
    /// changed.
    pub fn update(&mut self, newer: &Self) -> bool {
        let mut changed = false;
        for (known, newer) in [
            (&mut self.driver, &newer.driver),
            (&mut self.scheme, &newer.scheme),
            (&mut self.model, &newer.model),
            (&mut self.manufacturer, &newer.manufacturer),
            (&mut self.firmware, &newer.firmware),
            (&mut self.evidence, &newer.evidence),
        ] {
            if !newer.is_empty() && known != newer {
                known.clone_from(newer);
                changed = true;
            }
        }
        if newer.mac.is_some() && self.mac != newer.mac {
            self.mac = newer.mac;
            changed = true;
        }
        if newer.serial.is_some() && self.serial != newer.serial {
            self.serial.clone_from(&newer.serial);
            changed = true;
        }
        if newer.host_name.is_some() && self.host_name != newer.host_name {
            self.host_name.clone_from(&newer.host_name);
            changed = true;
        }
        changed
    }

    /// Adds the facts of `other` that are unknown here.
    pub fn fill(&mut self, other: &Self) {
        let known = std::mem::replace(self, other.clone());
        self.update(&known);
    }

    /// Checks every text against the bounds of a report.
    ///
    /// # Errors
    ///
    /// The first field that is not well-formed.
    pub(crate) fn check(&self) -> Result<(), RejectReason> {
        if !is_scheme(&self.scheme) {
            return Err(RejectReason::Scheme);
        }
        if !text::fits(&self.driver, DRIVER) {
            return Err(RejectReason::Driver);
        }
        let fields = [&self.model, &self.manufacturer, &self.firmware];
        let fit = fields.into_iter().all(|field| text::fits(field, FIELD))
            && text::fits(&self.evidence, EVIDENCE);
        if fit { Ok(()) } else { Err(RejectReason::Text) }
    }

    /// Parses the facts of a report. Placeholders of MAC and serial are dropped.
    ///
    /// # Errors
    ///
    /// The first field that is not well-formed.
    pub(crate) fn parse(raw: &RawDeviceReport<'_>) -> Result<Self, RejectReason> {
        let facts = Self {
            driver: raw.driver.to_owned(),
            // Schemes are case-insensitive (RFC 3986, 3.1).
            scheme: raw.scheme.to_ascii_lowercase(),
            model: raw.model.to_owned(),
            manufacturer: raw.manufacturer.to_owned(),
            firmware: raw.firmware.to_owned(),
            // A MAC that cannot be read is an unknown fact, and no reason to reject the device.
            mac: raw
                .mac
                .parse()
                .ok()
                .filter(|mac: &Mac| !mac.is_placeholder()),
            serial: Serial::new(raw.serial),
            host_name: NamedBy::parse(raw.host_name, raw.host_name_source),
            evidence: raw.evidence.to_owned(),
        };
        facts.check()?;
        if !text::fits(raw.mac, 64) || !text::fits(raw.serial, FIELD) {
            return Err(RejectReason::Text);
        }
        Ok(facts.visible())
    }

    /// Leaves a mark in place of characters that hide or reorder text: terminals, pages and files show these texts.
    pub(crate) fn visible(mut self) -> Self {
        for field in [
            &mut self.driver,
            &mut self.model,
            &mut self.manufacturer,
            &mut self.firmware,
            &mut self.evidence,
        ] {
            text::make_visible(field);
        }
        self
    }
}

/// Whether a text is empty or a scheme by RFC 3986, section 3.1.
fn is_scheme(value: &str) -> bool {
    let mut bytes = value.bytes();
    bytes.next().is_none_or(|byte| byte.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        && value.len() <= 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(model: &str, firmware: &str, serial: &str) -> DeviceFacts {
        DeviceFacts {
            model: model.to_owned(),
            firmware: firmware.to_owned(),
            serial: Serial::new(serial),
            ..DeviceFacts::default()
        }
    }

    #[test]
    fn an_update_keeps_facts_that_the_newer_ones_leave_blank() {
        let mut known = facts("S19", "1.0", "A1");
        assert!(known.update(&facts("", "1.1", "")));
        assert_eq!(known, facts("S19", "1.1", "A1"));
        assert!(!known.update(&facts("S19", "", "A1")));
    }

    #[test]
    fn a_newer_host_name_replaces_the_known_one_and_none_keeps_it() {
        let named = |text: &str| DeviceFacts {
            host_name: text.parse().ok(),
            ..facts("S19", "", "")
        };
        let mut known = named("dns:a.lan");
        assert!(!known.update(&named("")));
        assert!(known.update(&named("mdns:b.local")));
        assert_eq!(known, named("mdns:b.local"));
    }

    #[test]
    fn filling_never_replaces_a_known_fact() {
        let mut known = facts("S19", "", "");
        known.fill(&facts("S21", "1.0", "B2"));
        assert_eq!(known, facts("S19", "1.0", "B2"));
    }
}
