//! Tables of search texts, and properties of patterns against a simple model.

use proptest::prelude::*;

use super::*;

fn contains(text: &str) -> Pattern {
    Pattern::Contains(text.to_owned())
}

#[track_caller]
fn check(text: &str, expected: Search) {
    assert_eq!(text.parse(), Ok(expected), "{text}");
}

fn ip(text: &str) -> IpAddr {
    parse_literal(text).expect(text)
}

#[test]
fn terms_are_typed_by_their_fields() {
    check("", Search::default());
    check("  \t ", Search::default());
    check(
        "S19 Pro",
        Search {
            words: vec![contains("s19"), contains("pro")],
            ..Search::default()
        },
    );
    check(
        "Model:S19 model:\"s21 Pro\" site:barn label:Rack-7",
        Search {
            texts: vec![
                (TextField::Model, vec![contains("s19"), contains("s21 pro")]),
                (TextField::Site, vec![contains("barn")]),
                (TextField::Label, vec![contains("rack-7")]),
            ],
            ..Search::default()
        },
    );
    check(
        "mac:02* port:80 port:4028 pairing:FAILED pairing:password seen:<1d first:>2w first:today missing:YES",
        Search {
            texts: vec![(
                TextField::Mac,
                vec![Pattern::Parts(vec!["02".into(), String::new()])],
            )],
            ports: vec!["80".parse().expect("80"), "4028".parse().expect("4028")],
            pairing: vec![PairingStatus::Failed, PairingStatus::AuthenticationNeeded],
            times: vec![
                (TimeField::Seen, Age::Less(Duration::from_secs(86_400))),
                (
                    TimeField::First,
                    Age::More(Duration::from_secs(14 * 86_400)),
                ),
                (TimeField::First, Age::Today),
            ],
            missing: Some(true),
            ..Search::default()
        },
    );
}

#[test]
fn a_mac_or_an_address_without_a_field_is_a_word() {
    for text in ["02:00:5e:10:00:01", "fd00::1", "10.0.0.7", "\"model s19\""] {
        let search: Search = text.parse().expect(text);
        assert_eq!(search.words, [contains(text.trim_matches('"'))], "{text}");
    }
}

#[test]
fn addresses_are_ranges() {
    for (text, first, last) in [
        ("ip:10.0.0.7", "10.0.0.7", "10.0.0.7"),
        ("ip:10.0.0.7/24", "10.0.0.0", "10.0.0.255"),
        ("ip:10.0.0.0/0", "0.0.0.0", "255.255.255.255"),
        ("ip:10.0.0.7/32", "10.0.0.7", "10.0.0.7"),
        ("ip:10.*", "10.0.0.0", "10.255.255.255"),
        ("ip:10.1.2.*", "10.1.2.0", "10.1.2.255"),
        ("ip:fd00::7/128", "fd00::7", "fd00::7"),
        ("ip:fd00::7", "fd00::7", "fd00::7"),
    ] {
        let network = Network {
            first: ip(first),
            last: ip(last),
        };
        let search: Search = text.parse().expect(text);
        assert_eq!(search.networks, [network], "{text}");
    }
}

#[test]
fn an_error_names_the_term_and_the_accepted_forms() {
    for (text, part) in [
        (
            "colour:red",
            "`colour:red`: there is no field `colour`; use model, make",
        ),
        ("model:", "`model:`: write a value after the colon"),
        ("port:0", "`port:0`: write a port"),
        ("port:99999", "`port:99999`: write a port"),
        ("ip:10.0.0.0/33", "write an address, an IPv4 network"),
        ("ip:fd00::/64", "write an address, an IPv4 network"),
        ("ip:10.0.0.1.*", "write an address, an IPv4 network"),
        ("ip:barn", "write an address, an IPv4 network"),
        ("pairing:maybe", "use unpaired, paired"),
        ("missing:maybe", "`missing:maybe`: use yes or no"),
        ("seen:1d", "write an age such as <30m"),
        ("seen:<d", "write an age"),
        ("seen:<1y", "write an age"),
        ("seen:<é", "write an age"),
        ("first:>99999999999999999999d", "write an age"),
        ("first:>9999w", "write an age"),
        ("model:\"S19", "a quotation mark has no end"),
    ] {
        let error = text.parse::<Search>().expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    assert_eq!("a ".repeat(17).parse::<Search>(), Err(SearchError::Terms));
    assert_eq!("a".repeat(513).parse::<Search>(), Err(SearchError::Length));
}

#[test]
fn patterns_match_in_any_case() {
    for (pattern, text, expected) in [
        ("s19", "Antminer S19 Pro", true),
        ("s21", "Antminer S19 Pro", false),
        ("02*", "02:00:5E:00:00:01", true),
        ("02*", "12:02:5E:00:00:01", false),
        ("*:01", "02:00:5E:00:00:01", true),
        ("02*5e*01", "02:00:5E:00:00:01", true),
        ("a*a", "a", false),
        ("a*a", "aa", true),
        ("*", "", true),
        ("50%", "50 % off", false),
    ] {
        assert_eq!(
            Pattern::new(pattern).matches(text),
            expected,
            "{pattern} {text}"
        );
    }
}

/// Whether a text matches a pattern with `*`, by trying every split.
fn model(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|skip| model(rest, &text[skip..])),
        Some((c, rest)) => text.first() == Some(c) && model(rest, &text[1..]),
    }
}

proptest! {
    #[test]
    fn parts_match_as_in_the_model(pattern in "[ab]{0,3}\\*[ab*]{0,4}", text in "[ab]{0,8}") {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(Pattern::new(&pattern).matches(&text), model(&chars(&pattern), &chars(&text)));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,64}") {
        let _ = text.parse::<Search>();
    }

    #[test]
    fn every_network_contains_its_address(a in any::<u32>(), length in 0_u32..=32) {
        let ip = std::net::Ipv4Addr::from_bits(a);
        let found = network(&format!("{ip}/{length}")).expect("a network");
        prop_assert!(found.first <= IpAddr::V4(ip) && IpAddr::V4(ip) <= found.last);
    }
}
