//! What changed on a device over time, and the labels that operators give. Start with [`changes`].

use std::{fmt, str::FromStr};

use fleet_core::{Endpoint, text::is_unsafe};

/// The most characters of a label.
const LABEL: usize = 32;

/// What the timeline of a device compares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appearance {
    /// Its endpoint; none while another device answers there.
    pub endpoint: Option<Endpoint>,
    /// Make and model.
    pub name: String,
    /// The name of its host.
    pub host_name: String,
    /// Its firmware version.
    pub firmware: String,
    /// Whether it is missing.
    pub missing: bool,
}

/// What happened to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// Its first report.
    Found,
    /// Its address or port changed.
    Address,
    /// Its make or model changed.
    Name,
    /// The name of its host changed.
    HostName,
    /// Its firmware version changed.
    Firmware,
    /// Its pairing status changed.
    Pairing,
    /// A scan found its address silent or refused.
    Missing,
    /// It was reported again after it was missing.
    Back,
    /// Another record or identifier was merged into it.
    Merged,
    /// A merge was undone.
    Separated,
}

impl EventKind {
    const ALL: [Self; 10] = [
        Self::Found,
        Self::Address,
        Self::Name,
        Self::HostName,
        Self::Firmware,
        Self::Pairing,
        Self::Missing,
        Self::Back,
        Self::Merged,
        Self::Separated,
    ];

    /// The name that storage and the API use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Address => "address",
            Self::Name => "name",
            Self::HostName => "host_name",
            Self::Firmware => "firmware",
            Self::Pairing => "pairing",
            Self::Missing => "missing",
            Self::Back => "back",
            Self::Merged => "merged",
            Self::Separated => "separated",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such kind of event")]
pub struct UnknownKind;

impl FromStr for EventKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or(UnknownKind)
    }
}

/// A change of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What changed.
    pub kind: EventKind,
    /// The value before; empty if it was unknown.
    pub former: String,
    /// The value after; empty if it is unknown.
    pub became: String,
}

/// Returns the changes between two appearances of a device, in the order of [`EventKind`]. A value that was unknown
/// before is no change, except for an address: the device was seen elsewhere before.
pub fn changes(before: &Appearance, after: &Appearance) -> Vec<Change> {
    let shown = |endpoint: Option<Endpoint>| endpoint.map_or(String::new(), |one| one.to_string());
    let mut changes = Vec::new();
    let mut add = |kind, former: String, became: String| {
        changes.push(Change {
            kind,
            former,
            became,
        });
    };
    if before.endpoint != after.endpoint {
        add(
            EventKind::Address,
            shown(before.endpoint),
            shown(after.endpoint),
        );
    }
    for (kind, former, became) in [
        (EventKind::Name, &before.name, &after.name),
        (EventKind::HostName, &before.host_name, &after.host_name),
        (EventKind::Firmware, &before.firmware, &after.firmware),
    ] {
        if former != became && !former.is_empty() && !became.is_empty() {
            add(kind, former.clone(), became.clone());
        }
    }
    if before.missing && !after.missing {
        add(EventKind::Back, String::new(), shown(after.endpoint));
    }
    changes
}

/// A word that operators attach to devices, in lower case. It has no blanks, so that a search term holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

impl Label {
    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// It is empty or too long.
    #[error("label `{0}`: use 1 to {LABEL} characters")]
    Length(String),
    /// It has a character that labels cannot have.
    #[error("label `{0}`: use letters, digits and the characters - _ . /")]
    Character(String),
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let shown = || {
            text.chars()
                .take(2 * LABEL)
                .flat_map(char::escape_debug)
                .collect()
        };
        let label = text.to_lowercase();
        if !(1..=LABEL).contains(&label.chars().count()) {
            return Err(LabelError::Length(shown()));
        }
        let fits = |c: char| (c.is_alphanumeric() && !is_unsafe(c)) || "-_./".contains(c);
        if !label.chars().all(fits) {
            return Err(LabelError::Character(shown()));
        }
        Ok(Self(label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Option<Endpoint> {
        let socket: std::net::SocketAddr = text.parse().expect(text);
        Some(Endpoint {
            ip: socket.ip(),
            port: fleet_core::Port::new(socket.port()).expect(text),
        })
    }

    fn known() -> Appearance {
        Appearance {
            endpoint: endpoint("10.0.0.7:80"),
            name: "Bitmain Antminer S19".into(),
            host_name: "miner7.lan".into(),
            firmware: "1.0".into(),
            missing: false,
        }
    }

    #[track_caller]
    fn check(before: Appearance, after: Appearance, expected: &[(EventKind, &str, &str)]) {
        let found = changes(&before, &after);
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.kind, one.former.as_str(), one.became.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_changed_value_is_one_event() {
        use EventKind as K;
        check(known(), known(), &[]);
        check(
            known(),
            Appearance {
                endpoint: endpoint("[fd00::1]:443"),
                name: "Braiins S19".into(),
                host_name: "miner9.lan".into(),
                firmware: "24.09".into(),
                missing: false,
            },
            &[
                (K::Address, "10.0.0.7:80", "[fd00::1]:443"),
                (K::Name, "Bitmain Antminer S19", "Braiins S19"),
                (K::HostName, "miner7.lan", "miner9.lan"),
                (K::Firmware, "1.0", "24.09"),
            ],
        );
        let missing = Appearance {
            missing: true,
            ..known()
        };
        check(missing, known(), &[(K::Back, "", "10.0.0.7:80")]);
    }

    #[test]
    fn a_value_that_is_unknown_is_no_change_except_an_address() {
        use EventKind as K;
        let bare = Appearance {
            endpoint: endpoint("10.0.0.7:80"),
            ..Appearance::default()
        };
        check(bare.clone(), known(), &[]);
        check(known(), bare, &[]);
        let displaced = Appearance {
            endpoint: None,
            ..known()
        };
        check(
            known(),
            displaced.clone(),
            &[(K::Address, "10.0.0.7:80", "")],
        );
        check(displaced, known(), &[(K::Address, "", "10.0.0.7:80")]);
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!("".parse::<EventKind>(), Err(UnknownKind));
    }

    #[test]
    fn labels_are_words_in_lower_case() {
        for (text, label) in [("Rack-7", "rack-7"), ("été/2.A_b", "été/2.a_b"), ("7", "7")] {
            assert_eq!(text.parse::<Label>().expect(text).as_str(), label);
        }
        for text in ["", &"x".repeat(33)] {
            assert!(
                matches!(text.parse::<Label>(), Err(LabelError::Length(_))),
                "{text}"
            );
        }
        for text in ["rack 7", "a:b", "a\"", "*", "a\u{202e}b", "\n"] {
            let error = text.parse::<Label>().expect_err(text);
            assert!(matches!(error, LabelError::Character(_)), "{text}");
            assert!(!error.to_string().contains('\u{202e}'));
        }
    }
}
