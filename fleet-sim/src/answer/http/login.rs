//! An Antminer's login: digest authentication as its web server does it, and the page behind it.

use md5::{Digest as _, Md5};

use super::{Answer, digest_challenge, json};
use crate::site::{Device, DeviceLogin};

pub(super) const REALM: &str = "antMiner Configuration";
/// Real ones change with every challenge; a constant is enough to be asked with.
pub(super) const NONCE: &str = "68a49d3e:8b1d2f";

/// The response to a request that brings a proof: nobody gets in where the device is locked, the rest by the
/// password.
pub(super) fn answer(device: &Device, path: &str, authorization: &str) -> Answer {
    let login = device.login.clone().unwrap_or_else(DeviceLogin::delivered);
    if login.locked {
        return Answer {
            status: "403 Forbidden",
            headers: vec![],
            body: "Forbidden".to_owned(),
        };
    }
    if !proves(authorization, path, &login) {
        return digest_challenge();
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

fn proves(authorization: &str, path: &str, login: &DeviceLogin) -> bool {
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
    let secret = md5(&format!("{}:{REALM}:{}", login.username, login.password));
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
