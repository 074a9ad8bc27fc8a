//! An OpenID provider whose every answer a test decides, and the browser that goes between it and the server. The real
//! provider is in `tests/python/test_sign_in.py`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use ed25519_dalek::{Signer, SigningKey};
use fleet_core::sso::SignInPolicy;
use fleet_server::{EMAIL_VERIFIED, Environment as _, ServerConfig, SignInProvider};
use fleet_wire::client::Roots;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{Http, World, request};

/// The URL of the server in the configuration. Nothing connects to it.
pub(crate) const PUBLIC: &str = "https://fleet.test";

/// The provider.
#[derive(Debug)]
pub(crate) struct StandIn {
    pub(crate) issuer: String,
    pub(crate) behavior: Arc<Mutex<Behavior>>,
    task: JoinHandle<()>,
}

/// What the provider does.
#[derive(Debug)]
pub(crate) struct Behavior {
    /// The key that signs, and its name.
    pub(crate) key: ([u8; 32], &'static str),
    /// The keys that are published.
    pub(crate) published: Vec<([u8; 32], &'static str)>,
    pub(crate) algorithm: &'static str,
    /// The claims of the next tokens.
    claims: Value,
    challenge: String,
    /// Paths that were requested for.
    pub(crate) requested: Vec<String>,
    /// The answer to every request, instead of the right one.
    pub(crate) instead: Option<&'static str>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl StandIn {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let issuer = format!("http://{address}/realm");
        let behavior = Arc::new(Mutex::new(Behavior {
            key: ([7; 32], "k1"),
            published: vec![([7; 32], "k1")],
            algorithm: "EdDSA",
            claims: Value::Null,
            challenge: String::new(),
            requested: Vec::new(),
            instead: None,
        }));
        let task = tokio::spawn(serve(listener, issuer.clone(), behavior.clone()));
        Self {
            issuer,
            behavior,
            task,
        }
    }

    /// The configuration of a server with this provider and without rate limits.
    pub(crate) fn config(&self, policy: SignInPolicy) -> ServerConfig {
        ServerConfig {
            rates: None,
            public_https: true,
            provider: Some(SignInProvider {
                issuer: self.issuer.clone(),
                client_id: "fleet".to_owned(),
                client_secret: "secret".to_owned().into(),
                name: "Test".to_owned(),
                public_url: PUBLIC.to_owned(),
                organization: Some("acme".to_owned()),
                scopes: Vec::new(),
                group_claim: "groups".to_owned(),
                verified_claim: EMAIL_VERIFIED.to_owned(),
                policy,
                roots: Roots::System,
            }),
            ..ServerConfig::default()
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Behavior> {
        self.behavior.lock().expect("not poisoned")
    }

    /// Changes what the provider does.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Behavior)) {
        change(&mut self.lock());
    }

    /// How often a path was requested for.
    pub(crate) fn requested(&self, path: &str) -> usize {
        self.lock()
            .requested
            .iter()
            .filter(|requested| *requested == path)
            .count()
    }

    /// Signs in with an account, and returns the server's last answer. `change` changes the claims.
    pub(crate) async fn sign_in(&self, world: &World, change: impl FnOnce(&mut Value)) -> Http {
        let begun = Begun::at(world).await;
        self.answers(world, &begun, change);
        begun.finish(world, &begun.answer()).await
    }

    /// Prepares the token for an attempt.
    pub(crate) fn answers(&self, world: &World, begun: &Begun, change: impl FnOnce(&mut Value)) {
        let now = world.clock.now().to_seconds_and_nanos().0;
        let mut claims = json!({
            "iss": self.issuer, "sub": "7", "aud": "fleet", "exp": now + 300, "iat": now,
            "nonce": begun.query.get("nonce"), "email": "ann@acme.example", "email_verified": true,
        });
        change(&mut claims);
        let mut behavior = self.lock();
        behavior.claims = claims;
        behavior.challenge = begun.query["code_challenge"].clone();
    }
}

/// An attempt that a browser has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) cookie: String,
    /// The address at the provider.
    pub(crate) location: String,
    pub(crate) query: BTreeMap<String, String>,
}

impl Begun {
    pub(crate) async fn at(world: &World) -> Self {
        Self::with(world, "", &[]).await
    }

    /// Begins with a query and headers.
    pub(crate) async fn with(world: &World, query: &str, headers: &[(&str, &str)]) -> Self {
        let path = format!("/api/sign-in/provider{query}");
        let begun = request(world.address(), "GET", &path, headers, "").await;
        assert_eq!(begun.status, 303, "{}", begun.body);
        let location = begun.header("location").to_owned();
        let query = location.split_once('?').map_or("", |(_, query)| query);
        let pairs = form_urlencoded::parse(query.as_bytes()).into_owned();
        let query = pairs.collect();
        Self {
            cookie: begun.cookie(),
            location,
            query,
        }
    }

    /// The query with which the provider sends the browser back.
    pub(crate) fn answer(&self) -> String {
        let state = &self.query["state"];
        format!("code=abc&state={state}")
    }

    /// Brings the browser back.
    pub(crate) async fn finish(&self, world: &World, answer: &str) -> Http {
        let path = format!("/api/sign-in/callback?{answer}");
        let cookie = [("cookie", self.cookie.as_str())];
        request(world.address(), "GET", &path, &cookie, "").await
    }
}

async fn serve(listener: TcpListener, issuer: String, behavior: Arc<Mutex<Behavior>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let address = listener.local_addr().expect("an address");
        let (issuer, behavior) = (issuer.clone(), behavior.clone());
        tokio::spawn(async move { answer(stream, address, &issuer, &behavior).await });
    }
}

async fn answer(
    mut stream: TcpStream,
    address: SocketAddr,
    issuer: &str,
    behavior: &Mutex<Behavior>,
) -> Option<()> {
    let mut text = String::new();
    let (head, body) = loop {
        let mut bytes = [0; 4_096];
        let count = stream.read(&mut bytes).await.ok()?;
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        let length = |head: &str| {
            let head = head.to_lowercase();
            let after = head.split_once("content-length: ")?.1.to_owned();
            after.lines().next()?.trim().parse::<usize>().ok()
        };
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= length(head).unwrap_or(0)
        {
            break (head.to_owned(), body.to_owned());
        }
        if count == 0 {
            return None;
        }
    };
    let path = head.split(' ').nth(1)?.to_owned();
    let answer = {
        let mut behavior = behavior.lock().expect("not poisoned");
        behavior.requested.push(path.clone());
        match (behavior.instead, path.as_str()) {
            (Some(instead), _) => instead.to_owned(),
            (None, "/realm/.well-known/openid-configuration") => json_answer(&json!({
                "issuer": issuer,
                "authorization_endpoint": format!("http://{address}/auth"),
                "token_endpoint": format!("http://{address}/token"),
                "jwks_uri": format!("http://{address}/keys"),
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            })),
            (None, "/keys") => json_answer(&json!({ "keys": keys(&behavior) })),
            (None, "/token") => tokens(&head, &body, &behavior),
            (None, _) => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
        }
    };
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

fn json_answer(value: &Value) -> String {
    let body = value.to_string();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn keys(behavior: &Behavior) -> Vec<Value> {
    let key = |(seed, name): &([u8; 32], &'static str)| {
        let public = SigningKey::from_bytes(seed).verifying_key();
        let x = BASE64_URL_SAFE_NO_PAD.encode(public.as_bytes());
        json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": name, "use": "sig", "alg": "EdDSA"})
    };
    behavior.published.iter().map(key).collect()
}

/// The token endpoint: it accepts every code again and again, because the server must not rely on the provider.
fn tokens(head: &str, body: &str, behavior: &Behavior) -> String {
    let form: BTreeMap<String, String> = form_urlencoded::parse(body.as_bytes())
        .into_owned()
        .collect();
    let login = format!(
        "authorization: Basic {}",
        BASE64_STANDARD.encode("fleet:secret")
    );
    let verifier = form.get("code_verifier").cloned().unwrap_or_default();
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    let redirect = format!("{PUBLIC}/api/sign-in/callback");
    if !head.to_lowercase().contains(&login.to_lowercase())
        || challenge != behavior.challenge
        || form.get("redirect_uri") != Some(&redirect)
        || form.get("code").map(String::as_str) != Some("abc")
    {
        let body = r#"{"error":"invalid_grant"}"#;
        let length = body.len();
        return format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {length}\r\n\r\n{body}");
    }
    let (seed, name) = behavior.key;
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"alg": behavior.algorithm, "kid": name});
    let message = format!("{}.{}", part(&header), part(&behavior.claims));
    let signature = SigningKey::from_bytes(&seed).sign(message.as_bytes());
    let signature = BASE64_URL_SAFE_NO_PAD.encode(signature.to_bytes());
    json_answer(&json!({
        "access_token": "x", "token_type": "Bearer", "id_token": format!("{message}.{signature}"),
    }))
}
