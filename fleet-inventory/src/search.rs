//! The search text of the list of devices. [`Search`] parses `model:S19 site:barn seen:<1d 02*` into typed terms; storage
//! converts them to a query.

use std::{net::IpAddr, str::FromStr, time::Duration};

use fleet_core::{PairingStatus, Port, parse_literal};

/// The longest search text, in characters.
const TEXT: usize = 512;
/// The most terms of a search.
const TERMS: usize = 16;

/// A parsed search. Terms of one field are alternatives; a device must match every field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Words without a field, all of which must occur in some text of the device.
    pub words: Vec<Pattern>,
    /// The texts that a device must have, by field.
    pub texts: Vec<(TextField, Vec<Pattern>)>,
    /// The address ranges, of which one must contain the device.
    pub networks: Vec<Network>,
    /// The ports.
    pub ports: Vec<Port>,
    /// The pairing states.
    pub pairing: Vec<PairingStatus>,
    /// The limits on times.
    pub times: Vec<(TimeField, Age)>,
    /// Whether the devices are missing: a scan found their address silent or refused after their last report.
    pub missing: Option<bool>,
}

/// A field of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TextField {
    /// The model.
    Model,
    /// The make.
    Make,
    /// The firmware version.
    Firmware,
    /// The hardware address.
    Mac,
    /// The serial number.
    Serial,
    /// The identifier.
    Identifier,
    /// The name of the node that found the device.
    Node,
    /// The name of that node's site.
    Site,
    /// A label of operators.
    Label,
}

/// A time of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeField {
    /// Its last report.
    Seen,
    /// Its first report.
    First,
}

/// A limit on how long ago something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Less than this time ago.
    Less(Duration),
    /// More than this time ago.
    More(Duration),
    /// On the current day of UTC.
    Today,
}

/// A text to find, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The text occurs anywhere.
    Contains(String),
    /// The parts between `*` occur in this order, and the first and the last one at the ends.
    Parts(Vec<String>),
}

/// Addresses: a prefix of octets, one address, or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The first address.
    pub first: IpAddr,
    /// The last address.
    pub last: IpAddr,
}

/// Why a search text is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// The field does not exist.
    #[error("`{term}`: there is no field `{field}`; use {FIELDS}")]
    UnknownField {
        /// The term.
        term: String,
        /// The field.
        field: String,
    },
    /// The value does not fit its field.
    #[error("`{term}`: {expected}")]
    Value {
        /// The term.
        term: String,
        /// The accepted form.
        expected: &'static str,
    },
    /// A quotation mark has no end.
    #[error("`{0}`: a quotation mark has no end")]
    Quote(String),
    /// The text is too long.
    #[error("the search has more than {TEXT} characters: leave out some terms")]
    Length,
    /// There are too many terms.
    #[error("the search has more than {TERMS} terms: leave out some of them")]
    Terms,
}

/// The fields, for the error.
const FIELDS: &str = "model, make, firmware, mac, serial, id, label, node, site, ip, port, pairing, missing, seen or first";

const TEXTS: [(&str, TextField); 9] = [
    ("label", TextField::Label),
    ("model", TextField::Model),
    ("make", TextField::Make),
    ("firmware", TextField::Firmware),
    ("mac", TextField::Mac),
    ("serial", TextField::Serial),
    ("id", TextField::Identifier),
    ("node", TextField::Node),
    ("site", TextField::Site),
];

/// The words for pairing states.
const PAIRING: [(&str, PairingStatus); 7] = [
    ("unpaired", PairingStatus::Unpaired),
    ("paired", PairingStatus::Paired),
    ("default-password", PairingStatus::DefaultPassword),
    ("open", PairingStatus::Open),
    ("password", PairingStatus::AuthenticationNeeded),
    ("pending", PairingStatus::Pending),
    ("failed", PairingStatus::Failed),
];

impl FromStr for Search {
    type Err = SearchError;

    fn from_str(text: &str) -> Result<Self, SearchError> {
        if text.chars().count() > TEXT {
            return Err(SearchError::Length);
        }
        let terms = split(text)?;
        if terms.len() > TERMS {
            return Err(SearchError::Terms);
        }
        let mut search = Self::default();
        for term in terms {
            search.add(&term)?;
        }
        Ok(search)
    }
}

impl Search {
    /// Whether every device matches.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, term: &str) -> Result<(), SearchError> {
        let Some((field, value)) = field_of(term) else {
            self.words.push(Pattern::new(term));
            return Ok(());
        };
        let invalid = |expected| SearchError::Value {
            term: shown(term),
            expected,
        };
        let field = field.to_ascii_lowercase();
        if value.is_empty() {
            return Err(invalid("write a value after the colon"));
        }
        if let Some((_, text)) = TEXTS.iter().find(|(name, _)| *name == field) {
            let pattern = Pattern::new(value);
            match self.texts.iter_mut().find(|(known, _)| known == text) {
                Some((_, patterns)) => patterns.push(pattern),
                None => self.texts.push((*text, vec![pattern])),
            }
            return Ok(());
        }
        match field.as_str() {
            "ip" => self.networks.push(network(value).ok_or_else(|| {
                invalid(
                    "write an address, an IPv4 network such as 10.0.0.0/24, or a prefix such as 10.0.*",
                )
            })?),
            "port" => self.ports.push(
                value
                    .parse()
                    .map_err(|_| invalid("write a port from 1 to 65535"))?,
            ),
            "pairing" => {
                let value = value.to_ascii_lowercase();
                let known = PAIRING.iter().find(|(name, _)| *name == value);
                let (_, status) = known.ok_or_else(|| {
                    invalid("use unpaired, paired, default-password, open, password, pending or failed")
                })?;
                self.pairing.push(*status);
            }
            "seen" | "first" => {
                let time = if field == "seen" {
                    TimeField::Seen
                } else {
                    TimeField::First
                };
                let age = age(value).ok_or_else(|| {
                    invalid(
                        "write an age such as <30m, <1d or >2w, in units of m, h, d or w, or today",
                    )
                })?;
                self.times.push((time, age));
            }
            "missing" => {
                self.missing = Some(match value.to_ascii_lowercase().as_str() {
                    "yes" => true,
                    "no" => false,
                    _ => return Err(invalid("use yes or no")),
                });
            }
            _ => {
                return Err(SearchError::UnknownField {
                    term: shown(term),
                    field: shown(&field),
                });
            }
        }
        Ok(())
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let text = text.to_lowercase();
        if text.contains('*') {
            Self::Parts(text.split('*').map(str::to_owned).collect())
        } else {
            Self::Contains(text)
        }
    }

    /// Whether a text matches, in any case of its letters.
    pub fn matches(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let parts = match self {
            Self::Contains(part) => return text.contains(part.as_str()),
            Self::Parts(parts) => parts,
        };
        let [first, middle @ .., last] = parts.as_slice() else {
            return parts.first().is_some_and(|part| *part == text);
        };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else {
            return false;
        };
        for part in middle {
            match rest.find(part.as_str()) {
                Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }
}

/// Splits at white space outside of quotation marks, which are removed.
fn split(text: &str) -> Result<Vec<String>, SearchError> {
    let mut terms = Vec::new();
    let mut term = String::new();
    let mut is_open = false;
    let mut is_term = false;
    for c in text.chars() {
        match c {
            '"' => {
                is_open = !is_open;
                is_term = true;
            }
            c if c.is_whitespace() && !is_open => {
                if is_term {
                    terms.push(std::mem::take(&mut term));
                }
                is_term = false;
            }
            c => {
                term.push(c);
                is_term = true;
            }
        }
    }
    if is_open {
        return Err(SearchError::Quote(shown(&term)));
    }
    if is_term {
        terms.push(term);
    }
    terms.retain(|term| !term.is_empty());
    Ok(terms)
}

/// The field of a term. A MAC or an IPv6 address without a field has colons too; its first part is no word.
fn field_of(term: &str) -> Option<(&str, &str)> {
    let (field, value) = term.split_once(':')?;
    let is_mac_part = field.len() == 2 && field.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_word = !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_alphabetic());
    (is_word && !is_mac_part && parse_literal(term).is_none()).then_some((field, value))
}

fn network(text: &str) -> Option<Network> {
    if let Some(ip) = parse_literal(text) {
        return Some(Network {
            first: ip,
            last: ip,
        });
    }
    if let Some((ip, length)) = text.split_once('/') {
        return of_length(parse_literal(ip)?, length.parse().ok()?);
    }
    // A prefix of whole octets.
    let octets = text.strip_suffix('*')?.strip_suffix('.')?;
    let count = octets.split('.').count();
    let missing = 4_usize.checked_sub(count).filter(|missing| *missing > 0)?;
    let filled = format!("{octets}{}", ".0".repeat(missing));
    let count = u32::try_from(count).ok()?;
    of_length(parse_literal(&filled)?, 8 * count)
}

fn of_length(ip: IpAddr, length: u32) -> Option<Network> {
    match ip {
        IpAddr::V4(ip) => {
            let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
            (length <= 32).then(|| Network {
                first: IpAddr::V4((ip.to_bits() & !hosts).into()),
                last: IpAddr::V4((ip.to_bits() | hosts).into()),
            })
        }
        // The text of an IPv6 address has no prefix in common with its network.
        IpAddr::V6(ip) => (length == 128).then_some(Network {
            first: ip.into(),
            last: ip.into(),
        }),
    }
}

fn age(text: &str) -> Option<Age> {
    if text.eq_ignore_ascii_case("today") {
        return Some(Age::Today);
    }
    let (limit, text): (fn(Duration) -> Age, &str) = match text.strip_prefix('<') {
        Some(rest) => (Age::Less, rest),
        None => (Age::More, text.strip_prefix('>')?),
    };
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    // Ten years are enough, and no time overflows.
    let age = number
        .checked_mul(seconds)
        .filter(|age| *age <= 10 * 366 * 86_400)?;
    Some(limit(Duration::from_secs(age)))
}

fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
