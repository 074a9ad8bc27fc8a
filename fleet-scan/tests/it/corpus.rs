//! Inputs that fuzzing found, again.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

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
