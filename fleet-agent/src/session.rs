//! The handshake that proves a node's identity, and how long the session it opens may be used. Sessions live in
//! memory only. Start with [`open`].

use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use fleet_core::is_domain_separated;
use fleet_registry::link::HandshakeFailure;
use fleet_wire::{
    Code, RpcError, Timestamp,
    client::CallOptions,
    gateway::{
        BeginAuthHandshakeRequest, CompleteAuthHandshakeRequest, FleetNodeGatewayClient,
        UploadHeartbeatRequest,
    },
};

use crate::state::{SecretText, StateFile};

/// How long each call of a handshake may take; the three together stay inside the link's 30 s.
const CALL: Duration = Duration::from_secs(9);
/// How long a session is believed to live when the server's clock is not known: short enough for any skew to be
/// harmless, since the next refresh learns better.
const ASSUMED: Duration = Duration::from_secs(600);

/// A session: a bearer token and what remained of its life when it was opened.
#[derive(Debug)]
pub(crate) struct Session {
    token: SecretText,
    pub(crate) lifetime: Duration,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The node has no API key yet.
    #[error(
        "this node has no API key yet: confirm it at the server, then run `fleetnode enroll` or `fleetnode refresh` and enter the key"
    )]
    NoKey,
    /// The server does not accept the key.
    #[error(
        "the server does not accept this API key for this node: copy it again as it was shown, or ask whether the node was revoked"
    )]
    KeyRefused,
    /// The challenge could be a text of any meaning.
    #[error(
        "the server's challenge does not say what it is for, so it was not signed: only the upstream server does that; enroll with --upstream-server if this is one"
    )]
    TaglessChallenge,
    /// The server refused, or could not be reached.
    #[error("the handshake failed at {step}")]
    Call {
        /// Which call.
        step: &'static str,
        /// What it said.
        source: RpcError,
    },
}

impl SessionError {
    /// What the link makes of it.
    pub(crate) fn failure(&self) -> HandshakeFailure {
        match self {
            Self::KeyRefused => HandshakeFailure::KeyRefused,
            Self::Call { source, .. } if source.code == Code::ResourceExhausted => source
                .retry_after()
                .map_or(HandshakeFailure::Other, |retry_after| {
                    HandshakeFailure::Limited { retry_after }
                }),
            Self::Call { .. } | Self::NoKey | Self::TaglessChallenge => HandshakeFailure::Other,
        }
    }
}

impl Session {
    /// Options of a call under this session.
    pub(crate) fn options(&self) -> CallOptions {
        // `open` has seen that the token fits a header.
        CallOptions::new()
            .bearer(self.token.expose())
            .unwrap_or_default()
    }
}

/// What is known of the server's clock, so that its times can be told in ours.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServerClock(Option<(Instant, i128)>);

impl ServerClock {
    /// The server said its time in an answer that came at `heard`.
    pub(crate) fn heard(&mut self, heard: Instant, time: Option<&Timestamp>) {
        self.0 = time.map(|time| (heard, nanos(time))).or(self.0);
    }

    /// How far a time of the server lies ahead of `now`; none when its clock is not known. What the answer took
    /// on its way counts as passed, so this errs to the safe side by at most a round trip.
    fn until(&self, time: &Timestamp, now: Instant, way: Duration) -> Option<Duration> {
        let (heard, said) = self.0?;
        let ahead = u64::try_from((nanos(time) - said).max(0)).unwrap_or(u64::MAX);
        Some(
            Duration::from_nanos(ahead)
                .saturating_sub(now.saturating_duration_since(heard))
                .saturating_sub(way),
        )
    }
}

fn nanos(time: &Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

/// Opens a session by Begin and Complete. The life of the session is measured from the server's own times on our
/// monotonic clock; a heartbeat asks for the server's time where `clock` does not know it.
///
/// # Errors
///
/// [`SessionError`]; only [`SessionError::KeyRefused`] is final.
pub(crate) async fn open(
    client: &FleetNodeGatewayClient,
    state: &StateFile,
    mut clock: ServerClock,
) -> Result<Session, SessionError> {
    let failed = |step| move |source| SessionError::Call { step, source };
    let api_key = state.api_key.as_ref().ok_or(SessionError::NoKey)?;
    let request = BeginAuthHandshakeRequest {
        api_key: api_key.expose().to_owned(),
        identity_pubkey: state.identity_public().to_vec().into(),
    };
    let options = || CallOptions::new().timeout(CALL);
    let begun = client
        .begin_auth_handshake(&request, options())
        .await
        .map_err(|source| {
            if source.code == Code::Unauthenticated {
                SessionError::KeyRefused
            } else {
                failed("BeginAuthHandshake")(source)
            }
        })?;
    if !state.upstream_server && !is_domain_separated(&begun.challenge) {
        return Err(SessionError::TaglessChallenge);
    }
    let signature = SigningKey::from_bytes(state.identity_key.expose()).sign(&begun.challenge);
    let request = CompleteAuthHandshakeRequest {
        challenge: begun.challenge,
        signature: signature.to_bytes().to_vec().into(),
    };
    let completed = client
        .complete_auth_handshake(&request, options())
        .await
        .map_err(failed("CompleteAuthHandshake"))?;
    let expires_at = completed.expires_at;
    let mut session = Session {
        token: SecretText::new(completed.session_token),
        lifetime: ASSUMED,
    };
    let unusable = |_| {
        failed("CompleteAuthHandshake")(RpcError::internal("the session token is no header value"))
    };
    let bearer = options().bearer(session.token.expose()).map_err(unusable)?;
    let mut way = Duration::ZERO;
    if clock.0.is_none() {
        let sent = tokio::time::Instant::now();
        let sent_at = Some(crate::transport::now());
        let answer = client
            .upload_heartbeat(&UploadHeartbeatRequest { sent_at }, bearer)
            .await;
        way = sent.elapsed();
        let heard = tokio::time::Instant::now().into_std();
        clock.heard(
            heard,
            answer.ok().and_then(|answer| answer.received_at).as_ref(),
        );
    }
    let now = tokio::time::Instant::now().into_std();
    let remaining = expires_at.and_then(|expires_at| clock.until(&expires_at, now, way));
    session.lifetime = remaining
        .filter(|remaining| !remaining.is_zero())
        .unwrap_or(ASSUMED);
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn only_the_servers_own_times_count() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut clock = ServerClock::default();
        assert_eq!(clock.until(&at(100), start, Duration::ZERO), None);
        // A server that lives in 1970 is as good as any.
        clock.heard(start, Some(&at(40)));
        assert_eq!(
            clock.until(&at(100), start, Duration::ZERO),
            Some(60 * second)
        );
        assert_eq!(
            clock.until(&at(100), start + 10 * second, second),
            Some(49 * second)
        );
        assert_eq!(
            clock.until(&at(30), start, Duration::ZERO),
            Some(Duration::ZERO)
        );
        clock.heard(start, None);
        assert_eq!(
            clock.until(&at(50), start, Duration::ZERO),
            Some(10 * second)
        );
    }
}
