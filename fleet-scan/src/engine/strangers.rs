//! What hosts said that answered and are no known device: every different answer once, with who gave it, so that an
//! operator can tell what is there and a bad site floods nobody. Pure.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _};

use fleet_core::Endpoint;

use crate::notes::LONGEST;

/// Different answers that are quoted; the others are counted together. Printers and routers of one model answer
/// alike, so that a site has few.
const ANSWERS: usize = 32;

/// Places that are remembered of one answer: more than a note has room for.
const PLACES: usize = 32;

/// Room that a note keeps for what it cannot list.
const TAIL: usize = " and 18446744073709551615 more".len();

/// The answers of a scan and who gave them.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    answers: BTreeMap<String, Givers>,
    others: Givers,
}

/// Who gave an answer: how many, and the first of them.
#[derive(Debug, Default)]
struct Givers {
    count: u64,
    first: Vec<Endpoint>,
}

impl Strangers {
    /// Takes in what was said at an endpoint, escaped, perhaps nothing. The note to tell at once, when nobody said
    /// it before.
    pub(super) fn add(&mut self, endpoint: Endpoint, words: &str) -> Option<String> {
        if let Some(givers) = self.answers.get_mut(words) {
            givers.add(endpoint);
            return None;
        }
        if self.answers.len() >= ANSWERS {
            self.others.add(endpoint);
            return None;
        }
        let givers = self.answers.entry(words.to_owned()).or_default();
        givers.add(endpoint);
        Some(render(&said(words), givers))
    }

    /// At most one more than [`ANSWERS`], of at most [`LONGEST`] characters; what most of them said goes first.
    pub(super) fn into_texts(self) -> Vec<String> {
        let mut answers: Vec<_> = self.answers.iter().collect();
        answers.sort_by_key(|(_, givers)| Reverse(givers.count));
        let mut texts: Vec<String> = answers
            .into_iter()
            .map(|(words, givers)| render(&said(words), givers))
            .collect();
        if self.others.count > 0 {
            texts.push(render(
                "answered and is no known device, said something else again",
                &self.others,
            ));
        }
        texts
    }
}

impl Givers {
    fn add(&mut self, endpoint: Endpoint) {
        self.count += 1;
        if self.first.len() < PLACES {
            self.first.push(endpoint);
        }
    }
}

fn said(words: &str) -> String {
    if words.is_empty() {
        "answered and said nothing".to_owned()
    } else {
        format!("answered and is no known device, said `{words}`")
    }
}

/// What was said, how often, and where, as many places as fit.
fn render(said: &str, givers: &Givers) -> String {
    let mut text: String = said.chars().filter(|c| !c.is_control()).collect();
    if givers.count > 1 {
        let _ = write!(text, " ({} hosts)", givers.count);
    }
    let mut named = 0;
    for endpoint in &givers.first {
        let place = format!("{}{endpoint}", if named == 0 { ": " } else { ", " });
        if text.chars().count() + place.len() + TAIL > LONGEST {
            break;
        }
        text.push_str(&place);
        named += 1;
    }
    if named < givers.count {
        let _ = write!(text, " and {} more", givers.count - named);
    }
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use fleet_core::Port;
    use proptest::prelude::*;

    use super::*;

    fn at(last: u8, port: u16) -> Endpoint {
        Endpoint {
            ip: [10, 0, 0, last].into(),
            port: Port::new(port).expect("a port"),
        }
    }

    #[test]
    fn each_answer_is_told_once_and_in_the_end_with_all_who_gave_it() {
        let mut strangers = Strangers::default();
        assert_eq!(
            strangers
                .add(at(7, 80), "HTTP 200, title LaserJet")
                .as_deref(),
            Some("answered and is no known device, said `HTTP 200, title LaserJet`: 10.0.0.7:80")
        );
        assert_eq!(strangers.add(at(8, 80), "HTTP 200, title LaserJet"), None);
        assert!(strangers.add(at(9, 22), "SSH-2.0-x").is_some());
        assert!(strangers.add(at(4, 23), "").is_some());
        assert_eq!(
            strangers.into_texts(),
            [
                "answered and is no known device, said `HTTP 200, title LaserJet` (2 hosts): 10.0.0.7:80, 10.0.0.8:80",
                "answered and said nothing: 10.0.0.4:23",
                "answered and is no known device, said `SSH-2.0-x`: 10.0.0.9:22",
            ]
        );
    }

    #[test]
    fn what_is_rare_is_quoted_however_often_something_else_was_said_before() {
        let mut strangers = Strangers::default();
        for last in 0..200 {
            strangers.add(at(last, 80), "HTTP 404");
        }
        assert!(
            strangers
                .add(at(201, 80), "HTTP 200, title Boiler")
                .is_some()
        );
        let texts = strangers.into_texts();
        assert_eq!(texts.len(), 2);
        assert!(
            texts[0].contains("(200 hosts)") && texts[0].ends_with(" more"),
            "{texts:?}"
        );
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("strangers", 64))]

        #[test]
        fn notes_are_bounded_and_lose_nobody(said in proptest::collection::vec(("[a-c]{0,2}|\\PC{150,160}", any::<u8>(), 1u16..), 0..80)) {
            let mut strangers = Strangers::default();
            for (words, last, port) in &said {
                if let Some(text) = strangers.add(at(*last, *port), words) {
                    prop_assert!(text.chars().count() <= LONGEST);
                }
            }
            let counted: u64 = strangers.answers.values().map(|givers| givers.count).sum();
            prop_assert_eq!(counted + strangers.others.count, said.len() as u64);
            let texts = strangers.into_texts();
            prop_assert!(texts.len() <= ANSWERS + 1);
            prop_assert!(texts.iter().all(|text| text.chars().count() <= LONGEST));
        }
    }
}
