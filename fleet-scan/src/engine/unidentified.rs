//! Replies of hosts that no driver identified. Each different reply is kept once with the endpoints that sent it: an
//! operator can see what is there, and a large site cannot flood the notes. Pure.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _};

use fleet_core::{Endpoint, text::visible};

use crate::notes::MAX_CHARS;

/// Different replies that are quoted; the rest are counted together. Printers and routers of one model reply alike,
/// so a site has few.
const REPLIES: usize = 32;

/// Endpoints kept per reply, more than a note has room for.
const ENDPOINTS: usize = 32;

/// Room that a note reserves for the number of endpoints that it cannot list.
const TAIL: usize = " and 18446744073709551615 more".len();

/// The replies of a scan and the endpoints that sent them.
#[derive(Debug, Default)]
pub(super) struct UnidentifiedHosts {
    replies: BTreeMap<String, Senders>,
    others: Senders,
}

/// How many endpoints sent a reply, and the first of them.
#[derive(Debug, Default)]
struct Senders {
    count: u64,
    first: Vec<Endpoint>,
}

impl UnidentifiedHosts {
    /// Adds a reply, escaped and possibly empty. Returns a note when the reply is new.
    pub(super) fn add(&mut self, endpoint: Endpoint, reply: &str) -> Option<String> {
        if let Some(senders) = self.replies.get_mut(reply) {
            senders.add(endpoint);
            return None;
        }
        if self.replies.len() >= REPLIES {
            self.others.add(endpoint);
            return None;
        }
        let senders = self.replies.entry(reply.to_owned()).or_default();
        senders.add(endpoint);
        Some(render(&describe(reply), senders))
    }

    /// Returns at most [`REPLIES`] + 1 notes of at most [`MAX_CHARS`] characters, the most frequent reply first.
    pub(super) fn into_texts(self) -> Vec<String> {
        let mut replies: Vec<_> = self.replies.iter().collect();
        replies.sort_by_key(|(_, senders)| Reverse(senders.count));
        let mut texts: Vec<String> = replies
            .into_iter()
            .map(|(reply, senders)| render(&describe(reply), senders))
            .collect();
        if self.others.count > 0 {
            texts.push(render("unidentified host, other replies", &self.others));
        }
        texts
    }
}

impl Senders {
    fn add(&mut self, endpoint: Endpoint) {
        self.count += 1;
        if self.first.len() < ENDPOINTS {
            self.first.push(endpoint);
        }
    }
}

fn describe(reply: &str) -> String {
    if reply.is_empty() {
        "unidentified host, no reply".to_owned()
    } else {
        format!("unidentified host, reply `{reply}`")
    }
}

/// The reply, how many hosts sent it, and as many endpoints as fit.
fn render(reply: &str, senders: &Senders) -> String {
    let line: String = reply.chars().filter(|c| !c.is_control()).collect();
    let mut text = visible(&line).into_owned();
    if senders.count > 1 {
        let _ = write!(text, " ({} hosts)", senders.count);
    }
    let mut listed = 0;
    for endpoint in &senders.first {
        let next = format!("{}{endpoint}", if listed == 0 { ": " } else { ", " });
        if text.chars().count() + next.len() + TAIL > MAX_CHARS {
            break;
        }
        text.push_str(&next);
        listed += 1;
    }
    if listed < senders.count {
        let _ = write!(text, " and {} more", senders.count - listed);
    }
    text.chars().take(MAX_CHARS).collect()
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
    fn a_new_reply_gives_a_note_at_once_and_the_summary_lists_every_sender() {
        let mut hosts = UnidentifiedHosts::default();
        assert_eq!(
            hosts.add(at(7, 80), "HTTP 200, title LaserJet").as_deref(),
            Some("unidentified host, reply `HTTP 200, title LaserJet`: 10.0.0.7:80")
        );
        assert_eq!(hosts.add(at(8, 80), "HTTP 200, title LaserJet"), None);
        assert!(hosts.add(at(9, 22), "SSH-2.0-x").is_some());
        assert!(hosts.add(at(4, 23), "").is_some());
        assert_eq!(
            hosts.into_texts(),
            [
                "unidentified host, reply `HTTP 200, title LaserJet` (2 hosts): 10.0.0.7:80, 10.0.0.8:80",
                "unidentified host, no reply: 10.0.0.4:23",
                "unidentified host, reply `SSH-2.0-x`: 10.0.0.9:22",
            ]
        );
    }

    #[test]
    fn a_rare_reply_is_quoted_after_any_number_of_frequent_ones() {
        let mut hosts = UnidentifiedHosts::default();
        for last in 0..200 {
            hosts.add(at(last, 80), "HTTP 404");
        }
        assert!(hosts.add(at(201, 80), "HTTP 200, title Boiler").is_some());
        let texts = hosts.into_texts();
        assert_eq!(texts.len(), 2);
        assert!(
            texts[0].contains("(200 hosts)") && texts[0].ends_with(" more"),
            "{texts:?}"
        );
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("unidentified", 64))]

        #[test]
        fn notes_are_bounded_and_every_reply_is_counted(replies in proptest::collection::vec(("[a-c]{0,2}|\\PC{150,160}", any::<u8>(), 1u16..), 0..80)) {
            let mut hosts = UnidentifiedHosts::default();
            for (reply, last, port) in &replies {
                if let Some(text) = hosts.add(at(*last, *port), reply) {
                    prop_assert!(text.chars().count() <= MAX_CHARS);
                }
            }
            let counted: u64 = hosts.replies.values().map(|senders| senders.count).sum();
            prop_assert_eq!(counted + hosts.others.count, replies.len() as u64);
            let texts = hosts.into_texts();
            prop_assert!(texts.len() <= REPLIES + 1);
            prop_assert!(texts.iter().all(|text| text.chars().count() <= MAX_CHARS));
        }
    }
}
