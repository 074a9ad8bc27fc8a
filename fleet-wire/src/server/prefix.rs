//! The path prefix of upstream's installations. Start with [`without`].

use http::{Request, Uri, uri::PathAndQuery};

/// The prefix at which upstream's installations serve calls. Their nodes are configured with it.
const PREFIX: &str = "/api-proxy";

/// Removes the prefix from the path of a call. `is_served` decides whether the rest, without its slash, is one. Other
/// requests stay as they are.
pub(super) fn without<B>(mut request: Request<B>, is_served: impl Fn(&str) -> bool) -> Request<B> {
    if let Some(uri) = shorter(request.uri(), is_served) {
        *request.uri_mut() = uri;
    }
    request
}

fn shorter(uri: &Uri, is_served: impl Fn(&str) -> bool) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(PREFIX)?;
    let procedure = uri.path().strip_prefix(PREFIX)?.strip_prefix('/')?;
    if !is_served(procedure) {
        return None;
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(rest).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_lose_the_prefix_and_keep_the_rest_of_their_address() {
        for (given, expected) in [
            ("/api-proxy/a.S/M", "/a.S/M"),
            ("/api-proxy/a.S/M?connect=v1", "/a.S/M?connect=v1"),
            (
                "http://fleet.example/api-proxy/a.S/M",
                "http://fleet.example/a.S/M",
            ),
            ("/a.S/M", "/a.S/M"),
            ("/api-proxy/api-proxy/a.S/M", "/api-proxy/api-proxy/a.S/M"),
            ("/api-proxy/a.S/Other", "/api-proxy/a.S/Other"),
            ("/api-proxya.S/M", "/api-proxya.S/M"),
            ("/api-proxy/", "/api-proxy/"),
            ("/api-proxy", "/api-proxy"),
        ] {
            let request = Request::get(given).body(()).expect("a request");
            let request = without(request, |procedure| procedure == "a.S/M");
            assert_eq!(request.uri().to_string(), expected, "{given}");
        }
    }
}
