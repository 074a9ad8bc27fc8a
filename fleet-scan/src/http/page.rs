//! Which page names which make, and what is told of a page that names none. Pure.

use fleet_core::DeviceFacts;

use super::response::Response;
use crate::text;

/// How much of a page is looked at, in bytes: what names a make stands in its head.
const LOOKED_AT: usize = 32 * 1024;

/// What a root page is, and so what to ask next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// It names its make; nothing more is told without a login.
    Named(Make),
    /// A Bitaxe's; its API tells more.
    AxeOs,
    /// A page that may belong to anything that has an API.
    Shell,
    /// An error, a redirect or a login.
    Other,
}

/// Makes that a page alone can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    Antminer,
    Braiins,
    LuxOs,
    Vnish,
    Epic,
    Avalon,
    SealMiner,
}

/// Words in a page that name its make.
const WORDS: [(&str, Page); 8] = [
    ("Braiins OS", Page::Named(Make::Braiins)),
    ("Luxor Firmware", Page::Named(Make::LuxOs)),
    ("AnthillOS", Page::Named(Make::Vnish)),
    ("Miner Web Dashboard", Page::Named(Make::Epic)),
    ("amazeui", Page::Named(Make::SealMiner)),
    ("AxeOS", Page::AxeOs),
    ("AxeOs", Page::AxeOs),
    ("Avalon", Page::Named(Make::Avalon)),
];

impl Page {
    pub(super) fn of(response: &Response) -> Self {
        let mut realms = response.header("www-authenticate").filter_map(realm);
        if response.status == 401 && realms.any(|realm| realm.starts_with("antMiner")) {
            return Self::Named(Make::Antminer);
        }
        if !(200..300).contains(&response.status) {
            return Self::Other;
        }
        let body = looked_at(response);
        WORDS
            .iter()
            .find(|(word, _)| body.contains(word))
            .map_or(Self::Shell, |(_, page)| *page)
    }
}

impl Make {
    /// What the page says; the evidence is added by the caller.
    pub(super) fn identification(self) -> DeviceFacts {
        let (manufacturer, firmware) = match self {
            Self::Antminer => ("Bitmain", ""),
            Self::Braiins => ("Braiins", "Braiins OS"),
            Self::LuxOs => ("Luxor", "LuxOS"),
            Self::Vnish => ("VNish", "VNish"),
            Self::Epic => ("ePIC", ""),
            Self::Avalon => ("Canaan", ""),
            Self::SealMiner => ("Bitdeer", ""),
        };
        DeviceFacts {
            driver: "asicrs".to_owned(),
            manufacturer: manufacturer.to_owned(),
            firmware: firmware.to_owned(),
            ..DeviceFacts::default()
        }
    }
}

/// Status, server, realm and title, escaped: what an operator needs to tell what it is.
pub(super) fn words(response: &Response) -> String {
    let mut words = format!("HTTP {}", response.status);
    let body = looked_at(response);
    let named = [
        (
            "server",
            response.header("server").next().map(str::to_owned),
        ),
        ("realm", response.header("www-authenticate").find_map(realm)),
        (
            "redirects to",
            response.header("location").next().map(kind_of_location),
        ),
        ("title", title(&body).map(str::to_owned)),
    ];
    for (name, value) in named {
        if let Some(value) = value
            .map(|value| text::field(&value))
            .filter(|value| !value.is_empty())
        {
            words.push_str(&format!(", {name} {value}"));
        }
    }
    text::quotable(words.as_bytes(), text::EVIDENCE)
}

/// Without the address, so that many devices' words are alike.
fn kind_of_location(location: &str) -> String {
    match location.split_once("://") {
        Some((scheme, _)) => scheme.to_owned(),
        None => location.to_owned(),
    }
}

/// The realm of a challenge; the rest of it is different every time.
fn realm(challenge: &str) -> Option<String> {
    // ASCII lower case keeps every byte's place.
    let start = challenge.to_ascii_lowercase().find("realm=")? + "realm=".len();
    let rest = &challenge[start..];
    let realm = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split([',', ' ']).next(),
    };
    realm.map(str::to_owned)
}

fn looked_at(response: &Response) -> String {
    String::from_utf8_lossy(&response.body[..response.body.len().min(LOOKED_AT)]).into_owned()
}

/// The text of the first title element.
fn title(body: &str) -> Option<&str> {
    // ASCII lower case keeps every byte's place.
    let lower = body.to_ascii_lowercase();
    let start = lower.find("<title")?;
    let start = start + lower[start..].find('>')? + 1;
    let end = start
        + lower[start..]
            .find("</title")
            .unwrap_or(lower.len() - start);
    Some(body[start..end].trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::response, *};

    fn page(head: &str, body: &str) -> Response {
        let text = format!(
            "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        response::parse(text.as_bytes()).expect("a response")
    }

    #[test]
    fn pages_name_their_make() {
        for (head, body, expected) in [
            (
                "401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"antMiner Configuration\", nonce=\"1\"",
                "",
                Page::Named(Make::Antminer),
            ),
            (
                "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"router\"",
                "antMiner",
                Page::Other,
            ),
            (
                "200 OK",
                "<title>Braiins OS</title>",
                Page::Named(Make::Braiins),
            ),
            (
                "200 OK",
                "<TITLE>Luxor Firmware</TITLE>",
                Page::Named(Make::LuxOs),
            ),
            (
                "200 OK",
                "<title>AnthillOS</title>",
                Page::Named(Make::Vnish),
            ),
            (
                "200 OK",
                "<title>Miner Web Dashboard</title>",
                Page::Named(Make::Epic),
            ),
            (
                "200 OK",
                "<title>Avalon Device</title>",
                Page::Named(Make::Avalon),
            ),
            (
                "200 OK",
                "<link href=/assets/amazeui.min.css>",
                Page::Named(Make::SealMiner),
            ),
            ("200 OK", "<title>AxeOS</title>", Page::AxeOs),
            ("200 OK", "<title>AxeOs</title>", Page::AxeOs),
            ("200 OK", "<title>Nerd*axe Dashboard</title>", Page::Shell),
            ("200 OK", "<p>fonts by Nerd Fonts</p>", Page::Shell),
            (
                "200 OK",
                "<meta content=\"0; URL=/cgi-bin/luci/\">",
                Page::Shell,
            ),
            (
                "307 Temporary Redirect\r\nLocation: https://x/",
                "AxeOS",
                Page::Other,
            ),
            ("500 Oops", "AxeOS", Page::Other),
        ] {
            assert_eq!(Page::of(&page(head, body)), expected, "{head} {body}");
        }
    }

    #[test]
    fn words_tell_what_an_operator_recognizes() {
        let response = page(
            "200 OK\r\nServer: HP HTTP Server",
            "<html><title lang=en>\n LaserJet </title>",
        );
        assert_eq!(
            words(&response),
            "HTTP 200, server HP HTTP Server, title LaserJet"
        );
        assert_eq!(words(&page("404 Not Found", "")), "HTTP 404");
        assert_eq!(
            words(&page(
                "401 No\r\nWWW-Authenticate: Digest realm=\"door\", nonce=\"1\"",
                ""
            )),
            "HTTP 401, realm door"
        );
        assert_eq!(
            words(&page("307 X\r\nLocation: https://10.0.0.7/", "")),
            "HTTP 307, redirects to https"
        );
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("http-page"))]

        #[test]
        fn no_page_panics_and_words_are_bounded(body in "(<title>?)?\\PC{0,900}(</title>)?", server in "[ -~]{0,900}") {
            let response = page(&format!("200 OK\r\nServer: {server}"), &body);
            let _ = Page::of(&response);
            prop_assert!(words(&response).chars().count() <= text::EVIDENCE);
        }
    }
}
