//! Published answers of devices: each file in `tests/fixtures` is served on loopback as the device would, identified
//! by the built-in drivers over real connections, and compared with what a person read in it.
//!
//! A file begins with its device, its source and what is expected (`# key: value`; a fact that is not there is
//! expected to be unknown). `> PORT COMMAND` begins the answer to a command, `> PORT /PATH` and
//! `> PORT POST /PATH BODY` that to an HTTP request; `*` stands for all others. Port 443 is served under TLS with a
//! certificate of its own. A body is sent compressed where its header says so.

pub(crate) mod replay;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleet_core::{AddressPolicy, DeviceFacts, Port, TargetOutcome};
use fleet_scan::{DriverSet, Fingerprints, Guard, ProtocolDriver, ScanJob, Scanner};
use replay::{Recording, replay};

use crate::{quick, scan};

/// The facts that a file can expect.
const FACTS: [&str; 7] = [
    "driver", "scheme", "make", "model", "firmware", "mac", "serial",
];

/// Drivers of ports that need no privilege; 4028 and 4433 are those of the protocols.
pub(crate) fn scanner(rules: Arc<Fingerprints>) -> Scanner {
    let port = |number| vec![Port::new(number).expect("a port")];
    let drivers = [
        ProtocolDriver::http(Arc::clone(&rules)).at(port(replay::HTTP)),
        ProtocolDriver::cgminer(Arc::clone(&rules)),
        ProtocolDriver::epic(Arc::clone(&rules)),
        ProtocolDriver::https(Arc::clone(&rules)).at(port(replay::HTTPS)),
        ProtocolDriver::whatsminer(rules),
    ];
    let drivers = drivers.map(|driver| Arc::new(driver) as _).into();
    Scanner::new(quick(), Arc::new(DriverSet::new(drivers).expect("a set")))
}

pub(crate) fn job(addresses: Vec<Ipv4Addr>) -> ScanJob {
    ScanJob {
        guard: Guard::policy(AddressPolicy::DEMO),
        budget: Duration::from_secs(60),
        ..ScanJob::new(addresses.into_iter().map(Into::into).collect())
    }
}

pub(crate) fn recording(path: &Path) -> Recording {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Recording::parse(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The facts of a device, without those that are unknown.
fn facts(device: &DeviceFacts) -> BTreeMap<String, String> {
    let mac = device.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let serial = device
        .serial
        .as_ref()
        .map(|serial| serial.as_str())
        .unwrap_or_default();
    let values = [
        &device.driver,
        &device.scheme,
        &device.manufacturer,
        &device.model,
        &device.firmware,
        mac.as_str(),
        serial,
    ];
    let known = FACTS
        .into_iter()
        .zip(values)
        .filter(|(_, value)| !value.is_empty());
    known
        .map(|(fact, value)| (fact.to_owned(), value.to_owned()))
        .collect()
}

/// Serves a recording at an address of its own and compares. What is wrong, if anything.
async fn check(path: &Path, address: Ipv4Addr) -> Result<(), String> {
    let recording = recording(path);
    let missing = ["device", "source", "date", "kind", "trimmed"]
        .iter()
        .find(|key| !recording.head.contains_key(**key));
    if let Some(key) = missing {
        return Err(format!("it has no {key}"));
    }
    let expected: BTreeMap<String, String> = recording
        .head
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("expect.")?.to_owned(), value.clone())))
        .collect();
    if let Some(other) = expected.keys().find(|key| !FACTS.contains(&key.as_str())) {
        return Err(format!("expect.{other} is no fact"));
    }
    let replaying = replay(address, recording).await;
    let (summary, found, _) = scan(&scanner(Fingerprints::built_in()), job(vec![address])).await;
    let sent: Vec<_> = replaying.requests();
    if let Some(request) = sent.iter().find(|request| !replay::is_read_only(request)) {
        return Err(format!("it was sent more than a read: {request:?}"));
    }
    let [device] = found.as_slice() else {
        return Err(format!("found {found:?}, {summary:?}, asked {sent:#?}"));
    };
    assert_eq!(summary.outcomes, [TargetOutcome::Identified]);
    if device.facts.evidence.is_empty() || !device.facts.evidence.is_ascii() {
        return Err(format!("evidence {:?}", device.facts.evidence));
    }
    let found = facts(&device.facts);
    if found == expected {
        Ok(())
    } else {
        Err(format!(
            "found {found:#?}\nexpected {expected:#?}\nasked {sent:#?}"
        ))
    }
}

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(folder);
    let entries = fs::read_dir(&folder).expect("the folder is there");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    paths
}

async fn check_all(folder: &str, network: u8) {
    let mut failed = Vec::new();
    for (nth, path) in (1..).zip(fixtures(folder)) {
        let address = Ipv4Addr::new(127, 91, network, nth);
        if let Err(why) = check(&path, address).await {
            failed.push(format!(
                "{}: {why}",
                path.file_name().unwrap_or_default().display()
            ));
        }
    }
    assert!(
        failed.is_empty(),
        "{} failed:\n{}",
        failed.len(),
        failed.join("\n\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_published_answer_is_read_as_a_person_reads_it() {
    check_all("", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_a_known_publication_are_read_too() {
    check_all("unverified", 1).await;
}

#[test]
fn every_published_answer_belongs_to_one_rule() {
    let name = |path: PathBuf| path.file_stem().unwrap_or_default().display().to_string();
    let recorded: BTreeSet<String> = fixtures("").into_iter().map(name).collect();
    let mut claimed = BTreeSet::new();
    for make in Fingerprints::built_in().makes() {
        for answer in &make.published {
            assert!(
                recorded.contains(answer),
                "{} names `{answer}`, which is not recorded",
                make.name
            );
            assert!(
                claimed.insert(answer.clone()),
                "`{answer}` is named by two rules"
            );
        }
    }
    let unclaimed: Vec<_> = recorded.difference(&claimed).collect();
    assert!(unclaimed.is_empty(), "no rule names {unclaimed:?}");
}

/// Set `FLEET_WRITE_DOCS=1` to write the table anew.
#[test]
fn the_table_of_makes_in_the_manual_is_that_of_the_rules() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/devices.md");
    let text = fs::read_to_string(&manual).expect("the manual");
    let (begin, end) = ("<!-- devices:begin -->\n", "<!-- devices:end -->");
    let start = text.find(begin).expect("a begin") + begin.len();
    let stop = text.find(end).expect("an end");
    let table = table();
    let expected = format!("{}{table}{}", &text[..start], &text[stop..]);
    if std::env::var_os("FLEET_WRITE_DOCS").is_some() {
        fs::write(&manual, &expected).expect("the manual");
        return;
    }
    assert_eq!(
        &text[start..stop],
        table,
        "FLEET_WRITE_DOCS=1 writes the table anew"
    );
}

fn table() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let device = |name: &String| {
        let recording = recording(&folder.join(format!("{name}.txt")));
        recording
            .head
            .get("device")
            .cloned()
            .unwrap_or_default()
            .replace('|', "/")
    };
    let mut table =
        "| make | found by | facts | pairs with | published answers |\n|---|---|---|---|---|\n"
            .to_owned();
    let mut makes = Fingerprints::built_in().makes();
    makes.sort_by_key(|make| (make.published.is_empty(), make.make.to_lowercase()));
    for make in makes {
        let published: Vec<_> = make.published.iter().map(device).collect();
        let published = if published.is_empty() {
            "unverified".to_owned()
        } else {
            published.join("; ")
        };
        let login = make.login.unwrap_or_default().to_owned();
        let row = [
            make.make,
            make.protocols.join(", "),
            make.facts.join(", "),
            login,
            published,
        ];
        table.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    let count = |accepts: &dyn Fn(&str) -> bool| {
        let all = Fingerprints::built_in().makes();
        all.iter()
            .filter(|make| make.login.is_some_and(accepts))
            .count()
    };
    let (open, unproved) = ("open", "cannot be proved");
    table.push_str(&format!(
        "\n{} rows pair with a password, and {} without one. The passwords of {} cannot be proved.\n",
        count(&|login| login != open && login != unproved),
        count(&|login| login == open),
        count(&|login| login == unproved),
    ));
    table
}

/// A new make takes one rule file and one recorded answer. The rule is the one of the manual.
#[tokio::test]
async fn a_make_is_added_by_one_rule_file_and_one_recording() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/devices.md");
    let manual = fs::read_to_string(&manual).expect("the manual");
    let rule = manual
        .split_once("```toml\n")
        .and_then(|(_, rest)| rest.split_once("```"));
    let (rule, _) = rule.expect("the rule of the manual");
    let answers = r#"# device: Acme One
> 4028 version
{"STATUS":[],"VERSION":[{"Miner":"1.2","Type":"ACME One"}]}
> 4028 get_miner_info
{"STATUS":"S","Msg":{"mac":"02:00:00:00:00:01"}}
"#;
    let address = Ipv4Addr::new(127, 91, 2, 1);
    let _replaying = replay(address, Recording::parse(answers).expect("a recording")).await;
    let rules = Fingerprints::from_texts([("acme.toml", rule)]).expect("a rule");
    let (_, found, _) = scan(&scanner(Arc::new(rules)), job(vec![address])).await;
    let known = facts(&found[0].facts);
    let expected = [
        ("driver", "asicrs"),
        ("scheme", "http"),
        ("make", "Acme"),
        ("model", "ACME One"),
        ("firmware", "AcmeOS 1.2"),
        ("mac", "02:00:00:00:00:01"),
    ];
    let expected = expected.map(|(fact, value)| (fact.to_owned(), value.to_owned()));
    assert_eq!(known, BTreeMap::from(expected));
}
