//! Logins of the makes that have one, against exchanges as public clients and documents describe them: what pairs, what
//! does not, and what is never sent.

mod makes;

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use fleet_core::{AddressPolicy, DeviceFacts, Endpoint, PairOutcome, Port};
use fleet_scan::{DriverSet, Guard, Login, PairReport, PairableDevice, Pairer};
use makes::devices;
use md5::{Digest as _, Md5};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::quick;

const PORT: u16 = 18_180;
const MAC: &str = "02:F2:00:00:00:07";

/// A device with a login, as its make does it.
#[derive(Clone)]
struct Device {
    rule: &'static str,
    /// The manufacturer that identification finds without a login.
    make: &'static str,
    username: &'static str,
    password: &'static str,
    steps: Vec<Step>,
}

/// A request that is answered, and how. The first step that fits wins.
#[derive(Clone)]
struct Step {
    /// `METHOD /path`, without a query.
    asked: &'static str,
    /// Parts that head and body must hold.
    holds: Vec<String>,
    status: &'static str,
    header: String,
    body: String,
}

fn step(
    asked: &'static str,
    holds: &[&str],
    status: &'static str,
    header: &str,
    body: &str,
) -> Step {
    let holds = holds.iter().map(|part| (*part).to_owned()).collect();
    Step {
        asked,
        holds,
        status,
        header: header.to_owned(),
        body: body.replace("{MAC}", MAC),
    }
}

fn page(body: &str) -> Step {
    step("GET /", &[], "200 OK", "", body)
}

/// A device that answers until it is dropped, with every request that it got.
struct Running {
    address: Ipv4Addr,
    requests: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

async fn start(host: u8, device: Device) -> Running {
    let address = Ipv4Addr::new(127, 93, 0, host);
    let listener = TcpListener::bind((address, PORT))
        .await
        .expect("a free port");
    let requests = Arc::new(Mutex::new(Vec::new()));
    let mut serving = JoinSet::new();
    let kept = Arc::clone(&requests);
    serving.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (device, kept) = (device.clone(), Arc::clone(&kept));
            tokio::spawn(async move { serve(stream, &device, &kept).await });
        }
    });
    Running {
        address,
        requests,
        _serving: serving,
    }
}

async fn serve(
    mut stream: TcpStream,
    device: &Device,
    kept: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let mut block = [0; 2048];
        let count = stream.read(&mut block).await?;
        if count == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&block[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "));
        if length
            .and_then(|length| length.parse().ok())
            .is_some_and(|length: usize| body.len() < length)
        {
            continue;
        }
        bytes.clear();
        kept.lock().expect("no panic").push(text.clone());
        stream.write_all(answer(device, &text).as_bytes()).await?;
    }
}

fn answer(device: &Device, request: &str) -> String {
    let line = request.lines().next().unwrap_or_default();
    let asked = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let path = asked.split('?').next().unwrap_or_default();
    let holds = |part: &String| match part.split_once('|') {
        Some((realm, path)) => proves(request, realm, path, device),
        None => part == "digest-proof" || request.contains(part),
    };
    let step = device
        .steps
        .iter()
        .find(|step| step.asked == path && step.holds.iter().all(holds));
    let (status, header, body) = match step {
        Some(step) => (step.status, step.header.as_str(), step.body.as_str()),
        None => ("404 Not Found", "", ""),
    };
    format!(
        "HTTP/1.1 {status}\r\n{header}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// RFC 2617, 3.2.2.1, with `qop=auth`.
fn proves(request: &str, realm: &str, path: &str, device: &Device) -> bool {
    let part = |name: &str| {
        let start = request.find(&format!("{name}="))? + name.len() + 1;
        request[start..]
            .trim_start_matches('"')
            .split(['"', ',', '\r'])
            .next()
    };
    let hex = |text: String| {
        Md5::digest(text.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let secret = hex(format!("{}:{realm}:{}", device.username, device.password));
    let asked = hex(format!("GET:{path}"));
    let proof = hex(format!(
        "{secret}:1f:00000001:{}:auth:{asked}",
        part("cnonce").unwrap_or_default()
    ));
    request.contains(&format!("response=\"{proof}\""))
}

async fn pair(
    running: &Running,
    device: &Device,
    known: DeviceFacts,
    password: Option<&str>,
) -> PairReport {
    let target = PairableDevice {
        endpoint: Endpoint {
            ip: running.address.into(),
            port: Port::new(PORT).expect("a port"),
        },
        facts: DeviceFacts {
            manufacturer: device.make.to_owned(),
            ..known
        },
    };
    let guard = Guard::policy(AddressPolicy::DEMO);
    let pairer = Pairer::new(quick(), Arc::new(DriverSet::built_in()), guard);
    let login =
        password.map(|password| Login::new(device.username.to_owned(), password.to_owned()));
    pairer.pair(&target, login.as_ref()).await
}

fn known(device: &Device) -> DeviceFacts {
    let driver = if device.rule == "proto" {
        "proto"
    } else {
        "asicrs"
    };
    DeviceFacts {
        driver: driver.to_owned(),
        ..DeviceFacts::default()
    }
}

#[tokio::test]
async fn each_make_pairs_with_the_right_password_only() {
    for (host, device) in (1..).zip(devices()) {
        let running = start(host, device.clone()).await;
        let rule = device.rule;
        let open = device.password.is_empty();
        let right = pair(&running, &device, known(&device), Some("right")).await;
        assert_eq!(right.outcome, PairOutcome::Paired, "{rule}: {right:?}");
        assert_eq!(
            right.facts.mac.map(|mac| mac.to_string()).as_deref(),
            Some(MAC),
            "{rule}"
        );
        assert_eq!(right.open, open, "{rule}");
        let before = running.requests.lock().expect("no panic").len();
        let wrong = pair(&running, &device, known(&device), Some("wr\"ong&")).await;
        let none = pair(&running, &device, known(&device), None).await;
        let expected = if open {
            [PairOutcome::Paired; 2]
        } else {
            [PairOutcome::AuthFailed, PairOutcome::AuthNeeded]
        };
        assert_eq!(
            [wrong.outcome, none.outcome],
            expected,
            "{rule}: {wrong:?} {none:?}"
        );
        let sent = running.requests.lock().expect("no panic").split_off(before);
        let tries = sent
            .iter()
            .filter(|request| request.contains("wr") && !request.contains("Cookie"));
        let digests = sent
            .iter()
            .filter(|request| request.contains("response=\""));
        assert_eq!(
            tries.count() + digests.count(),
            usize::from(!open),
            "{rule}: one try per credential: {sent:#?}"
        );
    }
}

#[tokio::test]
async fn another_device_at_the_address_is_sent_no_password() {
    for (host, device) in (101..).zip(devices()) {
        let running = start(host, device.clone()).await;
        let other = DeviceFacts {
            mac: "02:F2:00:00:00:99".parse().ok(),
            ..known(&device)
        };
        let report = pair(&running, &device, other, Some("right")).await;
        assert_eq!(
            report.outcome,
            PairOutcome::Error,
            "{}: {report:?}",
            device.rule
        );
        assert!(
            report.error.contains("another device"),
            "{}: {}",
            device.rule,
            report.error
        );
        let elsewhere = DeviceFacts {
            driver: "virtual".to_owned(),
            ..known(&device)
        };
        let before = running.requests.lock().expect("no panic").len();
        let report = pair(&running, &device, elsewhere, Some("right")).await;
        assert_eq!(report.outcome, PairOutcome::Error, "{}", device.rule);
        let sent = running.requests.lock().expect("no panic").split_off(before);
        assert!(
            !sent
                .iter()
                .any(|request| request.contains("right") || request.contains("uthorization")),
            "{sent:#?}"
        );
    }
}
