//! The handshake that proves a node's identity, and the lifetime of the session that it opens. Sessions are kept in memory
//! only. Start with [`open`].

use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use fleet_core::{is_domain_separated, is_upstream_challenge};
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

/// Time limit of each call of a handshake. The three calls fit into the link's 30 s.
const CALL: Duration = Duration::from_secs(9);
/// The assumed lifetime of a session if the server's clock is unknown. It is short, so clock skew is harmless: the next
/// refresh learns the real lifetime.
const FALLBACK_LIFETIME: Duration = Duration::from_secs(600);

/// A session: a bearer token and its remaining lifetime when it was opened.
#[derive(Debug)]
pub(crate) struct Session {
    token: SecretText,
    pub(crate) lifetime: Duration,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The node has no API key yet.
    #[error(
        "this node has no API key; confirm it at the server, then run `fleetnode enroll` or `fleetnode refresh` and enter the key"
    )]
    NoKey,
    /// The server rejects the API key.
    #[error(
        "the server rejects this API key; copy the key again exactly as shown, or ask an operator whether the node was revoked"
    )]
    KeyRefused,
    /// The challenge has no tag, so its signature could be misused for another purpose.
    #[error(
        "the server's challenge has no tag that limits its purpose, so it was not signed; upstream servers send such challenges: if this is one, enroll with --upstream-server"
    )]
    UntaggedChallenge,
    /// The node is enrolled with an upstream server, whose challenge is not one that upstream servers send.
    #[error(
        "the server's challenge has {length} bytes{}, which no upstream server sends, so it was not signed: enroll without --upstream-server if the server is `fleetd`", if *.tagged { " and the tag of this product" } else { "" }
    )]
    NotUpstream {
        /// Length of the challenge.
        length: usize,
        /// Whether it has the tag of this product's challenges.
        tagged: bool,
    },
    /// The server rejected a call, or could not be reached.
    #[error("the handshake failed at {step}")]
    Call {
        /// The call.
        step: &'static str,
        /// The server's error.
        source: RpcError,
    },
}

impl SessionError {
    /// The failure in the terms of the link.
    pub(crate) fn failure(&self) -> HandshakeFailure {
        match self {
            Self::KeyRefused => HandshakeFailure::KeyRefused,
            Self::Call { source, .. } if source.code == Code::ResourceExhausted => source
                .retry_after()
                .map_or(HandshakeFailure::Other, |retry_after| {
                    HandshakeFailure::Limited { retry_after }
                }),
            Self::Call { .. }
            | Self::NoKey
            | Self::UntaggedChallenge
            | Self::NotUpstream { .. } => HandshakeFailure::Other,
        }
    }
}

impl Session {
    /// Options of a call with this session's token.
    pub(crate) fn options(&self) -> CallOptions {
        // Cannot fail: `open` has checked that the token is a valid header value.
        CallOptions::new()
            .bearer(self.token.expose())
            .unwrap_or_default()
    }
}

/// The server's clock, as known from its messages. It converts the server's times into local durations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServerClock(Option<(Instant, i128)>);

impl ServerClock {
    /// Records a server time that arrived at `received`.
    pub(crate) fn update(&mut self, received: Instant, time: Option<&Timestamp>) {
        self.0 = time.map(|time| (received, nanos(time))).or(self.0);
    }

    /// The duration from `now` to a server time; none if the server's clock is unknown. The transit time of the answer
    /// counts as elapsed, so the result is too short by at most one round trip.
    fn until(&self, time: &Timestamp, now: Instant, transit: Duration) -> Option<Duration> {
        let (received, reported) = self.0?;
        let ahead = u64::try_from((nanos(time) - reported).max(0)).unwrap_or(u64::MAX);
        Some(
            Duration::from_nanos(ahead)
                .saturating_sub(now.saturating_duration_since(received))
                .saturating_sub(transit),
        )
    }
}

fn nanos(time: &Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

/// Opens a session with BeginAuthHandshake and CompleteAuthHandshake. The lifetime is computed from the server's own
/// times and measured on the local monotonic clock. If `clock` is unknown, a heartbeat asks for the server's time.
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
            // Only this call judges the key. The next one
            // also refuses a challenge that has expired.
            if source.code == Code::Unauthenticated {
                SessionError::KeyRefused
            } else {
                failed("BeginAuthHandshake")(source)
            }
        })?;
    let tagged = is_domain_separated(&begun.challenge);
    if !state.upstream_server && !tagged {
        return Err(SessionError::UntaggedChallenge);
    }
    if state.upstream_server && !is_upstream_challenge(&begun.challenge) {
        return Err(SessionError::NotUpstream {
            length: begun.challenge.len(),
            tagged,
        });
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
        lifetime: FALLBACK_LIFETIME,
    };
    let unusable = |_| {
        failed("CompleteAuthHandshake")(RpcError::internal(
            "the session token is not a valid header value",
        ))
    };
    let bearer = options().bearer(session.token.expose()).map_err(unusable)?;
    let mut transit = Duration::ZERO;
    if clock.0.is_none() {
        let sent = tokio::time::Instant::now();
        let request = UploadHeartbeatRequest {
            sent_at: Some(crate::transport::now()),
            ..UploadHeartbeatRequest::default()
        };
        let answer = client.upload_heartbeat(&request, bearer).await;
        transit = sent.elapsed();
        let received = tokio::time::Instant::now().into_std();
        clock.update(
            received,
            // Without an answer, the fallback below applies.
            answer.ok().and_then(|answer| answer.received_at).as_ref(),
        );
    }
    let now = tokio::time::Instant::now().into_std();
    let remaining = expires_at.and_then(|expires_at| clock.until(&expires_at, now, transit));
    session.lifetime = remaining
        // A wrong clock of the server must not cause one handshake after the other.
        .filter(|remaining| !remaining.is_zero())
        .unwrap_or(FALLBACK_LIFETIME);
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn lifetimes_come_from_the_servers_clock() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut clock = ServerClock::default();
        assert_eq!(clock.until(&at(100), start, Duration::ZERO), None);
        // The absolute time of the server's clock does not matter.
        clock.update(start, Some(&at(40)));
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
        clock.update(start, None);
        assert_eq!(
            clock.until(&at(50), start, Duration::ZERO),
            Some(10 * second)
        );
    }
}
