//! Defects of CGMiner replies in real firmware.

use crate::site::Malformation;

/// The reply with one defect. Only the syntax changes, so the values stay recoverable.
pub(crate) fn malform(malformation: Malformation, reply: &str) -> Vec<u8> {
    let last_list = reply.rfind("}]");
    let text = match (malformation, last_list) {
        (Malformation::MissingComma, Some(at)) => {
            format!(r#"{}}}{{"ID":9{}"#, &reply[..at], &reply[at..]).replace("},{", "}{")
        }
        (Malformation::MissingComma, None) => reply.replace("},{", "}{"),
        (Malformation::TrailingNuls, _) => format!("{reply}\0\0\n\0"),
        (Malformation::ControlCharacters, _) => reply.replace(r#""Msg":""#, "\"Msg\":\"\u{3}\n\t"),
        (Malformation::TrailingComma, Some(at)) => {
            format!("{}}},{}", &reply[..at], &reply[at + 1..])
        }
        (Malformation::TrailingComma, None) => format!("{},}}", reply.trim_end_matches('}')),
        (Malformation::Truncated, Some(at)) => reply[..at].to_owned(),
        (Malformation::Truncated, None) => reply.trim_end_matches('}').to_owned(),
    };
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_defect_makes_a_strict_parser_fail() {
        let reply =
            r#"{"STATUS":[{"STATUS":"S","Msg":"x"}],"VERSION":[{"Type":"Antminer S19"}],"id":1}"#;
        for malformation in Malformation::ALL {
            let bytes = malform(malformation, reply);
            assert!(
                serde_json::from_slice::<serde_json::Value>(&bytes).is_err(),
                "{malformation:?}"
            );
            assert!(
                String::from_utf8_lossy(&bytes).contains("Antminer S19"),
                "{malformation:?}"
            );
        }
    }

    #[test]
    fn a_missing_comma_stands_between_two_objects() {
        let bytes = malform(Malformation::MissingComma, r#"{"A":[{"B":1}]}"#);
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            r#"{"A":[{"B":1}{"ID":9}]}"#
        );
    }
}
