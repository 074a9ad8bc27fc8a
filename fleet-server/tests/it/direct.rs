//! Scans and pairings that the server carries out itself: off by default, and never at addresses of a node.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fleet_core::{
    DeviceId, DeviceReport, Endpoint, PairOutcome, PairingStatus, Port, RawDeviceReport, ReplicaId,
    Role, ScanId, TargetOutcome, limits,
};
use fleet_discovery::Gaps;
use fleet_server::{
    DirectPath, Environment as _, PairAnswer, PairOrder, ProbeEvent, ProbeOrder, ProbeSummary,
    Prober, ServerConfig,
};
use fleet_store::{AuditResult, Bindings as _, DialRequest, Direct as _, DirectRun, NewSightings};
use fleet_wire::{
    Code, RpcError,
    admin::{RevokeFleetNodeRequest, UnpairDeviceRequest},
    client::Incoming,
    common::DeviceIdentifierList,
    fleet::{
        CreateKeyRequest, Device, ExcludeTargetsRequest, KeyClient, ListDevicesRequest,
        RevokeKeyRequest, ScanEnded, ScanOwnNetworkRequest, ScanState, WatchScanResponse,
        watch_scan_response::Event,
    },
    minercommand::{DeviceFilter, DeviceSelector, device_selector::SelectionType},
    pairing::{Credentials, DiscoverRequest, PairRequest},
};
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    alerts,
    harness::{
        Enrolled, Node, Operator, Profile, World, bearer, device, eventually, list, mdns, soon,
        stream_refused, target,
    },
    shares, site_rules,
};

/// A network of devices that speak nothing, each found as soon as it is dialed, and a record of the dials.
#[derive(Debug)]
struct Wire {
    devices: Mutex<Vec<IpAddr>>,
    /// Whether the prober fails.
    broken: AtomicBool,
    dialed: Mutex<Vec<IpAddr>>,
    /// A permit for each address that may be dialed.
    turns: Semaphore,
    /// What each order leaves out.
    gaps: Gaps,
}

impl Wire {
    fn with(devices: &[&str], turns: usize) -> Arc<Self> {
        Arc::new(Self {
            devices: Mutex::new(devices.iter().map(|ip| ip.parse().expect(ip)).collect()),
            broken: AtomicBool::new(false),
            dialed: Mutex::default(),
            turns: Semaphore::new(turns),
            gaps: Gaps::default(),
        })
    }

    fn dialed(&self) -> Vec<String> {
        let dialed = self.dialed.lock().expect("not poisoned");
        dialed.iter().map(ToString::to_string).collect()
    }

    async fn world(self: &Arc<Self>) -> World {
        self.world_of(None).await
    }

    /// A server whose network belongs to an organization.
    async fn world_of(self: &Arc<Self>, organization: Option<&str>) -> World {
        World::with(ServerConfig {
            rates: None,
            direct: Some(DirectPath {
                organization: organization.map(str::to_owned),
                networks: vec!["10.0.0.0/24".parse().expect("a network")],
                prober: self.clone(),
            }),
            ..ServerConfig::default()
        })
        .await
    }
}

impl Prober for Wire {
    fn default_ports(&self) -> Vec<Port> {
        Port::new(4028).into_iter().collect()
    }

    fn probe<'a>(
        &'a self,
        order: ProbeOrder,
        events: mpsc::Sender<ProbeEvent>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<ProbeSummary, String>> {
        Box::pin(async move {
            if self.broken.load(Ordering::SeqCst) {
                return Err("the network is down".to_owned());
            }
            let mut outcomes = vec![TargetOutcome::NotReached; order.addresses.len()];
            for (ip, outcome) in order.addresses.iter().zip(&mut outcomes) {
                tokio::select! {
                    () = cancel.cancelled() => break,
                    turn = self.turns.acquire() => turn.expect("open").forget(),
                }
                let endpoint = Endpoint {
                    ip: *ip,
                    port: order.ports[0],
                };
                order.permit.check(endpoint)?;
                self.dialed.lock().expect("not poisoned").push(*ip);
                *outcome = TargetOutcome::Silent;
                let is_device = self.devices.lock().expect("not poisoned").contains(ip);
                if is_device {
                    *outcome = TargetOutcome::Identified;
                    let _ = events.send(ProbeEvent::Found(found(endpoint))).await;
                }
            }
            Ok(ProbeSummary {
                outcomes,
                gaps: self.gaps,
            })
        })
    }

    fn pair<'a>(&'a self, order: PairOrder) -> BoxFuture<'a, PairAnswer> {
        Box::pin(async move {
            let answer = |outcome, error: &str| PairAnswer {
                outcome,
                default_password: Some(false),
                open: false,
                error: error.to_owned(),
            };
            if let Err(why) = order.permit.check(order.endpoint) {
                return answer(PairOutcome::Error, &why);
            }
            let turn = self.turns.acquire().await;
            turn.expect("open").forget();
            let ip = order.endpoint.ip;
            self.dialed.lock().expect("not poisoned").push(ip);
            match order.login {
                None => answer(PairOutcome::AuthNeeded, "it wants a password"),
                Some(login) if login.password.as_str() == PASSWORD => {
                    answer(PairOutcome::Paired, "")
                }
                Some(_) => answer(PairOutcome::AuthFailed, "wrong"),
            }
        })
    }
}

/// What every device takes.
const PASSWORD: &str = "let me in";

/// The device that a node would report at the same address.
fn found(endpoint: Endpoint) -> DeviceReport {
    let reported = device(&endpoint.ip.to_string());
    DeviceReport::parse(RawDeviceReport {
        identifier: &reported.device_identifier,
        ip: &reported.ip_address,
        port: &endpoint.port.to_string(),
        scheme: "http",
        driver: "antminer",
        model: "S19",
        manufacturer: "Bitmain",
        mac: &reported.mac_address,
        ..RawDeviceReport::default()
    })
    .expect("well-formed")
}

async fn scan(
    operator: &Operator,
    request: DiscoverRequest,
) -> Result<Incoming<WatchScanResponse>, RpcError> {
    let request = ScanOwnNetworkRequest {
        request: Some(request),
    };
    operator
        .direct()
        .scan_own_network(&request, operator.options())
        .await
}

async fn not_scanned(operator: &Operator, request: DiscoverRequest, code: Code) -> RpcError {
    let opened = scan(operator, request).await;
    stream_refused(opened.map(Incoming::into_stream), code).await
}

/// What a scan brings until its end: addresses of devices, and warnings.
async fn to_its_end(
    mut messages: Incoming<WatchScanResponse>,
) -> (Vec<String>, Vec<String>, ScanEnded) {
    let (mut devices, mut warnings, mut next) = (Vec::new(), Vec::new(), 1);
    loop {
        let message = soon(messages.message())
            .await
            .expect("continues")
            .expect("has an end");
        if message.sequence > 0 {
            assert_eq!(message.sequence, next, "sequences are dense");
            next += 1;
        }
        match message.event {
            Some(Event::Device(device)) => devices.push(device.ip),
            Some(Event::Warning(warning)) => warnings.push(warning.text),
            Some(Event::Ended(ended)) => {
                let ledger = ended.ledger.clone().expect("a ledger");
                let sum = ledger.identified
                    + ledger.owned_elsewhere
                    + ledger.unidentified
                    + ledger.refused
                    + ledger.silent
                    + ledger.skipped
                    + ledger.not_reached;
                assert_eq!(sum, ledger.targets, "{ledger:?}");
                assert_eq!(
                    ledger.reported,
                    ledger.accepted + ledger.rejected,
                    "{ledger:?}"
                );
                return (devices, warnings, ended);
            }
            Some(Event::Host(_) | Event::Progress(_)) | None => {}
        }
    }
}

async fn devices(operator: &Operator) -> Vec<Device> {
    let listed = operator
        .devices()
        .list_devices(&ListDevicesRequest::default(), operator.options())
        .await;
    listed.expect("lists").devices
}

/// A node that has found these devices and has a command for more of them in flight.
async fn node_with(world: &World, operator: &Operator, found: &[&str]) -> (Enrolled, Node, String) {
    let enrolled = Enrolled::new(world, operator).await;
    let mut node = enrolled.connect(world, Profile::upstream()).await;
    crate::harness::start(operator, &enrolled, target("10.0.0.0/24", &["4028"])).await;
    let (command, _) = node.command().await;
    if !found.is_empty() {
        let reported = node
            .report(&command, found.iter().map(|ip| device(ip)).collect())
            .await;
        assert_eq!(reported.expect("taken").accepted_count, found.len() as i64);
    }
    (enrolled, node, command)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_configuration_the_server_dials_nothing_and_names_the_remedy() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let error = not_scanned(
        &operator,
        list(&["10.0.0.7"], &[]),
        Code::FailedPrecondition,
    )
    .await;
    for way_out in ["enroll a node", "StartScan", "[direct]", "fleetd.toml"] {
        assert!(error.message.contains(way_out), "{error}");
    }
    let upstream = operator
        .pairing()
        .discover(&list(&["10.0.0.7"], &[]), operator.options())
        .await;
    stream_refused(
        upstream.map(Incoming::into_stream),
        Code::FailedPrecondition,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_its_scan() {
    // The network gives no turn, so the scan lasts until it is canceled.
    let wire = Wire::with(&[], 0);
    let world = wire.world().await;
    let operator = world.operator(Role::Operator).await;
    let keys = KeyClient::new(world.channel());
    let create = CreateKeyRequest {
        name: "scanner".to_owned(),
        ..CreateKeyRequest::default()
    };
    let key = keys.create_key(&create, operator.options()).await;
    let key = key.expect("is created");
    let request = ScanOwnNetworkRequest {
        request: Some(list(&["10.0.0.7"], &[])),
    };
    let direct = operator.direct();
    let scan_by_key = direct.scan_own_network(&request, bearer(&key.key)).await;
    let mut messages = scan_by_key.expect("starts");
    let revoke = RevokeKeyRequest { key_id: key.key_id };
    let revoked = keys.revoke_key(&revoke, operator.options()).await;
    revoked.expect("is revoked");
    let error = soon(async {
        loop {
            if let Err(error) = messages.message().await {
                return error;
            }
        }
    });
    assert_eq!(error.await.code, Code::Unauthenticated);
    // Its slot and its addresses are free again.
    wire.turns.add_permits(1);
    eventually(|| completes(&operator)).await;
    assert_eq!(wire.dialed(), ["10.0.0.7"]);
}

/// Whether a scan is admitted and completes.
async fn completes(operator: &Operator) -> bool {
    let Ok(mut messages) = scan(operator, list(&["10.0.0.7"], &[])).await else {
        return false;
    };
    while let Ok(Some(message)) = soon(messages.message()).await {
        if let Some(Event::Ended(ended)) = message.event {
            return ended.state() == ScanState::Completed;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_the_server_finds_are_streamed_stored_and_belong_to_no_node() {
    let wire = Wire::with(&["10.0.0.7", "10.0.0.9"], 100);
    let world = wire.world().await;
    let operator = world.operator(Role::Operator).await;
    let messages = scan(&operator, target("10.0.0.0/28", &[]))
        .await
        .expect("starts");
    let (found, warnings, ended) = to_its_end(messages).await;
    assert_eq!(found, ["10.0.0.7", "10.0.0.9"]);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(
        (ended.state(), ended.reason.as_str()),
        (ScanState::Completed, "")
    );
    let ledger = ended.ledger.expect("a ledger");
    assert_eq!(
        (
            ledger.targets,
            ledger.identified,
            ledger.silent,
            ledger.skipped
        ),
        (16, 2, 12, 2)
    );
    assert_eq!(wire.dialed().len(), 14);
    let listed = devices(&operator).await;
    assert!(
        listed.iter().all(|device| device.fleet_node_id == 0),
        "{listed:?}"
    );
    assert_eq!(listed.len(), 2);

    // The upstream shape: devices, then a good end.
    let mut upstream = operator
        .pairing()
        .discover(&list(&["10.0.0.7"], &[]), operator.options())
        .await
        .expect("starts");
    let first = loop {
        let message = soon(upstream.message())
            .await
            .expect("continues")
            .expect("a device");
        if let [device] = message.devices.as_slice() {
            break device.ip_address.clone();
        }
    };
    assert_eq!(first, "10.0.0.7");
    while let Some(message) = soon(upstream.message()).await.expect("ends well") {
        assert_eq!(message.error, "");
    }
    assert_eq!(devices(&operator).await.len(), 2, "the same records");
    let done = world.audited(operator.org, "direct.scan").await;
    assert_eq!(done.len(), 2, "{done:?}");
    assert!(done[1].entry.subject.contains("10.0.0.0/28"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_scan_leads_to_alerts_and_marks_missing_devices() {
    let wire = Wire::with(&["10.0.0.7", "10.0.0.9"], 100);
    let world = wire.world().await;
    let admin = world.operator(Role::Admin).await;
    // Nothing listens there: the messages wait.
    let channel = alerts::hook(&world, &admin, "http://127.0.0.1:9/").await;
    for (event, threshold) in [
        ("device.new", 0),
        ("device.missing", 1),
        ("device.moved", 0),
        ("scan.failed", 0),
    ] {
        alerts::rule_at(&world, &admin, &channel, event, threshold).await;
    }
    // The messages are stored before the end of the scan is sent.
    let titles = async || {
        let messages = alerts::deliveries(&world, &admin).await;
        let mut titles: Vec<String> = messages.into_iter().map(|row| row.title).collect();
        titles.sort();
        titles
    };
    let range = || target("10.0.0.0/28", &[]);
    to_its_end(scan(&admin, range()).await.expect("starts")).await;
    let new = "2 new devices at the server's own network";
    assert_eq!(titles().await, [new]);
    assert_eq!(devices(&admin).await[1].missing_since, None);

    // One device is gone, and the other one is found again.
    wire.devices.lock().expect("not poisoned").truncate(1);
    to_its_end(scan(&admin, range()).await.expect("starts")).await;
    let missing = "1 missing device at the server's own network";
    assert_eq!(titles().await, [missing, new]);
    let listed = devices(&admin).await;
    assert_eq!(listed[0].missing_since, None);
    assert!(listed[1].missing_since.is_some(), "{listed:?}");

    wire.broken.store(true, Ordering::SeqCst);
    let messages = scan(&admin, range()).await.expect("starts");
    stream_refused(Ok(messages.into_stream()), Code::Internal).await;
    let failed = "A scan of the server's own network failed";
    assert_eq!(titles().await, [missing, new, failed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rules_of_sites_bind_direct_scans() {
    let wire = Wire::with(&["10.0.0.7", "10.0.0.9"], 100);
    let world = wire.world().await;
    let admin = world.operator(Role::Admin).await;
    let (enrolled, _node) = shares::node(&world, &admin, &["10.0.0.0/24"]).await;
    let site = admin.site_of(&enrolled).await;
    let exclude = ExcludeTargetsRequest {
        site_id: site,
        targets: "10.0.0.9".to_owned(),
        reason: "printer".to_owned(),
    };
    let sites = admin.sites();
    let excluded = sites.exclude_targets(&exclude, admin.options()).await;
    excluded.expect("excluded");
    let range = || target("10.0.0.0/28", &[]);
    let messages = scan(&admin, range()).await.expect("starts");
    let (found, _, ended) = to_its_end(messages).await;
    assert_eq!(found, ["10.0.0.7"]);
    assert!(!wire.dialed().contains(&"10.0.0.9".to_owned()));
    let reasons = ended.ledger.expect("a ledger").skipped_reasons;
    let named = reasons.iter().any(|one| one.reason.contains("printer"));
    assert!(named, "{reasons:?}");

    let window = site_rules::around_now();
    admin.black_out(site, &window).await.expect("set");
    let error = not_scanned(&admin, range(), Code::FailedPrecondition).await;
    assert!(error.message.contains("has a blackout"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rules_of_sites_bind_direct_pairings() {
    let wire = Wire::with(&["10.0.0.7", "10.0.0.9"], 100);
    let world = wire.world().await;
    let admin = world.operator(Role::Admin).await;
    let both = list(&["10.0.0.7", "10.0.0.9"], &[]);
    to_its_end(scan(&admin, both).await.expect("starts")).await;
    let scanned = wire.dialed().len();
    let (enrolled, _node) = shares::node(&world, &admin, &["10.0.0.0/24"]).await;
    let site = admin.site_of(&enrolled).await;

    // An address that a site excludes is never dialed, whether its device is named or not.
    let exclude = ExcludeTargetsRequest {
        site_id: site,
        targets: "10.0.0.9".to_owned(),
        reason: "printer".to_owned(),
    };
    let excluded = admin
        .sites()
        .exclude_targets(&exclude, admin.options())
        .await;
    excluded.expect("excluded");
    let printer = device("10.0.0.9").device_identifier;
    for selection in [
        SelectionType::AllDevices(DeviceFilter::default()),
        named(&["10.0.0.9"]),
    ] {
        let failed = not_paired(&admin, selection, Some(PASSWORD)).await;
        assert_eq!(failed.expect("answers"), std::slice::from_ref(&printer));
    }
    let dialed = || wire.dialed().split_off(scanned);
    assert_eq!(dialed(), ["10.0.0.7"]);
    let left_out = world.audited(admin.org, "direct.exclude").await;
    assert!(
        matches!(&left_out[0].entry.result, AuditResult::Refused(why) if why.contains("10.0.0.9 is excluded at site") && why.contains("printer")),
        "{left_out:?}"
    );

    admin
        .black_out(site, &site_rules::around_now())
        .await
        .expect("set");
    let refused = not_paired(&admin, named(&["10.0.0.7"]), Some(PASSWORD)).await;
    let error = refused.expect_err("a blackout");
    assert_eq!(error.code, Code::FailedPrecondition);
    assert!(error.message.contains("has a blackout"), "{error}");
    assert_eq!(dialed(), ["10.0.0.7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_alerts_of_a_scan_whose_server_stopped_are_stored_by_another_server() {
    let wire = Wire::with(&[], 100);
    let world = wire.world().await;
    let admin = world.operator(Role::Admin).await;
    let channel = alerts::hook(&world, &admin, "http://127.0.0.1:9/").await;
    for event in ["device.new", "scan.failed"] {
        alerts::rule_at(&world, &admin, &channel, event, 0).await;
    }
    // What a server stores before it is killed.
    let now = world.clock.now();
    let run = DirectRun {
        org: admin.org,
        scan: ScanId::new(now, [7; 10]),
        replica: ReplicaId([7; 16]),
        started: now,
    };
    world.store.begin_direct(run).await.expect("begun");
    let at = Endpoint {
        ip: "10.0.0.7".parse().expect("an address"),
        port: Port::new(80).expect("a port"),
    };
    let release = DialRequest {
        org: run.org,
        scan: run.scan,
        addresses: vec![at.ip],
        until: now.plus(limits::DIRECT_HOLD),
        now,
    };
    world
        .store
        .release_for_dialing(release)
        .await
        .expect("released");
    let sightings = NewSightings {
        org: run.org,
        scan: run.scan,
        rows: vec![found(at)],
        seen: BTreeMap::new(),
        now,
    };
    world.store.record_direct(sightings).await.expect("stored");
    // The other server counts as stopped after this time.
    world.clock.pass(Duration::from_secs(11));

    eventually(async || {
        let messages = alerts::deliveries(&world, &admin).await;
        let mut titles: Vec<String> = messages.into_iter().map(|row| row.title).collect();
        titles.sort();
        titles
            == [
                "1 new device at the server's own network",
                "A scan of the server's own network failed",
            ]
    })
    .await;
    assert_eq!(world.store.direct_runs().await.expect("read"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_its_pairing_by_the_server() {
    // One turn, for the scan: the pairing lasts until it is ended.
    let wire = Wire::with(&["10.0.0.7"], 1);
    let world = wire.world().await;
    let operator = world.operator(Role::Operator).await;
    let asked = list(&["10.0.0.7"], &[]);
    to_its_end(scan(&operator, asked).await.expect("starts")).await;
    let keys = KeyClient::new(world.channel());
    let create = CreateKeyRequest {
        name: "pairer".to_owned(),
        ..CreateKeyRequest::default()
    };
    let key = keys.create_key(&create, operator.options()).await;
    let key = key.expect("is created");
    let pairing = tokio::spawn({
        let mut by_key = operator.clone();
        by_key.key.clone_from(&key.key);
        async move { not_paired(&by_key, named(&["10.0.0.7"]), Some(PASSWORD)).await }
    });
    // Recorded before the first dial.
    eventually(|| async { world.audited(operator.org, "direct.pair").await.len() == 1 }).await;
    let revoke = RevokeKeyRequest { key_id: key.key_id };
    let revoked = keys.revoke_key(&revoke, operator.options()).await;
    revoked.expect("is revoked");
    let ended = soon(pairing).await.expect("does not panic");
    assert_eq!(ended.expect_err("is revoked").code, Code::Unauthenticated);
    assert_eq!(wire.dialed().len(), 1, "by the scan");
    // Its slot and its addresses are free again.
    wire.turns.add_permits(1);
    let failed = not_paired(&operator, named(&["10.0.0.7"]), Some(PASSWORD)).await;
    assert!(failed.expect("answers").is_empty());
    assert_eq!(wire.dialed().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_was_not_tried_makes_a_direct_scan_partial() {
    let gaps = Gaps {
        partly_tried: 2,
        untried_ports: 3,
        ..Gaps::default()
    };
    let wire = Arc::new(Wire {
        devices: Mutex::default(),
        broken: AtomicBool::new(false),
        dialed: Mutex::default(),
        turns: Semaphore::new(100),
        gaps,
    });
    let world = wire.world().await;
    let operator = world.operator(Role::Operator).await;
    let messages = scan(&operator, target("10.0.0.0/30", &[])).await;
    let (_, _, ended) = to_its_end(messages.expect("starts")).await;
    assert_eq!(
        (ended.state(), ended.reason.as_str()),
        (ScanState::Partial, "3 ports of 2 targets were not tried")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_a_node_are_never_dialed_even_after_its_revocation() {
    let wire = Wire::with(&["10.0.0.7", "10.0.0.8", "10.0.0.9"], 100);
    let world = wire.world().await;
    let operator = world.operator(Role::Operator).await;
    let (enrolled, _node, _) = node_with(&world, &operator, &["10.0.0.7", "10.0.0.9"]).await;
    for round in 1..=2 {
        let asked = list(&["10.0.0.7", "10.0.0.8", "10.0.0.9"], &["80", "4028"]);
        let (found, warnings, ended) =
            to_its_end(scan(&operator, asked).await.expect("starts")).await;
        assert_eq!(found, ["10.0.0.8"]);
        assert_eq!(wire.dialed(), vec!["10.0.0.8"; round]);
        assert_eq!(ended.state(), ScanState::Partial);
        let node = format!("node {}", enrolled.id);
        for text in [&ended.reason, &warnings[0]] {
            assert!(text.contains(&node) && text.contains("10.0.0.7"), "{text}");
        }
        assert_eq!(warnings.len(), 1, "once a node: {warnings:?}");
        let ledger = ended.ledger.expect("a ledger");
        assert_eq!((ledger.identified, ledger.skipped), (1, 2));
        assert_eq!(ledger.skipped_reasons[0].count, 2);
        let revoke = RevokeFleetNodeRequest {
            fleet_node_id: enrolled.id.0,
            pending_enrollment_id: None,
        };
        if round == 1 {
            operator
                .admin()
                .revoke_fleet_node(&revoke, operator.options())
                .await
                .expect("revoked");
        }
    }
    let excluded = world.audited(operator.org, "direct.exclude").await;
    assert_eq!(
        excluded.iter().map(|row| row.count).sum::<u64>(),
        2,
        "{excluded:?}"
    );
    assert!(
        matches!(&excluded[0].entry.result, AuditResult::Refused(why) if why.contains("10.0.0.7")),
        "{excluded:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_waits_while_the_server_dials_its_addresses_and_is_then_accepted() {
    let wire = Wire::with(&[], 0);
    let world = wire.world().await;
    let operator = world.operator(Role::Operator).await;
    let (_, node, command) = node_with(&world, &operator, &[]).await;
    let scanning = scan(&operator, list(&["10.0.0.6", "10.0.0.7"], &[]))
        .await
        .expect("starts");
    // Released, but not dialed yet.
    wire.turns.add_permits(1);
    eventually(|| async { wire.dialed() == ["10.0.0.6"] }).await;
    let reporting = tokio::spawn(async move {
        let reported = node.report(&command, vec![device("10.0.0.7")]).await;
        (reported, node)
    });
    let elsewhere = devices(&operator).await;
    assert!(
        elsewhere.is_empty() && !reporting.is_finished(),
        "{elsewhere:?}"
    );
    wire.turns.add_permits(1);
    let (_, _, ended) = to_its_end(scanning).await;
    assert_eq!(ended.state(), ScanState::Completed);
    let (reported, _node) = soon(reporting).await.expect("does not panic");
    assert_eq!(reported.expect("taken").accepted_count, 1);
    assert_eq!(wire.dialed(), ["10.0.0.6", "10.0.0.7"]);

    // From here on it is the node's.
    wire.turns.add_permits(10);
    let (_, warnings, _) = to_its_end(
        scan(&operator, list(&["10.0.0.7"], &[]))
            .await
            .expect("starts"),
    )
    .await;
    assert_eq!(warnings.len(), 1);
    assert_eq!(wire.dialed().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_the_stream_ends_a_direct_scan_and_releases_its_addresses() {
    let wire = Wire::with(&["10.0.0.1"], 1);
    let world = wire.world().await;
    let operator = world.operator(Role::Operator).await;
    let (_, node, command) = node_with(&world, &operator, &[]).await;
    let mut first = scan(&operator, list(&["10.0.0.1", "10.0.0.2"], &[]))
        .await
        .expect("starts");
    loop {
        let message = soon(first.message())
            .await
            .expect("continues")
            .expect("a device");
        if matches!(message.event, Some(Event::Device(_))) {
            break;
        }
    }
    let busy = not_scanned(&operator, list(&["10.0.0.3"], &[]), Code::ResourceExhausted).await;
    assert!(busy.message.contains("when it is over"), "{busy}");
    drop(first);
    let reported = node.report(&command, vec![device("10.0.0.2")]).await;
    assert_eq!(reported.expect("taken").accepted_count, 1);
    wire.turns.add_permits(10);
    let again = || async {
        match scan(&operator, list(&["10.0.0.3"], &[])).await {
            Ok(mut messages) => soon(messages.message()).await.is_ok(),
            Err(_) => false,
        }
    };
    eventually(again).await;
    assert!(
        !wire.dialed().contains(&"10.0.0.2".to_owned()),
        "{:?}",
        wire.dialed()
    );
    assert_eq!(devices(&operator).await.len(), 2, "what it found stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_a_direct_scan() {
    let wire = Wire::with(&[], 0);
    let mut world = wire.world().await;
    let operator = world.operator(Role::Operator).await;
    let mut messages = scan(&operator, list(&["10.0.0.1"], &[]))
        .await
        .expect("starts");
    let draining = world.draining();
    let ended = loop {
        match soon(messages.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ends with a word"),
            Err(error) => break error,
        }
    };
    assert_eq!(ended.code, Code::Unavailable, "{ended}");
    draining.done().await;
    assert!(wire.dialed().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsupported_direct_scan_is_refused_with_a_remedy() {
    let wire = Wire::with(&[], 0);
    let world = wire.world().await;
    let operator = world.operator(Role::Operator).await;
    use Code::{FailedPrecondition, InvalidArgument};
    for (request, code, named) in [
        (target("10.9.0.0/30", &[]), FailedPrecondition, "10.9.0.1"),
        (
            list(&["10.0.0.1", "10.0.1.1"], &[]),
            FailedPrecondition,
            "[direct]",
        ),
        (target("miner.lan", &[]), FailedPrecondition, "miner.lan"),
        (
            target("fleetnode-local-subnet", &[]),
            FailedPrecondition,
            "a node's subnet",
        ),
        (mdns("_http._tcp"), FailedPrecondition, "mDNS"),
        (target("8.8.8.8", &[]), InvalidArgument, "8.8.8.8"),
        (
            target("169.254.169.254", &[]),
            InvalidArgument,
            "169.254.169.254",
        ),
        (target("127.0.0.1", &[]), InvalidArgument, "127.0.0.1"),
        (target("10.0.0.0/8", &[]), InvalidArgument, "/8"),
        (list(&["10.0.0.1"], &["80/tcp"]), InvalidArgument, "80/tcp"),
        (list(&[], &[]), InvalidArgument, "empty"),
    ] {
        let error = not_scanned(&operator, request, code).await;
        assert!(error.message.contains(named), "{error}");
    }
    assert!(wire.dialed().is_empty());
    let refused = world.audited(operator.org, "direct.scan").await;
    assert!(
        !refused.is_empty()
            && refused
                .iter()
                .all(|row| row.entry.result != AuditResult::Done),
        "{refused:?}"
    );
}

fn named(ips: &[&str]) -> SelectionType {
    SelectionType::IncludeDevices(DeviceIdentifierList {
        device_identifiers: ips.iter().map(|ip| device(ip).device_identifier).collect(),
    })
}

/// Pairs what is selected; answers the addresses whose devices were not paired.
async fn not_paired(
    operator: &Operator,
    selection: SelectionType,
    password: Option<&str>,
) -> Result<Vec<String>, RpcError> {
    let request = PairRequest {
        credentials: password.map(|password| Credentials {
            username: "root".to_owned(),
            password: Some(password.to_owned()),
            ..Credentials::default()
        }),
        device_selector: Some(DeviceSelector {
            selection_type: Some(selection),
        }),
    };
    let answer = operator
        .pairing()
        .pair(&request, operator.options())
        .await?;
    Ok(answer.failed_device_ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_pairs_its_own_devices_and_none_that_have_or_had_a_node() {
    let wire = Wire::with(&["10.0.0.7", "10.0.0.8"], 100);
    let world = wire.world().await;
    let operator = world.operator(Role::Operator).await;
    let (enrolled, _node, _) = node_with(&world, &operator, &["10.0.0.9"]).await;
    let asked = list(&["10.0.0.7", "10.0.0.8"], &[]);
    to_its_end(scan(&operator, asked).await.expect("starts")).await;
    let identifier = |ip: &str| device(ip).device_identifier;
    let all = || SelectionType::AllDevices(DeviceFilter::default());
    let dialed = || wire.dialed().split_off(2);

    // Without a password, or with a wrong one, no device is bound.
    for password in [None, Some("wrong")] {
        let failed = not_paired(&operator, named(&["10.0.0.7"]), password).await;
        assert_eq!(failed.expect("answers"), [identifier("10.0.0.7")]);
    }
    assert_eq!(dialed(), ["10.0.0.7", "10.0.0.7"]);
    let failed = not_paired(
        &operator,
        named(&["10.0.0.7", "10.0.0.9", "10.0.0.77"]),
        Some(PASSWORD),
    )
    .await;
    assert_eq!(
        failed.expect("answers"),
        [identifier("10.0.0.9"), identifier("10.0.0.77")]
    );
    assert_eq!(dialed().len(), 3, "what a node has is not dialed");

    // A paired device is left alone, and the node's device is returned as failed.
    let failed = not_paired(&operator, all(), Some(PASSWORD)).await;
    assert_eq!(failed.expect("answers"), [identifier("10.0.0.9")]);
    assert_eq!(dialed().last().map(String::as_str), Some("10.0.0.8"));
    assert_eq!(dialed().len(), 4);
    let listed = devices(&operator).await;
    let ids: Vec<DeviceId> = listed
        .iter()
        .map(|device| DeviceId(device.device_id))
        .collect();
    let stands = world
        .store
        .pairings_of(operator.org, &ids)
        .await
        .expect("reads");
    for device in &listed {
        let stands = stands.get(&DeviceId(device.device_id));
        let paired = stands.is_some_and(|stands| stands.status == PairingStatus::Paired);
        assert_eq!(paired, device.fleet_node_id == 0, "{device:?} {stands:?}");
    }

    // Nor is the node's when it is released everywhere and its node is gone.
    let theirs = listed
        .iter()
        .find(|device| device.ip == "10.0.0.9")
        .expect("there");
    let unpair = UnpairDeviceRequest {
        device_id: theirs.device_id,
    };
    operator
        .admin()
        .unpair_device(&unpair, operator.options())
        .await
        .expect("released");
    let revoke = RevokeFleetNodeRequest {
        fleet_node_id: enrolled.id.0,
        pending_enrollment_id: None,
    };
    operator
        .admin()
        .revoke_fleet_node(&revoke, operator.options())
        .await
        .expect("revoked");
    let failed = not_paired(&operator, named(&["10.0.0.9"]), Some(PASSWORD)).await;
    assert_eq!(failed.expect("answers"), [identifier("10.0.0.9")]);
    assert_eq!(dialed().len(), 4);
    let done = world.audited(operator.org, "direct.pair").await;
    assert_eq!(done.len(), 5, "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pairing_by_the_server_is_off_by_default() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let refused = not_paired(&operator, named(&["10.0.0.7"]), None).await;
    assert_eq!(refused.expect_err("off").code, Code::FailedPrecondition);
    assert_eq!(world.audited(operator.org, "direct.pair").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_organization_that_owns_the_network_scans_and_pairs_in_it() {
    let wire = Wire::with(&["10.0.0.7"], 100);
    let world = wire.world_of(Some("beta")).await;
    let stranger = world.operator_of("Alpha", Role::Admin).await;
    let owner = world.operator_of("Beta", Role::Admin).await;
    let refused = not_scanned(
        &stranger,
        list(&["10.0.0.7"], &["80"]),
        Code::FailedPrecondition,
    );
    let refused = refused.await;
    assert!(
        refused.message.contains("another organization"),
        "{refused}"
    );
    assert!(wire.dialed().is_empty());
    let scanned = scan(&owner, list(&["10.0.0.7"], &["80"])).await;
    let (devices, ..) = to_its_end(scanned.expect("is its own")).await;
    assert_eq!(devices, ["10.0.0.7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_without_an_owner_is_not_dialed_once_there_are_two_organizations() {
    let wire = Wire::with(&["10.0.0.7"], 100);
    let world = wire.world().await;
    let first = world.operator_of("Alpha", Role::Admin).await;
    let scanned = scan(&first, list(&["10.0.0.7"], &["80"])).await;
    to_its_end(scanned.expect("is the only one")).await;
    let dialed = wire.dialed().len();
    let second = world.operator_of("Beta", Role::Admin).await;
    for operator in [&first, &second] {
        let refused = not_scanned(
            operator,
            list(&["10.0.0.7"], &["80"]),
            Code::FailedPrecondition,
        );
        let refused = refused.await;
        assert!(refused.message.contains("[direct]"), "{refused}");
    }
    assert_eq!(wire.dialed().len(), dialed);
}
