//! Browsing in virtual time: what is asked when, and what is made of answers of every kind.

use hickory_proto::rr::rdata::{A, AAAA, SRV, TXT};
use proptest::prelude::*;

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect(text)
}

fn browse(most: usize, now: Instant) -> Browse {
    let service = "_http._tcp".parse().expect("a type");
    Browse::new(&service, most, now).expect("a name")
}

fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), 120, data)
}

fn ptr(instance: &str) -> Record {
    record("_http._tcp.local.", RData::PTR(PTR(name(instance))))
}

fn srv(instance: &str, host: &str, port: u16) -> Record {
    record(instance, RData::SRV(SRV::new(0, 0, port, name(host))))
}

fn a(host: &str, ip: [u8; 4]) -> Record {
    record(host, RData::A(A(ip.into())))
}

fn aaaa(host: &str, ip: &str) -> Record {
    record(host, RData::AAAA(AAAA(ip.parse().expect(ip))))
}

fn response(records: Vec<Record>) -> Vec<u8> {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.answers = records;
    message.to_vec().expect("a message")
}

/// The questions of a packet, and how many answers it says to know.
fn asked(packet: &[u8]) -> (Vec<String>, usize) {
    let message = Message::from_vec(packet).expect("a message");
    assert_eq!(message.metadata.message_type, MessageType::Query);
    assert!(packet.len() <= 1_472, "{} bytes", packet.len());
    let queries = message.queries.iter();
    let queries = queries.map(|query| format!("{} {}", query.name(), query.query_type()));
    (queries.collect(), message.answers.len())
}

/// Everything that is asked within a time if nobody answers: when, and what.
fn asks(browse: &mut Browse, start: Instant, time: Duration) -> Vec<(u128, Vec<String>, usize)> {
    let mut all = Vec::new();
    let mut now = start;
    while now < start + time {
        while let Some(packet) = browse.ask(now) {
            let (queries, known) = asked(&packet);
            all.push(((now - start).as_millis(), queries, known));
        }
        let deadline = browse.deadline();
        assert!(deadline > now, "it would spin");
        now = deadline;
    }
    all
}

fn heard(browse: &mut Browse) -> Vec<String> {
    std::iter::from_fn(|| browse.heard())
        .map(|at| at.to_string())
        .collect()
}

#[test]
fn services_are_asked_for_ever_less_often() {
    let start = Instant::now();
    let mut browse = browse(8, start);
    let asked = asks(&mut browse, start, Duration::from_secs(60));
    let times: Vec<u128> = asked.iter().map(|(at, ..)| *at).collect();
    assert_eq!(times, [0, 1_000, 3_000, 7_000, 15_000, 31_000]);
    assert!(
        asked
            .iter()
            .all(|(_, queries, _)| queries == &["_http._tcp.local. PTR"])
    );
}

#[test]
fn a_whole_answer_is_heard_at_once_in_whatever_order_and_case_it_comes() {
    let now = Instant::now();
    let mut records = vec![
        ptr("A-miner._http._tcp.local."),
        srv("a-MINER._http._tcp.local.", "bitaxe-1.local.", 80),
        a("BITAXE-1.local.", [10, 0, 0, 7]),
        aaaa("bitaxe-1.local.", "fe80::7"),
    ];
    for _ in 0..2 {
        let mut browse = browse(8, now);
        browse.hear(&response(records.clone()), now);
        assert_eq!(heard(&mut browse), ["10.0.0.7:80"]);
        browse.hear(&response(records.clone()), now);
        assert!(heard(&mut browse).is_empty(), "each once");
        assert_eq!(browse.rest(), Rest::default());
        records.reverse();
    }
}

#[test]
fn records_that_do_not_come_are_asked_for_three_times() {
    let start = Instant::now();
    let mut browse = browse(8, start);
    browse.hear(&response(vec![ptr("m._http._tcp.local.")]), start);
    let asked: Vec<_> = asks(&mut browse, start, Duration::from_secs(30))
        .into_iter()
        .filter(|(_, queries, _)| queries == &["m._http._tcp.local. SRV"])
        .map(|(at, ..)| at)
        .collect();
    assert_eq!(asked, [100, 1_100, 3_100]);
    let now = start + Duration::from_secs(30);
    browse.hear(
        &response(vec![srv("m._http._tcp.local.", "h.local.", 8080)]),
        now,
    );
    let asked = asks(&mut browse, now, Duration::from_millis(500));
    assert_eq!(asked, [(100, vec!["h.local. A".to_owned()], 0)]);
    browse.hear(&response(vec![a("h.local.", [10, 0, 0, 9])]), now);
    assert_eq!(heard(&mut browse), ["10.0.0.9:8080"]);
}

#[test]
fn what_comes_in_time_is_not_asked_for() {
    let start = Instant::now();
    let mut browse = browse(8, start);
    browse.hear(&response(vec![ptr("m._http._tcp.local.")]), start);
    let records = vec![
        srv("m._http._tcp.local.", "h.local.", 80),
        a("h.local.", [10, 0, 0, 9]),
    ];
    browse.hear(&response(records), start + 50 * MILLISECOND);
    let asked = asks(&mut browse, start, Duration::from_secs(5));
    assert!(
        asked
            .iter()
            .all(|(_, queries, _)| queries == &["_http._tcp.local. PTR"]),
        "{asked:?}"
    );
}

#[test]
fn who_is_known_is_named_in_the_question_while_that_holds() {
    let start = Instant::now();
    let mut browse = browse(8, start);
    browse.hear(
        &response(vec![
            ptr("m._http._tcp.local."),
            srv("m._http._tcp.local.", "h.local.", 80),
            a("h.local.", [10, 0, 0, 9]),
        ]),
        start,
    );
    let asked = asks(&mut browse, start, Duration::from_secs(120));
    let known: Vec<_> = asked.iter().map(|(at, _, known)| (*at, *known)).collect();
    // 120 seconds, of which more than half are left for the first 60.
    assert_eq!(
        known,
        [
            (0, 1),
            (1_000, 1),
            (3_000, 1),
            (7_000, 1),
            (15_000, 1),
            (31_000, 1),
            (63_000, 0)
        ]
    );
}

#[test]
fn nothing_counts_that_was_not_asked_for() {
    let now = Instant::now();
    let mut goodbye = ptr("gone._http._tcp.local.");
    goodbye.ttl = 0;
    let query = |records: Vec<Record>| {
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.answers = records;
        message.to_vec().expect("a message")
    };
    for datagram in [
        // Another type, what is no instance of the type, and one that leaves.
        response(vec![
            record(
                "_ipp._tcp.local.",
                RData::PTR(PTR(name("p._ipp._tcp.local."))),
            ),
            ptr("m._ipp._tcp.local."),
            ptr("_http._tcp.local."),
            ptr("a.b._http._tcp.local."),
            goodbye,
        ]),
        // Records of nobody who was named.
        response(vec![
            srv("m._http._tcp.local.", "h.local.", 80),
            a("h.local.", [10, 0, 0, 9]),
        ]),
        query(vec![ptr("m._http._tcp.local.")]),
        vec![],
        vec![0; 11],
        vec![0xff; 600],
    ] {
        let mut browse = browse(8, now);
        browse.hear(&datagram, now);
        assert!(heard(&mut browse).is_empty());
        assert_eq!(browse.rest(), Rest::default());
    }
}

#[test]
fn a_record_that_cannot_be_read_does_not_hide_those_before_it() {
    let now = Instant::now();
    let mut datagram = response(vec![
        ptr("m._http._tcp.local."),
        srv("m._http._tcp.local.", "h.local.", 80),
        a("h.local.", [10, 0, 0, 9]),
    ]);
    // One record more than there is.
    datagram[7] += 1;
    let mut cut = browse(8, now);
    cut.hear(&datagram, now);
    assert_eq!(heard(&mut cut), ["10.0.0.9:80"]);
    // A TXT without any text, as some devices send it.
    let mut empty = browse(8, now);
    let mut datagram = response(vec![ptr("m._http._tcp.local.")]);
    let txt = record("m._http._tcp.local.", RData::TXT(TXT::new(vec![])));
    let records = [
        txt,
        srv("m._http._tcp.local.", "h.local.", 80),
        a("h.local.", [10, 0, 0, 9]),
    ];
    for record in records {
        let one = response(vec![record]);
        datagram.extend_from_slice(&one[12..]);
        datagram[7] += 1;
    }
    empty.hear(&datagram, now);
    assert_eq!(heard(&mut empty), ["10.0.0.9:80"]);
}

#[test]
fn what_never_became_an_address_is_told() {
    let now = Instant::now();
    let mut browse = browse(8, now);
    browse.hear(
        &response(vec![
            ptr("lost._http._tcp.local."),
            ptr("six._http._tcp.local."),
            srv("six._http._tcp.local.", "six.local.", 80),
            aaaa("six.local.", "fd00::6"),
            // Neither a port nor a host.
            srv("lost._http._tcp.local.", "x.local.", 0),
            srv("lost._http._tcp.local.", ".", 80),
        ]),
        now,
    );
    let rest = browse.rest();
    assert_eq!(rest.nowhere, ["lost._http._tcp.local."]);
    assert_eq!(rest.ipv6_only, ["fd00::6".parse::<Ipv6Addr>().expect("it")]);
    assert!(!rest.is_full);
}

#[test]
fn a_flood_is_kept_within_what_there_can_be() {
    let start = Instant::now();
    let mut browse = browse(100, start);
    let mut sent = 0;
    for n in 0..2_000_u32 {
        let now = start + MILLISECOND * n;
        let instance = format!("m{n}._http._tcp.local.");
        let mut records = vec![ptr(&instance)];
        records.extend((0..40).map(|port| srv(&instance, &format!("h{n}.local."), 1 + port)));
        records.extend((0..40).map(|octet| a("h0.local.", [10, 0, (n % 256) as u8, octet])));
        records.push(srv("m0._http._tcp.local.", &format!("other{n}.local."), 80));
        browse.hear(&response(records), now);
        while let Some(packet) = browse.ask(now) {
            asked(&packet);
            sent += 1;
        }
    }
    assert!(browse.services.len() <= 100 && browse.hosts.len() <= 100);
    assert!(browse.missing.len() <= 200);
    assert!(
        browse
            .hosts
            .values()
            .all(|host| host.addresses.len() <= 8 && host.ports.len() <= 64)
    );
    // Two for the services, and at most one every 100 ms for what is missing.
    assert!(sent <= 2 + 20, "{sent} packets");
    assert!(browse.rest().is_full);
}

proptest! {
    #![proptest_config(fleet_core::regressions!("mdns"))]

    #[test]
    fn any_bytes_are_heard_without_a_crash(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        damage in prop::collection::vec((0_usize..200, any::<u8>()), 0..8),
    ) {
        let now = Instant::now();
        let mut browse = browse(4, now);
        let mut good = response(vec![
            ptr("m._http._tcp.local."),
            srv("m._http._tcp.local.", "h.local.", 80),
            a("h.local.", [10, 0, 0, 9]),
        ]);
        for (at, byte) in damage {
            let at = at % good.len();
            good[at] = byte;
        }
        for datagram in datagrams.iter().chain([&good]) {
            browse.hear(datagram, now);
        }
        while browse.ask(now).is_some() {}
        prop_assert!(browse.services.len() <= 4 && browse.hosts.len() <= 4);
    }
}
