//! What devices answered, as published: each file in `tests/fixtures` is served on loopback as the device would, is
//! identified by the built-in drivers over real connections, and compared with what a person read in it.
//!
//! A file begins with what it is of and where it is from (`# key: value`). `> PORT COMMAND` begins the answer to a
//! command of the CGMiner API, `> PORT /PATH` that to a request for a path, `*` stands for all others. Port 443 is
//! spoken under TLS, with a certificate of its own.

mod expected;
mod replay;

use std::{collections::BTreeSet, fs, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use expected::{COUNTED, Expected, UNVERIFIED};
use fleet_core::{AddressPolicy, Port, TargetOutcome};
use fleet_scan::{
    CgminerDriver, Driver, DriverSet, EpicDriver, Guard, HttpDriver, HttpsDriver, ScanJob, Scanner,
};
use replay::{Recording, replay};

use crate::{quick, scan};

/// Drivers of ports that need no privilege: 4028 is the API's own.
fn scanner() -> Scanner {
    let port = |number| vec![Port::new(number).expect("a port")];
    let drivers: Vec<Arc<dyn Driver>> = vec![
        Arc::new(HttpDriver::on(port(replay::HTTP))),
        Arc::new(CgminerDriver::new()),
        Arc::new(EpicDriver::new()),
        Arc::new(HttpsDriver::on(port(replay::HTTPS))),
    ];
    Scanner::new(quick(), Arc::new(DriverSet::new(drivers).expect("a set")))
}

/// Serves a recording at an address of its own and compares.
async fn check(folder: &Path, nth: u8, expected: &Expected<'_>) {
    let name = expected.recording;
    let text = fs::read_to_string(folder.join(format!("{name}.txt")))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let recording = Recording::parse(&text).unwrap_or_else(|why| panic!("{name}: {why}"));
    for key in ["device", "source", "date", "kind", "trimmed"] {
        assert!(
            recording.head.contains_key(key),
            "{name} does not say its {key}"
        );
    }
    let address = Ipv4Addr::new(127, 91, 0, nth);
    let replaying = replay(address, recording).await;
    let job = ScanJob {
        guard: Guard::policy(AddressPolicy::DEMO),
        budget: Duration::from_secs(60),
        ..ScanJob::new(vec![address.into()])
    };
    let (summary, found, _) = scan(&scanner(), job).await;
    assert_eq!(
        summary.outcomes,
        [TargetOutcome::Identified],
        "{name}: {summary:?}"
    );
    let [device] = found.as_slice() else {
        panic!("{name}: {found:?}");
    };
    let device = &device.facts;
    let mac = device.mac.map(|mac| mac.to_string());
    let serial = device
        .serial
        .as_ref()
        .map(|serial| serial.as_str().to_owned());
    let got = Expected {
        recording: name,
        driver: &device.driver,
        scheme: &device.scheme,
        make: &device.manufacturer,
        model: &device.model,
        firmware: &device.firmware,
        mac: mac.as_deref().unwrap_or_default(),
        serial: serial.as_deref().unwrap_or_default(),
    };
    assert_eq!(&got, expected);
    assert!(
        !device.evidence.is_empty() && device.evidence.is_ascii(),
        "{name}"
    );
    for request in replaying.requests() {
        assert!(
            replay::is_read_only(&request),
            "{name} was sent more than a question: {request:?}"
        );
    }
}

async fn check_all(folder: &str, first: u8, table: &[Expected<'_>]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let recorded: BTreeSet<String> = fs::read_dir(&folder)
        .expect("the folder is there")
        .filter_map(|entry| {
            entry
                .expect("an entry")
                .path()
                .file_name()?
                .to_str()?
                .strip_suffix(".txt")
                .map(str::to_owned)
        })
        .collect();
    let named: BTreeSet<String> = table.iter().map(|row| row.recording.to_owned()).collect();
    assert_eq!(recorded, named, "every recording has its row");
    for (nth, row) in (first..).zip(table) {
        check(&folder, nth, row).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_published_answer_is_read_as_a_person_reads_it() {
    check_all("tests/fixtures", 1, COUNTED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_whose_publication_cannot_be_named_are_read_too() {
    check_all("tests/fixtures/unverified", 100, UNVERIFIED).await;
}
