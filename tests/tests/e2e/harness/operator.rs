//! An operator who calls the API directly, for tests that need more detail than `fleetctl` prints.

use std::sync::atomic::{AtomicU64, Ordering};

use fleet_wire::{
    RpcError,
    admin::{DiscoverOnFleetNodeRequest, DiscoverOnFleetNodeResponse, FleetNodeAdminClient},
    client::{CallOptions, Channel, ChannelConfig, Incoming},
    fleet::{
        CancelScanRequest, Device, DeviceClient, GetScanRequest, ListDevicesRequest,
        ListNodesRequest, Node, NodeClient, PlanScanRequest, PlanScanResponse, Scan, ScanClient,
        StartScanRequest, WatchScanRequest,
    },
    pairing::{
        DiscoverRequest, IpListModeRequest, IpRangeModeRequest, NmapModeRequest,
        discover_request::Mode,
    },
};

use super::{History, Watch, ports, within};

/// The key of an operator, with API clients.
#[derive(Debug)]
pub(crate) struct Operator {
    key: String,
    admin: FleetNodeAdminClient,
    scans: ScanClient,
    nodes: NodeClient,
    devices: DeviceClient,
}

impl Operator {
    pub(crate) fn new(url: &str, key: &str) -> Self {
        let channel = Channel::new(url, &ChannelConfig::default()).expect("a URL of ours");
        Self {
            key: key.to_owned(),
            admin: FleetNodeAdminClient::new(channel.clone()),
            scans: ScanClient::new(channel.clone()),
            nodes: NodeClient::new(channel.clone()),
            devices: DeviceClient::new(channel),
        }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    fn call(&self) -> CallOptions {
        CallOptions::new()
            .bearer(&self.key)
            .expect("a key is a header value")
    }

    /// Plans a scan without starting it.
    pub(crate) async fn plan(&self, node: i64, request: DiscoverRequest) -> PlanScanResponse {
        let request = PlanScanRequest {
            fleet_node_id: node,
            request: Some(request),
            ..PlanScanRequest::default()
        };
        let planned = self.scans.plan_scan(&request, self.call()).await;
        planned.expect("a scan that can be planned")
    }

    /// Starts a scan, which is queued until its node is free.
    pub(crate) async fn start(&self, node: i64, request: DiscoverRequest) -> Scan {
        let started = self.try_start(node, request).await;
        started.expect("a scan that can be started")
    }

    /// Starts a scan that the server may refuse.
    pub(crate) async fn try_start(
        &self,
        node: i64,
        request: DiscoverRequest,
    ) -> Result<Scan, RpcError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let request = StartScanRequest {
            request_id: format!("e2e-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
            fleet_node_id: node,
            request: Some(request),
            ..StartScanRequest::default()
        };
        let started = self.scans.start_scan(&request, self.call()).await?;
        Ok(started.scan.expect("an answer names its scan"))
    }

    /// Starts a scan by the upstream RPC, which does not queue.
    pub(crate) async fn discover(
        &self,
        node: i64,
        request: DiscoverRequest,
    ) -> Incoming<DiscoverOnFleetNodeResponse> {
        let request = DiscoverOnFleetNodeRequest {
            fleet_node_id: node,
            request: Some(request),
        };
        let stream = self
            .admin
            .discover_on_fleet_node(&request, self.call())
            .await;
        stream.expect("the server answers")
    }

    /// Starts a scan by the upstream RPC and returns the refusal.
    pub(crate) async fn is_refused(&self, node: i64, request: DiscoverRequest) -> RpcError {
        let mut stream = self.discover(node, request).await;
        let first = within("a refusal", stream.message()).await;
        first.expect_err("this scan must not start")
    }

    /// Watches a scan after a cursor.
    pub(crate) async fn watch(&self, scan: &str, after: i64) -> Watch {
        let request = WatchScanRequest {
            scan_id: scan.to_owned(),
            after_sequence: after,
        };
        let stream = self.scans.watch_scan(&request, self.call()).await;
        Watch::new(stream.expect("a scan that can be watched"))
    }

    /// Everything that a scan brought, once it has ended.
    pub(crate) async fn history(&self, scan: &str) -> History {
        self.watch(scan, 0).await.into_history().await
    }

    /// A scan as it stands.
    pub(crate) async fn scan(&self, scan: &str) -> Scan {
        let request = GetScanRequest {
            scan_id: scan.to_owned(),
        };
        let found = self.scans.get_scan(&request, self.call()).await;
        found.expect("a known scan").scan.expect("a scan")
    }

    /// Cancels a scan.
    pub(crate) async fn cancel(&self, scan: &str) -> Scan {
        let request = CancelScanRequest {
            scan_id: scan.to_owned(),
        };
        let canceled = self.scans.cancel_scan(&request, self.call()).await;
        canceled
            .expect("a scan that can be canceled")
            .scan
            .expect("a scan")
    }

    /// The nodes.
    pub(crate) async fn nodes(&self) -> Vec<Node> {
        let nodes = self
            .nodes
            .list_nodes(&ListNodesRequest::default(), self.call())
            .await;
        nodes.expect("nodes can be listed").nodes
    }

    /// A node by the name that it gave itself.
    pub(crate) async fn node_named(&self, name: &str) -> Node {
        let nodes = self.nodes().await;
        let found = nodes.into_iter().find(|node| node.name == name);
        found.unwrap_or_else(|| panic!("no node {name}"))
    }

    /// The inventory.
    pub(crate) async fn devices(&self) -> Vec<Device> {
        let mut all = Vec::new();
        let mut request = ListDevicesRequest::default();
        loop {
            let page = self.devices.list_devices(&request, self.call()).await;
            let page = page.expect("devices can be listed");
            all.extend(page.devices);
            request.cursor = page.next_cursor;
            if request.cursor == 0 {
                return all;
            }
        }
    }
}

/// Asks for a list of addresses, on the ports of simulated devices.
pub(crate) fn list<T: ToString>(addresses: impl IntoIterator<Item = T>) -> DiscoverRequest {
    let ip_addresses = addresses.into_iter().map(|ip| ip.to_string()).collect();
    DiscoverRequest {
        mode: Some(Mode::IpList(IpListModeRequest {
            ip_addresses,
            ports: ports(),
            explicit: false,
        })),
        max_rate: 0,
    }
}

/// Asks for a range of addresses.
pub(crate) fn range(start: impl ToString, end: impl ToString) -> DiscoverRequest {
    DiscoverRequest {
        mode: Some(Mode::IpRange(IpRangeModeRequest {
            start_ip: start.to_string(),
            end_ip: end.to_string(),
            ports: ports(),
        })),
        max_rate: 0,
    }
}

/// Asks for a target expression.
pub(crate) fn target(target: impl ToString) -> DiscoverRequest {
    DiscoverRequest {
        mode: Some(Mode::Nmap(NmapModeRequest {
            target: target.to_string(),
            ports: ports(),
        })),
        max_rate: 0,
    }
}
