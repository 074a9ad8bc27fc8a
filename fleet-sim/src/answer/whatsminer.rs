//! The encrypted commands of Whatsminer API 2: the token, and reads under a key that device and client derive from the
//! password. Written after the maker's document of API 2.0.5, apart from the scanner's code.

use aes::{
    Aes256,
    cipher::{BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use md5::{Digest as _, Md5};
use serde_json::{Value, json};
use sha2::Sha256;

use super::cgminer;
use crate::site::{Device, DeviceLogin, Make};

/// The values of the token. Real devices change them in every token. Constants suffice here.
const TIME: &str = "5626";
const SALT: &str = "BQ5hoXV9";
const NEW_SALT: &str = "jbzkfQls";

/// The reply to `get_token`. A device that gave out all tokens has none left.
pub(super) fn token(device: &Device) -> String {
    let login = login_of(device);
    if login.locked {
        return error(136, "over max connect").to_string();
    }
    json!({
        "STATUS": "S", "When": 1_755_615_294, "Code": 134, "Description": "",
        "Msg": { "time": TIME, "salt": SALT, "newsalt": NEW_SALT },
    })
    .to_string()
}

/// The reply to an encrypted command. None if the request is none, or is incomplete.
pub(crate) fn reply(device: &Device, request: &[u8]) -> Option<String> {
    if device.make != Make::Whatsminer {
        return None;
    }
    let request: Value = serde_json::from_slice(request).ok()?;
    let sealed = request.get("data").and_then(Value::as_str);
    let sealed = sealed.filter(|_| request.get("enc") == Some(&json!(1)))?;
    let login = login_of(device);
    let key = md5_crypt(&login.password, SALT);
    let cipher = cipher(&key);
    let encrypted = |reply: String| json!({ "enc": seal(&cipher, &reply) }).to_string();
    let Some(command) = open(&cipher, sealed) else {
        // Newer firmware refuses in plain text.
        return Some(if device.firmware.as_str() < "2023" {
            encrypted(error(23, "json cmd err").to_string())
        } else {
            error(135, "check token err").to_string()
        });
    };
    let sign = md5_crypt(&format!("{key}{TIME}"), NEW_SALT);
    if command.get("token").and_then(Value::as_str) != Some(&sign) {
        return Some(encrypted(error(135, "check token err").to_string()));
    }
    let name = command.get("cmd").and_then(Value::as_str);
    Some(encrypted(cgminer::reply(device, name.unwrap_or_default())))
}

fn login_of(device: &Device) -> DeviceLogin {
    let login = device.login.clone();
    login.unwrap_or_else(|| DeviceLogin::default_of(device.make))
}

fn error(code: u32, message: &str) -> Value {
    json!({ "STATUS": "E", "When": 1_755_615_294, "Code": code, "Msg": message, "Description": "" })
}

fn cipher(key: &str) -> Aes256 {
    Aes256::new(&Sha256::digest(key.as_bytes()))
}

fn seal(cipher: &Aes256, text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    let mut out = Vec::new();
    for piece in bytes.chunks(16) {
        let mut block = [0; 16];
        block.copy_from_slice(piece);
        let mut block = block.into();
        cipher.encrypt_block(&mut block);
        out.extend_from_slice(&block);
    }
    STANDARD.encode(out)
}

fn open(cipher: &Aes256, sealed: &str) -> Option<Value> {
    let mut out = Vec::new();
    for piece in STANDARD.decode(sealed).ok()?.chunks(16) {
        let mut block: [u8; 16] = piece.try_into().ok()?;
        let mut one = block.into();
        cipher.decrypt_block(&mut one);
        block.copy_from_slice(&one);
        out.extend_from_slice(&block);
    }
    let end = out.iter().rposition(|byte| *byte != 0)? + 1;
    serde_json::from_slice(&out[..end]).ok()
}

/// MD5-crypt: the text after the last `$` of `openssl passwd -1`.
fn md5_crypt(password: &str, salt: &str) -> String {
    let (password, salt) = (password.as_bytes(), salt.as_bytes());
    let md5 = |parts: Vec<&[u8]>| -> [u8; 16] { Md5::digest(parts.concat()).into() };
    let second = md5(vec![password, salt, password]);
    let mut first = [password, b"$1$", salt].concat();
    first.extend((0..password.len()).map(|at| second[at % 16]));
    let mut length = password.len();
    while length != 0 {
        first.push(if length % 2 == 1 { 0 } else { password[0] });
        length /= 2;
    }
    let mut sum = md5(vec![first.as_slice()]);
    for round in 0..1000 {
        let mut parts: Vec<&[u8]> = vec![if round % 2 == 1 { password } else { &sum[..] }];
        if round % 3 != 0 {
            parts.push(salt);
        }
        if round % 7 != 0 {
            parts.push(password);
        }
        parts.push(if round % 2 == 1 { &sum[..] } else { password });
        sum = md5(parts);
    }
    let order = [(0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)];
    let mut groups: Vec<(u32, usize)> = order
        .into_iter()
        .map(|(a, b, c)| (u32::from_be_bytes([0, sum[a], sum[b], sum[c]]), 4))
        .collect();
    groups.push((u32::from(sum[11]), 2));
    let letters: Vec<char> = "./"
        .chars()
        .chain('0'..='9')
        .chain('A'..='Z')
        .chain('a'..='z')
        .collect();
    let mut text = String::new();
    for (bits, count) in groups {
        text.extend((0..count).map(|at| letters[(bits >> (6 * at)) as usize & 63]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values: `openssl passwd -1`.
    #[test]
    fn the_hash_is_that_of_openssl() {
        assert_eq!(md5_crypt("admin", "5QAHiKMb"), "x5JSSQzqF0lEACIGSL0Ld1");
        assert_eq!(md5_crypt("", "saltsalt"), "5Jhcit4zN9UlGiA0txPkO0");
        let long = "a password of more than sixteen characters";
        assert_eq!(md5_crypt(long, "12345678"), "oJ4iwz90R8yqDCofhsYzE.");
    }
}
