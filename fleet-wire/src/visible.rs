//! The last gate of every text that a program writes to a terminal or a log.

use std::io::{self, Write};

use fleet_core::text::{MARK, is_unsafe};

/// Writes text with a mark in place of each character that hides or reorders text. Line ends and tabs pass.
///
/// Texts of peers are cleaned where they are received. This writer holds for texts that nobody thought of, such as
/// the error of a library that quotes its input.
#[derive(Debug)]
pub struct VisibleWriter<W> {
    inner: W,
    colors: bool,
}

impl<W: Write> VisibleWriter<W> {
    /// Creates a writer of plain text.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            colors: false,
        }
    }

    /// Creates a writer of text whose producer escapes foreign text itself and adds escape sequences for colors.
    pub fn with_colors(inner: W, colors: bool) -> Self {
        Self { inner, colors }
    }
}

impl<W: Write> Write for VisibleWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let passes = |c| matches!(c, '\n' | '\t') || (self.colors && c == '\u{1b}');
        let shown = |c| {
            if is_unsafe(c) && !passes(c) { MARK } else { c }
        };
        let text: String = String::from_utf8_lossy(bytes).chars().map(shown).collect();
        self.inner.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(colors: bool, text: &str) -> String {
        let mut out = Vec::new();
        let mut writer = VisibleWriter::with_colors(&mut out, colors);
        write!(writer, "{text}").expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn nothing_that_hides_or_reorders_text_passes() {
        let text = "\u{1b}[31mbarn\u{202e}\tnode\u{200b}\r\n";
        assert_eq!(
            written(false, text),
            "\u{fffd}[31mbarn\u{fffd}\tnode\u{fffd}\u{fffd}\n"
        );
        assert_eq!(
            written(true, text),
            "\u{1b}[31mbarn\u{fffd}\tnode\u{fffd}\u{fffd}\n"
        );
    }
}
