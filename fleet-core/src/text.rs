//! Texts that other people choose: the one rule for characters that hide, reorder or forge text.
//!
//! [`check_name`] rejects them in names that operators give. [`visible`] replaces them in texts of devices and nodes,
//! and [`cell`] also disarms formulas in a file for spreadsheets. Terminals, logs, pages and files show nothing else.

use std::borrow::Cow;

/// The mark that replaces an unsafe character.
pub const MARK: char = '\u{fffd}';

/// Whether a character must not be shown as it is: a control, a line or paragraph separator, or one that is
/// invisible or reorders its neighbors (bidirectional controls, zero-width characters, fillers, variation selectors
/// and tags: the default-ignorable characters of Unicode 16).
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
                | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
        )
}

/// The text with a [`MARK`] in place of each unsafe character.
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_unsafe) {
        let shown = |c| if is_unsafe(c) { MARK } else { c };
        Cow::Owned(text.chars().map(shown).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Replaces the unsafe characters of a text.
pub(crate) fn make_visible(text: &mut String) {
    if let Cow::Owned(shown) = visible(text) {
        *text = shown;
    }
}

/// The text for a cell of a CSV file: [`visible`], and quoted where a spreadsheet would run it as a formula.
pub fn cell(text: &str) -> Cow<'_, str> {
    // A tab or carriage return in front has become a mark, which no spreadsheet skips.
    let shown = visible(text);
    if shown
        .trim_start()
        .starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠'])
    {
        Cow::Owned(format!("'{shown}"))
    } else {
        shown
    }
}

/// A name that holds an unsafe character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "character {position} is U+{:04X}, which is invisible or changes the order of text: type the name without it",
    u32::from(*.character)
)]
pub struct UnsafeName {
    /// The character.
    pub character: char,
    /// Its position, from 1.
    pub position: usize,
}

/// Checks a name that an operator gives. Two names that look the same must be the same.
///
/// # Errors
///
/// [`UnsafeName`] with the first unsafe character.
pub fn check_name(name: &str) -> Result<(), UnsafeName> {
    let found = (1..).zip(name.chars()).find(|(_, c)| is_unsafe(*c));
    match found {
        Some((position, character)) => Err(UnsafeName {
            character,
            position,
        }),
        None => Ok(()),
    }
}

/// Parses a name for [`check_name`], for command lines.
///
/// # Errors
///
/// [`UnsafeName`] with the first unsafe character.
pub fn name(text: &str) -> Result<String, UnsafeName> {
    check_name(text).map(|()| text.to_owned())
}

/// Whether a text has at most `most` characters and no control character.
pub(crate) fn fits(value: &str, most: usize) -> bool {
    // Wire bounds count code points. A longer text is not read beyond its bound.
    value.chars().take(most + 1).count() <= most && !value.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One character of each kind that is unsafe.
    const UNSAFE: [char; 24] = [
        '\0',
        '\n',
        '\r',
        '\t',
        '\u{1b}',
        '\u{7f}',
        '\u{9b}',
        '\u{ad}',
        '\u{61c}',
        '\u{115f}',
        '\u{200b}',
        '\u{200d}',
        '\u{200e}',
        '\u{2028}',
        '\u{202a}',
        '\u{202e}',
        '\u{2060}',
        '\u{2066}',
        '\u{2069}',
        '\u{3164}',
        '\u{fe0f}',
        '\u{feff}',
        '\u{fffb}',
        '\u{e0041}',
    ];

    #[test]
    fn unsafe_characters_leave_a_mark() {
        for c in UNSAFE {
            let text = format!("S{c}19");
            assert_eq!(visible(&text), "S\u{fffd}19", "{c:?}");
            assert_eq!(
                check_name(&text),
                Err(UnsafeName {
                    character: c,
                    position: 2
                })
            );
        }
    }

    #[test]
    fn scripts_and_signs_are_shown_as_they_are() {
        for text in [
            "",
            "Antminer S19 Pro",
            "Müller",
            "ферма 3",
            "مزرعة",
            "חווה",
            "牧场",
            "농장",
            "हिन्दी",
            "⚡ 5 °C – ½",
            "e\u{301}",
        ] {
            assert!(matches!(visible(text), Cow::Borrowed(_)), "{text}");
            assert_eq!(check_name(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn cells_are_no_formulas() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "＝1"] {
            assert_eq!(cell(text), format!("'{text}"));
        }
        for text in ["\t=1", "\r=1", "\u{200b}=1"] {
            let shown = cell(text);
            assert!(shown.starts_with('\u{fffd}'), "{shown}");
        }
        for text in ["S19", "10.0.0.7", "a=b", ""] {
            assert_eq!(cell(text), text);
        }
    }

    #[test]
    fn an_error_names_the_character() {
        let error = check_name("barn\u{202e}").expect_err("unsafe").to_string();
        assert!(error.starts_with("character 5 is U+202E,"), "{error}");
    }

    proptest::proptest! {
        #![proptest_config(crate::regressions!("text", 512))]

        #[test]
        fn no_text_keeps_an_unsafe_character(text in proptest::arbitrary::any::<String>()) {
            let shown = visible(&text);
            proptest::prop_assert!(!shown.chars().any(is_unsafe));
            proptest::prop_assert_eq!(shown.chars().count(), text.chars().count());
            let shown = shown.into_owned();
            proptest::prop_assert_eq!(&visible(&shown), &shown);
        }
    }
}
