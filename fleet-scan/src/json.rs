//! Parses the JSON of miners. For strict JSON, the result equals that of serde_json. Tolerates defects of real
//! firmware: NULs, `}{`, stray commas, control characters in strings, a missing end. Pure and bounded.

use serde_json::{Map, Number, Value};

/// The limit of nesting. Real replies have four levels.
const DEEPEST: usize = 32;

/// Whether the bytes contain a complete object or list, judged by brackets. Bytes after it may stay unread.
pub(crate) fn is_complete(bytes: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return true,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    false
}

/// The first object or list in the bytes.
pub(crate) fn parse(bytes: &[u8]) -> Option<Value> {
    let text = String::from_utf8_lossy(bytes);
    let start = text.find(['{', '['])?;
    Reader {
        rest: &text[start..],
    }
    .value(0)
}

/// The value of a key: the exact one, or else the first that differs only in case. Some firmware and test devices write
/// the keys of the CGMiner API in lower case.
pub(crate) fn member<'v>(map: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    map.get(key).or_else(|| {
        let mut others = map.iter();
        let (_, value) = others.find(|(other, _)| other.eq_ignore_ascii_case(key))?;
        Some(value)
    })
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// The value at this position. None at the end, at a closing bracket, and for a truncated value.
    fn value(&mut self, depth: usize) -> Option<Value> {
        self.skip_noise();
        match self.rest.chars().next()? {
            '{' if depth < DEEPEST => Some(Value::Object(self.object(depth))),
            '[' if depth < DEEPEST => Some(Value::Array(self.list(depth))),
            '"' => self.string().map(Value::String),
            '}' | ']' => None,
            _ => self.word(),
        }
    }

    fn object(&mut self, depth: usize) -> Map<String, Value> {
        self.step();
        let mut map = Map::new();
        loop {
            self.skip_noise();
            match self.rest.chars().next() {
                None => return map,
                Some('}') => {
                    self.step();
                    return map;
                }
                // The closing brace is missing. This bracket belongs to the enclosing list.
                Some(']') => return map,
                Some('"') => {
                    let Some(key) = self.string() else { return map };
                    self.skip_blanks();
                    if self.rest.starts_with(':') {
                        self.step();
                        self.skip_blanks();
                    }
                    // Drop a key without a value.
                    if self.rest.starts_with([',', '}', ']']) {
                        continue;
                    }
                    if let Some(value) = self.value(depth + 1) {
                        map.insert(key, value);
                    }
                }
                Some(_) => self.step(),
            }
        }
    }

    fn list(&mut self, depth: usize) -> Vec<Value> {
        self.step();
        let mut list = Vec::new();
        loop {
            self.skip_noise();
            match self.rest.chars().next() {
                None => return list,
                Some(']') => {
                    self.step();
                    return list;
                }
                // The closing bracket is missing. This brace belongs to the enclosing object.
                Some('}') => return list,
                Some(_) => {
                    let before = self.rest.len();
                    list.extend(self.value(depth + 1));
                    if self.rest.len() == before {
                        self.step();
                    }
                }
            }
        }
    }

    /// The string at this position. Raw control characters become spaces, because devices use them to separate words.
    /// None if the end is missing, because a truncated model name can equal another model's name.
    fn string(&mut self) -> Option<String> {
        self.step();
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                '\\' => {
                    let Some((_, escape)) = chars.next() else {
                        break;
                    };
                    match escape {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        'b' => text.push('\u{8}'),
                        'f' => text.push('\u{c}'),
                        'u' => {
                            let (c, length) = unicode_escape(chars.as_str());
                            text.push(c);
                            for _ in 0..length {
                                chars.next();
                            }
                        }
                        // Some firmware breaks a line inside a string with a backslash.
                        other if other.is_control() => text.push(' '),
                        other => text.push(other),
                    }
                }
                c if c.is_control() => text.push(' '),
                c => text.push(c),
            }
        }
        self.rest = "";
        None
    }

    /// A number, `true`, `false` or `null`. Any other word becomes null.
    fn word(&mut self) -> Option<Value> {
        let end = self
            .rest
            .find(|c: char| {
                matches!(c, ',' | ':' | '{' | '}' | '[' | ']' | '"')
                    || c.is_whitespace()
                    || c.is_control()
            })
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() {
            return None;
        }
        Some(match word {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => word.parse::<Number>().map_or(Value::Null, Value::Number),
        })
    }

    /// Skips one character.
    fn step(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    fn skip_blanks(&mut self) {
        self.rest = self
            .rest
            .trim_start_matches(|c: char| c.is_whitespace() || c.is_control());
    }

    /// Skips blanks, control characters and any number of commas.
    fn skip_noise(&mut self) {
        self.rest = self
            .rest
            .trim_start_matches(|c: char| c == ',' || c.is_whitespace() || c.is_control());
    }
}

/// The character of `XXXX` or of a surrogate pair `XXXX\uXXXX`, and its length in characters.
fn unicode_escape(text: &str) -> (char, usize) {
    let unit = |text: &str| {
        text.get(..4)
            .and_then(|digits| u16::from_str_radix(digits, 16).ok())
    };
    let Some(first) = unit(text) else {
        return (char::REPLACEMENT_CHARACTER, 0);
    };
    let second = text
        .get(4..)
        .and_then(|rest| rest.strip_prefix("\\u"))
        .and_then(unit);
    match (char::decode_utf16([first]).next(), second) {
        (Some(Ok(c)), _) => (c, 4),
        (_, Some(second)) => match char::decode_utf16([first, second]).next() {
            Some(Ok(c)) => (c, 10),
            Some(Err(_)) | None => (char::REPLACEMENT_CHARACTER, 4),
        },
        (_, None) => (char::REPLACEMENT_CHARACTER, 4),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn defects_of_real_firmware_are_tolerated() {
        let good = json!({"STATUS": [{"STATUS": "S", "Code": 22}], "VERSION": [{"Type": "Antminer S19"}], "id": 1});
        for text in [
            r#"{"STATUS":[{"STATUS":"S","Code":22}],"VERSION":[{"Type":"Antminer S19"}],"id":1}"#,
            "{\"STATUS\":[{\"STATUS\":\"S\",\"Code\":22}],\"VERSION\":[{\"Type\":\"Antminer S19\"}],\"id\":1}\0\0\n\0",
            "\0{\"STATUS\":[{\"STATUS\":\"S\",\"Code\":22,}],\"VERSION\":[{\"Type\":\"Antminer\u{3}S19\"},],\"id\":1,}",
            r#"{"STATUS":[{"STATUS":"S""Code":22}]"VERSION":[{"Type":"Antminer S19"}]"id":1}"#,
            r#"{"STATUS":[{"STATUS":"S","Code":22],"VERSION":[{"Type":"Antminer S19"}],"id":1"#,
            r#"{"STATUS":[{"STATUS":"S","Code":22}],"VERSION":[{"Type":"Antminer S19"}],"id":1,"next":"cut o"#,
            r#"{"STATUS":[{"STATUS":"S","Code":22}],"VERSION":[{"Type":"Antminer S19"}],"id":1,"next":"#,
        ] {
            assert_eq!(parse(text.as_bytes()), Some(good.clone()), "{text:?}");
        }
    }

    #[test]
    fn two_objects_without_a_comma_are_read_as_two() {
        assert_eq!(
            parse(br#"{"STATS":[{"ID":1}{"ID":2}]}"#),
            Some(json!({"STATS": [{"ID": 1}, {"ID": 2}]}))
        );
    }

    #[test]
    fn odd_values_keep_their_neighbors() {
        assert_eq!(
            parse(br#"{"a":nan,"b":1,"c":-,"d":2}"#),
            Some(json!({"a": null, "b": 1, "c": null, "d": 2}))
        );
        assert_eq!(parse(br#"{"a":,"b":1}"#), Some(json!({"b": 1})));
        assert_eq!(parse(br#"{a:1,"b":1}"#), Some(json!({"b": 1})));
        assert_eq!(
            parse(b"\xff{\"a\":\"\xff\"}"),
            Some(json!({"a": "\u{fffd}"}))
        );
    }

    #[test]
    fn bytes_without_an_object_yield_nothing() {
        for bytes in [
            &b""[..],
            b"\0",
            b"SSH-2.0-dropbear",
            b"HTTP/1.1 400 Bad Request",
        ] {
            assert_eq!(parse(bytes), None);
        }
    }

    #[test]
    fn endless_nesting_is_cut() {
        let deep = "[{\"a\":".repeat(100_000);
        assert!(parse(deep.as_bytes()).is_some());
    }

    #[test]
    fn a_whole_reply_is_known_by_its_brackets() {
        for (text, expected) in [
            (r#"{"a":[{"b":"}"}]}"#, true),
            ("{\"a\":1}\0", true),
            (r#"{"a":"\"}"#, false),
            (r#"{"a":[1,2"#, false),
            ("", false),
            ("no brackets", false),
        ] {
            assert_eq!(is_complete(text.as_bytes()), expected, "{text}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            any::<f64>()
                .prop_filter("finite", |n| n.is_finite())
                .prop_map(Value::from),
            "\\PC*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map("\\PC*", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("cgminer-json"))]

        #[test]
        fn strict_json_reads_as_strict_json(value in any_value().prop_map(|value| json!({ "reply": value }))) {
            let text = value.to_string();
            // Serialize once, so both parsers read the same digits.
            let strict: Value = serde_json::from_str(&text).expect("strict JSON");
            prop_assert_eq!(parse(text.as_bytes()), Some(strict));
            prop_assert!(is_complete(text.as_bytes()));
        }

        #[test]
        fn no_bytes_panic_and_nothing_grows(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            if let Some(value) = parse(&bytes) {
                // A replacement character takes three bytes per input byte, and escapes double that.
                prop_assert!(value.to_string().len() <= bytes.len() * 8 + 16);
            }
        }

        #[test]
        fn cut_and_dented_replies_never_panic(cut in 0usize..200, at in 0usize..200, byte: u8) {
            let mut bytes = br#"{"STATUS":[{"STATUS":"S","Msg":"\u00e9x"}],"VERSION":[{"Type":"Antminer S19"}],"id":1}"#.to_vec();
            bytes.truncate(cut.max(1));
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = parse(&bytes);
        }
    }
}
