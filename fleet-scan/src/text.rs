//! Makes device texts fit for reports and logs: bounded, and without control characters.

use fleet_core::DeviceFacts;

/// The longest driver name in a report, in characters.
const DRIVER: usize = 50;

/// The longest name, model or version in a report, in characters.
pub(crate) const FIELD: usize = 255;

/// The longest evidence in a report, in characters.
pub(crate) const EVIDENCE: usize = 512;

/// A field of a report: without control characters and outer white space, at most [`FIELD`] characters.
pub(crate) fn field(text: &str) -> String {
    bounded(text, FIELD)
}

/// Text without control characters and outer white space, at most `most` characters.
pub(crate) fn bounded(text: &str, most: usize) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    let cut: String = clean.trim().chars().take(most).collect();
    cut.trim_end().to_owned()
}

/// Makes the facts fit for a report: bounded texts and no placeholders.
pub(crate) fn fit(facts: DeviceFacts) -> DeviceFacts {
    DeviceFacts {
        driver: bounded(&facts.driver, DRIVER),
        scheme: field(&facts.scheme),
        model: field(&facts.model),
        manufacturer: field(&facts.manufacturer),
        firmware: field(&facts.firmware),
        mac: facts.mac.filter(|mac| !mac.is_placeholder()),
        serial: facts.serial,
        evidence: bounded(&facts.evidence, EVIDENCE),
    }
}

/// Quotable text of at most `most` characters. Everything except printable ASCII is escaped.
pub(crate) fn quotable(bytes: &[u8], most: usize) -> String {
    // Each byte gives at least one character, so later bytes cannot appear.
    let text: String = bytes
        .iter()
        .take(most)
        .flat_map(|byte| std::ascii::escape_default(*byte))
        .map(char::from)
        .collect();
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lose_controls_and_excess() {
        for (input, expected) in [
            ("  S19\t ", "S19"),
            ("a\u{1b}[31mb", "a[31mb"),
            ("\0\r\n", ""),
            ("Müller", "Müller"),
        ] {
            assert_eq!(field(input), expected);
        }
        assert_eq!(field(&"é".repeat(300)).chars().count(), FIELD);
    }

    #[test]
    fn quoted_bytes_are_escaped_and_bounded() {
        assert_eq!(quotable(b"SSH-2.0\r\n\xff", 80), r"SSH-2.0\r\n\xff");
        assert_eq!(quotable(&[0; 100], 10).len(), 10);
    }
}
