//! Requests that rules can name: read-only by their grammar. Pure.

use std::{fmt, str::FromStr};

/// A protocol that rules can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    /// The CGMiner API.
    Cgminer,
    /// HTTP, with and without TLS.
    Http,
    /// ePIC's HTTP API at the port of the CGMiner API.
    Epic,
    /// Whatsminer API 3.
    Whatsminer,
    /// The attributes of a service that the host announced by multicast DNS. They are facts beside other answers, and
    /// identify no device alone: any host can announce them for another.
    Mdns,
}

impl Protocol {
    pub(crate) const ALL: [Self; 5] = [
        Self::Cgminer,
        Self::Http,
        Self::Epic,
        Self::Whatsminer,
        Self::Mdns,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cgminer => "cgminer",
            Self::Http => "http",
            Self::Epic => "epic",
            Self::Whatsminer => "whatsminer",
            Self::Mdns => "mdns",
        }
    }

    /// Its name in the table of makes.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Cgminer => "CGMiner API",
            Self::Http => "HTTP",
            Self::Epic => "ePIC API",
            Self::Whatsminer => "Whatsminer API 3",
            Self::Mdns => "mDNS",
        }
    }

    /// The requests to send first, because most devices answer them.
    fn preferred(self) -> &'static [&'static str] {
        match self {
            Self::Cgminer => &["version", "devdetails", "stats", "get_version"],
            Self::Http => &[
                "/",
                "/api/v1/pairing/info",
                "/api/system/info",
                "/mcb/status",
            ],
            Self::Epic => &["/summary"],
            Self::Whatsminer => &["get.device.info"],
            Self::Mdns => &[ATTRIBUTES],
        }
    }
}

/// The request of [`Protocol::Mdns`], which is never sent.
const ATTRIBUTES: &str = "txt";

/// Read-only commands of the CGMiner API. The scanner sends no others, even if a rule file contains them.
const CGMINER_READS: [&str; 13] = [
    "version",
    "devdetails",
    "stats",
    "estats",
    "litestats",
    "summary",
    "status",
    "config",
    "coin",
    "devs",
    "get_version",
    "get_miner_info",
    "check",
];

/// Parts of paths where a GET changes the state of some makes (`reboot.cgi`, `reset_conf.cgi`, `/lock/others`).
const CHANGING_PATHS: [&str; 14] = [
    "reboot", "reset", "restart", "set_", "/set", "upgrade", "update", "delete", "lock", "logout",
    "login", "blink", "factory", "shutdown",
];

/// A read-only request, as written in rule files: `cgminer version`, `http /api/system/info`, `http POST /graphql
/// {"query":"{ .. }"}`, `epic /summary`, `whatsminer get.device.info`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Request {
    pub(crate) protocol: Protocol,
    /// A command, a path, or `POST` with a path and a body.
    pub(crate) text: String,
}

impl Request {
    /// The attributes of an announced service.
    pub(super) fn mdns() -> Self {
        Self {
            protocol: Protocol::Mdns,
            text: ATTRIBUTES.to_owned(),
        }
    }

    /// The position among the protocol's preferred requests. All other requests come later.
    pub(super) fn preference(&self) -> usize {
        let preferred = self.protocol.preferred();
        preferred
            .iter()
            .position(|text| *text == self.text)
            .unwrap_or(preferred.len())
    }

    /// Whether the request has a body: a GraphQL query or a form.
    pub(crate) fn is_post(&self) -> bool {
        self.text.starts_with("POST ")
    }
}

impl FromStr for Request {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "`{written}` is no request; write `cgminer COMMAND`, `http /PATH`, `http POST /PATH QUERY`, \
                 `epic /PATH`, `whatsminer COMMAND` or `mdns txt`"
            )
        };
        let (protocol, text) = written.split_once(' ').ok_or_else(unknown)?;
        let protocol = Protocol::ALL
            .into_iter()
            .find(|one| one.name() == protocol)
            .ok_or_else(unknown)?;
        let printable = text.len() <= 512 && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let is_read = printable
            && match protocol {
                Protocol::Cgminer => CGMINER_READS.contains(&text),
                Protocol::Http | Protocol::Epic => match text.strip_prefix("POST ") {
                    Some(post) => is_query(post),
                    None => is_read_path(text),
                },
                Protocol::Whatsminer => text
                    .strip_prefix("get.")
                    .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'.')),
                Protocol::Mdns => text == ATTRIBUTES,
            };
        if is_read {
            Ok(Self {
                protocol,
                text: text.to_owned(),
            })
        } else {
            Err(format!(
                "`{written}` is not known to only read; requests of rules change nothing"
            ))
        }
    }
}

pub(super) fn is_read_path(path: &str) -> bool {
    // Goldshell shows its settings at `/mcb/setting`, which is a noun.
    let lower = path.to_ascii_lowercase().replace("/setting", "/");
    path.starts_with('/')
        && !path.contains(' ')
        && !CHANGING_PATHS.iter().any(|part| lower.contains(part))
}

/// Forms that read, as their path and body. Each is known by its published answer.
const READ_FORMS: [(&str, &str); 1] = [
    // IceRiver's panel, which its page reads before a login (nguyenvinhlinh, "API sample to get operational stage").
    ("/user/userpanel", "post=4"),
];

/// Whether a POST only reads: a known form, or a GraphQL query, which is read-only by its specification.
pub(super) fn is_query(post: &str) -> bool {
    let Some((path, body)) = post.split_once(' ') else {
        return false;
    };
    if READ_FORMS.contains(&(path, body)) {
        return true;
    }
    let query = serde_json::from_str::<serde_json::Value>(body).ok();
    let query = query.as_ref().and_then(|body| body.get("query")?.as_str());
    matches!(path, "/graphql" | "/api/graphql") && query.is_some_and(|query| query.starts_with('{'))
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol.name(), self.text)
    }
}
