//! The CGMiner API (TCP 4028). Each command uses its own connection, because devices close after an answer. `json.rs`
//! tolerates defects of real firmware. `cgminer/plain.rs` reads the older text format.

mod plain;

use serde_json::Value;

use crate::{
    driver::DriverError,
    json,
    probe::{Ended, Probe},
    text,
};

/// The port of the API on every make.
pub(crate) const PORT: u16 = 4028;

/// The reply to a command.
#[derive(Debug)]
pub(crate) enum Reply {
    /// An answer of this API.
    Answer(Value),
    /// Possibly a broken answer of this API. Another command may succeed.
    Garbled,
    /// Bytes of another protocol.
    Foreign,
}

/// Sends one command.
///
/// # Errors
/// [`DriverError`] if no byte was received.
pub(crate) async fn send(probe: &mut Probe<'_>, command: &str) -> Result<Reply, DriverError> {
    let request = format!(r#"{{"command":"{command}"}}"#);
    let reply = probe.ask(request.as_bytes(), is_complete).await;
    probe.close();
    let reply = reply?;
    // A retry would only return another endless reply.
    if reply.ended == Ended::Full {
        return Ok(Reply::Foreign);
    }
    Ok(read(&reply.bytes))
}

fn read(bytes: &[u8]) -> Reply {
    let value = if plain::is_plain(bytes) {
        plain::parse(bytes)
    } else {
        json::parse(bytes)
    };
    if let Some(value) = value.filter(is_answer) {
        return Reply::Answer(value);
    }
    let first = bytes
        .iter()
        .find(|byte| !byte.is_ascii_whitespace() && **byte != 0);
    match first {
        None | Some(b'{' | b'[' | b'}' | b',' | b'"') => Reply::Garbled,
        Some(_) if plain::is_plain(bytes) => Reply::Garbled,
        Some(_) => Reply::Foreign,
    }
}

/// Whether an object has a status, or one of the sections of this API: some firmware sends no status.
fn is_answer(value: &Value) -> bool {
    let Some(reply) = value.as_object() else {
        return false;
    };
    let is_section = |name: &&str| {
        let section = json::member(reply, name).and_then(Value::as_array);
        section.is_some_and(|list| list.first().is_some_and(Value::is_object))
    };
    json::member(reply, "STATUS").is_some()
        || ["VERSION", "STATS", "DEVDETAILS"].iter().any(is_section)
}

fn is_complete(bytes: &[u8]) -> bool {
    if plain::is_plain(bytes) {
        return plain::is_complete(bytes);
    }
    // An answer that begins with a comma lacks its opening bracket, so its brackets never balance.
    json::is_complete(bytes)
}

/// The type and description of an answer, escaped. Operators use it to recognize the device.
pub(crate) fn describe(reply: &Value) -> String {
    let first = |list: &str, key: &str| {
        let entry = json::member(reply.as_object()?, list)?.get(0)?;
        text_of(entry, key)
    };
    let kind = first("VERSION", "Type").or_else(|| first("STATS", "Type"));
    let described = match kind {
        Some(kind) => Some(format!("type {kind}")),
        None => first("STATUS", "Description").or_else(|| text_of(reply, "Description")),
    };
    let words = match described {
        Some(described) => format!("CGMiner API, {described}"),
        None => "CGMiner API".to_owned(),
    };
    text::quotable(words.as_bytes(), text::EVIDENCE)
}

fn text_of(object: &Value, key: &str) -> Option<String> {
    let found = json::member(object.as_object()?, key)?.as_str()?;
    Some(text::field(found)).filter(|text| !text.is_empty())
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = is_complete(bytes);
    if let Reply::Answer(value) = read(bytes) {
        let words = describe(&value);
        assert!(words.chars().count() <= text::EVIDENCE && words.is_ascii());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_answer_differs_from_another_protocol() {
        for (bytes, expected) in [
            (
                &br#"{"STATUS":[{"STATUS":"S"}],"VERSION":[]}"#[..],
                "answer",
            ),
            (b"STATUS=S,Code=22|VERSION,API=3.7|\0", "answer"),
            (br#"{"status":[{"STATUS":"S"}],"version":[]}"#, "answer"),
            (br#"{"VERSION":[{"Type":"Antminer T21"}]}"#, "answer"),
            (b"\n STATUS=S,Code=22|VERSION,API=3.7|\0", "answer"),
            (br#"{"version":"1.0"}"#, "garbled"),
            (b",\"id\":1}\0", "garbled"),
            (b"{\"note\":\"no status\"}", "garbled"),
            (b"\0\0", "garbled"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n{}", "foreign"),
            (b"SSH-2.0-dropbear\r\n", "foreign"),
            (b"\x16\x03\x01", "foreign"),
        ] {
            let read = match read(bytes) {
                Reply::Answer(_) => "answer",
                Reply::Garbled => "garbled",
                Reply::Foreign => "foreign",
            };
            assert_eq!(read, expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_description_names_the_type_before_the_program() {
        for (reply, expected) in [
            (
                r#"{"STATUS":[{"Description":"cgminer 4"}],"VERSION":[{"Type":"X1"}]}"#,
                "CGMiner API, type X1",
            ),
            (
                r#"{"status":[],"version":[{"type":"X1"}]}"#,
                "CGMiner API, type X1",
            ),
            (
                r#"{"STATUS":[{"Description":"cgminer 4"}]}"#,
                "CGMiner API, cgminer 4",
            ),
            (
                r#"{"STATUS":"E","Description":"whatsminer v1.1"}"#,
                "CGMiner API, whatsminer v1.1",
            ),
            (r#"{"STATUS":"E","Description":""}"#, "CGMiner API"),
        ] {
            assert_eq!(
                describe(&json::parse(reply.as_bytes()).expect("an object")),
                expected
            );
        }
    }
}
