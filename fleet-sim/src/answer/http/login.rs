//! Logins of the makes' web servers and the data behind them: the digest authentication of Antminers and Marathon's
//! firmware, and the tokens and cookies of VNish, Braiins OS, Proto rigs, SealMiners and Auradines.

use md5::{Digest as _, Md5};

use super::{Answer, Request, challenge, json};
use crate::site::{Device, DeviceLogin, Make};

pub(super) const REALM: &str = "antMiner Configuration";
const MARATHON_REALM: &str = "KaonSu";
/// Real servers change the nonce in every challenge. A constant suffices here.
pub(super) const NONCE: &str = "68a49d3e:8b1d2f";

/// The token or cookie of a session. Real servers change it in every session. A constant suffices here.
const SESSION: &str = "5e551047";

/// The answer of a make that logs in by a request. None if the path is unrelated to a login.
pub(super) fn session(device: &Device, request: &Request) -> Option<Answer> {
    let login = device
        .login
        .clone()
        .unwrap_or_else(|| DeviceLogin::default_of(device.make));
    let asked = (request.method.as_str(), request.path.as_str());
    let (mac, serial) = (
        device.mac.as_deref().unwrap_or("00:00:00:00:00:00"),
        device.serial.as_deref(),
    );
    let (username, password) = (&login.username, &login.password);
    let bearer = format!("Bearer {SESSION}");
    let behind = |name: &str, value: &str, answer: Answer| {
        if request.header(name) == Some(value) {
            answer
        } else {
            status("401 Unauthorized")
        }
    };
    Some(match (device.make, asked) {
        (Make::Vnish, ("POST", "/api/v1/unlock")) => {
            let proof = format!(r#"{{"pw":"{password}"}}"#);
            given(
                &login,
                request.body == proof,
                "403 Forbidden",
                json(format!(r#"{{"token":"{SESSION}"}}"#)),
            )
        }
        (Make::Vnish, ("GET", "/api/v1/auth-check") | ("POST", "/api/v1/lock")) => {
            behind("authorization", &bearer, status("200 OK"))
        }
        (Make::Braiins, asked) => return braiins(device, &login, request, asked),
        (Make::Auradine, ("POST", "/token")) => {
            let proof =
                format!(r#"{{"command":"token","user":"{username}","password":"{password}"}}"#);
            let answer = format!(
                r#"{{"STATUS":[{{"STATUS":"S","Code":200}}],"Token":[{{"Token":"{SESSION}"}}]}}"#
            );
            let refused = r#"{"STATUS":[{"STATUS":"E","Code":401,"Msg":"Invalid credentials"}]}"#;
            match (login.locked, request.body == proof) {
                (true, _) => status("429 Too Many Requests"),
                (false, true) => json(answer),
                (false, false) => json(refused.to_owned()),
            }
        }
        (Make::Auradine, ("GET", "/ipreport")) => {
            let serial = serial.unwrap_or_default();
            let answer = json(format!(
                r#"{{"STATUS":[{{"STATUS":"S","Code":200}}],"IPReport":[{{"mac":"{mac}","SerialNo":"{serial}","hostname":"auradine","version":"{}"}}]}}"#,
                device.firmware
            ));
            behind("token", SESSION, answer)
        }
        (Make::Marathon, ("GET", path @ "/kaonsu/v1/overview")) => {
            match request.header("authorization") {
                None => challenge(MARATHON_REALM),
                Some(_) if login.locked => status("403 Forbidden"),
                Some(authorization) if proves(authorization, path, &login, MARATHON_REALM) => {
                    json(format!(
                        r#"{{"model":"{}","mac":"{mac}","version_firmware":"{}"}}"#,
                        device.model, device.firmware
                    ))
                }
                Some(_) => challenge(MARATHON_REALM),
            }
        }
        (Make::Proto, ("POST", "/api/v1/auth/login")) => {
            let proof = format!(r#"{{"password":"{password}"}}"#);
            let answer = json(format!(
                r#"{{"access_token":"{SESSION}","refresh_token":"{SESSION}"}}"#
            ));
            given(&login, request.body == proof, "401 Unauthorized", answer)
        }
        (Make::Proto, ("GET", "/api/v1/mining")) => {
            behind("authorization", &bearer, json("{}".to_owned()))
        }
        (Make::SealMiner, ("POST", "/cgi-bin/login.php")) => {
            // Whether real SealMiners set a cookie for a wrong password is
            // not published. This one does, so only a read proves a login.
            let is_right = request.body == format!("username={username}&origin_pwd={password}");
            let session = if is_right && !login.locked {
                SESSION
            } else {
                "none"
            };
            Answer {
                headers: vec![("Set-Cookie", format!("sid={session}; path=/"))],
                ..status("200 OK")
            }
        }
        (Make::SealMiner, ("GET", "/cgi-bin/get_system_info.php")) => {
            let answer = json(format!(
                r#"{{"macaddr":"{mac}","miner_type":"{}"}}"#,
                device.model
            ));
            behind("cookie", &format!("sid={SESSION}"), answer)
        }
        _ => return None,
    })
}

/// Braiins OS had three logins: a page of LuCI, GraphQL, and since 25.07 REST.
fn braiins(
    device: &Device,
    login: &DeviceLogin,
    request: &Request,
    asked: (&str, &str),
) -> Option<Answer> {
    let mut release = device
        .firmware
        .split('.')
        .map_while(|part| part.parse().ok());
    let release: (u32, u32) = (release.next()?, release.next().unwrap_or(0));
    let mac = device.mac.as_deref().unwrap_or("00:00:00:00:00:00");
    let (username, password) = (&login.username, &login.password);
    let cookie = format!("session_id={SESSION}");
    let with_cookie = |answer: Answer| Answer {
        headers: vec![("Set-Cookie", format!("{cookie}; Path=/; HttpOnly"))],
        ..answer
    };
    Some(match asked {
        ("POST", "/api/v1/auth/login") if release >= (25, 7) => {
            let proof = format!(r#"{{"username":"{username}","password":"{password}"}}"#);
            let answer = json(format!(r#"{{"token":"{SESSION}","timeout_s":3600}}"#));
            given(login, request.body == proof, "401 Unauthorized", answer)
        }
        // The token stands without `Bearer`.
        ("GET", "/api/v1/miner/details") if release >= (25, 7) => {
            let serial = device.serial.as_deref();
            let serial = serial.map_or_else(|| "null".to_owned(), |serial| format!("\"{serial}\""));
            if request.header("authorization") == Some(SESSION) {
                json(format!(
                    r#"{{"mac_address":"{mac}","hostname":"Antminer","serial_number":{serial},"miner_identity":{{"miner_model":"{}"}}}}"#,
                    device.model
                ))
            } else {
                status("401 Unauthorized")
            }
        }
        ("POST", "/graphql") if release < (25, 7) && request.body.contains("mutation") => {
            let expected =
                format!(r#""variables":{{"username":"{username}","password":"{password}"}}"#);
            match (login.locked, request.body.contains(&expected)) {
                (true, _) => status("429 Too Many Requests"),
                (false, false) => {
                    json(r#"{"data":{"auth":{"login":{"__typename":"AuthError"}}}}"#.to_owned())
                }
                (false, true) => with_cookie(json(
                    r#"{"data":{"auth":{"login":{"__typename":"VoidResult"}}}}"#.to_owned(),
                )),
            }
        }
        ("POST", "/graphql") if request.body.contains("{ bos { hostname") => json(format!(
            r#"{{"data":{{"bos":{{"hostname":"Antminer","info":{{"version":{{"full":"2022-09-13-0-11012d53-{}-plus"}}}}}}}}}}"#,
            device.firmware
        )),
        // The older page answers only the tools of that time.
        (_, path) if path.starts_with("/cgi-bin/luci") => {
            let is_tool = request.header("user-agent") == Some("BTC Tools v0.1");
            if release >= (24, 0) || !is_tool {
                return Some(status("404 Not Found"));
            }
            let proof = format!("luci_username={username}&luci_password={password}");
            match asked {
                ("POST", "/cgi-bin/luci") if request.body == proof && !login.locked => {
                    with_cookie(status("302 Found"))
                }
                ("GET", "/cgi-bin/luci/admin/network/iface_status/lan")
                    if request.header("cookie") == Some(&cookie) =>
                {
                    json(format!(
                        r#"[{{"id":"lan","proto":"dhcp","macaddr":"{mac}"}}]"#
                    ))
                }
                ("POST", _) => status("403 Forbidden"),
                _ => status("401 Unauthorized"),
            }
        }
        _ => return None,
    })
}

/// The answer to a login: too many attempts, wrong password, or a session.
fn given(login: &DeviceLogin, is_right: bool, refused: &'static str, answer: Answer) -> Answer {
    // A locked device does not reveal whether the password is right.
    match (login.locked, is_right) {
        (true, _) => status("429 Too Many Requests"),
        (false, false) => status(refused),
        (false, true) => answer,
    }
}

fn status(status: &'static str) -> Answer {
    Answer {
        status,
        headers: vec![],
        body: String::new(),
    }
}

/// The answer to a request with a digest proof. A locked device refuses every login.
pub(super) fn answer(device: &Device, path: &str, authorization: &str) -> Answer {
    let login = device.login.clone().unwrap_or_else(DeviceLogin::delivered);
    if login.locked {
        return Answer {
            status: "403 Forbidden",
            headers: vec![],
            body: "Forbidden".to_owned(),
        };
    }
    if !proves(authorization, path, &login, REALM) {
        return challenge(REALM);
    }
    if path != "/cgi-bin/get_system_info.cgi" {
        return Answer {
            status: "404 Not Found",
            headers: vec![],
            body: "Not Found".to_owned(),
        };
    }
    json(format!(
        r#"{{"minertype":"{}","nettype":"DHCP","netdevice":"eth0","macaddr":"{}","hostname":"antMiner","ipaddress":"{}","netmask":"255.255.255.0","gateway":"","dnsservers":"","system_mode":"GNU/Linux","system_kernel_version":"Linux 4.6.0-xilinx","system_filesystem_version":"{}","firmware_type":"Release","serinum":"{}"}}"#,
        device.model,
        device.mac.as_deref().unwrap_or("00:00:00:00:00:00"),
        device.address,
        device.firmware,
        device.serial.as_deref().unwrap_or_default(),
    ))
}

fn proves(authorization: &str, path: &str, login: &DeviceLogin, realm: &str) -> bool {
    let part = |name: &str| -> Option<&str> {
        let start = authorization.find(&format!("{name}="))? + name.len() + 1;
        let rest = &authorization[start..];
        match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => rest.split([',', ' ']).next(),
        }
    };
    let (Some(client), Some(count)) = (part("cnonce"), part("nc")) else {
        return false;
    };
    let secret = md5(&format!("{}:{realm}:{}", login.username, login.password));
    let request = md5(&format!("GET:{path}"));
    let proof = md5(&format!("{secret}:{NONCE}:{count}:{client}:auth:{request}"));
    part("username") == Some(login.username.as_str())
        && part("uri") == Some(path)
        && part("response") == Some(proof.as_str())
}

fn md5(text: &str) -> String {
    Md5::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
