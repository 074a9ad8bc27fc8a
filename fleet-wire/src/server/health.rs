//! The health service (`grpc.health.v1`), which load balancers ask. All services of a server have one status.

use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::sync::watch;

use crate::{
    BoxStream, Context, Reply, RpcError,
    health::{self, HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus},
};

/// The status that `grpc.health.v1` reports.
#[derive(Debug, Clone)]
pub struct Health {
    /// The served services.
    names: Arc<[&'static str]>,
    serving: Arc<watch::Sender<bool>>,
}

impl Health {
    pub(super) fn new(names: &[&'static str]) -> Self {
        Self {
            names: names.into(),
            serving: Arc::new(watch::Sender::new(true)),
        }
    }

    /// Sets whether the server and all its services report that they serve. Initially they do.
    pub fn set_serving(&self, serving: bool) {
        self.serving.send_replace(serving);
    }

    /// Whether a request names the server as a whole, which has the empty name, or a service.
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.names.contains(&service)
    }
}

impl health::Health for Health {
    async fn check(
        &self,
        _: Context,
        request: HealthCheckRequest,
    ) -> Result<Reply<HealthCheckResponse>, RpcError> {
        if !self.knows(&request.service) {
            return Err(RpcError::not_found(format!(
                "the service `{}` is not served here",
                request.service.escape_debug()
            ))
            .with_reason("SERVICE_NOT_FOUND")
            .with_fact("service", request.service.escape_debug()));
        }
        Ok(status(*self.serving.borrow()).into())
    }

    /// A watch stays open, also for an unknown service, because clients repeat a watch that ends.
    async fn watch(
        &self,
        _: Context,
        request: HealthCheckRequest,
    ) -> Result<Reply<BoxStream<HealthCheckResponse>>, RpcError> {
        if !self.knows(&request.service) {
            let unknown = response(ServingStatus::ServiceUnknown);
            let never = stream::pending();
            return Ok(Reply::stream(stream::iter([Ok(unknown)]).chain(never)));
        }
        let mut changes = self.serving.subscribe();
        changes.mark_changed();
        let statuses = stream::unfold(changes, |mut changes| async {
            changes.changed().await.ok()?;
            let serving = *changes.borrow_and_update();
            Some((Ok(status(serving)), changes))
        });
        Ok(Reply::stream(statuses))
    }
}

fn status(serving: bool) -> HealthCheckResponse {
    response(if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    })
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
