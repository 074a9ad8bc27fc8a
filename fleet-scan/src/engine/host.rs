//! What is known of one address: which ports are still open questions, who named it, what is reported. Pure.

use std::cmp::Reverse;

use fleet_core::{DeviceFacts, TargetOutcome};

use crate::job::FoundDevice;

/// What became of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PortVerdict {
    /// Not allowed.
    Skipped,
    /// Could not be tried to the end.
    NotReached,
    /// Nothing answered.
    Silent,
    /// The host refused.
    Refused,
    /// It answered, no driver knows it; what it said, escaped, perhaps nothing.
    Unidentified(String),
    /// A driver of this precedence named it.
    Named(u8, Box<FoundDevice>),
}

/// One address of a scan. Reports by the driver of highest precedence, of equals by the port that the scan names
/// first, once; a further port only when it shows another MAC or serial. A device that showed no MAC waits for the
/// other ports, since one of them may. So neither the report nor the identity in it hangs on which port was the
/// quickest.
///
/// 24 bytes where nothing answered: a scan may have 65,536.
#[derive(Debug, Clone, Default)]
pub(super) struct Host {
    open_questions: u64,
    learned: Option<TargetOutcome>,
    answers: Option<Box<Answers>>,
}

/// What a host said.
#[derive(Debug, Clone, Default)]
struct Answers {
    candidates: Vec<(Rank, FoundDevice)>,
    reported: Vec<FoundDevice>,
    /// Of the first port of the scan that said anything.
    words: Option<(usize, String)>,
    /// A bit each for the ports that answered and were not named.
    unnamed: u64,
}

/// Precedence, then the earlier port of the scan.
type Rank = (u8, Reverse<usize>);

impl Host {
    /// A host with `ports` ports to try, at most 64.
    pub(super) fn new(ports: usize) -> Self {
        let open_questions = u64::MAX
            .checked_shr(64 - u32::try_from(ports.min(64)).unwrap_or(64))
            .unwrap_or(0);
        Self {
            open_questions,
            ..Self::default()
        }
    }

    /// Takes in what became of a port. `precedences` holds, a port, the highest precedence that may still name it.
    /// Returns what is to be reported now.
    #[must_use]
    pub(super) fn conclude(
        &mut self,
        port: usize,
        verdict: PortVerdict,
        precedences: &[u8],
    ) -> Vec<FoundDevice> {
        self.open_questions &= !(1u64 << (port & 63));
        self.learned = self.learned.max(Some(outcome_of(&verdict)));
        match verdict {
            PortVerdict::Named(precedence, device) => {
                let rank = (precedence, Reverse(port));
                self.answers().candidates.push((rank, *device));
            }
            PortVerdict::Unidentified(words) => self.answers().heard(port, words),
            PortVerdict::Skipped
            | PortVerdict::NotReached
            | PortVerdict::Silent
            | PortVerdict::Refused => {}
        }
        let Some(answers) = &mut self.answers else {
            return Vec::new();
        };
        let best = answers.candidates.iter().max_by_key(|(rank, _)| *rank);
        let may_still_be = precedences
            .iter()
            .enumerate()
            .filter(|(port, _)| self.open_questions & (1u64 << (port & 63)) != 0)
            .map(|(port, precedence)| (*precedence, Reverse(port)))
            .max();
        let is_settled = match (best, may_still_be) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some((rank, device)), Some(other)) => {
                let facts = &device.facts;
                *rank > other && facts.mac.is_some() && !facts.model.is_empty()
            }
        };
        if answers.reported.is_empty() && !is_settled {
            Vec::new()
        } else {
            answers.report()
        }
    }

    /// Takes in what external drivers made of it, after every port is settled. Returns what is to be reported.
    #[must_use]
    pub(super) fn conclude_outside(&mut self, port: u8, verdict: PortVerdict) -> Vec<FoundDevice> {
        // No port is an open question any more, so that there is nothing to wait for.
        self.conclude(usize::from(port), verdict, &[])
    }

    /// The ports at which external drivers may be asked: none before all are settled, none once one was named.
    pub(super) fn unnamed(&self) -> impl Iterator<Item = u8> + use<> {
        let may_ask = self.is_done() && self.learned == Some(TargetOutcome::Unidentified);
        let answers = self.answers.as_ref().filter(|_| may_ask);
        let ports = answers.map_or(0, |answers| answers.unnamed);
        (0..64).filter(move |port| ports & (1u64 << port) != 0)
    }

    /// Whether its ports are settled.
    pub(super) fn is_done(&self) -> bool {
        self.open_questions == 0
    }

    /// The scan is over: what was held back for a better name is reported now.
    #[must_use]
    pub(super) fn give_up_waiting(&mut self) -> Vec<FoundDevice> {
        let provisional = !self.is_done();
        let mut devices = self
            .answers
            .as_mut()
            .map(|answers| answers.report())
            .unwrap_or_default();
        for device in &mut devices {
            device.provisional = provisional;
        }
        devices
    }

    /// At which port it said what, when it answered and nothing named it in the end; perhaps nothing.
    pub(super) fn stranger(&self) -> Option<(usize, &str)> {
        let is_stranger = self.is_done() && self.learned == Some(TargetOutcome::Unidentified);
        let (port, words) = self.answers.as_ref()?.words.as_ref()?;
        is_stranger.then_some((*port, words.as_str()))
    }

    pub(super) fn outcome(&self) -> TargetOutcome {
        match self.learned {
            Some(TargetOutcome::Skipped) if !self.is_done() => TargetOutcome::NotReached,
            Some(outcome) => outcome,
            None => TargetOutcome::NotReached,
        }
    }

    fn answers(&mut self) -> &mut Answers {
        self.answers.get_or_insert_default()
    }
}

impl Answers {
    /// Words go before silence, then the earlier port of the scan.
    fn heard(&mut self, port: usize, words: String) {
        let place = |port: usize, words: &str| (words.is_empty(), port);
        self.unnamed |= 1u64 << (port & 63);
        let known = self.words.as_ref();
        if known.is_none_or(|(other, said)| place(port, &words) < place(*other, said)) {
            self.words = Some((port, words));
        }
    }

    fn report(&mut self) -> Vec<FoundDevice> {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort_by_key(|(rank, _)| Reverse(*rank));
        let mut now: Vec<FoundDevice> = Vec::new();
        for (_, device) in candidates {
            let known = now.iter_mut().find(|other| !is_another(other, &device));
            match known {
                Some(same) => complete(&mut same.facts, device.facts),
                None if self
                    .reported
                    .iter()
                    .any(|other| !is_another(other, &device)) => {}
                None => now.push(device),
            }
        }
        self.reported.extend(now.iter().cloned());
        now
    }
}

/// Adds what another port of the same device says to what is known of it. The port of higher precedence keeps what
/// it says; a firmware that only has a name takes the version of the other.
fn complete(known: &mut DeviceFacts, other: DeviceFacts) {
    known.mac = known.mac.or(other.mac);
    known.serial = known.serial.take().or(other.serial);
    if known.model.is_empty() && !other.model.is_empty() {
        known.model = other.model;
        // Who made the hardware follows from the model.
        known.manufacturer = other.manufacturer;
    }
    if known.firmware.is_empty() || other.firmware.starts_with(&format!("{} ", known.firmware)) {
        known.firmware = other.firmware;
    }
}

/// Whether two answers of one address are certainly two devices: MACs differ, or serials when a MAC is unknown.
fn is_another(one: &FoundDevice, other: &FoundDevice) -> bool {
    let (one, other) = (&one.facts, &other.facts);
    match (one.mac, other.mac) {
        (Some(one), Some(other)) => one != other,
        (Some(_), None) | (None, Some(_)) | (None, None) => {
            matches!((&one.serial, &other.serial), (Some(one), Some(other)) if one != other)
        }
    }
}

fn outcome_of(verdict: &PortVerdict) -> TargetOutcome {
    match verdict {
        PortVerdict::Skipped => TargetOutcome::Skipped,
        PortVerdict::NotReached => TargetOutcome::NotReached,
        PortVerdict::Silent => TargetOutcome::Silent,
        PortVerdict::Refused => TargetOutcome::Refused,
        PortVerdict::Unidentified(_) => TargetOutcome::Unidentified,
        PortVerdict::Named(..) => TargetOutcome::Identified,
    }
}

#[cfg(test)]
mod tests {
    use fleet_core::{Endpoint, Port, Serial};
    use proptest::prelude::*;

    use super::*;

    const API: usize = 0;
    const WEB: usize = 1;
    const PRECEDENCES: [u8; 2] = [100, 50];

    fn device(driver: &str, mac: Option<&str>, serial: Option<&str>) -> Box<FoundDevice> {
        Box::new(FoundDevice {
            endpoint: Endpoint {
                ip: [10, 0, 0, 7].into(),
                port: Port::new(80).expect("a port"),
            },
            facts: DeviceFacts {
                driver: driver.to_owned(),
                model: "X1".to_owned(),
                mac: mac.map(|mac| mac.parse().expect("a MAC")),
                serial: serial.and_then(Serial::new),
                ..DeviceFacts::default()
            },
            provisional: false,
        })
    }

    fn drivers(found: &[FoundDevice]) -> Vec<&str> {
        found
            .iter()
            .map(|device| device.facts.driver.as_str())
            .collect()
    }

    #[test]
    fn the_highest_precedence_is_reported_at_once_and_the_other_port_not_at_all() {
        let mut host = Host::new(2);
        let found = host.conclude(
            API,
            PortVerdict::Named(100, device("api", Some("02:00:00:00:00:0a"), None)),
            &PRECEDENCES,
        );
        assert_eq!(drivers(&found), ["api"]);
        assert!(!host.is_done());
        let found = host.conclude(
            WEB,
            PortVerdict::Named(50, device("web", None, None)),
            &PRECEDENCES,
        );
        assert!(found.is_empty());
        assert!(host.is_done());
    }

    #[test]
    fn a_lower_one_waits_for_the_port_that_could_outrank_it() {
        for (verdict, expected) in [
            (PortVerdict::Refused, "web"),
            (PortVerdict::Silent, "web"),
            (PortVerdict::Unidentified(String::new()), "web"),
            (PortVerdict::Named(100, device("api", None, None)), "api"),
        ] {
            let mut host = Host::new(2);
            let found = host.conclude(
                WEB,
                PortVerdict::Named(50, device("web", None, None)),
                &PRECEDENCES,
            );
            assert!(found.is_empty());
            assert_eq!(
                drivers(&host.conclude(API, verdict, &PRECEDENCES)),
                [expected]
            );
            assert_eq!(host.outcome(), TargetOutcome::Identified);
        }
    }

    #[test]
    fn a_further_port_with_another_mac_or_serial_is_another_device() {
        let (a, b) = (Some("02:00:00:00:00:0a"), Some("02:00:00:00:00:0b"));
        for (first, second, count) in [
            (device("api", a, None), device("web", b, None), 2),
            (device("api", a, None), device("web", a, None), 1),
            (device("api", a, None), device("web", None, Some("S1")), 1),
            (
                device("api", None, Some("S1")),
                device("web", None, Some("S2")),
                2,
            ),
            (device("api", None, None), device("web", b, None), 1),
        ] {
            let mut host = Host::new(2);
            let mut found =
                host.conclude(API, PortVerdict::Named(100, first.clone()), &PRECEDENCES);
            found.extend(host.conclude(WEB, PortVerdict::Named(50, second.clone()), &PRECEDENCES));
            assert_eq!(found.len(), count, "{first:?} {second:?}");
        }
    }

    #[test]
    fn the_identity_that_a_port_of_lower_precedence_shows_goes_into_the_one_report_whichever_answers_first()
     {
        let api = PortVerdict::Named(100, device("api", None, None));
        let web = PortVerdict::Named(50, device("web", Some("02:00:00:00:00:0a"), Some("S1")));
        for order in [
            [(API, api.clone()), (WEB, web.clone())],
            [(WEB, web), (API, api)],
        ] {
            let mut host = Host::new(2);
            let [(first, one), (second, other)] = order;
            assert!(host.conclude(first, one, &PRECEDENCES).is_empty());
            let found = host.conclude(second, other, &PRECEDENCES);
            assert_eq!(drivers(&found), ["api"]);
            assert!(found[0].facts.mac.is_some() && found[0].facts.serial.is_some());
        }
    }

    #[test]
    fn a_port_adds_what_the_better_one_does_not_say() {
        let with = |model: &str, maker: &str, firmware: &str| {
            let mut device = device("any", None, None);
            let facts = &mut device.facts;
            (facts.model, facts.manufacturer, facts.firmware) =
                (model.into(), maker.into(), firmware.into());
            device
        };
        for (api, web, expected) in [
            (
                ("", "Braiins", "Braiins OS"),
                ("Antminer S9", "Bitmain", "Braiins OS 24.09"),
                ("Antminer S9", "Bitmain", "Braiins OS 24.09"),
            ),
            (
                ("S9", "Bitmain", "2.0"),
                ("S9j", "Other", "3.0"),
                ("S9", "Bitmain", "2.0"),
            ),
            (
                ("S9", "Bitmain", ""),
                ("", "", "3.0"),
                ("S9", "Bitmain", "3.0"),
            ),
            (
                ("S9", "Bitmain", "LuxOS"),
                ("", "", "LuxOSX 2"),
                ("S9", "Bitmain", "LuxOS"),
            ),
        ] {
            let mut host = Host::new(2);
            let api = PortVerdict::Named(100, with(api.0, api.1, api.2));
            assert!(host.conclude(API, api, &PRECEDENCES).is_empty());
            let found = host.conclude(
                WEB,
                PortVerdict::Named(50, with(web.0, web.1, web.2)),
                &PRECEDENCES,
            );
            let found = (
                found[0].facts.model.as_str(),
                found[0].facts.manufacturer.as_str(),
                found[0].facts.firmware.as_str(),
            );
            assert_eq!(found, expected);
        }
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("host-order"))]

        /// Four ports, two precedences, three identities or none.
        #[test]
        fn what_is_reported_does_not_hang_on_the_order_of_answers(
            verdicts in proptest::collection::vec((0u8..4, 0u8..2), 4),
            order in Just([0usize, 1, 2, 3]).prop_shuffle(),
        ) {
            let precedences = [100, 50, 50, 100];
            let verdict = |port: usize| match verdicts[port] {
                (3, _) => PortVerdict::Unidentified(format!("port {port}")),
                (mac, serial) => {
                    let mac = [None, Some("02:00:00:00:00:0a"), Some("02:00:00:00:00:0b")][usize::from(mac)];
                    let mut named = device(&format!("port {port}"), mac, (serial == 1).then_some("S1"));
                    named.facts.model = format!("{port}");
                    PortVerdict::Named(precedences[port], named)
                }
            };
            let run = |order: &[usize]| {
                let mut host = Host::new(4);
                let mut found = Vec::new();
                for port in order {
                    found.extend(host.conclude(*port, verdict(*port), &precedences));
                }
                prop_assert!(host.give_up_waiting().is_empty());
                let words = host.stranger().map(|(port, words)| (port, words.to_owned()));
                let first = found.into_iter().next().map(|device| (device.facts.driver, device.facts.mac));
                Ok((first, host.outcome(), words))
            };
            prop_assert_eq!(run(&[0, 1, 2, 3])?, run(&order)?);
        }
    }

    #[test]
    fn an_interrupted_host_reports_what_it_had() {
        let mut host = Host::new(2);
        let found = host.conclude(
            WEB,
            PortVerdict::Named(50, device("web", None, None)),
            &PRECEDENCES,
        );
        assert!(found.is_empty());
        let left = host.give_up_waiting();
        assert_eq!(drivers(&left), ["web"]);
        assert!(
            left[0].provisional,
            "the other port might have known better"
        );
        assert!(host.give_up_waiting().is_empty());
    }

    #[test]
    fn the_best_that_was_learned_is_the_outcome() {
        use PortVerdict::{NotReached, Refused, Silent, Skipped, Unidentified};
        for (verdicts, expected) in [
            (vec![], TargetOutcome::NotReached),
            (vec![Skipped], TargetOutcome::NotReached),
            (vec![Skipped, Skipped], TargetOutcome::Skipped),
            (vec![Skipped, Silent], TargetOutcome::Silent),
            (vec![Silent, Refused], TargetOutcome::Refused),
            (
                vec![Unidentified("?".to_owned()), Silent],
                TargetOutcome::Unidentified,
            ),
            (vec![NotReached, Skipped], TargetOutcome::NotReached),
        ] {
            let mut host = Host::new(2);
            for (port, verdict) in verdicts.iter().cloned().enumerate() {
                assert!(host.conclude(port, verdict, &PRECEDENCES).is_empty());
            }
            assert_eq!(host.outcome(), expected, "{verdicts:?}");
        }
    }

    #[test]
    fn a_stranger_is_one_only_when_no_port_named_it() {
        let said = |words: &str| PortVerdict::Unidentified(words.to_owned());
        for (api, web, expected) in [
            (said(""), said("HTTP 200"), Some((WEB, "HTTP 200"))),
            (said("SSH"), said("HTTP 200"), Some((API, "SSH"))),
            (said(""), PortVerdict::Silent, Some((API, ""))),
            (
                PortVerdict::Named(100, device("api", None, None)),
                said("HTTP 200"),
                None,
            ),
            (PortVerdict::Silent, PortVerdict::Refused, None),
        ] {
            let mut host = Host::new(2);
            let _ = host.conclude(API, api, &PRECEDENCES);
            assert_eq!(host.stranger(), None, "a port is still an open question");
            let _ = host.conclude(WEB, web, &PRECEDENCES);
            assert_eq!(host.stranger(), expected);
        }
    }

    #[test]
    fn external_drivers_get_what_answered_and_nobody_named_once_all_is_settled() {
        let said = || PortVerdict::Unidentified(String::new());
        let mut host = Host::new(2);
        assert!(host.conclude(WEB, said(), &PRECEDENCES).is_empty());
        assert_eq!(
            host.unnamed().count(),
            0,
            "a port is still an open question"
        );
        assert!(
            host.conclude(API, PortVerdict::Silent, &PRECEDENCES)
                .is_empty()
        );
        assert_eq!(host.unnamed().collect::<Vec<_>>(), [1]);
        let found = host.conclude_outside(1, PortVerdict::Named(0, device("plugin", None, None)));
        assert_eq!(drivers(&found), ["plugin"]);
        assert_eq!(host.unnamed().count(), 0, "it is identified");
        assert_eq!(host.outcome(), TargetOutcome::Identified);
        assert_eq!(host.stranger(), None);
    }

    #[test]
    fn the_answer_of_an_external_driver_belongs_to_the_port_it_was_asked_about() {
        let said = |words: &str| PortVerdict::Unidentified(words.to_owned());
        let mut host = Host::new(2);
        let _ = host.conclude(API, PortVerdict::Refused, &PRECEDENCES);
        let _ = host.conclude(WEB, said(""), &PRECEDENCES);
        let _ = host.conclude_outside(1, said("requires a login"));
        assert_eq!(host.stranger(), Some((WEB, "requires a login")));
    }

    #[test]
    fn a_host_that_a_built_in_driver_named_is_no_external_drivers_business() {
        let mut host = Host::new(2);
        let named = PortVerdict::Named(100, device("api", None, None));
        // It waits for the port that may know its MAC.
        assert!(host.conclude(API, named, &PRECEDENCES).is_empty());
        let said = PortVerdict::Unidentified(String::new());
        assert_eq!(host.conclude(WEB, said, &PRECEDENCES).len(), 1);
        assert_eq!(host.unnamed().count(), 0);
    }

    #[test]
    fn sixty_four_ports_fit() {
        let mut host = Host::new(64);
        for port in 0..64 {
            assert!(!host.is_done());
            assert!(
                host.conclude(port, PortVerdict::Silent, &[50; 64])
                    .is_empty()
            );
        }
        assert!(host.is_done());
    }
}
