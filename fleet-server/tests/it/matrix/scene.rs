//! What the rows name: nodes, codes, scans and devices of one organization in their states, made when a row
//! asks for them, and the credentials of everybody who calls.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use ed25519_dalek::VerifyingKey;
use fleet_core::{Role, Secret, SecretKind};
use fleet_wire::{
    admin::{CreateEnrollmentCodeRequest, PairDeviceToFleetNodeRequest, RevokeFleetNodeRequest},
    fleet::{
        AlertClient, AlertRuleSpec, CancelEnrollmentCodeRequest, CreateAlertChannelRequest,
        CreateAlertRuleRequest, CreateKeyRequest, CreateOperatorRequest, CreateScheduleRequest,
        CreateSiteRequest, ExcludeTargetsRequest, KeyClient, ListDevicesRequest, ListNodesRequest,
        ListSessionsRequest, ListSitesRequest, OperatorClient, PauseScheduleRequest,
        ScheduleClient, ScheduleTiming, StartPairingRequest, TestAlertChannelRequest,
        UndoIdentityChangeRequest,
    },
    gateway::{AckCode, DiscoveredDeviceReport},
};

use super::{call::Answer, table::Row};
use crate::harness::{
    Enrolled, Http, Node, Operator, Profile, World, device, fetch_key, identity, list, request,
    start, unique,
};

/// The world of the table.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    world: &'a World,
    viewer: Operator,
    operator: Operator,
    admin: Operator,
    other: Operator,
    cookie: String,
    /// Tokens of a node of ours, of another organization's, and of a revoked one.
    node: String,
    foreign: String,
    revoked: String,
    /// What rows have named so far, by its name.
    named: BTreeMap<&'static str, String>,
    /// Connected nodes of what is named.
    connected: Vec<Node>,
    /// The node that runs what is named.
    runner: Option<String>,
}

/// Everything that a row can name. A procedure that takes something new adds its name here and makes it in
/// [`Scene::make`].
const NAMES: [&str; 34] = [
    "$alertChannel",
    "$alertDelivery",
    "$alertRule",
    "$awaitingCode",
    "$awaiting",
    "$bound",
    "$canceledCode",
    "$change",
    "$code",
    "$command",
    "$confirmed",
    "$device",
    "$email",
    "$ended",
    "$exclude",
    "$fetchingCode",
    "$fetching",
    "$finder",
    "$home",
    "$identifier",
    "$key",
    "$member",
    "$mine",
    "$pairing",
    "$pausedSchedule",
    "$pubkey",
    "$queued",
    "$revoked",
    "$running",
    "$schedule",
    "$session",
    "$site",
    "$token",
    "$undone",
];

impl<'a> Scene<'a> {
    pub(super) async fn new(world: &'a World) -> Self {
        let admin = world.operator(Role::Admin).await;
        let other = world.operator_of("Other", Role::Admin).await;
        let gone = Enrolled::new(world, &admin).await;
        let revoked = gone.sign_in(world).await;
        revoke(&admin, &gone).await;
        let signed_in = sign_in(world, &admin).await;
        Self {
            world,
            viewer: world.operator(Role::Viewer).await,
            operator: world.operator(Role::Operator).await,
            node: Enrolled::new(world, &admin).await.sign_in(world).await,
            foreign: Enrolled::new(world, &other).await.sign_in(world).await,
            revoked,
            cookie: signed_in.cookie(),
            admin,
            other,
            named: BTreeMap::new(),
            connected: Vec::new(),
            runner: None,
        }
    }

    /// A site without nodes.
    async fn new_site(&self) -> i64 {
        let request = CreateSiteRequest {
            name: format!("site {}", unique()),
        };
        let sites = self.admin.sites();
        let created = sites.create_site(&request, self.admin.options());
        created.await.expect("created").site_id
    }

    /// Makes what a row names, without calling it.
    pub(super) async fn prepare(&mut self, row: &Row) {
        for name in NAMES {
            if row.body.contains(name) || row.path.contains(name) {
                self.make(name).await;
            }
        }
    }

    /// The operator behind a letter of the table; the cookie is the administrator's.
    pub(super) fn operator_called(&self, caller: char) -> Option<&Operator> {
        match caller {
            'v' => Some(&self.viewer),
            'o' => Some(&self.operator),
            'a' | 'h' => Some(&self.admin),
            'x' => Some(&self.other),
            _ => None,
        }
    }

    /// Calls a row's procedure as one of its callers, with what `meant` makes of every name in it.
    pub(super) async fn ask(
        &mut self,
        row: &Row,
        caller: char,
        meant: fn(&Self, &'static str) -> String,
    ) -> Answer {
        let (mut path, mut body) = (row.path.to_owned(), row.body.to_owned());
        for name in NAMES {
            if body.contains(name) || path.contains(name) {
                self.make(name).await;
                let value = meant(self, name);
                body = body.replace(name, &value);
                path = path.replace(name, &value);
            }
        }
        assert!(!body.contains('$'), "the scene knows no such name: {body}");
        let known = self.runner.as_ref().unwrap_or(&self.node);
        let (bearer, cookie) = match caller {
            'n' => (None, None),
            'w' => (Some(self.wrong(row)), None),
            'd' => (Some(known.clone()), None),
            'f' => (Some(self.foreign.clone()), None),
            'r' => (Some(self.revoked.clone()), None),
            'v' => (Some(self.viewer.key.clone()), None),
            'o' => (Some(self.operator.key.clone()), None),
            'a' => (Some(self.admin.key.clone()), None),
            'x' => (Some(self.other.key.clone()), None),
            'c' | 'h' => (None, Some(&self.cookie)),
            _ => panic!("unknown caller {caller}"),
        };
        let bearer = bearer.map(|token| format!("Bearer {token}"));
        let mut headers = Vec::new();
        if let Some(bearer) = &bearer {
            headers.push(("authorization", bearer.as_str()));
        }
        if let Some(cookie) = cookie {
            headers.push(("cookie", cookie));
        }
        if caller == 'h' {
            headers.push(("x-fleet-csrf", "1"));
        }
        Answer::to(self.world, &path, &headers, &body).await
    }

    /// Calls a row's procedure as another organization's administrator, every id in it chosen by `dice`: what
    /// the name stands for, or a small number, which somebody's is. Answers what was asked for, too.
    pub(super) async fn ask_at_random(
        &self,
        row: &Row,
        mut dice: impl FnMut(usize) -> usize,
    ) -> (Answer, Vec<String>) {
        let (mut path, mut body) = (row.path.to_owned(), row.body.to_owned());
        let mut asked = Vec::new();
        for name in NAMES {
            if body.contains(name) || path.contains(name) {
                let known = self.known(name);
                let by_chance = known.parse::<i64>().is_ok() && dice(2) == 0;
                let value = if by_chance {
                    (1 + dice(60)).to_string()
                } else {
                    known
                };
                body = body.replace(name, &value);
                path = path.replace(name, &value);
                asked.push(value);
            }
        }
        let bearer = format!("Bearer {}", self.other.key);
        let headers = [("authorization", bearer.as_str())];
        (Answer::to(self.world, &path, &headers, &body).await, asked)
    }

    /// A credential of the right kind that was never issued.
    fn wrong(&self, row: &Row) -> String {
        let kind = if row.path.contains("gateway") {
            SecretKind::NodeSession
        } else {
            SecretKind::OperatorKey
        };
        Secret::new(kind, &[42; 32]).expose().to_owned()
    }

    /// What a name stands for.
    pub(super) fn known(&self, name: &'static str) -> String {
        self.named[name].clone()
    }

    /// A value of the same form that does not exist.
    pub(super) fn unknown(&self, name: &'static str) -> String {
        let known = self.known(name);
        if known.parse::<i64>().is_ok() {
            return "987654321".to_owned();
        }
        match name {
            "$pubkey" | "$token" | "$email" => known,
            "$identifier" | "$mine" => "auto:ffffffffffffffff".to_owned(),
            _ => "01a208ec-434b-777d-a405-a673cdd63546".to_owned(),
        }
    }

    /// An answer with its values replaced by their names.
    pub(super) fn shown(&self, answer: &Answer) -> String {
        let mut shown = answer.body.clone();
        for name in self.named.keys().copied() {
            for value in [self.known(name), self.unknown(name)] {
                // A short number occurs by chance.
                if value.len() > 2 {
                    shown = shown.replace(&value, "ID");
                }
                for around in [' ', '`', '"'] {
                    shown = shown.replace(&format!("{around}{value} "), &format!("{around}ID "));
                }
            }
        }
        shown
    }

    /// The next call meets everything anew.
    pub(super) fn forget(&mut self) {
        self.named.clear();
        self.connected.clear();
        self.runner = None;
    }

    /// Makes what a name stands for, with everything that comes with it.
    async fn make(&mut self, name: &'static str) {
        if self.named.contains_key(name) {
            return;
        }
        let (world, admin) = (self.world, &self.admin);
        match name {
            "$code" | "$token" => {
                let request = CreateEnrollmentCodeRequest::default();
                let made = admin
                    .admin()
                    .create_enrollment_code(&request, admin.options())
                    .await
                    .expect("a code");
                let id = made.pending_enrollment_id.to_string();
                self.named.insert("$code", id);
                self.named.insert("$token", made.code);
            }
            "$canceledCode" => {
                let request = CreateEnrollmentCodeRequest::default();
                let made = admin.admin();
                let made = made.create_enrollment_code(&request, admin.options()).await;
                let id = made.expect("a code").pending_enrollment_id;
                let cancel = CancelEnrollmentCodeRequest {
                    pending_enrollment_id: id,
                };
                let nodes = admin.nodes();
                let canceled = nodes.cancel_enrollment_code(&cancel, admin.options()).await;
                canceled.expect("is canceled");
                self.named.insert(name, id.to_string());
            }
            "$email" => {
                let email = format!("new-{}@example.org", unique());
                self.named.insert(name, email);
            }
            "$member" => {
                let create = CreateOperatorRequest {
                    email: format!("member-{}@example.org", unique()),
                    role: "viewer".to_owned(),
                };
                let operators = OperatorClient::new(world.channel());
                let made = operators.create_operator(&create, admin.options()).await;
                let id = made.expect("is made").operator_id;
                self.named.insert(name, id.to_string());
            }
            "$key" => {
                let create = CreateKeyRequest {
                    name: "named by a row".to_owned(),
                    ..CreateKeyRequest::default()
                };
                let keys = KeyClient::new(world.channel());
                let made = keys.create_key(&create, admin.options()).await;
                let id = made.expect("is made").key_id;
                self.named.insert(name, id.to_string());
            }
            "$session" => {
                sign_in(world, admin).await;
                let account = admin.account();
                let listed = account
                    .list_sessions(&ListSessionsRequest::default(), admin.options())
                    .await;
                let newest = listed.expect("lists").sessions.remove(0);
                self.named.insert(name, newest.session_id.to_string());
            }
            "$pubkey" => {
                self.named.insert(name, base64(&identity().verifying_key()));
            }
            "$awaiting" | "$awaitingCode" => {
                let (_, code, registered) = Enrolled::register(world, admin).await;
                self.named.insert("$awaitingCode", code.to_string());
                let id = registered.fleet_node_id.to_string();
                self.named.insert("$awaiting", id);
            }
            "$fetching" | "$fetchingCode" => {
                let (signing, code, registered) = Enrolled::register_proved(world, admin).await;
                let id = registered.fleet_node_id;
                let announced = fetch_key(world, &signing, id, 1).await;
                announced.expect("is announced");
                self.named.insert("$fetchingCode", code.to_string());
                self.named.insert("$fetching", id.to_string());
            }
            "$confirmed" => {
                let node = Enrolled::new(world, admin).await;
                self.connected
                    .push(node.connect(world, Profile::ours()).await);
                self.named.insert(name, node.id.to_string());
            }
            "$home" => {
                let node = Enrolled::new(world, admin).await;
                let nodes = admin
                    .nodes()
                    .list_nodes(&ListNodesRequest::default(), admin.options())
                    .await
                    .expect("listed");
                let found = nodes
                    .nodes
                    .iter()
                    .find(|one| one.fleet_node_id == node.id.0);
                let site = found.expect("the node").site_id;
                self.named.insert(name, site.to_string());
            }
            "$site" => {
                let site = self.new_site().await;
                self.named.insert(name, site.to_string());
            }
            "$exclude" => {
                let site = self.new_site().await;
                let request = ExcludeTargetsRequest {
                    site_id: site,
                    targets: "10.0.0.9".to_owned(),
                    reason: "printer".to_owned(),
                };
                let sites = admin.sites();
                let excluded = sites.exclude_targets(&request, admin.options()).await;
                excluded.expect("excluded");
                let listed = sites
                    .list_sites(&ListSitesRequest {}, admin.options())
                    .await;
                let listed = listed.expect("listed").sites;
                let found = listed.iter().find(|one| one.site_id == site);
                let exclude = found.expect("the site").excludes[0].site_exclude_id;
                self.named.insert(name, exclude.to_string());
            }
            "$revoked" => {
                let node = Enrolled::new(world, admin).await;
                revoke(admin, &node).await;
                self.named.insert(name, node.id.to_string());
            }
            "$queued" => {
                let node = Enrolled::new(world, admin).await;
                let scan = start(admin, &node, list(&["10.0.0.1"], &["80"])).await;
                self.named.insert(name, scan.id);
            }
            "$ended" => {
                let node = Enrolled::new(world, admin).await;
                let mut link = node.connect(world, Profile::ours()).await;
                let scan = start(admin, &node, list(&["10.0.0.1"], &["80"])).await;
                let (command, _) = link.command().await;
                link.ack(&command, AckCode::Ok).await;
                scan.is("SCAN_STATE_COMPLETED").await;
                self.named.insert(name, scan.id);
            }
            "$running" | "$command" | "$device" | "$identifier" | "$bound" => {
                let node = Enrolled::new(world, admin).await;
                let mut link = node.connect(world, Profile::ours()).await;
                // Another device each time: one that a node owns is no other node's.
                let [high, low] = u16::try_from(unique()).expect("is small").to_be_bytes();
                let address = format!("10.1.{high}.{low}");
                let scan = start(admin, &node, list(&[&address, "10.0.0.2"], &["4028"])).await;
                let (command, _) = link.command().await;
                let found = device(&address);
                link.report(&command, vec![found]).await.expect("is taken");
                let wanted = ListDevicesRequest {
                    fleet_node_id: node.id.0,
                    ..ListDevicesRequest::default()
                };
                let listed = admin.devices();
                let listed = listed.list_devices(&wanted, admin.options()).await;
                let device = listed.expect("lists").devices.remove(0);
                self.named.insert("$running", scan.id);
                self.named.insert("$command", command);
                self.named.insert("$device", device.device_id.to_string());
                self.named.insert("$identifier", device.identifier.clone());
                self.runner = Some(link.token.clone());
                self.connected.push(link);
                if name == "$bound" {
                    let bind = PairDeviceToFleetNodeRequest {
                        fleet_node_id: node.id.0,
                        device_id: device.device_id,
                    };
                    let bound = admin.admin();
                    let bound = bound
                        .pair_device_to_fleet_node(&bind, admin.options())
                        .await;
                    bound.expect("is bound");
                    self.named.insert(name, device.device_id.to_string());
                }
            }
            "$finder" | "$mine" | "$pairing" => {
                let node = Enrolled::new(world, admin).await;
                let mut link = node.connect(world, Profile::ours()).await;
                let [high, low] = u16::try_from(unique()).expect("is small").to_be_bytes();
                let address = format!("10.2.{high}.{low}");
                let scan = start(admin, &node, list(&[&address], &["4028"])).await;
                let (command, _) = link.command().await;
                let found = device(&address);
                self.named.insert("$finder", node.id.0.to_string());
                self.named.insert("$mine", found.device_identifier.clone());
                link.report(&command, vec![found.clone()])
                    .await
                    .expect("is taken");
                link.ack(&command, AckCode::Ok).await;
                scan.is("SCAN_STATE_COMPLETED").await;
                if name == "$pairing" {
                    let wanted = StartPairingRequest {
                        fleet_node_id: node.id.0,
                        device_identifiers: vec![found.device_identifier],
                        ..StartPairingRequest::default()
                    };
                    let pairing = admin.device_pairing();
                    let started = pairing.start_pairing(&wanted, admin.options()).await;
                    self.named
                        .insert(name, started.expect("is begun").pairing_id);
                    link.pairing().await;
                }
                self.connected.push(link);
            }
            "$schedule" | "$pausedSchedule" => {
                let id = schedule(world, admin).await;
                if name == "$pausedSchedule" {
                    let pause = PauseScheduleRequest {
                        schedule_id: id.clone(),
                    };
                    let schedules = ScheduleClient::new(world.channel());
                    let paused = schedules.pause_schedule(&pause, admin.options()).await;
                    paused.expect("is paused");
                }
                self.named.insert(name, id);
            }
            "$alertChannel" => {
                let id = alert_channel(world, admin).await;
                self.named.insert(name, id.to_string());
            }
            "$alertDelivery" => {
                let test = TestAlertChannelRequest {
                    channel_id: alert_channel(world, admin).await,
                };
                let alerts = AlertClient::new(world.channel());
                let sent = alerts.test_alert_channel(&test, admin.options()).await;
                let sent = sent.expect("is sent").delivery.expect("a delivery");
                self.named.insert(name, sent.delivery_id);
            }
            "$alertRule" => {
                let create = CreateAlertRuleRequest {
                    spec: Some(AlertRuleSpec {
                        name: format!("rule {}", unique()),
                        event: "scan.failed".to_owned(),
                        ..AlertRuleSpec::default()
                    }),
                };
                let alerts = AlertClient::new(world.channel());
                let made = alerts.create_alert_rule(&create, admin.options()).await;
                let made = made.expect("is made").rule.expect("a rule");
                self.named.insert(name, made.rule_id.to_string());
            }
            "$change" | "$undone" => {
                let change = renamed(world, admin).await;
                if name == "$undone" {
                    let undo = UndoIdentityChangeRequest {
                        identity_change_id: change,
                    };
                    let devices = admin.devices();
                    let undone = devices.undo_identity_change(&undo, admin.options()).await;
                    undone.expect("is taken back");
                }
                self.named.insert(name, change.to_string());
            }
            _ => panic!("{name} is not made anywhere"),
        }
    }
}

/// A channel whose port is closed.
async fn alert_channel(world: &World, admin: &Operator) -> i64 {
    let create = CreateAlertChannelRequest {
        name: format!("channel {}", unique()),
        webhook_url: "http://127.0.0.1:9/".to_owned(),
        ..CreateAlertChannelRequest::default()
    };
    let alerts = AlertClient::new(world.channel());
    let made = alerts.create_alert_channel(&create, admin.options()).await;
    made.expect("is made")
        .channel
        .expect("a channel")
        .channel_id
}

/// A schedule of a new node; returns its id.
async fn schedule(world: &World, admin: &Operator) -> String {
    let node = Enrolled::new(world, admin).await;
    let create = CreateScheduleRequest {
        name: format!("schedule {}", unique()),
        fleet_node_id: node.id.0,
        request: Some(list(&["10.0.0.1"], &["80"])),
        timing: Some(ScheduleTiming {
            when: "@daily".to_owned(),
            time_zone: "UTC".to_owned(),
            ..ScheduleTiming::default()
        }),
        ..CreateScheduleRequest::default()
    };
    let schedules = ScheduleClient::new(world.channel());
    let made = schedules.create_schedule(&create, admin.options()).await;
    let made = made.expect("is made").schedule.expect("a schedule");
    made.schedule_id
}

/// A device that was known by its endpoint and then reported its MAC; returns the id of that change.
async fn renamed(world: &World, admin: &Operator) -> i64 {
    let node = Enrolled::new(world, admin).await;
    let mut link = node.connect(world, Profile::ours()).await;
    let [high, low] = u16::try_from(unique()).expect("is small").to_be_bytes();
    let address = format!("10.2.{high}.{low}");
    let strong = device(&address);
    let weak = DiscoveredDeviceReport {
        device_identifier: "auto:0000000000000000".to_owned(),
        mac_address: String::new(),
        ..strong.clone()
    };
    for found in [weak, strong] {
        let scan = start(admin, &node, list(&[&address], &["4028"])).await;
        let (command, _) = link.command().await;
        link.report(&command, vec![found]).await.expect("is taken");
        link.ack(&command, AckCode::Ok).await;
        scan.is("SCAN_STATE_COMPLETED").await;
    }
    let wanted = ListDevicesRequest {
        fleet_node_id: node.id.0,
        ..ListDevicesRequest::default()
    };
    let devices = admin.devices();
    let listed = devices.list_devices(&wanted, admin.options()).await;
    listed.expect("lists").devices[0].aliases[0].identity_change_id
}

/// Signs a browser in by key.
async fn sign_in(world: &World, operator: &Operator) -> Http {
    let body = format!(r#"{{"key":"{}"}}"#, operator.key);
    let json = [("content-type", "application/json")];
    request(world.address(), "POST", "/api/session", &json, body).await
}

async fn revoke(admin: &Operator, node: &Enrolled) {
    let request = RevokeFleetNodeRequest {
        fleet_node_id: node.id.0,
        pending_enrollment_id: None,
    };
    let revoked = admin
        .admin()
        .revoke_fleet_node(&request, admin.options())
        .await;
    revoked.expect("is revoked");
}

/// A public key as JSON carries it.
fn base64(key: &VerifyingKey) -> String {
    BASE64_STANDARD_NO_PAD.encode(key.as_bytes())
}
