//! Authentication: by the bearer token or the browser's cookie, before any byte of a body is read. Calls that go on
//! afterwards are in `in_use`.

mod in_use;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
};

use fleet_core::{OrgId, Permission, SecretHash, SecretKind};
use fleet_store::{Actor, NodeIdentity, OperatorIdentity, Principal, StoreError};
use fleet_wire::{
    Context, MethodKind, Peer, RpcError,
    gateway::FleetNodeGatewayClient,
    server::{Admission, Authenticate, Call, Payer},
};
use http::{HeaderMap, Method, header};
pub(crate) use in_use::{cut_when_revoked, until_revoked, while_permitted};
use ipnetwork::IpNetwork;
use tokio::sync::OwnedMutexGuard;

use crate::{
    app::App,
    audit::Attempt,
    call_limits::{CallPermit, CallerId, CountedCall, RefusedCaller},
    config::ServerConfig,
    failure::Answered,
    limiter::source,
    policy::{Class, class_of},
};

/// The cookie of a browser's session where the page is reached by plain HTTP, as on loopback.
pub(crate) const PLAIN_COOKIE: &str = "fleet_session";
/// The same behind https. Browsers accept a `__Host-` cookie only over https, for this host alone and with `Path=/`
/// (RFC 6265bis, 4.1.3.2). A neighbor under the same domain therefore cannot set it.
pub(crate) const SECURE_COOKIE: &str = "__Host-fleet_session";
/// Required for every mutation that a cookie authenticates, because no other site's form can set a header.
pub(crate) const CSRF_HEADER: &str = "x-fleet-csrf";

/// An authenticated caller.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A confirmed node.
    Node(NodeIdentity),
    /// An operator with the permission that the procedure requires.
    Operator(OperatorIdentity),
}

/// An authenticated caller and its address.
#[derive(Clone, Debug)]
pub(crate) struct AuthenticatedCaller {
    pub(crate) caller: Caller,
    pub(crate) from: IpAddr,
    /// Counts the call until the end of its response.
    pub(crate) permit: Arc<CallPermit>,
    /// The permit to store a node's report, acquired before its body is read. One report at a time is read and stored.
    _reporting: Option<Arc<OwnedMutexGuard<()>>>,
}

impl Caller {
    fn id(&self) -> CallerId {
        match self {
            Self::Node(node) => CallerId::Node(node.node),
            Self::Operator(operator) => CallerId::Operator(operator.operator),
        }
    }

    fn org(&self) -> OrgId {
        match self {
            Self::Node(node) => node.org,
            Self::Operator(operator) => operator.org,
        }
    }
}

/// Authenticates and authorizes every RPC.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) app: Arc<App>,
}

impl Authenticate for Gate {
    type Principal = AuthenticatedCaller;

    /// # Errors
    ///
    /// UNAUTHENTICATED without a valid credential of the right kind, PERMISSION_DENIED naming the
    /// missing permission, UNAVAILABLE when the storage fails.
    async fn authenticate(
        &self,
        call: Call<'_>,
    ) -> Result<Admission<AuthenticatedCaller>, RpcError> {
        let admission = self.admit(call).await;
        let procedure = fleet_wire::methods().find(|method| method.path() == call.path());
        if let Some(procedure) = procedure {
            let metrics = &self.app.metrics;
            metrics.call(procedure.path(), admission.is_ok());
        }
        admission
    }

    fn payer(&self, call: Call<'_>, principal: Option<&AuthenticatedCaller>) -> Payer {
        Payer::of(match principal {
            Some(principal) => principal.caller.id(),
            None => CallerId::Source(source(client_address(
                address(call.peer()),
                call.headers(),
                &self.app.config.trusted_proxies,
            ))),
        })
    }
}

impl Gate {
    async fn admit(&self, call: Call<'_>) -> Result<Admission<AuthenticatedCaller>, RpcError> {
        let (app, headers, path) = (&*self.app, call.headers(), call.path());
        let peer = address(call.peer());
        app.undeclared_proxies
            .check(peer, headers, &app.config.trusted_proxies);
        let from = client_address(peer, headers, &app.config.trusted_proxies);
        let caller = match class_of(path.trim_start_matches('/')) {
            Some(Class::Public) => {
                let permit = app.call_limits.acquire(CountedCall {
                    caller: CallerId::Source(source(from)),
                    org: None,
                    is_stream: false,
                })?;
                return Ok(Admission::PublicHolding(permit));
            }
            Some(Class::Node) => {
                let identity = node(app, headers, from).await;
                let identity = recorded(app, headers, from, "node.call", path, identity).await?;
                Caller::Node(identity)
            }
            Some(Class::AnyOperator) => self.operator(headers, path, from, &[]).await?,
            Some(Class::Operator(permission)) => {
                self.operator(headers, path, from, &[permission]).await?
            }
            Some(Class::OperatorOfBoth(one, other)) => {
                self.operator(headers, path, from, &[one, other]).await?
            }
            None => {
                return Err(RpcError::unimplemented(format!("nobody may call {path}"))
                    .with_reason("UNIMPLEMENTED")
                    .with_fact("procedure", path));
            }
        };
        let permit = match count(app, &caller, is_stream(path)) {
            Ok(permit) => permit,
            Err(refused) => {
                let now = app.environment.instant();
                tokio::time::sleep(app.call_limits.refusal_wait(caller.id(), now)).await;
                return Err(refused);
            }
        };
        let reporting = if is_report(path) {
            Some(Arc::new(permit.reporting().await))
        } else {
            None
        };
        Ok(Admission::Known(AuthenticatedCaller {
            caller,
            from,
            permit,
            _reporting: reporting,
        }))
    }

    async fn operator(
        &self,
        headers: &HeaderMap,
        path: &str,
        from: IpAddr,
        permissions: &[Permission],
    ) -> Result<Caller, RpcError> {
        let identity = operator(&self.app, &Method::POST, headers, from).await;
        let identity = recorded(&self.app, headers, from, "operator.call", path, identity).await?;
        for permission in permissions {
            permit(&self.app, &identity, *permission, path, from).await?;
        }
        Ok(Caller::Operator(identity))
    }
}

/// Counts a call of a known caller, and takes it from the caller's allowance. An unverified credential must not come
/// here, because it could use up the calls of another caller.
fn count(app: &App, caller: &Caller, is_stream: bool) -> Result<Arc<CallPermit>, RpcError> {
    if let Some(limits) = &app.limiters {
        let now = app.environment.instant();
        limits
            .calls
            .allow(caller.id(), "calls of this caller", now)?;
    }
    app.call_limits.acquire(CountedCall {
        caller: caller.id(),
        org: Some(caller.org()),
        is_stream,
    })
}

/// The same for a plain request of an operator.
pub(crate) fn count_operator(
    app: &App,
    identity: &OperatorIdentity,
    is_stream: bool,
) -> Result<Arc<CallPermit>, RpcError> {
    count(app, &Caller::Operator(identity.clone()), is_stream)
}

fn is_stream(path: &str) -> bool {
    fleet_wire::methods().any(|method| method.path() == path && method.kind() != MethodKind::Unary)
}

fn is_report(path: &str) -> bool {
    [
        FleetNodeGatewayClient::REPORT_DISCOVERED_DEVICES,
        FleetNodeGatewayClient::REPORT_PAIRED_DEVICES,
    ]
    .iter()
    .any(|report| report.path() == path)
}

/// Records a refused credential. A call without any credential leaves no record.
pub(crate) async fn recorded<T>(
    app: &App,
    headers: &HeaderMap,
    from: IpAddr,
    action: &'static str,
    path: &str,
    identity: Result<T, RpcError>,
) -> Result<T, RpcError> {
    if bearer(headers).or(cookie(headers, &app.config)).is_none() {
        return identity;
    }
    Attempt::anonymous(from, action, path.to_owned())
        .or_refused(&app.auditor, identity)
        .await
}

/// Looks a credential up. A source that presents unknown ones is limited, so that it costs a bounded amount of database
/// work.
pub(crate) async fn look_up<T>(
    app: &App,
    credential: &str,
    from: IpAddr,
    find: impl AsyncFnOnce(SecretHash) -> Result<Option<T>, StoreError>,
) -> Result<Option<T>, RpcError> {
    let (hash, now) = (SecretHash::of(credential), app.environment.instant());
    let admitted = match &app.limiters {
        Some(limits) => limits.credentials.admit(&hash, from, now),
        None => Ok(()),
    };
    let slot = match admitted {
        Ok(()) => app.lookups.slot(&hash, from).await,
        Err(refused) => Err(refused),
    };
    let slot = match slot {
        Ok(slot) => slot,
        Err(refused) => {
            let caller = RefusedCaller::Credential(*hash.as_bytes());
            tokio::time::sleep(app.call_limits.refusal_wait(caller, now)).await;
            return Err(refused);
        }
    };
    let found = find(hash).await.answered()?;
    drop(slot);
    let Some(limits) = &app.limiters else {
        return Ok(found);
    };
    limits.credentials.settle(&hash, found.is_some(), from, now);
    Ok(found)
}

/// The node whose session token the call presents.
async fn node(app: &App, headers: &HeaderMap, from: IpAddr) -> Result<NodeIdentity, RpcError> {
    let token = bearer(headers).ok_or_else(|| {
        RpcError::unauthenticated(
            "this procedure needs a node's session token as `authorization: Bearer`",
        )
        .with_reason("CREDENTIAL_MISSING")
    })?;
    let now = app.environment.now();
    let find = async |hash| app.store.node_by_session(hash, now).await;
    let identity = look_up(app, token, from, find).await?;
    identity.ok_or_else(|| {
        RpcError::unauthenticated(
            "the session expired or is unknown: open a new one with BeginAuthHandshake",
        )
        .with_reason("SESSION_INVALID")
    })
}

/// The operator whose key or cookie the call presents. For mutations, a cookie is valid only together with the header
/// that no other site can set.
pub(crate) async fn operator(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    from: IpAddr,
) -> Result<OperatorIdentity, RpcError> {
    let now = app.environment.now();
    let identity = match (bearer(headers), cookie(headers, &app.config)) {
        (Some(key), _) if key.starts_with(SecretKind::OperatorKey.prefix()) => {
            let find = async |hash| app.store.operator_by_key(hash, now).await;
            look_up(app, key, from, find).await?
        }
        (Some(_), _) => None,
        (None, Some(token)) => {
            if !method.is_safe() && !headers.contains_key(CSRF_HEADER) {
                return Err(RpcError::unauthenticated(format!(
                    "a browser's session needs the header `{CSRF_HEADER}: 1` on every change"
                ))
                .with_reason("CSRF_HEADER_MISSING")
                .with_fact("header", CSRF_HEADER));
            }
            let find = async |hash| app.store.operator_by_session(hash, now).await;
            look_up(app, token, from, find).await?
        }
        (None, None) => {
            return Err(RpcError::unauthenticated(
                "this needs an operator's key as `authorization: Bearer fok_...`",
            )
            .with_reason("CREDENTIAL_MISSING"));
        }
    };
    identity.ok_or_else(|| RpcError::unauthenticated("the key or session is not valid: create a new key with `fleetd admin create-key`, or sign in again").with_reason("CREDENTIAL_INVALID"))
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
            principal: Principal::Operator(identity.operator),
            from: Some(from),
        },
        action: "operator.call",
        subject: path.to_owned(),
    };
    let refusal = RpcError::permission_denied(format!(
        "this needs the permission {permission}, which the role {} lacks",
        identity.role
    ))
    .with_reason("PERMISSION_MISSING")
    .with_fact("permission", permission);
    Err(attempt.refused(&app.auditor, refusal).await)
}

/// The operator behind a call whose class is an operator's, and its address.
pub(crate) fn calling_operator(context: &Context) -> Result<(&OperatorIdentity, IpAddr), RpcError> {
    match context.principal::<AuthenticatedCaller>() {
        Some(AuthenticatedCaller {
            caller: Caller::Operator(identity),
            from,
            ..
        }) => Ok((identity, *from)),
        Some(AuthenticatedCaller {
            caller: Caller::Node(_),
            ..
        })
        | None => Err(RpcError::unauthenticated("this procedure is for operators")
            .with_reason("WRONG_CALLER")
            .with_fact("needs", "operator")),
    }
}

/// The node behind a call whose class is a node's, and its address.
pub(crate) fn calling_node(context: &Context) -> Result<(&NodeIdentity, IpAddr), RpcError> {
    match context.principal::<AuthenticatedCaller>() {
        Some(AuthenticatedCaller {
            caller: Caller::Node(identity),
            from,
            ..
        }) => Ok((identity, *from)),
        Some(AuthenticatedCaller {
            caller: Caller::Operator(_),
            ..
        })
        | None => Err(RpcError::unauthenticated("this procedure is for nodes")
            .with_reason("WRONG_CALLER")
            .with_fact("needs", "node")),
    }
}

/// The permit of an authenticated call.
pub(crate) fn call_permit(context: &Context) -> Result<&CallPermit, RpcError> {
    let principal = context.principal::<AuthenticatedCaller>();
    principal
        .map(|principal| &*principal.permit)
        .ok_or_else(|| {
            RpcError::unauthenticated("this procedure needs a credential")
                .with_reason("CREDENTIAL_MISSING")
        })
}

/// The address of the caller of a public procedure; unspecified when the call did not come through our listener.
pub(crate) fn calling_address(app: &App, context: &Context) -> IpAddr {
    let peer = address(context.peer());
    client_address(peer, context.headers(), &app.config.trusted_proxies)
}

/// The address of a connection's peer; unspecified where the service is mounted without our listener.
pub(crate) fn address(peer: Option<Peer>) -> IpAddr {
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address.ip())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// The session cookie's value. Behind https only the `__Host-` cookie counts.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, config: &ServerConfig) -> Option<&'a str> {
    let is_session =
        |name: &str| name == SECURE_COOKIE || (name == PLAIN_COOKIE && !config.public_https);
    cookies(headers)
        .find(|(name, _)| is_session(name))
        .map(|(_, value)| value)
}

/// The names and values of all cookies.
pub(crate) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
}

/// Peers that were warned about. The bound keeps anonymous peers from filling the log.
const WARNED_MOST: usize = 16;

/// The untrusted peers that sent a forwarding header.
#[derive(Debug, Default)]
pub(crate) struct UndeclaredProxies(Mutex<BTreeSet<IpAddr>>);

impl UndeclaredProxies {
    /// Logs a warning, once for each peer, about a forwarding header that is ignored.
    pub(crate) fn check(&self, peer: IpAddr, headers: &HeaderMap, trusted: &[IpNetwork]) {
        if claimed_address(peer, headers, trusted).is_none() {
            return;
        }
        let mut warned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() < WARNED_MOST && warned.insert(peer.to_canonical()) {
            tracing::warn!(
                %peer,
                "ignored X-Forwarded-For of a peer that is not a trusted proxy: if it is a proxy of yours, name it with --trusted-proxy; until then, all of its clients share the limits of one address"
            );
        }
    }
}

/// The address that an untrusted peer names as its client: the last one in `X-Forwarded-For`, which a proxy adds. It is
/// a claim. Only limits may use it, together with one for the peer.
pub(crate) fn claimed_address(
    peer: IpAddr,
    headers: &HeaderMap,
    trusted: &[IpNetwork],
) -> Option<IpAddr> {
    let peer = peer.to_canonical();
    if trusted.iter().any(|network| network.contains(peer)) {
        return None;
    }
    let last = headers.get_all("x-forwarded-for").iter().next_back()?;
    let hop = last.to_str().ok()?.rsplit(',').next()?;
    Some(hop.trim().parse::<IpAddr>().ok()?.to_canonical())
}

/// The caller's own address: the peer's, or the one that a trusted proxy forwards. Reads `X-Forwarded-For` from the
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
    // Each proxy appends the address that it sees. All further left can be invented by the client.
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
    fn forwarded_addresses_are_trusted_only_from_trusted_proxies() {
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
    fn only_an_undeclared_proxy_claims_an_address() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("a literal");
        let proxies = ["10.0.0.0/8".parse().expect("a network")];
        let forwarded = headers("x-forwarded-for", "1.2.3.4, 198.51.100.7");
        let claimed = |peer, headers: &HeaderMap| claimed_address(ip(peer), headers, &proxies);
        assert_eq!(claimed("192.0.2.1", &forwarded), Some(ip("198.51.100.7")));
        assert_eq!(claimed("10.0.0.1", &forwarded), None);
        assert_eq!(claimed("192.0.2.1", &HeaderMap::new()), None);
    }

    #[test]
    fn credentials_are_read_only_from_their_headers() {
        assert_eq!(
            bearer(&headers("authorization", "Bearer fok_x")),
            Some("fok_x")
        );
        assert_eq!(
            bearer(&headers("authorization", "bearer fok_x")),
            Some("fok_x")
        );
        assert_eq!(bearer(&headers("authorization", "Basic fok_x")), None);
        let config = |public_https| ServerConfig {
            public_https,
            ..ServerConfig::default()
        };
        for (value, plain, behind_https) in [
            ("a=b; fleet_session=fos_x; c=d", Some("fos_x"), None),
            ("__Host-fleet_session=fos_x", Some("fos_x"), Some("fos_x")),
            (
                "fleet_session=fos_set_by_a_neighbor; __Host-fleet_session=fos_x",
                Some("fos_set_by_a_neighbor"),
                Some("fos_x"),
            ),
            ("xfleet_session=fos_x", None, None),
        ] {
            let headers = headers("cookie", value);
            assert_eq!(cookie(&headers, &config(false)), plain, "{value}");
            assert_eq!(cookie(&headers, &config(true)), behind_https, "{value}");
        }
    }
}
