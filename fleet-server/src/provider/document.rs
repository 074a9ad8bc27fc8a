//! What the provider publishes: its endpoints (OpenID Connect Discovery) and its keys. Both are fetched when a sign-in
//! needs them, and kept for a few minutes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_wire::client::{Fetch, Fetched, PostUrl, Roots, fetch};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::Mutex;

/// How long a document is used. A key that the provider withdraws is refused after this time.
const KEPT: Duration = Duration::from_secs(10 * 60);
/// After a failure, further sign-ins fail without a request for this long: they must not add to the load of a provider
/// that has problems, and a caller without credentials must not make this server send a request each time.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest time of one request.
const WITHIN: Duration = Duration::from_secs(10);
/// The most bytes of a document, of the keys, and of an answer with tokens. Real ones have a tenth of it.
const MOST: usize = 256 * 1_024;

/// The endpoints of a provider.
#[derive(Debug)]
pub(super) struct Endpoints {
    /// Where browsers are sent. It is checked to be a URL, and never contains a fragment.
    pub(super) authorization: String,
    pub(super) token: PostUrl,
    keys: PostUrl,
    /// Whether the client secret is sent in a header (`client_secret_basic`), and else in the form.
    pub(super) basic: bool,
    /// Whether each answer names its issuer (RFC 9207).
    pub(super) names_issuer: bool,
}

/// The document, in the names of the specification.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// The keys of a provider. They are read one by one, because one of an unknown kind must not make the others useless.
#[derive(Debug, Deserialize)]
pub(super) struct Keys {
    pub(super) keys: Vec<serde_json::Value>,
}

/// The documents of one provider. One request runs at a time.
#[derive(Debug, Default)]
pub(super) struct Documents {
    cached: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    endpoints: Option<(Arc<Endpoints>, Instant)>,
    keys: Option<(Arc<Keys>, Instant)>,
    failed: Option<(String, Instant)>,
}

impl Documents {
    /// The endpoints.
    ///
    /// # Errors
    ///
    /// Why they cannot be fetched, or are not valid.
    pub(super) async fn endpoints(
        &self,
        issuer: &str,
        roots: &Roots,
        now: Instant,
    ) -> Result<Arc<Endpoints>, String> {
        let mut cached = self.cached.lock().await;
        if let Some(known) = fresh(&cached.endpoints, now) {
            return Ok(known);
        }
        if let Some((error, at)) = &cached.failed
            && now.saturating_duration_since(*at) < PAUSE
        {
            return Err(error.clone());
        }
        match discover(issuer, roots).await {
            Ok(endpoints) => {
                let endpoints = Arc::new(endpoints);
                cached.endpoints = Some((endpoints.clone(), now));
                cached.failed = None;
                Ok(endpoints)
            }
            Err(error) => {
                cached.failed = Some((error.clone(), now));
                Err(error)
            }
        }
    }

    /// The keys. `renew` fetches them even if they are known: a token names a key that is not among them.
    ///
    /// # Errors
    ///
    /// Why they cannot be fetched.
    pub(super) async fn keys(
        &self,
        endpoints: &Endpoints,
        roots: &Roots,
        renew: bool,
        now: Instant,
    ) -> Result<Arc<Keys>, String> {
        let mut cached = self.cached.lock().await;
        if let Some(known) = fresh(&cached.keys, now)
            && !renew
        {
            return Ok(known);
        }
        let keys: Keys = get(&endpoints.keys, roots).await?;
        let keys = Arc::new(keys);
        cached.keys = Some((keys.clone(), now));
        Ok(keys)
    }
}

fn fresh<T>(kept: &Option<(Arc<T>, Instant)>, now: Instant) -> Option<Arc<T>> {
    let (kept, at) = kept.as_ref()?;
    (now.saturating_duration_since(*at) < KEPT).then(|| kept.clone())
}

async fn discover(issuer: &str, roots: &Roots) -> Result<Endpoints, String> {
    let url = format!(
        "{}/.well-known/openid-configuration",
        issuer.trim_end_matches('/')
    );
    let document: Document = get(&secure("the issuer", &url)?, roots).await?;
    read(issuer, document)
}

fn read(issuer: &str, document: Document) -> Result<Endpoints, String> {
    // Otherwise another provider on the same host could answer for this one (OpenID Connect Discovery, 4.3).
    if document.issuer != issuer {
        return Err("the document of the issuer is about another issuer".to_owned());
    }
    let authorization = document.authorization_endpoint;
    secure("authorization_endpoint", &authorization)?;
    if authorization.contains('#') {
        return Err("authorization_endpoint has a fragment".to_owned());
    }
    // Without a list, the header is the default (OpenID Connect Discovery, 3).
    let basic = document
        .token_endpoint_auth_methods_supported
        .is_none_or(|methods| {
            methods.iter().any(|method| method == "client_secret_basic")
                || !methods.iter().any(|method| method == "client_secret_post")
        });
    Ok(Endpoints {
        authorization,
        token: secure("token_endpoint", &document.token_endpoint)?,
        keys: secure("jwks_uri", &document.jwks_uri)?,
        basic,
        names_issuer: document.authorization_response_iss_parameter_supported,
    })
}

/// A URL that is reached by TLS or on this machine.
pub(super) fn secure(what: &str, text: &str) -> Result<PostUrl, String> {
    let url: PostUrl = text
        .parse()
        .map_err(|error| format!("{what} is not usable: {error}"))?;
    if url.is_exposed() {
        return Err(format!(
            "{what} is {url}, whose answers could be changed on the way: it must be an https URL"
        ));
    }
    Ok(url)
}

async fn get<T: DeserializeOwned>(url: &PostUrl, roots: &Roots) -> Result<T, String> {
    let request = Fetch {
        url,
        headers: Vec::new(),
        form: None,
        roots,
        timeout: WITHIN,
        most: MOST,
    };
    let answer = fetch(request)
        .await
        .map_err(|error| format!("{url}: {error}"))?;
    if answer.status != 200 {
        return Err(format!("{url} answered with HTTP {}", answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|_| format!("{url} sent no valid document"))
}

/// Sends a form to the token endpoint.
///
/// # Errors
///
/// Why there is no answer.
pub(super) async fn exchange(
    url: &PostUrl,
    headers: Vec<(http::HeaderName, http::HeaderValue)>,
    form: String,
    roots: &Roots,
) -> Result<Fetched, String> {
    let request = Fetch {
        url,
        headers,
        form: Some(form),
        roots,
        timeout: WITHIN,
        most: MOST,
    };
    let answer = fetch(request).await;
    answer.map_err(|error| format!("{url}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(change: &[(&str, serde_json::Value)]) -> Result<Endpoints, String> {
        let mut document = serde_json::json!({
            "issuer": "https://id.test/realm",
            "authorization_endpoint": "https://id.test/auth",
            "token_endpoint": "https://id.test/token",
            "jwks_uri": "https://keys.test/jwks",
        });
        for (name, value) in change {
            document[name] = value.clone();
        }
        let document = serde_json::from_value(document).map_err(|error| error.to_string())?;
        read("https://id.test/realm", document)
    }

    #[test]
    fn a_document_is_used_only_if_it_is_of_the_issuer_and_its_urls_are_secure() {
        let endpoints = document(&[]).expect("is fine");
        assert!(endpoints.basic && !endpoints.names_issuer);
        for (name, value, expected) in [
            ("issuer", "https://id.test/realm/", "another issuer"),
            ("authorization_endpoint", "http://id.test/auth", "https"),
            (
                "authorization_endpoint",
                "javascript:alert(1)",
                "not usable",
            ),
            ("authorization_endpoint", "//evil.test/auth", "not usable"),
            (
                "authorization_endpoint",
                "https://a:b@id.test/",
                "not usable",
            ),
            ("authorization_endpoint", "https://id.test/#x", "fragment"),
            ("token_endpoint", "http://id.test/token", "https"),
            ("jwks_uri", "http://169.254.169.254/", "https"),
            ("jwks_uri", "file:///etc/passwd", "not usable"),
        ] {
            let refused = document(&[(name, value.into())]).expect_err(value);
            assert!(refused.contains(expected), "{value}: {refused}");
        }
    }

    #[test]
    fn the_secret_is_sent_as_the_provider_wants_it() {
        for (methods, basic) in [
            (serde_json::json!(["client_secret_post"]), false),
            (
                serde_json::json!(["client_secret_post", "client_secret_basic"]),
                true,
            ),
            (serde_json::json!(["private_key_jwt"]), true),
        ] {
            let name = "token_endpoint_auth_methods_supported";
            let endpoints = document(&[(name, methods.clone())]).expect("is fine");
            assert_eq!(endpoints.basic, basic, "{methods}");
        }
    }
}
