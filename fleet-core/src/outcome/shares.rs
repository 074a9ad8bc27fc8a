//! The outcome of a scan from those of its nodes. Start with [`conclude_shares`].

use super::{Code, Conclusion, listed};
use crate::ScanState;

/// Derives the outcome of a scan from the outcomes of its nodes, each with the text that names the node. A node that
/// failed does not fail the scan while another one has a result. The outcome of a single node is that of the scan.
pub fn conclude_shares(shares: &[(String, Conclusion)]) -> Conclusion {
    if let [(_, only)] = shares {
        return only.clone();
    }
    let all = |state| shares.iter().all(|(_, share)| share.state == state);
    if all(ScanState::Completed) {
        return Conclusion::new(ScanState::Completed, Code::Ok, "");
    }
    let reasons: Vec<String> = shares
        .iter()
        .filter(|(_, share)| share.state != ScanState::Completed)
        .map(|(node, share)| format!("{node}: {}", share.reason))
        .collect();
    let reason = listed(&reasons);
    let has_result = |(_, share): &(String, Conclusion)| {
        matches!(share.state, ScanState::Completed | ScanState::Partial)
    };
    if shares.iter().any(has_result) {
        return Conclusion::new(ScanState::Partial, Code::Ok, reason);
    }
    // A node that failed explains more than one that never came.
    let leading = [ScanState::Failed, ScanState::Canceled, ScanState::Expired]
        .into_iter()
        .find_map(|state| shares.iter().find(|(_, share)| share.state == state));
    match leading {
        Some((_, share)) => Conclusion::new(share.state, share.code, reason),
        None => Conclusion::new(ScanState::Failed, Code::Internal, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(text: &str) -> (String, Conclusion) {
        let (node, end) = text.split_once(' ').expect(text);
        let (state, code) = match end {
            "ok" => (ScanState::Completed, Code::Ok),
            "gap" => (ScanState::Partial, Code::Ok),
            "failed" => (ScanState::Failed, Code::FailedPrecondition),
            "lost" => (ScanState::Failed, Code::Unavailable),
            "expired" => (ScanState::Expired, Code::DeadlineExceeded),
            "canceled" => (ScanState::Canceled, Code::Canceled),
            _ => panic!("no outcome: {text}"),
        };
        let reason = if end == "ok" { "" } else { end };
        (node.to_owned(), Conclusion::new(state, code, reason))
    }

    fn check(shares: &str, expected: &str) {
        let parsed: Vec<_> = shares.split(", ").map(share).collect();
        let end = conclude_shares(&parsed);
        let shown = format!("{} {} {}", end.state, end.code, end.reason);
        assert_eq!(shown.trim_end(), expected, "{shares}");
    }

    #[test]
    fn a_scan_is_as_good_as_its_nodes() {
        for (shares, expected) in [
            ("a ok, b ok", "completed ok"),
            ("a ok, b failed", "partial ok b: failed"),
            ("a failed, b gap", "partial ok a: failed; b: gap"),
            ("a expired, b ok", "partial ok a: expired"),
            (
                "a failed, b lost",
                "failed failed_precondition a: failed; b: lost",
            ),
            (
                "a expired, b lost",
                "failed unavailable a: expired; b: lost",
            ),
            (
                "a expired, b expired",
                "expired deadline_exceeded a: expired; b: expired",
            ),
            (
                "a expired, b canceled",
                "canceled canceled a: expired; b: canceled",
            ),
            (
                "a ok, b lost, c lost, d lost, e lost, f lost, g lost",
                "partial ok b: lost; c: lost; d: lost; e: lost; and 2 more",
            ),
        ] {
            check(shares, expected);
        }
    }

    #[test]
    fn the_outcome_of_one_node_is_that_of_the_scan() {
        for (share, expected) in [
            ("a ok", "completed ok"),
            ("a gap", "partial ok gap"),
            ("a lost", "failed unavailable lost"),
            ("a expired", "expired deadline_exceeded expired"),
        ] {
            check(share, expected);
        }
    }
}
