//! The operator behind a plain request.

use std::net::IpAddr;

use fleet_store::OperatorIdentity;
use fleet_wire::{RpcError, listener::ConnectionGuard, server::Payer};
use http::request::Parts;

use crate::{app::App, auth, call_limits::CallerId, convert::printable};

/// Longest recorded path.
const PATH_MOST: usize = 128;

/// Authenticates a plain request. A refused credential is recorded, as that of a call.
///
/// # Errors
///
/// UNAUTHENTICATED without a valid credential.
pub(super) async fn operator(
    app: &App,
    parts: &Parts,
    from: IpAddr,
) -> Result<OperatorIdentity, RpcError> {
    let identity = auth::operator(app, &parts.method, &parts.headers, from).await;
    // Counted refusals stay in memory, so that their texts have a bound.
    let path = printable(parts.uri.path(), PATH_MOST);
    auth::recorded(app, &parts.headers, from, "operator.call", &path, identity).await
}

/// Marks the connection of an authenticated request, which exempts it from the limits of unauthenticated peers.
pub(super) fn mark_known(parts: &Parts, operator: &OperatorIdentity) {
    if let Some(connection) = parts.extensions.get::<ConnectionGuard>() {
        connection.mark_authenticated(Payer::of(CallerId::Operator(operator.operator)));
    }
}
