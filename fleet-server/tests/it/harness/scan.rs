//! A scan that was started, and what became of it.

use fleet_wire::{
    RpcError,
    client::Incoming,
    fleet::{
        CancelScanRequest, GetScanRequest, Scan, StartScanRequest, WatchScanRequest,
        WatchScanResponse, watch_scan_response::Event,
    },
    pairing::DiscoverRequest,
};

use super::{Enrolled, Operator, eventually, soon, unique};

/// A scan and who started it.
#[derive(Debug)]
pub(crate) struct Started<'a> {
    operator: &'a Operator,
    pub(crate) id: String,
}

/// Starts a scan.
pub(crate) async fn start<'a>(
    operator: &'a Operator,
    node: &Enrolled,
    request: DiscoverRequest,
) -> Started<'a> {
    let id = format!("request-{}", unique());
    let scan = start_as(operator, node, request, &id)
        .await
        .expect("starts");
    Started {
        operator,
        id: scan.scan_id,
    }
}

/// Starts a scan under a request id.
pub(crate) async fn start_as(
    operator: &Operator,
    node: &Enrolled,
    request: DiscoverRequest,
    id: &str,
) -> Result<Scan, RpcError> {
    let request = StartScanRequest {
        request_id: id.to_owned(),
        fleet_node_id: node.id.0,
        request: Some(request),
        ..StartScanRequest::default()
    };
    let started = operator
        .scans()
        .start_scan(&request, operator.options())
        .await?;
    Ok(started.scan.expect("a scan"))
}

/// A scan without its changes since the previous one, which the server counts some time after the end.
pub(crate) fn uncounted(scan: Scan) -> Scan {
    Scan {
        changes: None,
        ..scan
    }
}

impl<'a> Started<'a> {
    /// A scan by its id.
    pub(crate) fn known(operator: &'a Operator, id: &str) -> Self {
        Self {
            operator,
            id: id.to_owned(),
        }
    }

    pub(crate) async fn get(&self) -> Scan {
        let request = GetScanRequest {
            scan_id: self.id.clone(),
        };
        let got = self
            .operator
            .scans()
            .get_scan(&request, self.operator.options())
            .await;
        got.expect("answers").scan.expect("a scan")
    }

    /// Waits until it is in a state, given as the wire names it; answers it then.
    pub(crate) async fn is(&self, state: &str) -> Scan {
        eventually(|| async { self.get().await.state().as_str_name() == state }).await;
        self.get().await
    }

    pub(crate) async fn cancel(&self) -> Scan {
        let request = CancelScanRequest {
            scan_id: self.id.clone(),
        };
        let canceled = self
            .operator
            .scans()
            .cancel_scan(&request, self.operator.options())
            .await;
        canceled.expect("answers").scan.expect("a scan")
    }

    pub(crate) async fn watch(&self, after: i64) -> Incoming<WatchScanResponse> {
        let request = WatchScanRequest {
            scan_id: self.id.clone(),
            after_sequence: after,
        };
        let watch = self
            .operator
            .scans()
            .watch_scan(&request, self.operator.options())
            .await;
        watch.expect("opens")
    }

    /// The log after a cursor until its end: sequences with what each event is about.
    pub(crate) async fn log(&self, after: i64) -> Vec<(i64, String)> {
        let mut watch = self.watch(after).await;
        let mut log = Vec::new();
        while let Some(message) = soon(watch.message()).await.expect("continues") {
            let about = match message.event {
                Some(Event::Device(device)) => device.ip,
                Some(Event::Host(found)) => format!("host {}", found.host.unwrap_or_default().ip),
                Some(Event::Warning(warning)) => warning.text,
                Some(Event::Ended(ended)) => ended.state().as_str_name().to_owned(),
                Some(Event::Progress(_)) | None => continue,
            };
            log.push((message.sequence, about));
        }
        log
    }
}
