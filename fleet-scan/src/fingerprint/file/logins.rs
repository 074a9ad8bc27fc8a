//! Reads the login section of a rule file. Requests that verify a login must be known to only read.

use fleet_core::Port;
use serde::Deserialize;
use toml::Spanned;

use super::{Fault, pattern};
use crate::fingerprint::{
    login::{BodyType, DigestRule, JsonPath, KnownLogin, LoginRule, Shown, TokenRule},
    request::{Protocol, Request, is_query, is_read_path},
};

/// The limit of logins of older releases, and of default credentials.
const MOST_OLDER: usize = 4;
const MOST_DEFAULTS: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawLogin {
    kind: Spanned<String>,
    port: Option<Spanned<u16>>,
    realm: Option<Spanned<String>>,
    request: Option<Spanned<String>>,
    json: Option<String>,
    form: Option<String>,
    #[serde(default)]
    headers: Vec<String>,
    token: Option<String>,
    header: Option<Spanned<String>>,
    proof: Option<Spanned<String>>,
    proof_json: Option<Spanned<String>>,
    #[serde(default)]
    open_proof: bool,
    logout: Option<Spanned<String>>,
    /// `USER:PASSWORD`. The part before the colon is empty if the make has no user names.
    #[serde(default)]
    defaults: Vec<String>,
    must: Option<Spanned<String>>,
    model: Option<Spanned<String>>,
    mac: Option<Spanned<String>>,
    serial: Option<Spanned<String>>,
    #[serde(default)]
    older: Vec<RawLogin>,
}

pub(super) fn login_of(mut raw: RawLogin) -> Result<LoginRule, Fault> {
    let kind_name = raw.kind.clone();
    let older = std::mem::take(&mut raw.older);
    if older.len() > MOST_OLDER || raw.defaults.len() > MOST_DEFAULTS {
        return Err(Fault::at(
            &kind_name,
            format!("a login has at most {MOST_OLDER} older logins and {MOST_DEFAULTS} defaults"),
        ));
    }
    let older = older
        .into_iter()
        .map(|older| {
            let name = older.kind.clone();
            if name.get_ref() != "token" || kind_name.get_ref() != "token" || !older.older.is_empty()
            {
                return Err(Fault::at(
                    &name,
                    "only a login of the kind `token` has older logins, and they have that kind too",
                ));
            }
            login_of(older)
        })
        .collect::<Result<_, _>>()?;
    let shown = Shown {
        must: raw.must.take().map(path).transpose()?,
        model: raw.model.take().map(path).transpose()?,
        mac: raw.mac.take().map(path).transpose()?,
        serial: raw.serial.take().map(path).transpose()?,
    };
    let defaults = std::mem::take(&mut raw.defaults);
    let defaults = defaults.iter().filter_map(|pair| pair.split_once(':'));
    let defaults = defaults
        .map(|(username, password)| (username.to_owned(), password.to_owned()))
        .collect();
    let port = match raw.port.take() {
        None => None,
        Some(number) => Some(Port::new(*number.get_ref()).ok_or_else(|| Fault {
            span: Some(number.span()),
            reason: "a port is 1 to 65535".to_owned(),
        })?),
    };
    Ok(LoginRule {
        kind: kind_of(raw, &shown)?,
        defaults,
        shown,
        port,
        older,
    })
}

fn kind_of(raw: RawLogin, shown: &Shown) -> Result<KnownLogin, Fault> {
    let kind_name = raw.kind.clone();
    let kind_name = &kind_name;
    let missing = |name: &str| Fault::at(kind_name, format!("a login of this kind needs `{name}`"));
    Ok(match kind_name.get_ref().as_str() {
        "open" => KnownLogin::Open,
        "unprovable" => KnownLogin::Unprovable,
        "digest" => {
            let proof = raw.proof.ok_or_else(|| missing("proof"))?;
            if !is_read_path(proof.get_ref()) {
                return Err(Fault::at(
                    &proof,
                    "the proof is a path that is known to only read",
                ));
            }
            let realm = pattern(raw.realm.as_ref().ok_or_else(|| missing("realm"))?)?;
            KnownLogin::Digest(DigestRule {
                realm,
                proof: proof.into_inner(),
            })
        }
        "whatsminer" => {
            let proof = raw.proof.ok_or_else(|| missing("proof"))?;
            let read = format!("{} {}", Protocol::Cgminer.name(), proof.get_ref());
            let read: Request = read
                .parse()
                .map_err(|reason: String| Fault::at(&proof, reason))?;
            if shown.must.is_none() {
                return Err(missing("must"));
            }
            KnownLogin::Encrypted(read.text)
        }
        "token" => KnownLogin::Token(token_of(raw, shown)?),
        _ => {
            return Err(Fault::at(
                kind_name,
                "a login is `digest`, `token`, `whatsminer`, `open` or `unprovable`",
            ));
        }
    })
}

fn token_of(raw: RawLogin, shown: &Shown) -> Result<TokenRule, Fault> {
    let kind_name = &raw.kind;
    let missing = |name: &str| Fault::at(kind_name, format!("a login of this kind needs `{name}`"));
    let header = raw.header.ok_or_else(|| missing("header"))?;
    // A line break in one header would add another.
    let is_line = |line: &str| !line.chars().any(char::is_control) && line.contains(": ");
    if !is_line(header.get_ref())
        || !header.get_ref().contains("{token}")
        || !raw.headers.iter().all(|line| is_line(line))
    {
        return Err(Fault::at(
            &header,
            "a header is `NAME: VALUE`, this one with `{token}`",
        ));
    }
    let (body, body_type) = match (raw.json, raw.form) {
        (None, form) => (form.unwrap_or_default(), BodyType::Form),
        (Some(json), None) => (json, BodyType::Json),
        (Some(_), Some(_)) => {
            return Err(Fault::at(kind_name, "a login has `json` or `form`"));
        }
    };
    let written = raw.proof.ok_or_else(|| missing("proof"))?;
    let proof = request(written.clone())?;
    let is_read = match &raw.proof_json {
        None => is_read_request(&proof),
        Some(query) => proof
            .strip_prefix("POST ")
            .is_some_and(|path| is_query(&format!("{path} {}", query.get_ref()))),
    };
    if !is_read {
        return Err(Fault::at(
            &written,
            format!("the proof `{proof}` is not known to only read"),
        ));
    }
    if raw.open_proof && shown.must.is_none() {
        return Err(missing("must"));
    }
    Ok(TokenRule {
        request: request(raw.request.ok_or_else(|| missing("request"))?)?,
        body,
        body_type,
        extra: raw.headers,
        token: raw.token.ok_or_else(|| missing("token"))?,
        header: header.into_inner(),
        proof,
        proof_body: raw.proof_json.map(Spanned::into_inner).unwrap_or_default(),
        is_open_proof: raw.open_proof,
        logout: raw.logout.map(request).transpose()?,
    })
}

/// A proof of a password changes nothing on the device, for every request method.
fn is_read_request(request: &str) -> bool {
    // A GET of the settings reads them.
    let is_read = |method: &str, path: &str| {
        is_read_path(path) || (method == "GET" && is_read_path(&path.replace("setting", "")))
    };
    request
        .split_once(' ')
        .is_some_and(|(method, path)| is_read(method, path))
}

fn request(written: Spanned<String>) -> Result<String, Fault> {
    let is_request = ["GET /", "POST /"]
        .iter()
        .any(|start| written.get_ref().starts_with(start));
    let is_plain = written
        .get_ref()
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if is_request && is_plain {
        Ok(written.into_inner())
    } else {
        Err(Fault::at(&written, "write `GET /PATH` or `POST /PATH`"))
    }
}

fn path(written: Spanned<String>) -> Result<JsonPath, Fault> {
    JsonPath::new(written.get_ref()).ok_or_else(|| {
        Fault::at(
            &written,
            "write a path into the JSON, such as `/a/0/b` or `/a/*/b`",
        )
    })
}
