use serde_json::json;

use super::*;

fn request(text: &str) -> Request {
    text.parse().expect("a request")
}

fn answers(pairs: &[(&str, serde_json::Value)]) -> Answers {
    let mut answers = Answers::default();
    for (text, value) in pairs {
        answers.insert(request(text), Answered::json(value.clone()));
    }
    answers
}

#[test]
fn every_built_in_rule_file_can_be_used() {
    for (name, text) in EMBEDDED {
        if let Err(error) = Rule::read(name, text) {
            panic!("fingerprints/{error}");
        }
    }
    assert_eq!(Fingerprints::built_in().len(), EMBEDDED.len());
}

/// The attributes that AxeOS 2.15 announces: bitaxeorg/ESP-Miner, components/connect/connect.c at 07d8d88.
#[test]
fn attributes_of_an_axeos_service_are_facts_where_its_api_has_none() {
    let announced = |board: &str, family: &str| {
        let txt = json!({"board": board, "family": family, "asic": "BM1370", "asic_count": "1", "fw_version": "v2.15.0"});
        ("mdns txt", txt)
    };
    let rules = Fingerprints::built_in();
    let check = |pairs: &[(&str, serde_json::Value)], expected: Option<(&str, &str)>| {
        let answers = answers(pairs);
        let facts = rules.best(&answers).map(|found| found.rule.facts(&answers));
        let facts = facts.map(|facts| (facts.model, facts.firmware));
        let facts = facts
            .as_ref()
            .map(|(model, firmware)| (model.as_str(), firmware.as_str()));
        assert_eq!(facts, expected, "{pairs:?}");
    };
    let api = |value| ("http /api/system/info", value);
    // The board of the API decides.
    let known = json!({"ASICModel": "BM1370", "boardVersion": "602", "version": "v2.14.0"});
    check(
        &[api(known), announced("999", "Other")],
        Some(("Bitaxe Gamma", "v2.14.0")),
    );
    let bare = json!({"ASICModel": "BM1370"});
    check(
        &[api(bare.clone()), announced("801", "GammaTurbo")],
        Some(("Bitaxe GammaTurbo", "v2.15.0")),
    );
    check(
        &[api(bare), announced("999", "GammaHyper")],
        Some(("Bitaxe GammaHyper", "v2.15.0")),
    );
    check(&[announced("601", "Gamma")], None);
}

#[test]
fn a_wrong_file_is_refused_with_its_line_and_reason() {
    let good = "make = \"M\"\n[[match]]\nanswer = \"cgminer version\"\nlike = \"x\"\n";
    assert!(Rule::read("a.toml", good).is_ok());
    for (text, line, reason) in [
        ("make = \"M\"\n", 1, "missing field `match`"),
        ("make = 1\n", 1, "invalid type"),
        ("make = \"M\"\nmatch = []\n", 1, "[[match]]"),
        (
            "make = \"M\"\n[[match]]\nanswer = \"cgminer version\"\n",
            3,
            "`at`, `like` or both",
        ),
        (
            "make = \"M\"\n[[match]]\nanswer = \"cgminer version\"\nlike = \"(\"\n",
            4,
            "bad pattern: unclosed group",
        ),
        (
            "make = \"M\"\n[[match]]\nanswer = \"cgminer version\"\nlike = \"(x{1000}){1000}\"\n",
            4,
            "size limit",
        ),
        (
            "make = \"M\"\n[[match]]\nanswer = \"cgminer reboot\"\nlike = \"x\"\n",
            3,
            "only read",
        ),
        (
            "make = \"M\"\n[[match]]\nanswer = \"http /cgi-bin/reboot.cgi\"\nlike = \"x\"\n",
            3,
            "only read",
        ),
        (
            "make = \"M\"\n[[match]]\nanswer = 'http POST /graphql {\"query\":\"mutation { x }\"}'\nlike = \"x\"\n",
            3,
            "only read",
        ),
        (
            "make = \"M\"\n[[match]]\nanswer = \"mdns txt\"\nat = \"/board\"\n",
            3,
            "no device alone",
        ),
        (
            "make = \"M\"\n[[match]]\nanswer = \"ftp /\"\nlike = \"x\"\n",
            3,
            "no request",
        ),
        (
            "make = \"M\"\n[[match]]\nanswer = \"http /\"\nat = \"body\"\n",
            4,
            "selects nothing",
        ),
        (
            "make = \"M\"\n[[match]]\nanswer = \"http /\"\nunknown = 1\n",
            4,
            "unknown field",
        ),
        (
            "make = \"M\"\ndriver = \"A B\"\n[[match]]\nanswer = \"http /\"\nlike = \"x\"\n",
            2,
            "lower-case",
        ),
        (
            "make = \"M\"\n[[match]]\nanswer = \"http /\"\nlike = \"x\"\n[facts]\nmodel = [\n{ answer = \"http /\", table = \"t\" },\n]\n",
            7,
            "no table `t`",
        ),
    ] {
        let error = Rule::read("a.toml", text).expect_err(text);
        assert!(
            error.line == line && error.reason.contains(reason),
            "{text}\n{error}"
        );
        assert!(error.to_string().starts_with(&format!("a.toml:{line}: ")));
    }
}

#[test]
fn the_rule_of_higher_rank_wins_in_every_order() {
    for (version, expected) in [
        (
            json!({"STATUS": [], "VERSION": [{"BMMiner": "1.0.0", "Type": "Antminer S19 Pro"}]}),
            Some("antminer"),
        ),
        (
            json!({"STATUS": [], "VERSION": [{"Type": "Antminer S19 (Vnish 1.2.0)"}]}),
            Some("vnish"),
        ),
        (
            json!({"STATUS": [], "VERSION": [{"Type": "Antminer S21+ Hyd (HashMaster)"}]}),
            Some("antminer-aftermarket"),
        ),
        (
            json!({"STATUS": [], "VERSION": [{"Type": "Antminer S19 PRO (110TH)"}]}),
            Some("antminer"),
        ),
        (
            json!({"STATUS": [], "VERSION": [{"LUXminer": "2025.4", "Type": "Antminer S19k Pro"}]}),
            Some("luxos"),
        ),
        (
            json!({"STATUS": [], "VERSION": [{"BMMiner": "4 rwglr", "Type": "Antminer S19"}]}),
            Some("mskminer"),
        ),
        (
            json!({"STATUS": [], "VERSION": [{"BMMiner": "4 rwglr", "Type": "Antminer S19 Hiveon"}]}),
            Some("hiveon"),
        ),
        (
            json!({"STATUS": [], "VERSION": [{"Type": "Ebit E12"}]}),
            Some("other-type"),
        ),
        (
            json!({"STATUS": [], "VERSION": [{"CGMiner": "4.12.1"}]}),
            None,
        ),
        (
            json!({"STATUS": [], "VERSION": [{"Type": "not an Antminer"}]}),
            None,
        ),
        (
            json!({"STATUS": "E", "Msg": "invalid cmd", "Description": ""}),
            None,
        ),
    ] {
        let answers = answers(&[("cgminer version", version.clone())]);
        let rules = Fingerprints::built_in();
        let best = rules.best(&answers).map(|found| found.rule.name.clone());
        assert_eq!(best.as_deref(), expected, "{version}");
    }
}

#[test]
fn a_folder_adds_and_overrides_rules_and_a_wrong_file_costs_only_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let rule =
        |make: &str| format!("make = \"{make}\"\n[[match]]\nanswer = \"http /\"\nlike = \"x\"\n");
    for (name, text) in [
        ("acme.toml", rule("Acme")),
        ("antminer.toml", rule("Mine")),
        ("broken.toml", "make = \"B\"\n\n[[match]]\n".to_owned()),
        ("notes.txt", "ignored".to_owned()),
    ] {
        fs::write(folder.path().join(name), text).expect("a file");
    }
    let (rules, errors) = Fingerprints::with_folder(folder.path()).expect("a folder");
    assert_eq!(rules.len(), Fingerprints::built_in().len() + 1);
    let make = |name: &str| {
        rules
            .rules()
            .iter()
            .find(|rule| rule.name == name)
            .map(|rule| rule.make.as_str())
    };
    assert_eq!(
        (make("acme"), make("antminer"), make("broken")),
        (Some("Acme"), Some("Mine"), None)
    );
    let [error] = errors.as_slice() else {
        panic!("{errors:?}")
    };
    assert!(
        error.file.ends_with("broken.toml") && error.line == 3,
        "{error}"
    );
    assert!(Fingerprints::with_folder(&folder.path().join("absent")).is_err());
}

#[test]
fn requests_are_asked_in_a_fixed_order() {
    let rules = Fingerprints::built_in();
    let first = |protocol| {
        let openings = rules.openings(protocol);
        openings
            .iter()
            .take(4)
            .map(|request| request.text.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        first(Protocol::Cgminer),
        ["version", "devdetails", "stats", "get_version"]
    );
    assert_eq!(
        first(Protocol::Http),
        [
            "/",
            "/api/v1/pairing/info",
            "/api/system/info",
            "/mcb/status"
        ]
    );
    assert_eq!(first(Protocol::Epic), ["/summary"]);
    assert_eq!(first(Protocol::Whatsminer), ["get.device.info"]);
    assert!(
        rules.openings(Protocol::Cgminer).len() <= 6 && rules.openings(Protocol::Http).len() <= 6
    );
}

#[test]
fn only_requests_that_a_fact_needs_are_sent() {
    let rules = Fingerprints::built_in();
    let whatsminer = rules
        .rules()
        .iter()
        .find(|rule| rule.name == "whatsminer")
        .expect("a rule");
    let refused = json!({"STATUS": "E", "Msg": "invalid cmd"});
    let mut answers = answers(&[("cgminer version", refused.clone())]);
    let mut asked = Vec::new();
    while let Some(wanted) = whatsminer.wanted(&answers, Protocol::Cgminer) {
        asked.push(wanted.text.clone());
        let reply = match wanted.text.as_str() {
            "devdetails" => json!({"STATUS": [], "DEVDETAILS": [{"Model": "M50"}]}),
            "get_miner_info" => {
                json!({"STATUS": "S", "Msg": {"mac": "02:00:00:00:00:01", "minersn": "A1", "hostname": "x"}})
            }
            _ => refused.clone(),
        };
        let wanted = wanted.clone();
        answers.insert(wanted, Answered::json(reply));
    }
    // The firmware is refused everywhere, so each of its sources is asked once.
    assert_eq!(
        asked,
        [
            "devdetails",
            "get_version",
            "status",
            "summary",
            "get_miner_info"
        ]
    );
    let facts = whatsminer.facts(&answers);
    assert_eq!((facts.model.as_str(), facts.firmware.as_str()), ("M50", ""));
    assert!(facts.mac.is_some() && facts.serial.is_some());
}

#[test]
fn placeholders_and_factory_macs_are_no_identity() {
    for text in [
        "00:00:00:00:00:00",
        "FF:FF:FF:FF:FF:FF",
        "00:0a:35:00:00:00",
        "nonsense",
        "",
    ] {
        assert_eq!(rule::mac(text), None, "{text}");
    }
    assert!(rule::mac("02:00:00:00:00:01").is_some());
}

#[test]
fn an_explanation_names_the_condition_that_failed() {
    let rules = Fingerprints::built_in();
    let answers = answers(&[(
        "cgminer version",
        json!({"STATUS": [], "VERSION": [{"Type": "Antminer S19 (Vnish 1.2.0)"}]}),
    )]);
    let verdicts = rules.explain(&answers, Protocol::Cgminer);
    let of = |name: &str| {
        verdicts
            .iter()
            .find(|verdict| verdict.rule == name)
            .expect("a verdict")
    };
    assert!(of("vnish").matched && of("antminer").matched);
    assert_eq!(verdicts[0].rule, "vnish", "the rule that wins comes first");
    assert!(
        of("antminer").reason.ends_with("rule vnish goes before it"),
        "{:?}",
        of("antminer")
    );
    assert!(
        of("hammer").reason.contains("does not match"),
        "{:?}",
        of("hammer")
    );
    assert!(
        of("sealminer").reason.contains("was not sent"),
        "{:?}",
        of("sealminer")
    );
}

#[test]
fn plain_words_match_as_their_pattern_does() {
    for (pattern, text) in [
        ("(?i)vnish|anthill", "An ANTHILL page"),
        ("(?i)vnish|anthill", "nothing"),
        ("(?i)^antminer", "Antminer S19"),
        ("(?i)^antminer", "not an Antminer"),
        ("^blackMiner", "blackMiner Configuration"),
        ("^blackMiner", "BlackMiner"),
        ("AnthillOS", "an AnthillOS"),
        ("AnthillOS", ""),
    ] {
        let words = rule::Words::of(pattern).expect(pattern);
        let regex = regex::Regex::new(pattern).expect(pattern);
        assert_eq!(words.is_in(text), regex.is_match(text), "{pattern} {text}");
    }
    for pattern in ["a.c", "^a|b", "a$", "(?i)", "(?i)a||b", "", "\\ba"] {
        assert!(rule::Words::of(pattern).is_none(), "{pattern}");
    }
}
