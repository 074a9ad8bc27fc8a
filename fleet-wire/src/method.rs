//! The methods of all services as values. Limits are in [`crate::limits`], the permission of each in the server.

use crate::{admin, fleet, gateway, pairing};

/// One method of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method {
    path: &'static str,
    kind: MethodKind,
    idempotent: bool,
    /// Largest request message in bytes, if the table of limits does not have the method.
    request_limit: Option<usize>,
}

/// Who streams in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MethodKind {
    /// One message each way.
    Unary,
    /// One message up, a stream down.
    ServerStream,
    /// Streams both ways.
    Bidi,
}

impl Method {
    /// Describes a method. The path is `/<package>.<Service>/<Method>`; an idempotent method is free of side effects.
    pub const fn new(path: &'static str, kind: MethodKind, idempotent: bool) -> Self {
        Self {
            path,
            kind,
            idempotent,
            request_limit: None,
        }
    }

    /// Sets the largest request message, in bytes after decompression.
    #[must_use]
    pub const fn with_request_limit(self, bytes: usize) -> Self {
        Self {
            request_limit: Some(bytes),
            ..self
        }
    }

    pub(crate) const fn request_limit(&self) -> Option<usize> {
        self.request_limit
    }

    /// The path of a request, `/<package>.<Service>/<Method>`.
    pub const fn path(&self) -> &'static str {
        self.path
    }

    /// `<package>.<Service>`.
    pub fn service(&self) -> &'static str {
        self.path[1..]
            .split_once('/')
            .map_or(self.path, |(service, _)| service)
    }

    /// The name without its service.
    pub fn name(&self) -> &'static str {
        self.path[1..]
            .split_once('/')
            .map_or(self.path, |(_, name)| name)
    }

    /// Who streams.
    pub const fn kind(&self) -> MethodKind {
        self.kind
    }

    /// Whether the definition declares it free of side effects; such a unary method may come as a Connect GET.
    pub const fn idempotent(&self) -> bool {
        self.idempotent
    }
}

/// Every method this crate defines, service by service. Health and reflection are not in it.
pub fn methods() -> impl Iterator<Item = &'static Method> {
    [
        gateway::FleetNodeGatewayClient::METHODS,
        admin::FleetNodeAdminClient::METHODS,
        pairing::PairingClient::METHODS,
        fleet::ScanClient::METHODS,
        fleet::ResultClient::METHODS,
        fleet::ScheduleClient::METHODS,
        fleet::AlertClient::METHODS,
        fleet::NodeClient::METHODS,
        fleet::NodeKeyClient::METHODS,
        fleet::NodeConfirmationClient::METHODS,
        fleet::DeviceSearchClient::METHODS,
        fleet::OverviewClient::METHODS,
        fleet::SiteClient::METHODS,
        fleet::DeviceClient::METHODS,
        fleet::DeviceDetailClient::METHODS,
        fleet::AccountClient::METHODS,
        fleet::AuditClient::METHODS,
        fleet::KeyClient::METHODS,
        fleet::OperatorClient::METHODS,
        fleet::DevicePairingClient::METHODS,
        fleet::DirectClient::METHODS,
    ]
    .into_iter()
    .flatten()
}
