//! Host names by RFC 1123. They are parsed here and never resolved. The node reports the addresses of a name, see
//! [`crate::Scope::pin`].

use std::{fmt, str::FromStr};

use crate::shown::shown;

/// A host name in lower case. It is not an address literal, does not look like one, and is not the local host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is not a host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{input}` is not a host name: {why}")]
pub struct InvalidName {
    input: String,
    why: &'static str,
}

impl InvalidName {
    /// What is wrong, and which form is accepted.
    pub(crate) fn why(&self) -> &'static str {
        self.why
    }
}

impl FromStr for HostName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match fault(text) {
            None => Ok(Self(text.to_ascii_lowercase())),
            Some(why) => Err(InvalidName {
                input: shown(text),
                why,
            }),
        }
    }
}

/// Returns why a text is not a host name, with the accepted form.
fn fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    // 255 octets on the wire (RFC 1035, 2.3.4) are 253 characters of text.
    if text.len() > 253 {
        return Some("it has more than 253 characters");
    }
    let lower = text.to_ascii_lowercase();
    for label in lower.split('.') {
        if label.is_empty() {
            return Some("a label is empty: no leading, trailing or doubled dot");
        }
        if label.len() > 63 {
            return Some("a label has more than 63 characters");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some("a label begins or ends with a hyphen");
        }
        if !label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            return Some("a label may hold ASCII letters, digits and hyphens only");
        }
    }
    let last = lower.rsplit('.').next().unwrap_or_default();
    // Resolvers accept these as addresses (`010.8.8.8`, `0x7f.1`, `2130706433`), and differ in how they read them.
    if last.starts_with("0x") || !last.bytes().any(|b| b.is_ascii_alphabetic()) {
        return Some(
            "it looks like a number: write an IPv4 address as four decimals from 0 to 255 without leading zeros, such as 10.0.0.7",
        );
    }
    // All names below it are the local host too (RFC 6761, 6.3).
    if last == "localhost" {
        return Some("it names the local host: name the device itself");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_rfc_1123_and_lower_case() {
        let longest = [&"a".repeat(63); 3].map(String::as_str).join(".") + "." + &"b".repeat(61);
        for (text, expected) in [
            ("miner", "miner"),
            ("Miner-01.Farm.LAN", "miner-01.farm.lan"),
            ("1.2.3.4a", "1.2.3.4a"),
            ("3com.com", "3com.com"),
            (&longest, &longest),
        ] {
            assert_eq!(
                text.parse::<HostName>().map(|n| n.to_string()),
                Ok(expected.into())
            );
        }
    }

    #[test]
    fn numeric_forms_are_not_names() {
        let long_label = "a".repeat(64);
        let long = "a.".repeat(126) + "bc";
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a.-b.c",
            "a_b",
            "a b",
            "é",
            "ａ",
            "010.8.8.8",
            "999.1.1.1",
            "0x0a000001",
            "0X7f.1",
            "a.0x7f",
            "2130706433",
            "127.1",
            "1.2.3.4.5",
            "localhost",
            "LOCALHOST",
            "a.localhost",
            "fe80::1%eth0",
            "10.0.0.1:80",
            &long_label,
            &long,
        ] {
            assert!(text.parse::<HostName>().is_err(), "{text}");
        }
    }
}
