//! Browsing in virtual time: which queries are sent when, and which answers count.

use hickory_proto::rr::rdata::{A, AAAA, SRV};
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

/// The queries of a packet, and the number of known answers in it.
fn queries_of(packet: &[u8]) -> (Vec<String>, usize) {
    let message = Message::from_vec(packet).expect("a message");
    assert_eq!(message.metadata.message_type, MessageType::Query);
    assert!(packet.len() <= 1_472, "{} bytes", packet.len());
    let queries = message.queries.iter();
    let queries = queries.map(|query| format!("{} {}", query.name(), query.query_type()));
    (queries.collect(), message.answers.len())
}

/// All queries within a time without answers: milliseconds, names, and known answers.
fn all_queries(
    browse: &mut Browse,
    start: Instant,
    time: Duration,
) -> Vec<(u128, Vec<String>, usize)> {
    let mut all = Vec::new();
    let mut now = start;
    while now < start + time {
        while let Some(packet) = browse.query(now) {
            let (queries, known) = queries_of(&packet);
            all.push(((now - start).as_millis(), queries, known));
        }
        let deadline = browse.deadline();
        assert!(deadline > now, "it would spin");
        now = deadline;
    }
    all
}

fn services(browse: &mut Browse) -> Vec<String> {
    std::iter::from_fn(|| browse.next_service())
        .map(|(at, attributes)| {
            let pairs = attributes
                .iter()
                .map(|(key, value)| format!(" {key}={value}"));
            format!("{at}{}", pairs.collect::<String>())
        })
        .collect()
}

fn txt(instance: &str, entries: &[&[u8]]) -> Record {
    record(instance, RData::TXT(TXT::from_bytes(entries.to_vec())))
}

/// The records of AxeOS 2.15: bitaxeorg/ESP-Miner, components/connect/connect.c at 07d8d88.
fn axeos(instance: &str) -> Record {
    let entries: [&[u8]; 5] = [
        b"board=601",
        b"family=Gamma",
        b"asic=BM1370",
        b"asic_count=1",
        b"fw_version=v2.15.0",
    ];
    txt(instance, &entries)
}

#[test]
fn attributes_come_with_their_service_or_later() {
    const INSTANCE: &str = "Bitaxe-Gamma-601._http._tcp.local.";
    const AT: &str = "10.0.0.7:80";
    let expected =
        format!("{AT} asic=BM1370 asic_count=1 board=601 family=Gamma fw_version=v2.15.0");
    let located = || {
        vec![
            ptr(INSTANCE),
            srv(INSTANCE, "bitaxe.local.", 80),
            a("bitaxe.local.", [10, 0, 0, 7]),
        ]
    };
    let now = Instant::now();
    let mut whole = browse(8, now);
    // In any order within one message.
    let records = [vec![axeos(INSTANCE)], located()].concat();
    whole.receive(&response(records), now);
    assert_eq!(services(&mut whole), [expected.as_str()]);
    let mut later = browse(8, now);
    later.receive(&response(located()), now);
    assert_eq!(services(&mut later), [AT]);
    later.receive(&response(vec![axeos(INSTANCE)]), now);
    assert_eq!(services(&mut later), [expected.as_str()]);
    // The first record counts.
    let other = txt(INSTANCE, &[b"board=999"]);
    later.receive(
        &response(vec![other, axeos("other._http._tcp.local.")]),
        now,
    );
    assert!(services(&mut later).is_empty());
}

#[test]
fn attributes_are_short_printable_text() {
    const INSTANCE: &str = "x._http._tcp.local.";
    let long = format!("long={}", "x".repeat(65));
    let many: Vec<String> = (0..40).map(|n| format!("k{n:02}=v")).collect();
    let check = |entries: &[&[u8]], expected: &str| {
        let now = Instant::now();
        let mut browse = browse(8, now);
        let records = vec![
            ptr(INSTANCE),
            txt(INSTANCE, entries),
            srv(INSTANCE, "x.local.", 80),
            a("x.local.", [10, 0, 0, 7]),
        ];
        browse.receive(&response(records), now);
        assert_eq!(services(&mut browse), [format!("10.0.0.7:80{expected}")]);
    };
    check(&[b"Board=1", b"board=2", b"flag", b"=x"], " board=1");
    check(
        &[
            long.as_bytes(),
            b"a=\xff",
            b"b=\x1b[31m",
            "c=\u{202e}1".as_bytes(),
        ],
        "",
    );
    let entries: Vec<&[u8]> = many.iter().map(|entry| entry.as_bytes()).collect();
    let kept: String = many
        .iter()
        .take(16)
        .map(|entry| format!(" {entry}"))
        .collect();
    check(&entries, &kept);
}

#[test]
fn service_queries_become_less_frequent() {
    let start = Instant::now();
    let mut browse = browse(8, start);
    let queries = all_queries(&mut browse, start, Duration::from_secs(60));
    let times: Vec<u128> = queries.iter().map(|(at, ..)| *at).collect();
    assert_eq!(times, [0, 1_000, 3_000, 7_000, 15_000, 31_000]);
    assert!(
        queries
            .iter()
            .all(|(_, queries, _)| queries == &["_http._tcp.local. PTR"])
    );
}

#[test]
fn a_complete_answer_counts_at_once_in_any_order_and_case() {
    let now = Instant::now();
    let mut records = vec![
        ptr("A-miner._http._tcp.local."),
        srv("a-MINER._http._tcp.local.", "bitaxe-1.local.", 80),
        a("BITAXE-1.local.", [10, 0, 0, 7]),
        aaaa("bitaxe-1.local.", "fe80::7"),
    ];
    for _ in 0..2 {
        let mut browse = browse(8, now);
        browse.receive(&response(records.clone()), now);
        assert_eq!(services(&mut browse), ["10.0.0.7:80"]);
        browse.receive(&response(records.clone()), now);
        assert!(services(&mut browse).is_empty(), "each once");
        assert_eq!(browse.rest(), Rest::default());
        records.reverse();
    }
}

#[test]
fn missing_records_are_queried_three_times() {
    let start = Instant::now();
    let mut browse = browse(8, start);
    browse.receive(&response(vec![ptr("m._http._tcp.local.")]), start);
    let queries: Vec<_> = all_queries(&mut browse, start, Duration::from_secs(30))
        .into_iter()
        .filter(|(_, queries, _)| queries == &["m._http._tcp.local. SRV"])
        .map(|(at, ..)| at)
        .collect();
    assert_eq!(queries, [100, 1_100, 3_100]);
    let now = start + Duration::from_secs(30);
    browse.receive(
        &response(vec![srv("m._http._tcp.local.", "h.local.", 8080)]),
        now,
    );
    let queries = all_queries(&mut browse, now, Duration::from_millis(500));
    assert_eq!(queries, [(100, vec!["h.local. A".to_owned()], 0)]);
    browse.receive(&response(vec![a("h.local.", [10, 0, 0, 9])]), now);
    assert_eq!(services(&mut browse), ["10.0.0.9:8080"]);
}

#[test]
fn a_record_that_arrives_in_time_is_not_queried() {
    let start = Instant::now();
    let mut browse = browse(8, start);
    browse.receive(&response(vec![ptr("m._http._tcp.local.")]), start);
    let records = vec![
        srv("m._http._tcp.local.", "h.local.", 80),
        a("h.local.", [10, 0, 0, 9]),
    ];
    browse.receive(&response(records), start + 50 * MILLISECOND);
    let queries = all_queries(&mut browse, start, Duration::from_secs(5));
    assert!(
        queries
            .iter()
            .all(|(_, queries, _)| queries == &["_http._tcp.local. PTR"]),
        "{queries:?}"
    );
}

#[test]
fn known_services_are_listed_in_the_query_while_valid() {
    let start = Instant::now();
    let mut browse = browse(8, start);
    browse.receive(
        &response(vec![
            ptr("m._http._tcp.local."),
            srv("m._http._tcp.local.", "h.local.", 80),
            a("h.local.", [10, 0, 0, 9]),
        ]),
        start,
    );
    let queries = all_queries(&mut browse, start, Duration::from_secs(120));
    let known: Vec<_> = queries.iter().map(|(at, _, known)| (*at, *known)).collect();
    // The lifetime is 120 s. In the first 60 s more than half of it is left.
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
fn records_that_were_not_queried_do_not_count() {
    let now = Instant::now();
    let mut goodbye = ptr("gone._http._tcp.local.");
    goodbye.ttl = 0;
    let query = |records: Vec<Record>| {
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.answers = records;
        message.to_vec().expect("a message")
    };
    for datagram in [
        // Another type, a name that is not an instance of the type, and a withdrawal.
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
        // Records of hosts that were not named.
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
        browse.receive(&datagram, now);
        assert!(services(&mut browse).is_empty());
        assert_eq!(browse.rest(), Rest::default());
    }
}

#[test]
fn an_invalid_record_does_not_hide_those_before_it() {
    let now = Instant::now();
    let mut datagram = response(vec![
        ptr("m._http._tcp.local."),
        srv("m._http._tcp.local.", "h.local.", 80),
        a("h.local.", [10, 0, 0, 9]),
    ]);
    // The header counts one record too many.
    datagram[7] += 1;
    let mut cut = browse(8, now);
    cut.receive(&datagram, now);
    assert_eq!(services(&mut cut), ["10.0.0.9:80"]);
    // An empty TXT, as some devices send it.
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
    empty.receive(&datagram, now);
    assert_eq!(services(&mut empty), ["10.0.0.9:80"]);
}

#[test]
fn services_without_an_address_are_reported() {
    let now = Instant::now();
    let mut browse = browse(8, now);
    browse.receive(
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
    assert_eq!(rest.unlocated, ["lost._http._tcp.local."]);
    assert_eq!(rest.ipv6_only, ["fd00::6".parse::<Ipv6Addr>().expect("it")]);
    assert!(!rest.is_full);
}

#[test]
fn a_flood_is_bounded_by_the_number_of_targets() {
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
        browse.receive(&response(records), now);
        while let Some(packet) = browse.query(now) {
            queries_of(&packet);
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
    // Two for the services, and at most one per 100 ms for missing records.
    assert!(sent <= 2 + 20, "{sent} packets");
    assert!(browse.rest().is_full);
}

proptest! {
    #![proptest_config(fleet_core::regressions!("mdns"))]

    #[test]
    fn any_bytes_are_received_without_a_panic(
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
            browse.receive(datagram, now);
        }
        while browse.query(now).is_some() {}
        prop_assert!(browse.services.len() <= 4 && browse.hosts.len() <= 4);
    }
}
