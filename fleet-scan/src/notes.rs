//! Warnings of a scan for the operator, grouped by kind, so that a faulty site cannot flood them.

use std::collections::BTreeMap;

use fleet_core::text::visible;

/// The most kinds. Together with the replies of unidentified hosts they fill the 64 notes of a summary.
const KINDS: usize = 31;

/// The longest note in characters.
pub(crate) const MAX_CHARS: usize = 512;

/// Counts and first examples by kind.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    kinds: BTreeMap<String, (u64, String)>,
}

impl Notes {
    /// Counts an occurrence of a kind. Returns a note if it is the first.
    pub(crate) fn add(&mut self, kind: &str, example: &str) -> Option<String> {
        if let Some((count, _)) = self.kinds.get_mut(kind) {
            *count += 1;
            return None;
        }
        if self.kinds.len() >= KINDS {
            return None;
        }
        self.kinds.insert(kind.to_owned(), (1, example.to_owned()));
        Some(render(kind, 1, example))
    }

    pub(crate) fn into_texts(self) -> Vec<String> {
        self.kinds
            .iter()
            .map(|(kind, (count, example))| render(kind, *count, example))
            .collect()
    }
}

fn render(kind: &str, count: u64, example: &str) -> String {
    let text = match (count, example) {
        (1, "") => kind.to_owned(),
        (_, "") => format!("{kind} ({count} times)"),
        (1, _) => format!("{kind}: {example}"),
        (_, _) => format!("{kind} ({count} times), first {example}"),
    };
    let line: String = text.chars().filter(|c| !c.is_control()).collect();
    visible(&line).chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_gives_one_note_and_is_counted() {
        let mut notes = Notes::default();
        assert_eq!(
            notes.add("driver http crashed", "10.0.0.1:80").as_deref(),
            Some("driver http crashed: 10.0.0.1:80")
        );
        assert_eq!(notes.add("driver http crashed", "10.0.0.2:80"), None);
        assert_eq!(
            notes.into_texts(),
            ["driver http crashed (2 times), first 10.0.0.1:80"]
        );
    }

    #[test]
    fn notes_are_bounded_in_number_and_length() {
        let mut notes = Notes::default();
        for kind in 0..1_000 {
            notes.add(&format!("kind {kind}"), &"x".repeat(2_000));
        }
        let texts = notes.into_texts();
        assert_eq!(texts.len(), KINDS);
        assert!(texts.iter().all(|text| text.chars().count() <= MAX_CHARS));
    }
}
