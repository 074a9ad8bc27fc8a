//! Who calls: from the bearer token or the browser's cookie, never from a body. Runs before any byte of
//! a body is read.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use fleet_core::{Permission, SecretHash, SecretKind};
use fleet_store::{Actor, NodeIdentity, OperatorIdentity, Who};
use fleet_wire::{
    Context, RpcError,
    listener::ConnectionGuard,
    server::{Admission, Authenticate, Call},
};
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, Method, header};
use ipnetwork::IpNetwork;

use crate::{
    app::App,
    audit::Attempt,
    failure,
    policy::{Class, class_of},
};

/// The cookie of a browser's session.
pub(crate) const COOKIE: &str = "fleet_session";
/// A header that no other site's form can set: what is asked of every mutation that a cookie
/// authenticates.
pub(crate) const CSRF_HEADER: &str = "x-fleet-csrf";

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A confirmed node.
    Node(NodeIdentity),
    /// An operator with the permission that the procedure asks for.
    Operator(OperatorIdentity),
}

/// The caller and where it calls from.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    pub(crate) caller: Caller,
    pub(crate) from: IpAddr,
}

/// Finds out who calls a procedure, and whether it may.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) app: Arc<App>,
}

impl Authenticate for Gate {
    type Principal = Principal;

    /// # Errors
    ///
    /// UNAUTHENTICATED without a valid credential of the right kind, PERMISSION_DENIED naming the
    /// missing permission, UNAVAILABLE when storage cannot be asked.
    async fn authenticate(&self, call: Call<'_>) -> Result<Admission<Principal>, RpcError> {
        let (app, headers, path) = (&*self.app, call.headers(), call.path());
        let peer = call
            .peer()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address.ip());
        let from = client_address(peer, headers, &app.config.trusted_proxies);
        let caller = match class_of(path.trim_start_matches('/')) {
            Some(Class::Public) => return Ok(Admission::Public),
            Some(Class::Node) => {
                let identity = known_node(app, headers, path, from).await?;
                few_calls(&call)?;
                Caller::Node(identity)
            }
            Some(Class::AnyOperator) => Caller::Operator(known(app, headers, path, from).await?),
            Some(Class::Operator(permission)) => {
                let identity = known(app, headers, path, from).await?;
                permit(app, &identity, permission, path, from).await?;
                Caller::Operator(identity)
            }
            Some(Class::OperatorOfBoth(one, other)) => {
                let identity = known(app, headers, path, from).await?;
                permit(app, &identity, one, path, from).await?;
                permit(app, &identity, other, path, from).await?;
                Caller::Operator(identity)
            }
            None => return Err(RpcError::unimplemented(format!("nobody may call {path}"))),
        };
        Ok(Admission::Known(Principal { caller, from }))
    }
}

/// A node needs its stream, a report and a heartbeat at a time; a connection gives it no more than this.
const CALLS_OF_A_NODE: usize = 8;

fn few_calls(call: &Call<'_>) -> Result<(), RpcError> {
    let active = call.connection().map_or(0, ConnectionGuard::active_calls);
    if active <= CALLS_OF_A_NODE {
        return Ok(());
    }
    Err(RpcError::resource_exhausted(format!(
        "a node may have {CALLS_OF_A_NODE} calls at a time on a connection: wait for one to end"
    )))
}

/// The operator behind a call; a credential that is not valid leaves a record.
async fn known(
    app: &App,
    headers: &HeaderMap,
    path: &str,
    from: IpAddr,
) -> Result<OperatorIdentity, RpcError> {
    let refused = match operator(app, &Method::POST, headers).await {
        Ok(identity) => return Ok(identity),
        Err(refused) => refused,
    };
    if bearer(headers).or(cookie(headers)).is_none() {
        return Err(refused);
    }
    let attempt = Attempt {
        org: None,
        actor: Actor {
            who: Who::Anonymous,
            from: Some(from),
        },
        action: "operator.call",
        subject: path.to_owned(),
    };
    Err(attempt.refused(app, refused).await)
}

/// The node behind a call; a token that is not valid leaves a record.
async fn known_node(
    app: &App,
    headers: &HeaderMap,
    path: &str,
    from: IpAddr,
) -> Result<NodeIdentity, RpcError> {
    let refused = match node(app, headers).await {
        Ok(identity) => return Ok(identity),
        Err(refused) => refused,
    };
    if bearer(headers).or(cookie(headers)).is_none() {
        return Err(refused);
    }
    let attempt = Attempt {
        org: None,
        actor: Actor {
            who: Who::Anonymous,
            from: Some(from),
        },
        action: "node.call",
        subject: path.to_owned(),
    };
    Err(attempt.refused(app, refused).await)
}

/// The node whose session token is presented.
async fn node(app: &App, headers: &HeaderMap) -> Result<NodeIdentity, RpcError> {
    let token = bearer(headers).ok_or_else(|| {
        RpcError::unauthenticated(
            "this procedure needs a node's session token as `authorization: Bearer`",
        )
    })?;
    let identity = app
        .store
        .node_by_session(SecretHash::of(token), app.environment.now())
        .await
        .map_err(|error| failure::storage(&error))?;
    identity.ok_or_else(|| {
        RpcError::unauthenticated(
            "the session is over or unknown: open a new one with BeginAuthHandshake",
        )
    })
}

/// The operator whose key or cookie is presented. A cookie counts for mutations only together with
/// the header that no other site can set.
pub(crate) async fn operator(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
) -> Result<OperatorIdentity, RpcError> {
    let identity = match (bearer(headers), cookie(headers)) {
        (Some(key), _) if key.starts_with(SecretKind::OperatorKey.prefix()) => {
            app.store
                .operator_by_key(SecretHash::of(key), app.environment.now())
                .await
        }
        (Some(_), _) => Ok(None),
        (None, Some(token)) => {
            if method.is_safe() || headers.contains_key(CSRF_HEADER) {
                app.store
                    .operator_by_session(SecretHash::of(token), app.environment.now())
                    .await
            } else {
                return Err(RpcError::unauthenticated(format!(
                    "a browser's session needs the header `{CSRF_HEADER}: 1` on every change"
                )));
            }
        }
        (None, None) => {
            return Err(RpcError::unauthenticated(
                "this needs an operator's key as `authorization: Bearer fok_...`",
            ));
        }
    };
    let identity = identity.map_err(|error| failure::storage(&error))?;
    identity.ok_or_else(|| RpcError::unauthenticated("the key or session is not valid: make a new key with `fleetd admin create-key`, or sign in again"))
}

/// Refuses, with an audit record, an operator who lacks a permission.
pub(crate) async fn permit(
    app: &App,
    identity: &OperatorIdentity,
    permission: Permission,
    path: &str,
    from: IpAddr,
) -> Result<(), RpcError> {
    if identity.role.may(permission) {
        return Ok(());
    }
    let attempt = Attempt {
        org: Some(identity.org),
        actor: Actor {
            who: Who::Operator(identity.operator),
            from: Some(from),
        },
        action: "operator.call",
        subject: path.to_owned(),
    };
    let refusal = RpcError::permission_denied(format!(
        "this needs the permission {permission}, which the role {} lacks",
        identity.role
    ));
    Err(attempt.refused(app, refusal).await)
}

/// Between two looks at whether who watches may still do so.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Passes a stream on for as long as its operator's credential is good and permits it; then it ends
/// UNAUTHENTICATED. Storage trouble ends nothing.
pub(crate) fn while_permitted<T, S>(
    app: Arc<App>,
    identity: &OperatorIdentity,
    permission: Permission,
    items: S,
) -> impl Stream<Item = Result<T, RpcError>> + Send + use<T, S>
where
    T: Send,
    S: Stream<Item = Result<T, RpcError>> + Send,
{
    let credential = identity.credential;
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK_AGAIN, LOOK_AGAIN);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let state = Some((Box::pin(items), look));
    stream::unfold(state, move |state| {
        let app = app.clone();
        async move {
            let (mut items, mut look) = state?;
            loop {
                tokio::select! {
                    item = items.next() => return Some((item?, Some((items, look)))),
                    _ = look.tick() => {}
                }
                let now = app.environment.now();
                match app.store.operator_by_credential(credential, now).await {
                    Ok(Some(identity)) if identity.role.may(permission) => {}
                    Err(error) => tracing::debug!(%error, "a watcher could not be looked at"),
                    Ok(_) => {
                        let ended = "the key or session of this call is not valid any more, or lost its permission: sign in again";
                        return Some((Err(RpcError::unauthenticated(ended)), None));
                    }
                }
            }
        }
    })
}

/// The operator behind a call whose class is an operator's.
pub(crate) fn calling_operator(context: &Context) -> Result<(&OperatorIdentity, Actor), RpcError> {
    match context.principal::<Principal>() {
        Some(Principal {
            caller: Caller::Operator(identity),
            from,
        }) => Ok((
            identity,
            Actor {
                who: Who::Operator(identity.operator),
                from: Some(*from),
            },
        )),
        Some(Principal {
            caller: Caller::Node(_),
            ..
        })
        | None => Err(RpcError::unauthenticated("this procedure is for operators")),
    }
}

/// The node behind a call whose class is a node's.
pub(crate) fn calling_node(context: &Context) -> Result<&NodeIdentity, RpcError> {
    match context.principal::<Principal>() {
        Some(Principal {
            caller: Caller::Node(identity),
            ..
        }) => Ok(identity),
        Some(Principal {
            caller: Caller::Operator(_),
            ..
        })
        | None => Err(RpcError::unauthenticated("this procedure is for nodes")),
    }
}

/// Where a call comes from; unspecified when it came by no connection of ours.
pub(crate) fn calling_address(app: &App, context: &Context) -> IpAddr {
    let peer = context
        .peer()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address.ip());
    client_address(peer, context.headers(), &app.config.trusted_proxies)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// The session cookie's value.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let pairs = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
}

/// The caller's own address: the peer's, or what a trusted proxy says. Reads `X-Forwarded-For` from the
/// right and stops at the first address that is not a trusted proxy's.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNetwork]) -> IpAddr {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|network| network.contains(ip));
    let mut client = peer.to_canonical();
    let forwarded = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = forwarded
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    for hop in hops.iter().rev() {
        if !is_trusted(client) {
            break;
        }
        let Ok(ip) = hop.parse::<IpAddr>() else { break };
        client = ip.to_canonical();
    }
    client
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )])
    }

    #[test]
    fn only_trusted_proxies_speak_for_others() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("a literal");
        let proxies = ["10.0.0.0/8".parse().expect("a network")];
        let forwarded = headers("x-forwarded-for", "1.2.3.4, 198.51.100.7, 10.0.0.2");
        assert_eq!(
            client_address(ip("192.0.2.1"), &forwarded, &proxies),
            ip("192.0.2.1")
        );
        assert_eq!(
            client_address(ip("10.0.0.1"), &forwarded, &proxies),
            ip("198.51.100.7")
        );
        assert_eq!(
            client_address(ip("::ffff:10.0.0.1"), &HeaderMap::new(), &proxies),
            ip("10.0.0.1")
        );
        assert_eq!(
            client_address(
                ip("10.0.0.1"),
                &headers("x-forwarded-for", "nonsense"),
                &proxies
            ),
            ip("10.0.0.1")
        );
    }

    #[test]
    fn credentials_are_read_from_their_headers_only() {
        assert_eq!(
            bearer(&headers("authorization", "Bearer fok_x")),
            Some("fok_x")
        );
        assert_eq!(
            bearer(&headers("authorization", "bearer fok_x")),
            Some("fok_x")
        );
        assert_eq!(bearer(&headers("authorization", "Basic fok_x")), None);
        assert_eq!(
            cookie(&headers("cookie", "a=b; fleet_session=fos_x; c=d")),
            Some("fos_x")
        );
        assert_eq!(cookie(&headers("cookie", "xfleet_session=fos_x")), None);
    }
}
