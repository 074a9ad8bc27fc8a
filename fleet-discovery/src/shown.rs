//! The display form of external text in errors, notes and examples: escaped and bounded.

/// Maximum number of characters of external text in an error or an example.
const MOST: usize = 80;

/// Escapes control characters and similar ones, and cuts the text after 80 characters.
pub(crate) fn shown(text: &str) -> String {
    // One character can become ten, such as `\u{10ffff}`.
    let mut escaped = text.chars().take(MOST).flat_map(char::escape_debug);
    let mut out: String = escaped.by_ref().take(2 * MOST).collect();
    if escaped.next().is_some() || text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn outside_text_is_escaped_and_cut() {
        assert_eq!(shown("10.0.0.1"), "10.0.0.1");
        assert_eq!(shown("a\u{1b}[31m"), "a\\u{1b}[31m");
        assert_eq!(shown(&"x".repeat(80)), "x".repeat(80));
        assert_eq!(shown(&"x".repeat(81)), format!("{}…", "x".repeat(80)));
        assert!(shown(&"\u{1b}".repeat(1_000)).chars().count() <= 161);
    }
}
