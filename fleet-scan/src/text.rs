//! Sanitizes texts of devices for reports and logs: bounded, on one line, without control characters.

use fleet_core::{DeviceFacts, text::visible};

/// The longest driver name in a report, in characters.
const DRIVER: usize = 50;

/// The longest name, model or version in a report, in characters.
pub(crate) const FIELD: usize = 255;

/// The longest evidence in a report, in characters.
pub(crate) const EVIDENCE: usize = 512;

/// A field of a report: at most [`FIELD`] characters. Control characters and blanks become single spaces.
pub(crate) fn field(text: &str) -> String {
    bounded(text, FIELD)
}

/// Truncates text to `most` characters. Each run of control characters and blanks becomes one space, and characters
/// that hide or reorder text leave a mark.
pub(crate) fn bounded(text: &str, most: usize) -> String {
    let mut clean = String::new();
    let words = text
        .split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty());
    for word in words {
        // A character takes at most four bytes, so the rest would be cut off below.
        if clean.len() >= most.saturating_mul(4) {
            break;
        }
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
    }
    let cut: String = visible(&clean).chars().take(most).collect();
    cut.trim_end().to_owned()
}

/// Sanitizes facts for a report: truncates texts and removes placeholders.
pub(crate) fn fit(facts: DeviceFacts) -> DeviceFacts {
    DeviceFacts {
        driver: bounded(&facts.driver, DRIVER),
        scheme: field(&facts.scheme),
        model: field(&facts.model),
        manufacturer: field(&facts.manufacturer),
        firmware: field(&facts.firmware),
        mac: facts.mac.filter(|mac| !mac.is_placeholder()),
        serial: facts.serial,
        host_name: facts.host_name,
        evidence: bounded(&facts.evidence, EVIDENCE),
    }
}

/// Escapes everything but printable ASCII, and truncates to `most` characters.
pub(crate) fn quotable(bytes: &[u8], most: usize) -> String {
    // Each byte becomes at least one character, so at most `most` bytes are visible.
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
    fn fields_are_one_line_of_bounded_length() {
        for (input, expected) in [
            ("  S19\t ", "S19"),
            ("a\u{1b}[31mb", "a [31mb"),
            ("Antminer S9\nV1.3.58", "Antminer S9 V1.3.58"),
            ("\0\r\n", ""),
            ("Müller", "Müller"),
            ("S\u{202e}19\u{200b}", "S\u{fffd}19\u{fffd}"),
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
