//! Helpers for the store operations of the parties.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, bail};
use fleet_core::{
    AddressPolicy, CommandId, DeviceReport, Epoch, NodeId, OperatorId, OrgId, Priority,
    RawDeviceReport, ReplicaId, Role, ScanId, SecretHash, SessionId, Timestamp,
    outcome::{AckCode, verdict_of_ack},
};
use fleet_discovery::{Mode, NodeChoice, NodeProfile, PlanPolicy, ScanRequest, plan};
use fleet_server::{Environment, SystemEnvironment};
use fleet_store::{
    Ack, Actor, Completion as _, Dispatch as _, Enrollment as _, Hello, Invitations as _, NewCode,
    NewNode, NewOperator, NewReport, NewScan, NewShare, Operators as _, Principal, Queueing,
    ReportError, Reports as _, Scans as _, SqlStore, StreamClaim, Streams as _,
};

/// An organization with one operator.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) store: SqlStore,
    pub(super) org: OrgId,
    operator: OperatorId,
}

/// A confirmed node with a command in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    epoch: Epoch,
    pub(super) command: CommandId,
}

/// A device as the nodes report it.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) ip: IpAddr,
    /// Without a MAC, the identity is the endpoint.
    pub(super) mac: Option<String>,
}

impl Device {
    pub(super) fn report(&self) -> Result<DeviceReport> {
        let raw = RawDeviceReport {
            identifier: "auto:0000000000000000",
            ip: &self.ip.to_string(),
            port: "80",
            driver: "antminer",
            model: "S19",
            mac: self.mac.as_deref().unwrap_or_default(),
            ..RawDeviceReport::default()
        };
        DeviceReport::parse(raw).map_err(|reason| anyhow::anyhow!("{self:?}: {reason}"))
    }
}

fn environment() -> &'static dyn Environment {
    &SystemEnvironment
}

pub(super) fn now() -> Timestamp {
    environment().now()
}

pub(super) fn scan_id() -> ScanId {
    environment().scan_id()
}

impl Site {
    pub(super) async fn new(store: &SqlStore) -> Result<Self> {
        let new = NewOperator {
            org: "Races".to_owned(),
            email: "races@example.org".to_owned(),
            role: Role::Admin,
            now: now(),
        };
        let operator = store.create_operator(new, Actor::SYSTEM).await?;
        let key = SecretHash::of("races");
        store
            .create_operator_key("races@example.org", key, Actor::SYSTEM, now())
            .await?;
        let identity = store.operator_by_key(key, now()).await?;
        Ok(Self {
            store: store.clone(),
            org: identity.context("the operator just made")?.org,
            operator,
        })
    }

    pub(super) fn actor(&self) -> Actor {
        Actor {
            principal: Principal::Operator(self.operator),
            from: None,
        }
    }

    /// Creates a confirmed node with a scan in flight. It can replace a revoked node.
    pub(super) async fn node(
        &self,
        name: &str,
        replaces: Option<NodeId>,
        network: &str,
    ) -> Result<Node> {
        let code = SecretHash::of(name);
        let new = NewCode {
            org: self.org,
            code,
            expires: now().plus(Duration::from_secs(3_600)),
            replaces,
            actor: self.actor(),
            now: now(),
        };
        self.store.create_code(new).await?;
        let new = NewNode {
            code,
            name: name.to_owned(),
            identity_key: environment().random(),
            encryption_key: [9; 32],
            keys_proved: false,
            actor: self.actor(),
            now: now(),
        };
        let registered = self.store.register_node(new).await?;
        let (id, invitation) = (registered.node, registered.invitation);
        let key = SecretHash::of(&format!("key of {name}"));
        self.store
            .confirm_node(self.org, id, invitation, key, self.actor(), now())
            .await?;
        let epoch = self.connect(id).await?;
        let command = self.scan(id, epoch, network).await?;
        Ok(Node { id, epoch, command })
    }

    async fn connect(&self, node: NodeId) -> Result<Epoch> {
        let claim = StreamClaim {
            node,
            session: SessionId(1),
            replica: ReplicaId([1; 16]),
            instance: None,
            hello: Hello::default(),
            running: Vec::new(),
            now: now(),
        };
        Ok(self.store.claim_stream(claim).await?.epoch)
    }

    /// Scans a network. The result is the command in flight.
    async fn scan(&self, node: NodeId, epoch: Epoch, network: &str) -> Result<CommandId> {
        let request = ScanRequest {
            mode: Mode::Target(network.to_owned()),
            ports: vec!["80".to_owned()],
            rate: 0,
        };
        let plan = plan(&request, &NodeProfile::upstream(), &PlanPolicy::default())?;
        let new = NewScan {
            id: scan_id(),
            org: self.org,
            choice: NodeChoice::Node(node),
            shares: vec![NewShare::of(node, &plan)],
            operator: self.operator,
            request_id: None,
            name: String::new(),
            request,
            plan,
            priority: Priority::Interactive,
            queueing: Queueing::Never,
            ignores_blackout: false,
            now: now(),
        };
        self.store.create_scan(new, self.actor()).await?;
        let id = CommandId::new(now(), environment().random());
        let issued = self.store.issue_command(node, epoch, id, now()).await?;
        let Some(issued) = issued else {
            bail!("node {node} was given no command")
        };
        Ok(issued.command)
    }

    /// Ends the node's command and starts another, in which the same devices are new rows.
    pub(super) async fn scan_again(&self, node: &mut Node, network: &str) -> Result<()> {
        let ack = Ack {
            node: node.id,
            epoch: node.epoch,
            command: node.command,
            verdict: verdict_of_ack(AckCode::Ok, true, ""),
            outcomes: None,
            notes: Vec::new(),
            now: now(),
        };
        self.store.record_ack(ack).await?;
        node.command = self.scan(node.id, node.epoch, network).await?;
        Ok(())
    }

    /// Returns whether a node's report of a device is accepted. Retries while the server dials that address.
    pub(super) async fn report(&self, node: Node, device: &Device) -> Result<bool> {
        loop {
            let report = NewReport {
                node: node.id,
                org: self.org,
                from: None,
                command: node.command,
                digest: environment().random(),
                rows: vec![Ok(device.report()?)],
                hosts: Vec::new(),
                addresses: AddressPolicy::default(),
                now: now(),
            };
            match self.store.record_report(report).await {
                Ok(answer) => return Ok(answer.accepted == 1),
                Err(ReportError::BeingDialed(_)) => tokio::time::sleep(AGAIN).await,
                Err(ReportError::Storage(error)) => return Err(error.into()),
                Err(_) => return Ok(false),
            }
        }
    }
}

/// Interval between attempts of a call that is rejected with "retry later".
pub(super) const AGAIN: Duration = Duration::from_millis(1);
