//! What failed handshakes and the ends of streams say about the server and the route to it: each reason is logged once per
//! change, and a route that carries calls but no stream is a problem to configure. Start with [`Route`].

use fleet_registry::link::StreamEnd;

/// Streams that fail to open before the route is blamed.
const FAILURES: u32 = 2;

/// The state of the route. A proxy that forwards only HTTP/1.1 passes unary calls, and no control stream.
#[derive(Debug, Default)]
pub(super) struct Route {
    /// The last logged reason of a stream's end.
    reason: String,
    /// The reason of the last handshake, if it failed.
    handshake: String,
    /// Streams in a row that could not be opened.
    failures: u32,
    problem: Option<String>,
}

impl Route {
    /// Records why a handshake failed.
    pub(super) fn handshake_failed(&mut self, reason: &str) {
        if self.handshake == reason {
            tracing::debug!(reason, "the handshake with the server failed");
        } else {
            tracing::warn!(reason, "the handshake with the server failed");
            self.handshake = reason.to_owned();
        }
    }

    /// Records that the server accepted the credentials.
    pub(super) fn handshake_succeeded(&mut self) {
        self.handshake.clear();
    }

    /// Records the end of a stream, or of the attempt to open it.
    pub(super) fn stream_ended(&mut self, was_open: bool, end: StreamEnd, reason: &str) {
        if self.reason == reason {
            tracing::debug!(%end, reason, "the control stream ended");
        } else {
            tracing::info!(%end, reason, "the control stream ended");
            self.reason = reason.to_owned();
        }
        // Any other end is the answer of a server, which the route has therefore reached.
        if !was_open && end == StreamEnd::Lost {
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// Records that a new stream got no answer to Hello. One such stream is enough: a server answers at once, and the call
    /// that succeeds next shows that it is there. A proxy with HTTP/1.1 holds the messages back.
    pub(super) fn hello_unanswered(&mut self) {
        let reason = "the server did not answer the first message of the control stream";
        self.stream_ended(false, StreamEnd::Lost, reason);
        self.failures = self.failures.max(FAILURES);
    }

    /// Why there is no stream, for the server's list of nodes.
    pub(super) fn stream_problem(&self, connected: bool) -> Option<String> {
        if connected {
            return None;
        }
        let reason = Some(self.reason.clone()).filter(|reason| !reason.is_empty());
        self.problem.clone().or(reason)
    }

    /// Records a unary call that succeeded. If streams fail meanwhile, the server is there and the route is to blame. Returns
    /// whether this is news.
    pub(super) fn call_succeeded(&mut self) -> bool {
        if self.failures < FAILURES || self.problem.is_some() {
            return false;
        }
        let problem = format!(
            "the route to the server does not carry HTTP/2 ({}); configure the proxy for gRPC (nginx: grpc_pass, HAProxy: proto h2, Caddy: h2c://)",
            self.reason
        );
        tracing::warn!(
            problem,
            "calls succeed, but the control stream cannot be opened"
        );
        self.problem = Some(problem);
        true
    }

    /// Records that the server accepted a stream.
    pub(super) fn connected(&mut self) {
        *self = Self::default();
    }

    /// The problem of the route and what to configure, or why the last handshake failed.
    pub(super) fn problem(&self) -> Option<String> {
        let handshake = || format!("the handshake with the server failed: {}", self.handshake);
        let problem = self.problem.clone();
        problem.or_else(|| (!self.handshake.is_empty()).then(handshake))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_handshake_is_a_problem_until_one_succeeds() {
        let mut route = Route::default();
        route.handshake_failed("the server rejects the key");
        let problem = route.problem().expect("a problem");
        assert!(problem.contains("rejects the key"), "{problem}");
        route.handshake_succeeded();
        assert_eq!(route.problem(), None);
    }

    #[test]
    fn one_unanswered_hello_is_a_problem_once_a_call_succeeds() {
        let mut route = Route::default();
        assert_eq!(route.stream_problem(false), None);
        route.hello_unanswered();
        assert_eq!(route.problem(), None, "the server may be down");
        let reason = route.stream_problem(false).expect("a reason");
        assert!(reason.contains("did not answer"), "{reason}");
        assert!(route.call_succeeded() && !route.call_succeeded());
        let problem = route.problem().expect("a problem");
        assert!(problem.contains("HTTP/2"), "{problem}");
        assert_eq!(route.stream_problem(false), Some(problem));
        assert_eq!(route.stream_problem(true), None);
    }

    #[test]
    fn only_a_route_that_carries_calls_but_no_stream_is_a_problem() {
        let mut route = Route::default();
        let lost = |route: &mut Route, was_open| {
            route.stream_ended(was_open, StreamEnd::Lost, "HTTP 502");
        };
        // The server is down: calls fail too.
        for _ in 0..5 {
            lost(&mut route, false);
        }
        assert_eq!(route.problem(), None);
        route.call_succeeded();
        let problem = route.problem().expect("a problem");
        assert!(
            problem.contains("HTTP 502") && problem.contains("grpc_pass"),
            "{problem}"
        );
        route.connected();
        assert_eq!(route.problem(), None);

        // An open stream that breaks says nothing about the route, nor does one that the server rejected.
        for _ in 0..5 {
            lost(&mut route, true);
            route.stream_ended(false, StreamEnd::NotActive, "standby");
        }
        route.call_succeeded();
        assert_eq!(route.problem(), None);
    }
}
