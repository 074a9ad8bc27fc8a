//! Checks of texts that peers send.

/// Whether a text has at most `most` characters and no control character.
pub(crate) fn fits(value: &str, most: usize) -> bool {
    // Wire bounds count code points. A longer text is not read beyond its bound.
    value.chars().take(most + 1).count() <= most && !value.chars().any(char::is_control)
}
