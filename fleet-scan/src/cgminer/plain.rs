//! Reads the API's older format, `STATUS=S,Code=22,Msg=CGMiner versions|VERSION,CGMiner=4.11.1,API=3.7|`, as if it were
//! JSON. Some devices always use this format. Pure and bounded by its input.

use serde_json::{Map, Value};

/// The prefix of such a reply.
const START: &[u8] = b"STATUS=";

/// The limit of sections per reply. Real replies have one per hash board and a few more.
const SECTIONS: usize = 32;

/// The limit of fields per section.
const FIELDS: usize = 128;

pub(super) fn is_plain(bytes: &[u8]) -> bool {
    let first = bytes
        .iter()
        .position(|byte| !byte.is_ascii_whitespace() && *byte != 0);
    first.is_some_and(|at| bytes[at..].starts_with(START))
}

/// Whether the reply has its closing NUL. Some firmware does not send one.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    bytes.last() == Some(&0)
}

/// The name of a section without a name. Only the first section of Antminers' statistics has none:
/// `BMMiner=1.0.0,Type=Antminer S19j Pro|`.
const NAMELESS: &str = "STATS";

/// The sections as lists of objects, by name: `VERSION,A=1|` becomes `VERSION[0].A`. Truncated sections are dropped,
/// because a truncated model name can equal another model's name.
pub(super) fn parse(bytes: &[u8]) -> Option<Value> {
    let text = String::from_utf8_lossy(bytes);
    let (whole, _) = text.rsplit_once('|')?;
    let mut reply = Map::new();
    for section in whole.split('|').take(SECTIONS) {
        let (mut name, fields) = self::section(section);
        if name.is_empty() {
            continue;
        }
        if name.contains(|letter: char| letter.is_ascii_lowercase()) {
            NAMELESS.clone_into(&mut name);
        }
        let list = reply
            .entry(name)
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(Value::Object(fields));
        }
    }
    Some(Value::Object(reply))
}

/// The first field names the section. It may have its own value (`STATUS=S`, `DEVDETAILS=0`).
fn section(text: &str) -> (String, Map<String, Value>) {
    let mut fields: Vec<(&str, String)> = Vec::new();
    for piece in text
        .trim_matches(['\0', ' ', '\r', '\n'])
        .trim_start_matches(',')
        .split(',')
        .take(FIELDS)
    {
        match (piece.split_once('='), fields.last_mut()) {
            (Some((name, value)), _) => fields.push((name.trim(), value.to_owned())),
            (None, None) => fields.push((piece.trim(), String::new())),
            // This comma is part of the value.
            (None, Some((_, value))) => {
                value.push(',');
                value.push_str(piece);
            }
        }
    }
    let name = fields.first().map(|(name, _)| (*name).to_owned());
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Value::String(value)))
        .collect();
    (name.unwrap_or_default(), fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn sections_become_lists_of_objects() {
        for (text, expected) in [
            (
                "STATUS=S,Code=22,Msg=CGMiner versions|VERSION,API=3.7,PROD=Avalon Mini3|\0",
                json!({
                    "STATUS": [{"STATUS": "S", "Code": "22", "Msg": "CGMiner versions"}],
                    "VERSION": [{"VERSION": "", "API": "3.7", "PROD": "Avalon Mini3"}],
                }),
            ),
            (
                "STATUS=S|DEVDETAILS=0,Name=A|DEVDETAILS=1,Name=B|",
                json!({
                    "STATUS": [{"STATUS": "S"}],
                    "DEVDETAILS": [{"DEVDETAILS": "0", "Name": "A"}, {"DEVDETAILS": "1", "Name": "B"}],
                }),
            ),
            (
                "STATUS=S|BMMiner=1.0.0,Type=Antminer S19j Pro|,STATS=0,ID=B|",
                json!({
                    "STATUS": [{"STATUS": "S"}],
                    "STATS": [{"BMMiner": "1.0.0", "Type": "Antminer S19j Pro"}, {"STATS": "0", "ID": "B"}],
                }),
            ),
            (
                "STATUS=E,Msg=no, not this|VERSION,PROD=Avalon Mi",
                json!({"STATUS": [{"STATUS": "E", "Msg": "no, not this"}]}),
            ),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(expected), "{text}");
        }
        assert_eq!(parse(b"STATUS=S,Code=22"), None);
        assert!(is_plain(b"STATUS=S|") && !is_plain(b"{\"STATUS\":1}"));
        assert!(is_complete(b"STATUS=S|\0") && !is_complete(b"STATUS=S|"));
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("cgminer-plain"))]

        #[test]
        fn no_reply_panics_or_grows(text in "STATUS=([A-Z]{0,3}[,|=]\\PC{0,20}){0,60}") {
            if let Some(value) = parse(text.as_bytes()) {
                prop_assert!(value.as_object().is_some_and(|sections| sections.len() <= SECTIONS));
            }
        }
    }
}
