//! Stores a device's answer to each request, and selects values from answers. Pure.

use std::{borrow::Cow, collections::BTreeMap, sync::OnceLock};

use serde_json::Value;

use super::request::Request;
use crate::{http::Response, json, text};

/// The searched prefix of a page, in bytes. Signatures are in the page's head.
const READ: usize = 32 * 1024;

/// The answers of a device by request. The order is fixed, so evidence does not depend on timing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Answers {
    by_request: BTreeMap<Request, Option<Answered>>,
}

impl Answers {
    pub(crate) fn insert(&mut self, request: Request, answer: Answered) {
        self.by_request.insert(request, Some(answer));
    }

    /// Adds the attributes of the service that the host announced, as the answer to `mdns txt`.
    pub(crate) fn insert_attributes(&mut self, attributes: &BTreeMap<String, String>) {
        if attributes.is_empty() {
            return;
        }
        let pairs = attributes
            .iter()
            .map(|(key, value)| (key.clone(), Value::from(value.as_str())));
        let answer = Answered::json(Value::Object(pairs.collect()));
        self.insert(Request::mdns(), answer);
    }

    /// Records a request that got no readable answer.
    pub(crate) fn insert_nothing(&mut self, request: Request) {
        self.by_request.insert(request, None);
    }

    pub(crate) fn get(&self, request: &Request) -> Option<&Answered> {
        self.by_request.get(request)?.as_ref()
    }

    pub(crate) fn was_sent(&self, request: &Request) -> bool {
        self.by_request.contains_key(request)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Request, Option<&Answered>)> {
        self.by_request
            .iter()
            .map(|(request, answer)| (request, answer.as_ref()))
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    json: Option<Value>,
    text: String,
    lower: OnceLock<String>,
    page: Option<Response>,
    /// The redirect response that led to this page.
    redirect: Option<Response>,
}

impl Answered {
    /// An answer that is pure JSON.
    pub(crate) fn json(value: Value) -> Self {
        Self {
            lower: OnceLock::new(),
            text: value.to_string(),
            json: Some(value),
            page: None,
            redirect: None,
        }
    }

    /// A response of a web server. Only pages and login forms keep their body, because other error pages and redirects
    /// repeat the request.
    pub(crate) fn page(response: Response) -> Self {
        let is_success = (200..300).contains(&response.status);
        // LuCI serves its login page with status 403. Other servers use 401.
        let is_page = is_success || matches!(response.status, 401 | 403);
        let body = if is_page {
            &response.body[..response.body.len().min(READ)]
        } else {
            &[][..]
        };
        let json = if is_success {
            json_of(&response.body)
        } else {
            None
        };
        Self {
            json,
            lower: OnceLock::new(),
            text: String::from_utf8_lossy(body).into_owned(),
            page: Some(response),
            redirect: None,
        }
    }

    /// A page that was reached by a redirect or refresh of the first one.
    pub(crate) fn redirected(first: Response, second: Response) -> Self {
        let first = Self::page(first);
        let mut page = Self::page(second);
        page.text.push_str(&first.text);
        Self {
            redirect: first.page,
            ..page
        }
    }

    pub(crate) fn value(&self) -> Option<&Value> {
        self.json.as_ref()
    }

    /// The whole text in lower case.
    pub(crate) fn lower_text(&self) -> &str {
        self.lower.get_or_init(|| self.text.to_ascii_lowercase())
    }

    pub(crate) fn response(&self) -> Option<&Response> {
        self.page.as_ref()
    }

    /// Whether the selector finds any value, including lists and objects.
    pub(crate) fn has(&self, selector: &Selector) -> bool {
        if let Selector::Pointer(segments) = selector {
            self.at(segments).is_some_and(|value| !value.is_null())
        } else {
            self.select(selector).is_some()
        }
    }

    /// The text that a selector finds: one line, not empty, at most [`text::FIELD`] characters. The whole text of an
    /// answer is not truncated.
    pub(crate) fn select(&self, selector: &Selector) -> Option<Cow<'_, str>> {
        let response = self.page.as_ref();
        let found = match selector {
            Selector::Text => return (!self.text.is_empty()).then_some(Cow::Borrowed(&self.text)),
            Selector::Pointer(segments) => match self.at(segments)? {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(value) => value.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => return None,
            },
            Selector::Status => response?.status.to_string(),
            Selector::Redirect => {
                let redirect = self.redirect.as_ref().or(response)?;
                format!(
                    "{} {}",
                    redirect.status,
                    redirect.header("location").next()?
                )
            }
            Selector::Title => title(&self.text)?.to_owned(),
            Selector::Meta(name) => meta(&self.text, name)?,
            Selector::Realm => response?.header("www-authenticate").find_map(realm)?,
            Selector::Header(name) => response?.header(name).next()?.to_owned(),
        };
        let found = text::field(&found);
        (!found.is_empty()).then_some(Cow::Owned(found))
    }

    fn at(&self, segments: &[String]) -> Option<&Value> {
        let mut value = self.json.as_ref()?;
        for segment in segments {
            value = match value {
                Value::Array(list) => list.get(segment.parse::<usize>().ok()?)?,
                Value::Object(map) => match segment.strip_suffix('*') {
                    Some(start) => {
                        let start = start.to_ascii_lowercase();
                        map.iter()
                            .find(|(key, _)| key.to_ascii_lowercase().starts_with(&start))?
                            .1
                    }
                    // Some firmware writes a section as an object instead of a list with one.
                    None if segment == "0" => json::member(map, segment).unwrap_or(value),
                    None => json::member(map, segment)?,
                },
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
            };
        }
        Some(value)
    }
}

/// The location of a value in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selector {
    /// The whole answer: compact JSON, or the body of a page.
    Text,
    /// A path into JSON, such as `/VERSION/0/Type`. Keys match in any case, the exact one first. A segment that ends in
    /// `*` selects the first key with that prefix.
    Pointer(Vec<String>),
    /// The text of the title element.
    Title,
    /// The content of a meta element, by its name.
    Meta(String),
    /// The realm of an authentication challenge.
    Realm,
    /// The status of a response.
    Status,
    /// Status and target of the redirect: `308 /overview`. It is either this response or the response that led to the
    /// page.
    Redirect,
    /// A header, by its lower-case name.
    Header(String),
}

impl Selector {
    /// # Errors
    /// Why the text is not a valid selector.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix('/') {
            return Ok(Self::Pointer(path.split('/').map(str::to_owned).collect()));
        }
        Ok(match text.split_once(' ') {
            None if text == "text" => Self::Text,
            None if text == "title" => Self::Title,
            None if text == "realm" => Self::Realm,
            None if text == "status" => Self::Status,
            None if text == "redirect" => Self::Redirect,
            Some(("meta", name)) => Self::Meta(name.to_owned()),
            Some(("header", name)) => Self::Header(name.to_ascii_lowercase()),
            _ => {
                return Err(format!(
                    "`{text}` selects nothing; write a path (/VERSION/0/Type), `text`, `title`, `realm`, `status`, \
                     `redirect`, `meta NAME` or `header NAME`"
                ));
            }
        })
    }
}

/// The JSON of a body, which may be the argument of a call (`minerinfoCallback({..});`).
fn json_of(body: &[u8]) -> Option<Value> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let body = body.trim_ascii_start();
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$');
    let name = body
        .iter()
        .take(64)
        .take_while(|byte| is_name(byte))
        .count();
    let json = match body.get(name) {
        Some(b'(') if name > 0 => body[name + 1..].trim_ascii_start(),
        Some(_) | None => body,
    };
    if !matches!(json.first(), Some(b'{' | b'[')) {
        return None;
    }
    serde_json::from_slice(json)
        .ok()
        .or_else(|| json::parse(json))
}

/// The realm of a challenge. The other parameters differ in every challenge.
pub(crate) fn realm(challenge: &str) -> Option<String> {
    // ASCII lowercasing preserves byte positions.
    let start = challenge.to_ascii_lowercase().find("realm=")? + "realm=".len();
    let rest = &challenge[start..];
    let realm = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split([',', ' ']).next(),
    };
    realm.map(str::to_owned)
}

/// The text of the first title element.
pub(crate) fn title(page: &str) -> Option<&str> {
    let lower = page.to_ascii_lowercase();
    let start = lower.find("<title")?;
    let start = start + lower[start..].find('>')? + 1;
    let end = lower[start..]
        .find("</title")
        .map_or(lower.len(), |length| start + length);
    Some(page[start..end].trim())
}

/// The content of the first meta element with this name.
fn meta(page: &str, name: &str) -> Option<String> {
    let lower = page.to_ascii_lowercase();
    let mut from = 0;
    while let Some(found) = lower[from..].find("<meta") {
        let start = from + found;
        let end = lower[start..]
            .find('>')
            .map_or(lower.len(), |length| start + length);
        let element = &page[start..end];
        if attribute(element, "name").is_some_and(|value| value.eq_ignore_ascii_case(name)) {
            return attribute(element, "content").map(str::to_owned);
        }
        from = end;
    }
    None
}

fn attribute<'e>(element: &'e str, name: &str) -> Option<&'e str> {
    let lower = element.to_ascii_lowercase();
    let start = lower.find(&format!("{name}="))? + name.len() + 1;
    let rest = &element[start..];
    match rest.chars().next()? {
        quote @ ('"' | '\'') => rest[1..].split(quote).next(),
        _ => rest.split([' ', '>']).next(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::response;

    fn page(head: &str, body: &str) -> Answered {
        let text = format!(
            "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Answered::page(response::parse(text.as_bytes()).expect("a response"))
    }

    fn select(answer: &Answered, selector: &str) -> Option<String> {
        answer
            .select(&Selector::parse(selector).expect("a selector"))
            .map(Cow::into_owned)
    }

    #[test]
    fn values_of_json_are_selected_by_path_and_by_the_start_of_a_key() {
        let answer = Answered::json(json!({"VERSION": [{"BOSer": "1", "n": 2, "list": []}]}));
        for (selector, expected) in [
            ("/VERSION/0/BOSer", Some("1")),
            ("/VERSION/0/bos*", Some("1")),
            ("/VERSION/0/n", Some("2")),
            ("/version/0/boser", Some("1")),
            ("/VERSION/0/list", None),
            ("/VERSION/1/BOSer", None),
            ("/VERSION/0/BOSer/deeper", None),
            ("title", None),
        ] {
            assert_eq!(select(&answer, selector).as_deref(), expected, "{selector}");
        }
        assert!(answer.has(&Selector::parse("/VERSION/0/list").expect("a selector")));
        assert!(!answer.has(&Selector::parse("/STATS").expect("a selector")));
        let object =
            Answered::json(json!({"VERSION": {"Type": "Antminer S9"}, "list": {"0": "a"}}));
        for (selector, expected) in [
            ("/VERSION/0/Type", Some("Antminer S9")),
            ("/VERSION/1/Type", None),
            ("/list/0", Some("a")),
        ] {
            assert_eq!(select(&object, selector).as_deref(), expected, "{selector}");
        }
    }

    #[test]
    fn json_as_the_argument_of_a_call_is_read() {
        let answer = page(
            "200 OK",
            "minerinfoCallback({\"mac\":\"b4:a2:eb:31:2f:7c\", });",
        );
        assert_eq!(
            select(&answer, "/mac").as_deref(),
            Some("b4:a2:eb:31:2f:7c")
        );
        let marked = page("200 OK", "\u{feff}{\"mac\":\"b4:a2:eb:31:2f:7c\"}");
        assert!(marked.value().is_some(), "a byte order mark is no text");
        for body in [
            "(function(){\"mac\"})()",
            "call(\"mac\")",
            "<p>f({\"mac\":1})</p>",
        ] {
            assert!(page("200 OK", body).value().is_none(), "{body}");
        }
    }

    #[test]
    fn parts_of_a_page_are_selected_by_name() {
        let answer = page(
            "200 OK\r\nServer: nginx",
            "<head><META name=\"firmware\" content='AnthillOS'><title lang=en>\n Mini\u{1}ng </title>",
        );
        for (selector, expected) in [
            ("title", Some("Mini ng")),
            ("meta firmware", Some("AnthillOS")),
            ("meta other", None),
            ("header Server", Some("nginx")),
            ("status", Some("200")),
            ("realm", None),
        ] {
            assert_eq!(select(&answer, selector).as_deref(), expected, "{selector}");
        }
        let refused = page(
            "401 No\r\nWWW-Authenticate: Digest nonce=\"1\", realm=\"antMiner\"",
            "<title>x</title>",
        );
        assert_eq!(select(&refused, "realm").as_deref(), Some("antMiner"));
        let failed = page("500 Oops", "<title>AxeOS</title>");
        assert_eq!(
            select(&failed, "title"),
            None,
            "an error page is not a signature"
        );
        assert!(Selector::parse("body").is_err());
    }
}
