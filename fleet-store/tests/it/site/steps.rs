//! Helpers of a [`Site`] for common test steps.

use fleet_core::{
    AddressPolicy, CommandId, DeviceId, NodeId, OrgId, PendingEnrollmentId, Priority, ReplicaId,
    Role, ScanId, SessionId, Timestamp,
    outcome::{AckCode, verdict_of_ack},
};
use fleet_discovery::{
    LogEvent, Mode, NodeChoice, NodeProfile, Plan, PlanPolicy, ScanRequest, plan,
};
use fleet_store::*;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, Statement};

use super::{Node, Row, Site, at, command_id, nobody, secret, unique};

impl Site {
    pub(crate) fn actor(&self) -> Actor {
        Actor {
            principal: Principal::Operator(self.operator),
            from: "192.0.2.1".parse().ok(),
        }
    }

    /// Creates another organization in the same database.
    pub(crate) async fn other_org(&self) -> OrgId {
        let new = NewOperator {
            org: "other".into(),
            email: "bob@other.test".into(),
            role: Role::Admin,
            now: at(0),
        };
        self.store
            .create_operator(new, Actor::SYSTEM)
            .await
            .expect("an operator");
        let key = secret("bob's key");
        self.store
            .create_operator_key("bob@other.test", key, Actor::SYSTEM, at(0))
            .await
            .expect("a key");
        self.store
            .operator_by_key(key, at(0))
            .await
            .expect("read")
            .expect("known")
            .org
    }

    pub(crate) async fn code(&self, code: &str) -> PendingEnrollmentId {
        self.code_of(self.org, code).await
    }

    pub(crate) async fn code_of(&self, org: OrgId, code: &str) -> PendingEnrollmentId {
        self.store
            .create_code(self.new_code(org, code))
            .await
            .expect("a code")
    }

    pub(crate) fn new_code(&self, org: OrgId, code: &str) -> NewCode {
        NewCode {
            org,
            code: secret(code),
            expires: at(3_600),
            replaces: None,
            actor: self.actor(),
            now: at(0),
        }
    }

    pub(crate) fn newcomer(code: &str, name: &str) -> NewNode {
        let mut identity_key = [0; 32];
        identity_key[..name.len().min(32)].copy_from_slice(&name.as_bytes()[..name.len().min(32)]);
        NewNode {
            code: secret(code),
            name: name.to_owned(),
            identity_key,
            encryption_key: [9; 32],
            keys_proved: false,
            actor: nobody(),
            now: at(1),
        }
    }

    /// A registered node that awaits confirmation.
    pub(crate) async fn pending(&self, name: &str) -> Registered {
        self.code(name).await;
        self.store
            .register_node(Self::newcomer(name, name))
            .await
            .expect("registered")
    }

    pub(crate) async fn confirmed(&self, name: &str) -> NodeId {
        self.confirmed_in(self.org, name).await
    }

    pub(crate) async fn confirmed_in(&self, org: OrgId, name: &str) -> NodeId {
        self.code_of(org, name).await;
        let new = self
            .store
            .register_node(Self::newcomer(name, name))
            .await
            .expect("registered");
        let key = secret(&format!("{name}'s key"));
        self.store
            .confirm_node(org, new.node, new.invitation, key, self.actor(), at(2))
            .await
            .expect("confirmed");
        new.node
    }

    pub(crate) fn claim(node: NodeId, running: &[CommandId], now: Timestamp) -> StreamClaim {
        StreamClaim {
            node,
            session: SessionId(1),
            replica: ReplicaId([1; 16]),
            instance: None,
            hello: Hello::default(),
            running: running.to_vec(),
            now,
        }
    }

    /// A confirmed node with a claimed stream.
    pub(crate) async fn node(&self, name: &str) -> Node {
        let id = self.confirmed(name).await;
        let claimed = self
            .store
            .claim_stream(Self::claim(id, &[], at(3)))
            .await
            .expect("claimed");
        Node {
            id,
            epoch: claimed.epoch,
        }
    }

    /// Claims the node's stream again.
    pub(crate) async fn reconnect(
        &self,
        node: &mut Node,
        running: &[CommandId],
        now: Timestamp,
    ) -> ClaimedStream {
        let claimed = self
            .store
            .claim_stream(Self::claim(node.id, running, now))
            .await
            .expect("claimed");
        node.epoch = claimed.epoch;
        claimed
    }

    pub(crate) fn plan(mode: Mode, ports: &[&str], profile: &NodeProfile) -> (ScanRequest, Plan) {
        let ports = ports.iter().map(|port| (*port).to_owned()).collect();
        let rate = 0;
        let request = ScanRequest { mode, ports, rate };
        let planned = plan(&request, profile, &PlanPolicy::default()).expect("a plan");
        (request, planned)
    }

    pub(crate) fn new_scan(&self, node: NodeId, target: &str, ports: &[&str]) -> NewScan {
        let (request, plan) =
            Self::plan(Mode::Target(target.into()), ports, &NodeProfile::upstream());
        NewScan {
            id: ScanId::new(at(unique()), [3; 10]),
            org: self.org,
            choice: NodeChoice::Node(node),
            shares: vec![NewShare::of(node, &plan)],
            operator: self.operator,
            request_id: None,
            name: String::new(),
            request,
            plan,
            priority: Priority::Interactive,
            queueing: Queueing::Until(at(86_400)),
            ignores_blackout: false,
            now: at(10),
        }
    }

    pub(crate) async fn create(&self, new: NewScan) -> ScanRow {
        self.store
            .create_scan(new, self.actor())
            .await
            .expect("created")
            .scan
    }

    /// A scan of one /24 or several /22 on port 80.
    pub(crate) async fn scan(&self, node: Node, target: &str) -> ScanId {
        self.create(self.new_scan(node.id, target, &["80"]))
            .await
            .id
    }

    /// Sweeps often enough for a server that was never interrupted.
    pub(crate) async fn sweep_until(&self, from: u64, end: u64) {
        for seconds in (from..end).step_by(20).chain([end - 1]) {
            let swept = self.store.sweep_commands(at(seconds)).await;
            assert_eq!(swept.expect("swept"), Expired::default(), "{seconds}");
        }
    }

    pub(crate) async fn issue(&self, node: Node) -> Option<IssuedCommand> {
        self.issue_at(node, at(20)).await
    }

    pub(crate) async fn issue_at(&self, node: Node, now: Timestamp) -> Option<IssuedCommand> {
        self.store
            .issue_command(node.id, node.epoch, command_id(), now)
            .await
            .expect("issued")
    }

    /// A scan with a command in flight.
    pub(crate) async fn running(&self, node: Node, target: &str) -> IssuedCommand {
        self.scan(node, target).await;
        self.issue(node).await.expect("a command")
    }

    pub(crate) fn report(&self, node: Node, command: CommandId, rows: Vec<Row>) -> NewReport {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&unique().to_be_bytes());
        NewReport {
            node: node.id,
            org: self.org,
            from: "192.0.2.9".parse().ok(),
            command,
            digest,
            rows,
            hosts: Vec::new(),
            addresses: AddressPolicy::default(),
            now: at(30),
        }
    }

    /// Reports rows, all of which must be accepted.
    pub(crate) async fn reported(
        &self,
        node: Node,
        command: CommandId,
        rows: Vec<Row>,
    ) -> (u64, u64) {
        let answer = self
            .store
            .record_report(self.report(node, command, rows))
            .await
            .expect("recorded");
        (answer.accepted, answer.rejected)
    }

    pub(crate) fn ack(node: Node, command: CommandId, code: AckCode) -> Ack {
        Ack {
            node: node.id,
            epoch: node.epoch,
            command,
            verdict: verdict_of_ack(code, code == AckCode::Ok, "said so"),
            outcomes: None,
            notes: Vec::new(),
            now: at(60),
        }
    }

    pub(crate) async fn acked(&self, node: Node, command: CommandId, code: AckCode) -> Acked {
        self.store
            .record_ack(Self::ack(node, command, code))
            .await
            .expect("acked")
    }

    pub(crate) async fn look(&self, scan: ScanId) -> ScanRow {
        self.store
            .scan(self.org, scan, at(100))
            .await
            .expect("read")
            .expect("there")
    }

    /// Sweeps the commands and returns the scans that expired.
    pub(crate) async fn expired_scans(&self, now: Timestamp) -> Vec<ScanId> {
        let swept = self.store.sweep_commands(now).await;
        swept.expect("swept").scans
    }

    /// The whole log of a scan. Checks its invariants: dense sequences, at most one end, and an end exactly if the scan
    /// is over.
    pub(crate) async fn log(&self, scan: ScanId) -> Vec<LogEvent> {
        let page = self
            .store
            .read_events(self.org, scan, 0, 100_000, at(100))
            .await
            .expect("read")
            .expect("there");
        let sequences: Vec<i64> = page.events.iter().map(|event| event.sequence).collect();
        let dense: Vec<i64> = (1..=page.events.len() as i64).collect();
        assert_eq!(sequences, dense, "sequences are dense");
        assert_eq!(page.last_sequence, page.events.len() as i64);
        let ends = page
            .events
            .iter()
            .filter(|stored| matches!(stored.event, LogEvent::Ended(_)))
            .count();
        assert_eq!(
            ends,
            usize::from(page.state.is_terminal()),
            "one end, when it is over"
        );
        page.events.into_iter().map(|stored| stored.event).collect()
    }

    /// The devices in a scan's log, as `identifier endpoint`.
    pub(crate) async fn stored_events(&self, scan: ScanId) -> Vec<String> {
        let device = |event| match event {
            LogEvent::Device(found) => Some(format!("{} {}", found.identifier, found.endpoint)),
            LogEvent::Host(_) | LogEvent::Warning { .. } | LogEvent::Ended(_) => None,
        };
        self.log(scan)
            .await
            .into_iter()
            .filter_map(device)
            .collect()
    }

    pub(crate) async fn devices(&self) -> Vec<DeviceRow> {
        self.store
            .list_devices(self.org, None, DeviceId(0), 100_000)
            .await
            .expect("read")
    }

    pub(crate) async fn audited(&self) -> Vec<AuditRow> {
        self.store
            .list_audit(self.org, None, 1_000)
            .await
            .expect("read")
    }

    /// The store of another server on the same database. A SQLite file is open only once.
    pub(crate) async fn another(&self) -> SqlStore {
        if self.url.starts_with("sqlite:") {
            return self.store.clone();
        }
        let opened = SqlStore::open(&self.url, MigrateMode::Check).await;
        opened.expect("opened")
    }

    /// A direct connection that bypasses the store.
    pub(crate) async fn raw(&self) -> DatabaseConnection {
        Database::connect(&self.url).await.expect("connected")
    }

    /// The single number that a query returns.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let raw = self.raw().await;
        let statement = Statement::from_string(raw.get_database_backend(), sql.to_owned());
        let row = raw
            .query_one_raw(statement)
            .await
            .expect(sql)
            .expect("a row");
        row.try_get_by_index(0).expect("a number")
    }
}
