//! The exchanges of each make with a login, as public clients and documents describe them.

use super::{Device, page, step};

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
pub(super) fn devices() -> Vec<Device> {
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
                step(
                    "GET /api/v1/miner/details",
                    &[],
                    "401 Unauthorized",
                    json,
                    "{}",
                ),
            ],
        },
        Device {
            rule: "futurebit",
            make: "FutureBit",
            username: "",
            password: "right",
            steps: vec![
                page("<title>Apollo BTC</title>"),
                step(
                    "POST /api/graphql",
                    &["AuthLoginInput", r#""input":{"password":"right"}"#],
                    "200 OK",
                    json,
                    r#"{"data":{"Auth":{"login":{"result":{"accessToken":"t0k"},"error":null}}}}"#,
                ),
                step(
                    "POST /api/graphql",
                    &["AuthLoginInput"],
                    "200 OK",
                    json,
                    r#"{"data":{"Auth":{"login":{"result":null,"error":{"message":"Invalid password"}}}}}"#,
                ),
                step(
                    "POST /api/graphql",
                    &["Mcu", "Authorization: Bearer t0k"],
                    "200 OK",
                    json,
                    r#"{"data":{"Mcu":{"stats":{"result":{"stats":{"hostname":"apollo","network":[{"name":"lo","address":"127.0.0.1","mac":"00:00:00:00:00:00"},{"name":"eth0","address":"10.0.0.9","mac":"{MAC}"}]}},"error":null}}}}"#,
                ),
                step(
                    "POST /api/graphql",
                    &["Mcu"],
                    "200 OK",
                    json,
                    r#"{"data":{"Mcu":{"stats":{"result":null,"error":{"message":"Unauthorized"}}}}}"#,
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
                step("GET /api/v1/mining", &[], "401 Unauthorized", json, "{}"),
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
                step(
                    "POST /api/overview",
                    &[],
                    "200 OK",
                    json,
                    r#"{"success":false,"token":"expired"}"#,
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
                step("GET /mcb/setting", &[], "401 Unauthorized", json, "{}"),
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
