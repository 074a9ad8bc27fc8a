//! The state of one address: its pending ports, its answers, and which devices are reported. Pure.

use std::cmp::Reverse;

use fleet_core::{DeviceFacts, TargetOutcome};

use crate::job::FoundDevice;

/// The outcome of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PortVerdict {
    /// The guard forbids it.
    Skipped,
    /// It could not be tried completely.
    NotReached,
    /// Nothing answered.
    Silent,
    /// The network reports it as unreachable.
    Unreachable,
    /// The host sent a reset.
    Refused,
    /// It answered, but no driver identified it. The text is its reply, escaped and possibly empty.
    Unidentified(String),
    /// It answered, and its time was over before the drivers were done. The text is its reply, as above.
    CutOff(String),
    /// A driver of this precedence identified it.
    Named(u8, Box<FoundDevice>),
}

/// The state of one address. It reports one device: the one from the driver of highest precedence, or from the earlier
/// port of the scan if precedences are equal. Another port adds a device only if it shows a different MAC or serial. A
/// device without a MAC waits for the other ports, which may show one. Therefore the report does not depend on which
/// port answered first.
///
/// A host that sent nothing takes 40 bytes, because a scan can have 65,536 hosts.
#[derive(Debug, Clone, Default)]
pub(super) struct Host {
    pending_ports: u64,
    /// A bit for each port that was forbidden or not tried completely.
    missed_ports: u64,
    /// A bit for each port that the network reports as unreachable.
    unreachable_ports: u64,
    best: Option<TargetOutcome>,
    /// The identification of a port was cut off.
    is_cut_off: bool,
    answers: Option<Box<Answers>>,
}

/// The answers of a host.
#[derive(Debug, Clone, Default)]
struct Answers {
    candidates: Vec<(Rank, FoundDevice)>,
    reported: Vec<FoundDevice>,
    /// The reply to quote, and its port.
    reply: Option<(usize, String)>,
    /// A bit for each port that answered and was not identified.
    unidentified: u64,
}

/// Precedence, then the earlier port of the scan.
type Rank = (u8, Reverse<usize>);

impl Host {
    /// Creates a host with `ports` ports to try, at most 64.
    pub(super) fn new(ports: usize) -> Self {
        let pending_ports = u64::MAX
            .checked_shr(64 - u32::try_from(ports.min(64)).unwrap_or(64))
            .unwrap_or(0);
        Self {
            pending_ports,
            ..Self::default()
        }
    }

    /// Takes the outcome of a port and returns the devices to report now. `precedences` holds, for each port, the highest
    /// precedence that may still identify it.
    #[must_use]
    pub(super) fn conclude(
        &mut self,
        port: usize,
        verdict: PortVerdict,
        precedences: &[u8],
    ) -> Vec<FoundDevice> {
        self.pending_ports &= !(1u64 << (port & 63));
        self.best = self.best.max(Some(outcome_of(&verdict)));
        match verdict {
            PortVerdict::Named(precedence, device) => {
                let rank = (precedence, Reverse(port));
                self.answers().candidates.push((rank, *device));
            }
            PortVerdict::Unidentified(reply) => self.answers().add_reply(port, reply),
            PortVerdict::CutOff(reply) => {
                self.is_cut_off = true;
                self.answers().add_reply(port, reply);
            }
            PortVerdict::NotReached | PortVerdict::Skipped => {
                self.missed_ports |= 1u64 << (port & 63);
            }
            PortVerdict::Unreachable => self.unreachable_ports |= 1u64 << (port & 63),
            PortVerdict::Silent | PortVerdict::Refused => {}
        }
        let Some(answers) = &mut self.answers else {
            return Vec::new();
        };
        let top = answers.candidates.iter().max_by_key(|(rank, _)| *rank);
        let pending = precedences
            .iter()
            .enumerate()
            .filter(|(port, _)| self.pending_ports & (1u64 << (port & 63)) != 0)
            .map(|(port, precedence)| (*precedence, Reverse(port)))
            .max();
        let is_settled = match (top, pending) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some((rank, device)), Some(other)) => {
                let facts = &device.facts;
                // A pending port may still show the MAC or the model, and the first report decides
                // the identity.
                *rank > other && facts.mac.is_some() && !facts.model.is_empty()
            }
        };
        // After a report, a further candidate can only be another device, which need not wait.
        if answers.reported.is_empty() && !is_settled {
            Vec::new()
        } else {
            answers.report()
        }
    }

    /// Takes the result of external drivers, after every port is settled. Returns the devices to report.
    #[must_use]
    pub(super) fn conclude_external(&mut self, port: u8, verdict: PortVerdict) -> Vec<FoundDevice> {
        // No port is pending, so nothing is held back.
        self.conclude(usize::from(port), verdict, &[])
    }

    /// The ports for external drivers: none while a port is pending, and none if a built-in driver identified the host.
    pub(super) fn unidentified_ports(&self) -> impl Iterator<Item = u8> + use<> {
        let applies = self.is_done() && self.best == Some(TargetOutcome::Unidentified);
        let answers = self.answers.as_ref().filter(|_| applies);
        let ports = answers.map_or(0, |answers| answers.unidentified);
        (0..64).filter(move |port| ports & (1u64 << port) != 0)
    }

    /// Returns whether all ports are settled and none answered.
    pub(super) fn is_silent(&self) -> bool {
        let silent = [Some(TargetOutcome::Silent), Some(TargetOutcome::Refused)];
        self.is_done() && silent.contains(&self.best)
    }

    /// The ports that answered and were not identified.
    pub(super) fn open_ports(&self) -> impl Iterator<Item = u8> + use<> {
        let ports = self
            .answers
            .as_ref()
            .map_or(0, |answers| answers.unidentified);
        (0..64).filter(move |port| ports & (1u64 << port) != 0)
    }

    /// Returns whether all ports are settled.
    pub(super) fn is_done(&self) -> bool {
        self.pending_ports == 0
    }

    /// Returns the devices that were held back for a better answer. Call this when the scan is over.
    #[must_use]
    pub(super) fn flush(&mut self) -> Vec<FoundDevice> {
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

    /// Returns the port and the reply to quote, if the host answered and no driver identified it.
    pub(super) fn unidentified_reply(&self) -> Option<(usize, &str)> {
        let is_unidentified = self.is_done() && self.best == Some(TargetOutcome::Unidentified);
        let (port, reply) = self.answers.as_ref()?.reply.as_ref()?;
        is_unidentified.then_some((*port, reply.as_str()))
    }

    pub(super) fn outcome(&self) -> TargetOutcome {
        match self.best {
            // Skipped means that a policy excluded every port. Ports that were never tried do not
            // prove that.
            Some(TargetOutcome::Skipped) if !self.is_done() => TargetOutcome::NotReached,
            Some(outcome) => outcome,
            None => TargetOutcome::NotReached,
        }
    }

    /// Returns how many ports were not tried, if the host has an outcome all the same.
    pub(super) fn untried_ports(&self) -> u32 {
        let missed = self.pending_ports | self.missed_ports | self.unreachable_ports;
        match self.outcome() {
            TargetOutcome::NotReached | TargetOutcome::Skipped => 0,
            TargetOutcome::Silent
            | TargetOutcome::Refused
            | TargetOutcome::Unidentified
            | TargetOutcome::Identified => missed.count_ones(),
        }
    }

    /// Returns whether the host is unidentified because the identification of a port was cut off.
    pub(super) fn is_cut_off(&self) -> bool {
        self.is_cut_off && self.best == Some(TargetOutcome::Unidentified)
    }

    /// Returns whether ports of the host are unreachable.
    pub(super) fn is_unreachable(&self) -> bool {
        self.unreachable_ports != 0
    }

    /// Counts unreachable ports as silent.
    pub(super) fn unreachable_is_silent(&mut self) {
        if std::mem::take(&mut self.unreachable_ports) != 0 {
            self.best = self.best.max(Some(TargetOutcome::Silent));
        }
    }

    /// Withdraws the claim that the host was silent: the network between may have dropped the probes.
    pub(super) fn silence_is_not_reached(&mut self) {
        if self.best == Some(TargetOutcome::Silent) {
            self.best = Some(TargetOutcome::NotReached);
        }
    }

    fn answers(&mut self) -> &mut Answers {
        self.answers.get_or_insert_default()
    }
}

impl Answers {
    /// Prefers a reply over an empty one, then the earlier port of the scan.
    fn add_reply(&mut self, port: usize, reply: String) {
        let rank = |port: usize, reply: &str| (reply.is_empty(), port);
        self.unidentified |= 1u64 << (port & 63);
        let known = self.reply.as_ref();
        if known.is_none_or(|(other, other_reply)| rank(port, &reply) < rank(*other, other_reply)) {
            self.reply = Some((port, reply));
        }
    }

    fn report(&mut self) -> Vec<FoundDevice> {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort_by_key(|(rank, _)| Reverse(*rank));
        let mut now: Vec<FoundDevice> = Vec::new();
        for (_, device) in candidates {
            let known = now.iter_mut().find(|other| !are_distinct(other, &device));
            match known {
                Some(same) => complete(&mut same.facts, device.facts),
                None if self
                    .reported
                    .iter()
                    .any(|other| !are_distinct(other, &device)) => {}
                None => now.push(device),
            }
        }
        self.reported.extend(now.iter().cloned());
        now
    }
}

/// Adds the facts from another port of the same device. The port of higher precedence keeps its own; a firmware without
/// a version takes the version of the other.
fn complete(known: &mut DeviceFacts, other: DeviceFacts) {
    known.mac = known.mac.or(other.mac);
    known.serial = known.serial.take().or(other.serial);
    if known.model.is_empty() && !other.model.is_empty() {
        known.model = other.model;
        // The model determines the maker of the hardware.
        known.manufacturer = other.manufacturer;
    }
    if known.firmware.is_empty() || other.firmware.starts_with(&format!("{} ", known.firmware)) {
        known.firmware = other.firmware;
    }
}

/// Returns whether two answers of one address certainly come from two devices: their MACs differ, or their serials if a
/// MAC is unknown.
fn are_distinct(one: &FoundDevice, other: &FoundDevice) -> bool {
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
        PortVerdict::NotReached | PortVerdict::Unreachable => TargetOutcome::NotReached,
        PortVerdict::Silent => TargetOutcome::Silent,
        PortVerdict::Refused => TargetOutcome::Refused,
        PortVerdict::Unidentified(_) | PortVerdict::CutOff(_) => TargetOutcome::Unidentified,
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
    fn the_highest_precedence_is_reported_at_once_and_the_other_port_is_not() {
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
    fn a_lower_precedence_waits_for_the_port_that_could_outrank_it() {
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
    fn an_identity_from_a_port_of_lower_precedence_joins_the_report_in_either_order() {
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
    fn a_port_adds_facts_that_the_better_port_lacks() {
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
        fn the_report_does_not_depend_on_the_order_of_answers(
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
                prop_assert!(host.flush().is_empty());
                let reply = host.unidentified_reply().map(|(port, reply)| (port, reply.to_owned()));
                let first = found.into_iter().next().map(|device| (device.facts.driver, device.facts.mac));
                Ok((first, host.outcome(), reply))
            };
            prop_assert_eq!(run(&[0, 1, 2, 3])?, run(&order)?);
        }
    }

    #[test]
    fn an_interrupted_host_reports_its_answers_so_far() {
        let mut host = Host::new(2);
        let found = host.conclude(
            WEB,
            PortVerdict::Named(50, device("web", None, None)),
            &PRECEDENCES,
        );
        assert!(found.is_empty());
        let left = host.flush();
        assert_eq!(drivers(&left), ["web"]);
        assert!(
            left[0].provisional,
            "the other port might have identified it better"
        );
        assert!(host.flush().is_empty());
    }

    #[test]
    fn the_best_port_decides_the_outcome() {
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
    fn a_port_that_was_not_tried_is_a_gap_beside_any_outcome() {
        use PortVerdict::{NotReached, Refused, Silent, Skipped, Unreachable};
        for (verdicts, gap) in [
            (vec![Refused, Silent], 0),
            (vec![Refused, NotReached], 1),
            (vec![Refused, Unreachable], 1),
            (vec![Refused], 1),
            (vec![Skipped, Skipped], 0),
            (vec![Refused, Skipped], 1),
            (vec![NotReached, NotReached], 0),
        ] {
            let mut host = Host::new(2);
            for (port, verdict) in verdicts.iter().cloned().enumerate() {
                assert!(host.conclude(port, verdict, &PRECEDENCES).is_empty());
            }
            assert_eq!(host.untried_ports(), gap, "{verdicts:?}");
        }
    }

    #[test]
    fn a_cut_off_identification_is_a_gap_unless_another_port_identified_the_host() {
        let cut_off = || PortVerdict::CutOff("HTTP/1.1".to_owned());
        for (other, gap) in [
            (PortVerdict::Refused, true),
            (PortVerdict::Unidentified("SSH".to_owned()), true),
            (
                PortVerdict::Named(100, device("api", Some("02:00:00:00:00:0a"), None)),
                false,
            ),
        ] {
            let mut host = Host::new(2);
            let _ = host.conclude(WEB, cut_off(), &PRECEDENCES);
            let _ = host.conclude(API, other.clone(), &PRECEDENCES);
            assert_eq!(host.is_cut_off(), gap, "{other:?}");
        }
    }

    #[test]
    fn only_silence_is_withdrawn_when_the_network_reports_a_subnet_as_unreachable() {
        let mut host = Host::new(1);
        let _ = host.conclude(0, PortVerdict::Silent, &[100]);
        host.silence_is_not_reached();
        assert_eq!(host.outcome(), TargetOutcome::NotReached);
        let mut host = Host::new(1);
        let _ = host.conclude(0, PortVerdict::Refused, &[100]);
        host.silence_is_not_reached();
        assert_eq!(host.outcome(), TargetOutcome::Refused);
    }

    #[test]
    fn an_unreachable_host_is_silent_only_if_its_subnet_answered() {
        let mut host = Host::new(1);
        let _ = host.conclude(API, PortVerdict::Unreachable, &[100]);
        assert!(host.is_unreachable());
        assert_eq!(host.outcome(), TargetOutcome::NotReached);
        host.unreachable_is_silent();
        assert!(!host.is_unreachable());
        assert_eq!(host.outcome(), TargetOutcome::Silent);
    }

    #[test]
    fn a_host_is_unidentified_only_if_no_port_identified_it() {
        let replied = |reply: &str| PortVerdict::Unidentified(reply.to_owned());
        for (api, web, expected) in [
            (replied(""), replied("HTTP 200"), Some((WEB, "HTTP 200"))),
            (replied("SSH"), replied("HTTP 200"), Some((API, "SSH"))),
            (replied(""), PortVerdict::Silent, Some((API, ""))),
            (
                PortVerdict::Named(100, device("api", None, None)),
                replied("HTTP 200"),
                None,
            ),
            (PortVerdict::Silent, PortVerdict::Refused, None),
        ] {
            let mut host = Host::new(2);
            let _ = host.conclude(API, api, &PRECEDENCES);
            assert_eq!(host.unidentified_reply(), None, "a port is pending");
            let _ = host.conclude(WEB, web, &PRECEDENCES);
            assert_eq!(host.unidentified_reply(), expected);
        }
    }

    #[test]
    fn external_drivers_get_the_unidentified_ports_once_all_ports_are_settled() {
        let replied = || PortVerdict::Unidentified(String::new());
        let mut host = Host::new(2);
        assert!(host.conclude(WEB, replied(), &PRECEDENCES).is_empty());
        assert_eq!(host.unidentified_ports().count(), 0, "a port is pending");
        assert!(
            host.conclude(API, PortVerdict::Silent, &PRECEDENCES)
                .is_empty()
        );
        assert_eq!(host.unidentified_ports().collect::<Vec<_>>(), [1]);
        let found = host.conclude_external(1, PortVerdict::Named(0, device("plugin", None, None)));
        assert_eq!(drivers(&found), ["plugin"]);
        assert_eq!(host.unidentified_ports().count(), 0, "it is identified");
        assert_eq!(host.outcome(), TargetOutcome::Identified);
        assert_eq!(host.unidentified_reply(), None);
    }

    #[test]
    fn the_answer_of_an_external_driver_belongs_to_the_port_of_its_question() {
        let replied = |reply: &str| PortVerdict::Unidentified(reply.to_owned());
        let mut host = Host::new(2);
        let _ = host.conclude(API, PortVerdict::Refused, &PRECEDENCES);
        let _ = host.conclude(WEB, replied(""), &PRECEDENCES);
        let _ = host.conclude_external(1, replied("requires a login"));
        assert_eq!(host.unidentified_reply(), Some((WEB, "requires a login")));
    }

    #[test]
    fn external_drivers_skip_a_host_that_a_built_in_driver_identified() {
        let mut host = Host::new(2);
        let named = PortVerdict::Named(100, device("api", None, None));
        // It waits for the port that may show its MAC.
        assert!(host.conclude(API, named, &PRECEDENCES).is_empty());
        let replied = PortVerdict::Unidentified(String::new());
        assert_eq!(host.conclude(WEB, replied, &PRECEDENCES).len(), 1);
        assert_eq!(host.unidentified_ports().count(), 0);
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
