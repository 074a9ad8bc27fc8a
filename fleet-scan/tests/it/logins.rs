//! Logins of the makes that have one, against exchanges as public clients and documents describe them: what pairs, what
//! does not, and what is never sent.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use fleet_core::{AddressPolicy, DeviceFacts, Endpoint, PairOutcome, Port};
use fleet_scan::{DriverSet, Guard, Login, PairReport, PairableDevice, Pairer};
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

/// The makes that log in by a digest differ in realm, path and fields.
fn digest(
    rule: &'static str,
    make: &'static str,
    realm: &str,
    path: &'static str,
    body: &str,
) -> Device {
    let asked: &'static str = Box::leak(format!("GET {path}").into_boxed_str());
    let challenge =
        format!("WWW-Authenticate: Digest realm=\"{realm}\", nonce=\"1f\", qop=\"auth\"\r\n");
    let proof = format!("{realm}|{path}");
    Device {
        rule,
        make,
        username: "root",
        password: "right",
        steps: vec![
            step(asked, &["digest-proof", &proof], "200 OK", "", body),
            step(asked, &[], "401 Unauthorized", &challenge, ""),
            step("GET /", &[], "401 Unauthorized", &challenge, ""),
        ],
    }
}

/// Sources: the published facts per make that the rule files name.
fn devices() -> Vec<Device> {
    let cgi = "/cgi-bin/get_system_info.cgi";
    let info = r#"{"minertype":"X1","macaddr":"{MAC}","serinum":"A7"}"#;
    let json = "Content-Type: application/json\r\n";
    let family = "Blackminer, Hammer or VolcMiner";
    vec![
        digest("antminer", "Bitmain", "antMiner Configuration", cgi, info),
        digest(
            "blackminer-family",
            family,
            "blackMiner Configuration",
            cgi,
            info,
        ),
        digest("elphapex", "Elphapex", "Daoge Configuration", cgi, info),
        digest(
            "marathon",
            "Marathon",
            "KaonSu",
            "/kaonsu/v1/overview",
            r#"{"model":"Antminer S21","mac":"{MAC}"}"#,
        ),
        Device {
            rule: "vnish",
            make: "Bitmain",
            username: "",
            password: "right",
            steps: vec![
                page("<title>AnthillOS</title>"),
                step(
                    "GET /api/v1/info",
                    &[],
                    "200 OK",
                    json,
                    r#"{"miner":"Antminer S19","fw_version":"1.2.6","system":{"network_status":{"mac":"{MAC}"}},"serial":"N/A"}"#,
                ),
                step(
                    "POST /api/v1/unlock",
                    &[r#"{"pw":"right"}"#],
                    "200 OK",
                    json,
                    r#"{"token":"t0k"}"#,
                ),
                step(
                    "POST /api/v1/unlock",
                    &[],
                    "403 Forbidden",
                    json,
                    r#"{"err":"wrong password"}"#,
                ),
                step(
                    "GET /api/v1/auth-check",
                    &["Authorization: Bearer t0k"],
                    "200 OK",
                    "",
                    "",
                ),
                step("GET /api/v1/auth-check", &[], "401 Unauthorized", "", ""),
                step(
                    "POST /api/v1/lock",
                    &["Authorization: Bearer t0k"],
                    "200 OK",
                    "",
                    "",
                ),
            ],
        },
        Device {
            rule: "braiins",
            make: "Bitmain",
            username: "root",
            password: "right",
            steps: vec![
                page("<title>Braiins OS</title>"),
                step(
                    "POST /graphql",
                    &[],
                    "200 OK",
                    json,
                    r#"{"data":{"bosminer":{"info":{"modelName":"Antminer S19 XP"}},"bos":{"info":{"version":{"full":"2025-08-06-0-3881c51d-25.07-plus"}}}}}"#,
                ),
                step(
                    "POST /api/v1/auth/login",
                    &[r#"{"username":"root","password":"right"}"#],
                    "200 OK",
                    json,
                    r#"{"token":"t0k","timeout_s":3600}"#,
                ),
                step(
                    "POST /api/v1/auth/login",
                    &[],
                    "401 Unauthorized",
                    json,
                    "{}",
                ),
                step(
                    "GET /api/v1/miner/details",
                    &["Authorization: t0k"],
                    "200 OK",
                    json,
                    r#"{"mac_address":"{MAC}","serial_number":null,"miner_identity":{"miner_model":"Antminer S19 XP"}}"#,
                ),
            ],
        },
        Device {
            rule: "proto",
            make: "Proto",
            username: "",
            password: "right",
            steps: vec![
                page("<title>Dashboard</title>"),
                step(
                    "GET /api/v1/pairing/info",
                    &[],
                    "200 OK",
                    json,
                    r#"{"mac":"{MAC}","cb_sn":"B7"}"#,
                ),
                step(
                    "GET /api/v1/system",
                    &[],
                    "200 OK",
                    json,
                    r#"{"system-info":{"manufacturer":"Proto","model":"Rig","os":{"version":"1.8.0"}}}"#,
                ),
                step(
                    "POST /api/v1/auth/login",
                    &[r#"{"password":"right"}"#],
                    "200 OK",
                    json,
                    r#"{"access_token":"t0k","refresh_token":"r"}"#,
                ),
                step(
                    "POST /api/v1/auth/login",
                    &[],
                    "401 Unauthorized",
                    json,
                    "{}",
                ),
                step(
                    "GET /api/v1/mining",
                    &["Authorization: Bearer t0k"],
                    "200 OK",
                    json,
                    "{}",
                ),
            ],
        },
        Device {
            rule: "innosilicon",
            make: "Innosilicon",
            username: "admin",
            password: "right",
            steps: vec![
                page("<title>DragonMint</title>"),
                step(
                    "POST /api/auth",
                    &["username=admin&password=right"],
                    "200 OK",
                    json,
                    r#"{"success":true,"jwt":"t0k"}"#,
                ),
                step(
                    "POST /api/auth",
                    &[],
                    "200 OK",
                    json,
                    r#"{"success":false,"message":"wrong"}"#,
                ),
                step(
                    "POST /api/overview",
                    &["Authorization: Bearer t0k"],
                    "200 OK",
                    json,
                    r#"{"success":true,"type":"T3","version":{"ethaddr":"{MAC}"}}"#,
                ),
            ],
        },
        Device {
            rule: "sealminer",
            make: "Bitdeer",
            username: "seal",
            password: "right",
            steps: vec![
                page("<link href=/css/amazeui.min.css>"),
                step(
                    "POST /cgi-bin/login.php",
                    &["username=seal&origin_pwd=right", "X-Requested-With"],
                    "200 OK",
                    "Set-Cookie: sid=t0k; path=/\r\n",
                    "{}",
                ),
                step(
                    "POST /cgi-bin/login.php",
                    &[],
                    "200 OK",
                    "Set-Cookie: sid=none; path=/\r\n",
                    "{}",
                ),
                step(
                    "GET /cgi-bin/get_system_info.php",
                    &["Cookie: sid=t0k"],
                    "200 OK",
                    json,
                    r#"{"macaddr":"{MAC}","miner_type":"A2"}"#,
                ),
                step(
                    "GET /cgi-bin/get_system_info.php",
                    &[],
                    "401 Unauthorized",
                    "",
                    "",
                ),
            ],
        },
        Device {
            rule: "goldshell",
            make: "Goldshell",
            username: "admin",
            password: "right",
            steps: vec![
                page("<title>cloud-box</title>"),
                step(
                    "GET /mcb/status",
                    &[],
                    "200 OK",
                    json,
                    r#"{"model":"Goldshell-SCBOX","firmware":"2.2.5","mcbversion":"MCB_V5_4"}"#,
                ),
                step(
                    "GET /user/login",
                    &["username=admin&password=right&cipher=false"],
                    "200 OK",
                    json,
                    r#"{"JWT Token":"t0k"}"#,
                ),
                step(
                    "GET /user/login",
                    &[],
                    "200 OK",
                    json,
                    r#"{"Login":"Fail"}"#,
                ),
                step(
                    "GET /mcb/setting",
                    &["Authorization: Bearer t0k"],
                    "200 OK",
                    json,
                    r#"{"name":"{MAC}"}"#,
                ),
            ],
        },
        Device {
            rule: "bitaxe",
            make: "Bitaxe",
            username: "",
            password: "",
            steps: vec![
                page("<title>AxeOS</title>"),
                step(
                    "GET /api/system/info",
                    &[],
                    "200 OK",
                    json,
                    r#"{"ASICModel":"BM1370","boardVersion":"601","macAddr":"{MAC}"}"#,
                ),
            ],
        },
    ]
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
