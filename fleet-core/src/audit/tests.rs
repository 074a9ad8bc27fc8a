//! Tests of the chain against every kind of tampering.

use proptest::prelude::*;

use super::*;

const ORG: Option<OrgId> = Some(OrgId(7));

/// A record with owned texts, and its link.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    id: i64,
    at: i64,
    principal: String,
    principal_id: Option<i64>,
    from: Option<String>,
    action: String,
    subject: String,
    refusal: Option<String>,
    count: u64,
    head: ChainHead,
}

impl Kept {
    fn record(&self) -> ChainRecord<'_> {
        ChainRecord {
            id: self.id,
            at: Timestamp::from_micros(self.at),
            principal: &self.principal,
            principal_id: self.principal_id,
            from: self.from.as_deref(),
            action: &self.action,
            subject: &self.subject,
            refusal: self.refusal.as_deref(),
            count: self.count,
        }
    }
}

prop_compose! {
    fn record()(
        id in 1_i64..100, at in any::<i64>(), principal in "[a-c]{0,3}", principal_id in proptest::option::of(-1_i64..3), from in proptest::option::of("[0-9.]{0,3}"),
        action in "[a-c.]{0,3}", subject in "[a-cé ]{0,3}", refusal in proptest::option::of("[a-c]{0,2}"), count in 1_u64..4,
    ) -> Kept {
        Kept { id, at, principal, principal_id, from, action, subject, refusal, count, head: ChainHead::START }
    }
}

fn sealed(mut records: Vec<Kept>, org: Option<OrgId>) -> Vec<Kept> {
    let mut head = ChainHead::START;
    for kept in &mut records {
        head = head.next(org, &kept.record());
        kept.head = head;
    }
    records
}

fn chain() -> impl Strategy<Value = Vec<Kept>> {
    proptest::collection::vec(record(), 1..12).prop_map(|records| sealed(records, ORG))
}

fn head_of(chain: &[Kept]) -> ChainHead {
    chain.last().map_or(ChainHead::START, |kept| kept.head)
}

fn verify(chain: &[Kept], stored: ChainHead, kept: Option<ChainHead>) -> Vec<ChainFault> {
    let mut verifier = ChainVerifier::new(ORG, stored, kept);
    let mut faults = Vec::new();
    for link in chain {
        let link = StoredLink {
            seq: link.head.seq,
            hash: link.head.hash,
            record: Some(link.record()),
        };
        faults.extend(verifier.take(&link).err().unwrap_or_default());
    }
    faults.extend(verifier.finish().err());
    faults
}

#[test]
fn the_encoding_is_final() {
    let record = ChainRecord {
        id: 3,
        at: Timestamp::from_micros(1_800_000_000_000_000),
        principal: "operator",
        principal_id: Some(1),
        from: Some("192.0.2.1"),
        action: "node.revoke",
        subject: "node 7",
        refusal: None,
        count: 1,
    };
    let one = ChainHead::START.next(ORG, &record);
    // Computed by an independent implementation.
    assert_eq!(
        one.to_string(),
        "1:654e4720b1981dbdbb28107440c2a8011ef18cb25a591e5996e1185a4f2fe827"
    );
    let two = one.next(
        ORG,
        &ChainRecord {
            refusal: Some("no"),
            principal_id: None,
            from: None,
            ..record
        },
    );
    assert_eq!(
        two.to_string(),
        "2:d0b8556853e8b22244cf14440bf2d4d830ad7babcec1e54281f75fe46b2b6450"
    );
    assert_ne!(ChainHead::START.next(None, &record), one);
}

#[test]
fn a_head_reads_back_and_nothing_else_reads() {
    let head = ChainHead {
        seq: 17,
        hash: ChainHash([0xab; 32]),
    };
    assert_eq!(head.to_string().parse(), Ok(head));
    let hex = "ab".repeat(32);
    for text in [
        "",
        ":",
        "17",
        &hex,
        &format!("17:{}", &hex[1..]),
        &format!("+17:{hex}"),
        &format!("17:+{}", &hex[1..]),
        &format!("17:{}é", &hex[2..]),
        &format!("99999999999999999999:{hex}"),
        &format!(":{hex}"),
    ] {
        let refused = text.parse::<ChainHead>();
        assert!(
            refused.is_err_and(|error| error.to_string().contains("SEQ:HASH")),
            "{text}"
        );
    }
}

proptest! {
    #![proptest_config(crate::regressions!("audit"))]

    #[test]
    fn an_untouched_chain_verifies_from_every_head_that_was_kept(chain in chain(), kept in any::<prop::sample::Index>()) {
        let kept = kept.get(&chain).head;
        prop_assert_eq!(verify(&chain, head_of(&chain), Some(kept)), []);
        prop_assert_eq!(verify(&chain, ChainHead::START, None), []);
    }

    #[test]
    fn a_changed_record_is_named_and_no_other(chain in chain(), at in any::<prop::sample::Index>(), other in record()) {
        let at = at.index(chain.len());
        let mut changed = chain.clone();
        changed[at] = Kept { head: chain[at].head, ..other };
        prop_assume!(changed[at] != chain[at]);
        let seq = at as u64 + 1;
        prop_assert_eq!(verify(&changed, head_of(&chain), None), [ChainFault::Changed { seq }]);
    }

    #[test]
    fn missing_records_are_named(chain in chain(), from in any::<prop::sample::Index>(), count in 1_usize..4) {
        let from = from.index(chain.len());
        let to = (from + count).min(chain.len());
        let mut cut = chain.clone();
        cut.drain(from..to);
        let fault = ChainFault::Missing { from: from as u64 + 1, to: to as u64 };
        prop_assert_eq!(verify(&cut, head_of(&chain), None), [fault]);
        // A truncated tail with a reset head is only detected with a kept head.
        if to == chain.len() {
            prop_assert_eq!(verify(&cut, head_of(&cut), None), []);
            prop_assert_eq!(verify(&cut, head_of(&cut), Some(head_of(&chain))), [fault]);
        }
    }

    #[test]
    fn swapped_records_are_named(chain in chain(), one in any::<prop::sample::Index>(), other in any::<prop::sample::Index>()) {
        let (one, other) = (one.index(chain.len()), other.index(chain.len()));
        let mut swapped = chain.clone();
        swapped.swap(one, other);
        let (head, tail) = (swapped[one].head, swapped[other].head);
        swapped[one].head = tail;
        swapped[other].head = head;
        prop_assume!(swapped != chain);
        let (low, high) = (one.min(other) as u64 + 1, one.max(other) as u64 + 1);
        prop_assert_eq!(verify(&swapped, head_of(&chain), None), [ChainFault::Changed { seq: low }, ChainFault::Changed { seq: high }]);
    }

    #[test]
    fn a_rewritten_chain_is_detected_with_a_kept_head(chain in chain(), at in any::<prop::sample::Index>(), put_in in record()) {
        let mut anew = chain.clone();
        anew.insert(at.index(chain.len()), put_in);
        let anew = sealed(anew, ORG);
        prop_assert_eq!(verify(&anew, head_of(&anew), None), []);
        let kept = head_of(&chain);
        prop_assume!(anew[chain.len() - 1] != chain[chain.len() - 1]);
        prop_assert_eq!(verify(&anew, head_of(&anew), Some(kept)), [ChainFault::Rewritten { seq: kept.seq }]);
    }

    #[test]
    fn a_record_of_another_organization_does_not_fit(chain in chain()) {
        let theirs = sealed(chain.clone(), Some(OrgId(8)));
        let faults = verify(&theirs, head_of(&theirs), None);
        prop_assert_eq!(faults.len(), chain.len());
    }

    #[test]
    fn different_records_have_different_hashes(one in record(), other in record()) {
        prop_assume!(one.record() != other.record());
        prop_assert_ne!(ChainHead::START.next(ORG, &one.record()), ChainHead::START.next(ORG, &other.record()));
    }
}
