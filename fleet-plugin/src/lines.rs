//! Splits a plugin's output into bounded lines, escapes them, and limits their rate in the log. Pure.

use std::time::{Duration, Instant};

/// Lines that may be logged in a burst.
const BURST: u32 = 50;
/// Time after which one more line may be logged.
const REFILL: Duration = Duration::from_millis(100);

/// A line without its line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) bytes: Vec<u8>,
    /// Whether the line was longer and the rest was dropped.
    pub(crate) is_cut: bool,
}

/// Splits a stream of bytes into lines. The excess of a line is dropped as it arrives.
#[derive(Debug)]
pub(crate) struct Lines {
    most: usize,
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Lines {
    /// Creates a splitter for lines of at most `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            bytes: Vec::new(),
            is_cut: false,
        }
    }

    /// Adds bytes and passes each complete line to `each`.
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Line)) {
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        if let Some(first) = pieces.next() {
            self.add(first);
        }
        for piece in pieces {
            each(self.take());
            self.add(piece);
        }
    }

    /// Returns the last line, if the stream ended without a line end.
    pub(crate) fn finish(mut self) -> Option<Line> {
        let is_empty = self.bytes.is_empty() && !self.is_cut;
        (!is_empty).then(|| self.take())
    }

    fn add(&mut self, piece: &[u8]) {
        let room = self.most - self.bytes.len();
        self.is_cut |= piece.len() > room;
        self.bytes
            .extend_from_slice(piece.get(..room).unwrap_or(piece));
    }

    fn take(&mut self) -> Line {
        Line {
            bytes: std::mem::take(&mut self.bytes),
            is_cut: std::mem::take(&mut self.is_cut),
        }
    }
}

/// Returns at most `most` characters of the text, with every unprintable character escaped.
pub(crate) fn escaped(bytes: &[u8], most: usize) -> String {
    // A character has at most four bytes, and escaping shortens none.
    let bytes = bytes.get(..most.saturating_mul(4)).unwrap_or(bytes);
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::new();
    for c in text.trim_end().chars() {
        match c {
            '"' | '\'' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    match shown.char_indices().nth(most) {
        Some((end, _)) => {
            shown.truncate(end);
            shown + "…"
        }
        None => shown,
    }
}

/// Limits the rate of lines and counts the dropped ones.
#[derive(Debug)]
pub(crate) struct LineLimiter {
    left: u32,
    since: Instant,
    dropped: u64,
}

impl LineLimiter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
            dropped: 0,
        }
    }

    /// Returns the number of lines dropped since the last one that passed, or none if this line must be dropped.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<u64> {
        let ticks = now.saturating_duration_since(self.since).as_nanos() / REFILL.as_nanos();
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        if ticks > 0 {
            self.left = self.left.saturating_add(ticks).min(BURST);
            // The rest of a tick is lost, which only makes the limit stricter.
            self.since = now;
        }
        if self.left == 0 {
            self.dropped += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(most: usize, pieces: &[&[u8]]) -> Vec<(String, bool)> {
        let mut all = Vec::new();
        let mut lines = Lines::new(most);
        for piece in pieces {
            lines.push(piece, |line| all.push(line));
        }
        all.extend(lines.finish());
        all.into_iter()
            .map(|line| (String::from_utf8_lossy(&line.bytes).into(), line.is_cut))
            .collect()
    }

    #[test]
    fn lines_do_not_depend_on_how_bytes_arrive() {
        let plain = |texts: &[&str]| {
            let lines = texts.iter().map(|text| ((*text).to_owned(), false));
            lines.collect::<Vec<_>>()
        };
        for (pieces, expected) in [
            (&[&b"a\nb\n"[..]][..], plain(&["a", "b"])),
            (&[b"a", b"b\nc"], plain(&["ab", "c"])),
            (&[b"\n\n"], plain(&["", ""])),
            (&[b""], plain(&[])),
        ] {
            assert_eq!(lines(10, pieces), expected, "{pieces:?}");
        }
        let long = lines(4, &[b"123456", b"789\nnext\n12345"]);
        assert_eq!(
            long,
            [
                ("1234".to_owned(), true),
                ("next".to_owned(), false),
                ("1234".to_owned(), true)
            ]
        );
    }

    #[test]
    fn unprintable_characters_are_escaped_and_length_is_bounded() {
        for (bytes, expected) in [
            (&b"plain \"text\"\r"[..], "plain \"text\""),
            (b"\x1b[31mred", "\\u{1b}[31mred"),
            ("a\u{202e}b é".as_bytes(), "a\\u{202e}b é"),
            (b"\xff\0", "\u{fffd}\\0"),
        ] {
            assert_eq!(escaped(bytes, 80), expected);
        }
        assert_eq!(escaped(&[b'x'; 100], 5), "xxxxx…");
        assert_eq!(escaped(&[0; 100], 3), "\\0\\…");
    }

    #[test]
    fn excess_lines_are_counted_and_later_lines_pass_again() {
        let start = Instant::now();
        let mut limiter = LineLimiter::new(start);
        let passed = (0..1_000).filter(|_| limiter.pass(start).is_some()).count();
        assert_eq!(passed, BURST as usize);
        assert_eq!(limiter.pass(start + REFILL), Some(950));
        assert_eq!(limiter.pass(start + REFILL), None);
        assert_eq!(limiter.pass(start + REFILL * 1_000), Some(1));
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("plugin-lines", 256))]

        #[test]
        fn no_line_exceeds_its_bound_and_none_is_lost(
            pieces in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..40), 0..8),
            most in 0_usize..20,
        ) {
            let mut all = Vec::new();
            let mut cut = Lines::new(most);
            for piece in &pieces {
                cut.push(piece, |line| all.push(line));
            }
            let ended = all.len();
            all.extend(cut.finish());
            prop_assert!(all.iter().all(|line| line.bytes.len() <= most));
            let bytes = pieces.concat();
            prop_assert_eq!(ended, bytes.iter().filter(|byte| **byte == b'\n').count());
            for (line, expected) in all.iter().zip(bytes.split(|byte| *byte == b'\n')) {
                prop_assert_eq!(&line.bytes[..], &expected[..expected.len().min(most)]);
                prop_assert_eq!(line.is_cut, expected.len() > most);
            }
        }
    }
}
