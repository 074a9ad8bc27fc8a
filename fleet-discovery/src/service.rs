//! DNS-SD service types (RFC 6763) and the other parameters of an mDNS scan. All of them are parsed from external
//! text.

use std::{fmt, str::FromStr, time::Duration};

use fleet_core::limits;

use crate::shown::shown;

/// Maximum length of a service name, in letters, digits and hyphens (RFC 6335, 5.1).
const NAME: usize = 15;
/// The default type. Devices that serve a web page announce it, as AxeOS does.
const DEFAULT: &str = "_http._tcp";

/// The word that stands for the announcements of IP report buttons, in place of a service type.
pub const IP_REPORTS: &str = "ip-reports";

/// Between a subtype and its type (RFC 6763, 7.1).
const SUBTYPE: &str = "._sub.";
/// Maximum length of a subtype: that of a DNS label.
const LABEL: usize = 63;

/// A service type in lower case, such as `_http._tcp`, or a subtype of it, such as `_axeos._sub._http._tcp`. Its domain
/// is always `local`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceType(String);

impl ServiceType {
    /// The type with its subtype, without its domain.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for the announcements of IP report buttons instead of a service.
    pub fn is_ip_reports(&self) -> bool {
        self.0 == IP_REPORTS
    }

    /// The type without its subtype, of which services are instances.
    pub fn base(&self) -> &str {
        self.0.split_once(SUBTYPE).map_or(&self.0, |(_, base)| base)
    }
}

impl Default for ServiceType {
    fn default() -> Self {
        Self(DEFAULT.to_owned())
    }
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The service for which an mDNS scan listens, and the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The requested service type.
    pub service: ServiceType,
    /// At least one second, at most [`limits::MDNS_LISTEN_MOST`] or, for IP reports, [`limits::REPORTS_LISTEN_MOST`].
    pub time: Duration,
}

impl Listening {
    /// Parses the parameters of an operator. The default type is `_http._tcp`, the default domain is `local`, and 0
    /// seconds stand for [`limits::MDNS_LISTEN`]. The word [`IP_REPORTS`] has limits of its own.
    ///
    /// # Errors
    ///
    /// [`ListeningError`] names the invalid value and an accepted one.
    pub fn read(
        service_type: &str,
        domain: &str,
        timeout_seconds: i32,
    ) -> Result<Self, ListeningError> {
        let service = if service_type.is_empty() {
            ServiceType::default()
        } else {
            service_type.parse()?
        };
        let domain_is_local = ["", "."].contains(&domain)
            || domain
                .strip_suffix('.')
                .unwrap_or(domain)
                .eq_ignore_ascii_case("local");
        if !domain_is_local {
            return Err(ListeningError::Domain(shown(domain)));
        }
        let (usual, most) = if service.is_ip_reports() {
            (limits::REPORTS_LISTEN, limits::REPORTS_LISTEN_MOST)
        } else {
            (limits::MDNS_LISTEN, limits::MDNS_LISTEN_MOST)
        };
        let time = match u64::try_from(timeout_seconds).map(Duration::from_secs) {
            Ok(Duration::ZERO) => usual,
            Ok(time) if time <= most => time,
            Ok(_) | Err(_) => {
                return Err(ListeningError::Timeout {
                    seconds: timeout_seconds,
                    most: most.as_secs(),
                    usual: usual.as_secs(),
                });
            }
        };
        Ok(Self { service, time })
    }

    /// Returns the time in seconds, the unit of the wire.
    pub fn seconds(&self) -> i32 {
        i32::try_from(self.time.as_secs()).unwrap_or(i32::MAX)
    }
}

/// Why the parameters of an mDNS scan are invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListeningError {
    /// The service type is invalid.
    #[error(transparent)]
    Service(#[from] InvalidServiceType),
    /// The domain is not `local`, the only one of multicast DNS.
    #[error(
        "the domain `{0}` cannot be listened for: multicast DNS exists only in `local`; leave the domain empty"
    )]
    Domain(String),
    /// The time is too long or negative.
    #[error("a node cannot listen for {seconds} seconds: name 1 to {most}, or 0 for {usual}")]
    Timeout {
        /// The requested time.
        seconds: i32,
        /// The longest time.
        most: u64,
        /// The default.
        usual: u64,
    },
}

/// A text that is not a service type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{input}` is not a type of services: {why}")]
pub struct InvalidServiceType {
    input: String,
    why: &'static str,
}

impl FromStr for ServiceType {
    type Err = InvalidServiceType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        // Tools print types with their domain and a final dot.
        let bare = lower.strip_suffix('.').unwrap_or(&lower);
        let bare = bare.strip_suffix(".local").unwrap_or(bare);
        match fault(bare) {
            _ if bare == IP_REPORTS => Ok(Self(bare.to_owned())),
            None => Ok(Self(bare.to_owned())),
            Some(why) => Err(InvalidServiceType {
                input: shown(text),
                why,
            }),
        }
    }
}

/// Returns why a text is not a service type, with the accepted form.
fn fault(text: &str) -> Option<&'static str> {
    let (subtype, base) = match text.split_once(SUBTYPE) {
        Some((subtype, base)) => (Some(subtype), base),
        None => (None, text),
    };
    let is_label = |text: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        (1..=LABEL).contains(&text.len()) && text.bytes().all(plain)
    };
    if subtype.is_some_and(|subtype| !is_label(subtype)) {
        return Some(
            "a subtype is one label of ASCII letters, digits, hyphens and underscores, as in _axeos._sub._http._tcp",
        );
    }
    let mut labels = base.split('.');
    let (Some(service), Some(protocol), None) = (labels.next(), labels.next(), labels.next())
    else {
        return Some(if text.ends_with("._dns-sd._udp") {
            "it asks which types there are, not where a service is: write one type, such as _http._tcp"
        } else {
            "write the name of a service and its protocol, such as _http._tcp"
        });
    };
    if !["_tcp", "_udp"].contains(&protocol) {
        return Some(
            "it ends in `._tcp`, or `._udp` for everything that is not TCP, such as _http._tcp",
        );
    }
    let Some(name) = service.strip_prefix('_') else {
        return Some("its name begins with an underscore, as in _http._tcp");
    };
    if name.is_empty() || name.len() > NAME {
        return Some("its name has 1 to 15 characters after the underscore, as in _http._tcp");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Some("its name may hold ASCII letters, digits and hyphens only, as in _http._tcp");
    }
    if !name.bytes().any(|b| b.is_ascii_alphabetic()) {
        return Some("its name has at least one letter, as in _http._tcp");
    }
    if name.starts_with('-') || name.ends_with('-') || name.contains("--") {
        return Some(
            "hyphens in its name stand alone and between other characters, as in _esp-web._tcp",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_in_every_form_that_people_write() {
        for (text, expected) in [
            ("_http._tcp", "_http._tcp"),
            ("_HTTP._TCP.", "_http._tcp"),
            ("_http._tcp.local", "_http._tcp"),
            ("_http._tcp.Local.", "_http._tcp"),
            ("_a._udp", "_a._udp"),
            ("_fifteen-chars-0._udp", "_fifteen-chars-0._udp"),
            ("_local._tcp", "_local._tcp"),
            ("_AxeOS._sub._http._tcp.local", "_axeos._sub._http._tcp"),
        ] {
            let read = text.parse::<ServiceType>().map(|read| read.to_string());
            assert_eq!(read, Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn services_are_instances_of_the_type_without_its_subtype() {
        for (text, base) in [
            ("_axeos._sub._http._tcp", "_http._tcp"),
            ("_http._tcp", "_http._tcp"),
        ] {
            let service: ServiceType = text.parse().expect(text);
            assert_eq!((service.as_str(), service.base()), (text, base));
        }
    }

    #[test]
    fn an_invalid_service_type_is_refused_with_a_hint() {
        for (text, hint) in [
            ("", "such as _http._tcp"),
            ("http", "such as _http._tcp"),
            ("_http", "such as _http._tcp"),
            ("http._tcp", "underscore"),
            ("_http.tcp", "._udp"),
            ("_http._sctp", "._udp"),
            ("_http._tcp.example.com", "such as _http._tcp"),
            ("_http._tcp..", "such as _http._tcp"),
            ("_http._tcp.local.local", "such as _http._tcp"),
            ("_._tcp", "1 to 15"),
            ("_sixteen-chars-00._tcp", "1 to 15"),
            ("_ht_tp._tcp", "hyphens only"),
            ("_ht tp._tcp", "hyphens only"),
            ("_ünter._tcp", "hyphens only"),
            ("_123._tcp", "one letter"),
            ("_-a._tcp", "between"),
            ("_a-._tcp", "between"),
            ("_a--b._tcp", "between"),
            ("._sub._http._tcp", "one label"),
            ("_a._b._sub._http._tcp", "one label"),
            ("_a b._sub._http._tcp", "one label"),
            ("_axeos._sub._http", "such as _http._tcp"),
            ("_axeos._sub._sub._http._tcp", "such as _http._tcp"),
            ("_services._dns-sd._udp", "one type"),
        ] {
            let error = text.parse::<ServiceType>().expect_err(text).to_string();
            assert!(error.contains(hint), "{error}");
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn omitted_fields_have_their_defaults() {
        let read = |domain, seconds| Listening::read("", domain, seconds);
        for domain in ["", ".", "local", "local.", "LOCAL"] {
            let listening = read(domain, 0).expect(domain);
            assert_eq!(listening.service.as_str(), "_http._tcp");
            assert_eq!(listening.seconds(), 5);
        }
        for seconds in [1, 60] {
            assert_eq!(read("", seconds).map(|read| read.seconds()), Ok(seconds));
        }
        for (domain, seconds, named) in [
            ("example.com", 0, "`example.com`"),
            ("locale", 0, "`locale`"),
            ("local..", 0, "`local..`"),
            ("", 61, "61 seconds"),
            ("", -1, "-1 seconds"),
        ] {
            let error = read(domain, seconds).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn ip_reports_are_a_word_with_longer_times() {
        let read = |seconds| Listening::read(IP_REPORTS, "", seconds);
        let usual = read(0).expect("the default");
        assert!(usual.service.is_ip_reports());
        assert_eq!(usual.time, limits::REPORTS_LISTEN);
        assert!(read(540).is_ok());
        let error = read(541).expect_err("too long").to_string();
        assert!(
            error.contains("541") && error.contains("1 to 540"),
            "{error}"
        );
        assert!(!ServiceType::default().is_ip_reports());
    }
}
