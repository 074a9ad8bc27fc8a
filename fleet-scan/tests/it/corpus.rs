//! Inputs that fuzzing found, again, and changed at random. `PROPTEST_CASES=20000` tries more of these.

use std::{fs, path::Path};

use proptest::{collection::vec, prelude::*, sample::Index};

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

/// The files of a folder of this workspace.
fn files(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).expect("the folder can be listed");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).expect("a file"))
        .collect()
}

/// Rule files with an answer each, as the target `fingerprint_file` takes them.
fn rules_with_answers() -> Vec<Vec<u8>> {
    let answers = files("../fuzz/corpus/device_json");
    let rules = files("fingerprints");
    rules
        .into_iter()
        .zip(answers.into_iter().cycle())
        .map(|(rule, answer)| [&rule[..], b"\xff", &answer].concat())
        .collect()
}

/// How a seed is changed: octets that are replaced, a part that is repeated elsewhere, and an end that is cut off.
#[derive(Debug, Clone)]
struct Change {
    seed: Index,
    octets: Vec<(Index, u8)>,
    part: (Index, Index, Index),
    cut: Option<Index>,
}

fn change() -> impl Strategy<Value = Change> {
    let octet = prop_oneof![
        any::<u8>(),
        prop::sample::select(b"{}[]\",:\\\0\xff\n=|'".to_vec())
    ];
    let part = (any::<Index>(), any::<Index>(), any::<Index>());
    (
        any::<Index>(),
        vec((any::<Index>(), octet), 0..12),
        part,
        prop::option::weighted(0.3, any::<Index>()),
    )
        .prop_map(|(seed, octets, part, cut)| Change {
            seed,
            octets,
            part,
            cut,
        })
}

impl Change {
    fn of(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.seed.get(seeds).clone();
        if input.is_empty() {
            return input;
        }
        let (one, other, to) = self.part;
        let (one, other) = (one.index(input.len()), other.index(input.len()));
        let part = input[one.min(other)..one.max(other)].to_vec();
        if part.len() < 200 {
            let to = to.index(input.len());
            drop(input.splice(to..to, part));
        }
        for (at, octet) in &self.octets {
            let at = at.index(input.len());
            input[at] = *octet;
        }
        if let Some(cut) = self.cut {
            input.truncate(cut.index(input.len()));
        }
        input
    }
}

/// Runs a target on changed seeds.
fn changed(name: &'static str, seeds: Vec<Vec<u8>>, target: fn(&[u8])) {
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let config = ProptestConfig {
        // The variable sets it.
        cases: ProptestConfig::default().cases,
        ..fleet_core::regressions!("corpus")
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let ran = runner.run(&change(), |change| {
        target(&change.of(&seeds));
        Ok(())
    });
    if let Err(broken) = ran {
        panic!("{name}: {broken}");
    }
}

#[test]
fn changed_rule_files_are_read_or_refused_and_match_within_bounds() {
    changed(
        "fingerprint_file",
        rules_with_answers(),
        fleet_scan::fuzz::fingerprint_file,
    );
}

#[test]
fn changed_answers_of_devices_are_read_within_bounds() {
    for (name, folder, target) in [
        (
            "cgminer_reply",
            "../fuzz/corpus/cgminer_reply",
            fleet_scan::fuzz::cgminer_reply as fn(&[u8]),
        ),
        (
            "http_response",
            "../fuzz/corpus/http_response",
            fleet_scan::fuzz::http_response,
        ),
        (
            "whatsminer_frame",
            "../fuzz/corpus/whatsminer_frame",
            fleet_scan::fuzz::whatsminer_frame,
        ),
        (
            "device_json",
            "../fuzz/corpus/device_json",
            fleet_scan::fuzz::device_json,
        ),
        (
            "fixtures",
            "tests/fixtures",
            fleet_scan::fuzz::cgminer_reply,
        ),
    ] {
        changed(name, files(folder), target);
    }
}

#[test]
fn every_known_cgminer_reply_is_read_or_refused() {
    replay("cgminer_reply", fleet_scan::fuzz::cgminer_reply);
}

#[test]
fn every_known_http_response_is_read_or_refused() {
    replay("http_response", fleet_scan::fuzz::http_response);
}

#[test]
fn every_known_device_json_is_read_or_refused() {
    replay("device_json", fleet_scan::fuzz::device_json);
}

#[test]
fn every_known_rule_file_is_read_or_refused() {
    replay("fingerprint_file", fleet_scan::fuzz::fingerprint_file);
}

#[test]
fn every_known_whatsminer_frame_is_read_or_refused() {
    replay("whatsminer_frame", fleet_scan::fuzz::whatsminer_frame);
}

#[test]
fn every_known_mdns_answer_is_read_within_bounds() {
    replay("mdns_answer", fleet_scan::fuzz::mdns_answer);
}

#[test]
fn every_known_login_challenge_is_answered_or_refused() {
    replay("login_challenge", fleet_scan::fuzz::login_challenge);
}

#[test]
fn every_known_announcement_is_read_or_ignored() {
    replay("ip_report", |seed| {
        fleet_scan::fuzz::ip_report(seed);
        // Formats without checksums: cut seeds and single octets reach most branches.
        for at in 0..seed.len() {
            fleet_scan::fuzz::ip_report(&seed[..at]);
            let mut input = seed.to_vec();
            for octet in [0, 0x7f, 0x80, 0xff, seed[at] ^ 1] {
                input[at] = octet;
                fleet_scan::fuzz::ip_report(&input);
            }
        }
    });
}

#[test]
fn every_known_answer_to_a_login_is_read_or_refused() {
    replay("login_token", fleet_scan::fuzz::login_token);
}

#[test]
fn no_known_answer_passes_for_one_under_the_password_of_a_whatsminer() {
    replay("whatsminer_login", fleet_scan::fuzz::whatsminer_login);
}
