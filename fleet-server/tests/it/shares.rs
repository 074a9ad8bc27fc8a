//! Scans over several nodes: nodes by id, a site, or all. One result, one share for each node, and coverage before and
//! after.

use std::time::{Duration, Instant};

use fleet_core::Role;
use fleet_wire::{
    Code, RpcError,
    admin::RevokeFleetNodeRequest,
    fleet::{
        CreateScheduleRequest, MoveNodeRequest, PlanScanRequest, PlanScanResponse,
        RunScheduleRequest, Scan, ScheduleClient, ScheduleTiming, StartScanRequest,
        watch_scan_response::Event,
    },
    gateway::AckCode,
    pairing::{DiscoverRequest, discover_request::Mode},
};
use sea_orm::{ConnectionTrait, Database};

use crate::harness::{
    Enrolled, Node, Operator, Profile, Started, World, device, eventually, list, on_both_databases,
    refused, soon, target, uncounted, unique,
};

on_both_databases! {
    a_node_that_fails_does_not_fail_the_others_of_its_site
    targets_go_to_the_node_with_the_narrowest_subnet_and_the_rest_is_reported
    a_cancel_over_two_nodes_takes_less_than_a_second
    a_scan_over_nodes_of_two_servers_has_one_result
}

/// A node with these subnets, and its stream.
pub(crate) async fn node(world: &World, admin: &Operator, subnets: &[&str]) -> (Enrolled, Node) {
    let enrolled = Enrolled::new(world, admin).await;
    let stream = enrolled.connect(world, profile(subnets)).await;
    (enrolled, stream)
}

fn profile(subnets: &[&str]) -> Profile {
    let mut profile = Profile::ours();
    profile.0.local_subnets = subnets.iter().map(|text| (*text).to_owned()).collect();
    profile
}

/// Moves nodes to the site of the first one, and returns it.
async fn site(admin: &Operator, nodes: &[&Enrolled]) -> i64 {
    let site_id = admin.site_of(nodes[0]).await;
    for node in &nodes[1..] {
        let request = MoveNodeRequest {
            fleet_node_id: node.id.0,
            site_id,
        };
        let moved = admin.nodes().move_node(&request, admin.options()).await;
        moved.expect("moved");
    }
    site_id
}

fn on_site(site_id: i64, request: DiscoverRequest) -> StartScanRequest {
    StartScanRequest {
        request_id: format!("request-{}", unique()),
        site_id,
        request: Some(request),
        ..StartScanRequest::default()
    }
}

async fn start<'a>(operator: &'a Operator, request: &StartScanRequest) -> Started<'a> {
    let scans = operator.scans();
    let started = scans.start_scan(request, operator.options()).await;
    let scan = started.expect("starts").scan.expect("a scan");
    Started::known(operator, &scan.scan_id)
}

async fn plan(operator: &Operator, like: &StartScanRequest) -> Result<PlanScanResponse, RpcError> {
    let request = PlanScanRequest {
        fleet_node_id: like.fleet_node_id,
        request: like.request.clone(),
        fleet_node_ids: like.fleet_node_ids.clone(),
        site_id: like.site_id,
        auto: like.auto,
    };
    let scans = operator.scans();
    scans.plan_scan(&request, operator.options()).await
}

/// The states of the shares, by node.
fn states(scan: &Scan) -> Vec<&'static str> {
    let shares = scan.shares.iter();
    shares.map(|share| share.state().as_str_name()).collect()
}

/// The targets of a command.
fn targets(request: &DiscoverRequest) -> Vec<String> {
    match &request.mode {
        Some(Mode::IpList(list)) => list.ip_addresses.clone(),
        other => panic!("not a list: {other:?}"),
    }
}

async fn a_node_that_fails_does_not_fail_the_others_of_its_site(url: &str) {
    let world = World::at(url).await;
    let admin = world.operator(Role::Admin).await;
    let (whole, mut on_whole) = node(&world, &admin, &["10.0.0.0/29"]).await;
    let (away, mut on_away) = node(&world, &admin, &["10.0.0.8/29"]).await;
    let (revoked, mut on_revoked) = node(&world, &admin, &["10.0.0.16/29"]).await;
    let (strict, mut on_strict) = node(&world, &admin, &["10.0.0.24/29"]).await;
    let all = [&whole, &away, &revoked, &strict];
    let request = on_site(site(&admin, &all).await, target("10.0.0.1-30", &["4028"]));
    let planned = plan(&admin, &request).await.expect("a plan");
    let shares: Vec<_> = planned
        .shares
        .iter()
        .map(|share| (share.fleet_node_id, share.targets, share.connected))
        .collect();
    let expected = all.map(|node| node.id.0).into_iter().zip([7, 8, 8, 7]);
    let expected: Vec<_> = expected.map(|(id, targets)| (id, targets, true)).collect();
    assert_eq!((shares, planned.uncovered), (expected, 0));

    let scan = start(&admin, &request).await;
    let (of_whole, asked) = on_whole.command().await;
    assert_eq!(targets(&asked).len(), 7, "{asked:?}");
    let (_, asked) = on_away.command().await;
    assert_eq!(
        targets(&asked).first().map(String::as_str),
        Some("10.0.0.8")
    );
    on_revoked.command().await;
    let (of_strict, _) = on_strict.command().await;

    // One disconnects, one is revoked, and one refuses by the policy of its site.
    drop(on_away);
    let revoke = RevokeFleetNodeRequest {
        fleet_node_id: revoked.id.0,
        pending_enrollment_id: None,
    };
    let revoking = admin.admin();
    let answer = revoking.revoke_fleet_node(&revoke, admin.options()).await;
    answer.expect("revoked");
    let why = "10.0.0.24 is not in a network of the site policy";
    on_strict
        .ack_with(&of_strict, AckCode::BadRequest, why)
        .await;
    let found = on_whole.report(&of_whole, vec![device("10.0.0.2")]).await;
    found.expect("accepted");
    on_whole.ack(&of_whole, AckCode::Ok).await;
    let [completed, running, failed] = [
        "SCAN_STATE_COMPLETED",
        "SCAN_STATE_RUNNING",
        "SCAN_STATE_FAILED",
    ];
    let expected = [completed, running, failed, failed];
    eventually(|| async { states(&scan.get().await) == expected }).await;
    assert_eq!(scan.get().await.state().as_str_name(), running);

    // The node that was away returns without its command, and its share continues by itself.
    let mut on_away = away.connect(&world, profile(&["10.0.0.8/29"])).await;
    let (of_away, _) = on_away.command().await;
    let found = on_away.report(&of_away, vec![device("10.0.0.9")]).await;
    found.expect("accepted");
    on_away.ack(&of_away, AckCode::Ok).await;
    let ended = scan.is("SCAN_STATE_PARTIAL").await;
    assert_eq!(states(&ended), [completed, completed, failed, failed]);
    for (node, reason) in [(&revoked, "was revoked"), (&strict, why)] {
        let named = format!("node {} (", node.id);
        assert!(ended.reason.contains(&named), "{}", ended.reason);
        assert!(ended.reason.contains(reason), "{}", ended.reason);
        let share = ended.shares.iter();
        let share = share.filter(|share| share.fleet_node_id == node.id.0);
        let reasons: Vec<_> = share.map(|share| share.reason.as_str()).collect();
        assert!(
            matches!(reasons[..], [text] if text.contains(reason)),
            "{reasons:?}"
        );
    }
    let summary = ended.ledger.expect("a summary");
    assert_eq!((summary.identified, summary.targets), (2, 30));
    assert_eq!(ended.site_id, request.site_id);
}

async fn targets_go_to_the_node_with_the_narrowest_subnet_and_the_rest_is_reported(url: &str) {
    let world = World::at(url).await;
    let admin = world.operator(Role::Admin).await;
    let (wide, mut on_wide) = node(&world, &admin, &["10.1.0.0/28"]).await;
    let (narrow, mut on_narrow) = node(&world, &admin, &["10.1.0.0/29"]).await;
    let request = StartScanRequest {
        auto: true,
        ..on_site(0, target("10.1.0.1-40", &["4028"]))
    };
    let planned = plan(&admin, &request).await.expect("a plan");
    let shares: Vec<_> = planned
        .shares
        .iter()
        .map(|share| (share.fleet_node_id, share.targets))
        .collect();
    assert_eq!(shares, [(wide.id.0, 8), (narrow.id.0, 7)]);
    assert_eq!(
        (planned.targets, planned.skipped, planned.uncovered),
        (40, 25, 25)
    );
    assert_eq!(planned.uncovered_targets, ["10.1.0.16-10.1.0.40"]);
    let notes = planned.notes.join("\n");
    for expected in [
        "7 targets are in the subnets of both",
        "25 targets are in the subnets of no node of the scan and are not scanned (10.1.0.16-10.1.0.40)",
    ] {
        assert!(notes.contains(expected), "{notes}");
    }
    let scan = start(&admin, &request).await;
    for (stream, ip) in [(&mut on_wide, "10.1.0.9"), (&mut on_narrow, "10.1.0.2")] {
        let (command, asked) = stream.command().await;
        assert!(
            targets(&asked).iter().any(|target| target == ip),
            "{asked:?}"
        );
        let found = stream.report(&command, vec![device(ip)]).await;
        assert_eq!(found.expect("accepted").accepted_count, 1);
        stream.ack(&command, AckCode::Ok).await;
    }
    let ended = scan.is("SCAN_STATE_COMPLETED").await;
    assert!(ended.auto);
    let summary = ended.ledger.expect("a summary");
    assert_eq!((summary.targets, summary.skipped), (40, 25));
    let reasons = &summary.skipped_reasons;
    let uncovered = reasons.iter().find(|one| one.reason.contains("no node"));
    let uncovered = uncovered.expect("the uncovered targets");
    assert_eq!((uncovered.count, &*uncovered.example), (25, "10.1.0.16"));
    // Each row shows its node, and the log says which targets were not scanned.
    let mut watch = scan.watch(0).await;
    let (mut rows, mut warnings) = (Vec::new(), Vec::new());
    while let Some(message) = soon(watch.message()).await.expect("continues") {
        match message.event {
            Some(Event::Device(found)) => rows.push((found.ip, found.fleet_node_id)),
            Some(Event::Warning(warning)) => warnings.push(warning.text),
            Some(Event::Host(_) | Event::Ended(_) | Event::Progress(_)) | None => {}
        }
    }
    rows.sort();
    let expected = [("10.1.0.2", narrow.id.0), ("10.1.0.9", wide.id.0)];
    assert_eq!(rows, expected.map(|(ip, node)| (ip.to_owned(), node)));
    let warnings = warnings.join("\n");
    assert!(warnings.contains("(10.1.0.16-10.1.0.40)"), "{warnings}");
}

async fn a_cancel_over_two_nodes_takes_less_than_a_second(url: &str) {
    let world = World::at(url).await;
    let admin = world.operator(Role::Admin).await;
    let (a, mut on_a) = node(&world, &admin, &["10.2.0.0/29"]).await;
    let (b, mut on_b) = node(&world, &admin, &["10.2.0.8/29"]).await;
    let request = StartScanRequest {
        fleet_node_ids: vec![a.id.0, b.id.0],
        ..on_site(0, target("10.2.0.1-14", &["4028"]))
    };
    let scan = start(&admin, &request).await;
    let (of_a, _) = on_a.command().await;
    let (of_b, _) = on_b.command().await;
    let stop = async |stream: &mut Node, command: &str, ip: &str| {
        assert_eq!(stream.cancel().await, command);
        // What a node found before it stopped is kept.
        let found = stream.report(command, vec![device(ip)]).await;
        found.expect("accepted");
        stream.ack(command, AckCode::Partial).await;
    };
    let asked = Instant::now();
    let (canceled, (), ()) = tokio::join!(
        scan.cancel(),
        stop(&mut on_a, &of_a, "10.2.0.2"),
        stop(&mut on_b, &of_b, "10.2.0.9"),
    );
    let took = asked.elapsed();
    assert_eq!(canceled.state().as_str_name(), "SCAN_STATE_CANCELED");
    assert_eq!(states(&canceled), ["SCAN_STATE_CANCELED"; 2]);
    assert_eq!(canceled.ledger.expect("a summary").identified, 2);
    assert!(took.as_millis() < 1_000, "{took:?}");
}

async fn a_scan_over_nodes_of_two_servers_has_one_result(url: &str) {
    let near = World::at(url).await;
    let far = near.another().await;
    let admin = near.operator(Role::Admin).await;
    let remote = admin.clone().at(&far);
    let (a, mut on_a) = node(&near, &admin, &["10.3.0.0/29"]).await;
    let b = Enrolled::new(&near, &admin).await;
    let mut on_b = b.connect(&far, profile(&["10.3.0.8/29"])).await;
    let request = on_site(
        site(&admin, &[&a, &b]).await,
        target("10.3.0.1-14", &["4028"]),
    );
    let scan = start(&remote, &request).await;
    for (stream, ip) in [(&mut on_a, "10.3.0.2"), (&mut on_b, "10.3.0.9")] {
        let (command, _) = stream.command().await;
        let found = stream.report(&command, vec![device(ip)]).await;
        found.expect("accepted");
        stream.ack(&command, AckCode::Ok).await;
    }
    let ended = scan.is("SCAN_STATE_COMPLETED").await;
    assert_eq!(ended.ledger.clone().expect("a summary").identified, 2);
    let same = Started::known(&admin, &scan.id).get().await;
    let (same, ended) = (uncounted(same), uncounted(ended));
    assert_eq!(same, ended, "both servers report the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_its_nodes_in_one_way_and_only_those_of_its_tenant() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let (a, _on_a) = node(&world, &admin, &["10.4.0.0/29"]).await;
    let (b, _on_b) = node(&world, &admin, &["10.4.0.8/29"]).await;
    let other = world.operator_of("Other", Role::Admin).await;
    let (foreign, _on_foreign) = node(&world, &other, &["10.4.0.0/29"]).await;
    let foreign_site = other.site_of(&foreign).await;
    let both = || vec![a.id.0, b.id.0];
    let wanted = || target("10.4.0.1-14", &["80"]);
    let request = |change: fn(&mut StartScanRequest), ids: Vec<i64>| {
        let mut request = on_site(0, wanted());
        request.fleet_node_ids = ids;
        change(&mut request);
        request
    };
    for (request, code, named) in [
        (request(|_| {}, vec![]), Code::InvalidArgument, "site_id"),
        (
            request(|one| one.auto = true, both()),
            Code::InvalidArgument,
            "exactly one",
        ),
        (
            request(|one| one.site_id = 4_711, vec![]),
            Code::NotFound,
            "4711",
        ),
        (
            request(|_| {}, vec![a.id.0, foreign.id.0]),
            Code::NotFound,
            &foreign.id.to_string(),
        ),
        (
            on_site(foreign_site, wanted()),
            Code::NotFound,
            &foreign_site.to_string(),
        ),
        (
            request(
                |one| one.request = Some(target("rig-1.lan", &["80"])),
                both(),
            ),
            Code::InvalidArgument,
            "rig-1.lan",
        ),
        (
            request(
                |one| one.request = Some(list(&["10.5.0.1"], &["80"])),
                both(),
            ),
            Code::FailedPrecondition,
            "10.5.0.1",
        ),
    ] {
        let refusal = refused(plan(&admin, &request).await, code);
        assert!(refusal.message.contains(named), "{refusal}");
        let scans = admin.scans();
        refused(scans.start_scan(&request, admin.options()).await, code);
    }
    // The nodes of another organization never take part.
    let auto = request(|one| one.auto = true, vec![]);
    let planned = plan(&admin, &auto).await.expect("a plan");
    let nodes: Vec<_> = planned.shares.iter().map(|one| one.fleet_node_id).collect();
    assert_eq!(nodes, both());
    // The same request id with other nodes is another request.
    let scan = start(&admin, &auto).await;
    let scans = admin.scans();
    let again = scans.start_scan(&auto, admin.options()).await;
    let again = again.expect("answers");
    assert!(again.existing);
    assert_eq!(again.scan.expect("a scan").scan_id, scan.id);
    let changed = StartScanRequest {
        auto: false,
        fleet_node_ids: both(),
        ..auto
    };
    let refusal = scans.start_scan(&changed, admin.options()).await;
    refused(refusal, Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_plans_each_run_for_the_nodes_of_its_site() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let (a, mut on_a) = node(&world, &admin, &["10.6.0.0/29"]).await;
    let site_id = admin.site_of(&a).await;
    let create = CreateScheduleRequest {
        name: "nightly".to_owned(),
        site_id,
        request: Some(target("10.6.0.1-14", &["4028"])),
        timing: Some(ScheduleTiming {
            when: "@daily".to_owned(),
            time_zone: "UTC".to_owned(),
            ..ScheduleTiming::default()
        }),
        ..CreateScheduleRequest::default()
    };
    let schedules = ScheduleClient::new(world.channel());
    let created = schedules.create_schedule(&create, admin.options()).await;
    let schedule = created.expect("created").schedule.expect("a schedule");
    assert_eq!((schedule.fleet_node_id, schedule.site_id), (0, site_id));
    let run = RunScheduleRequest {
        schedule_id: schedule.schedule_id,
    };
    let started = async || {
        let started = schedules.run_schedule(&run, admin.options()).await;
        Started::known(&admin, &started.expect("started").scan_id)
    };
    let scan = started().await;
    let (command, _) = on_a.command().await;
    on_a.ack(&command, AckCode::Ok).await;
    let first = scan.is("SCAN_STATE_COMPLETED").await;
    assert_eq!((first.shares.len(), first.site_id), (1, site_id));
    assert_eq!(first.ledger.expect("a summary").skipped, 7);
    // A second node of the site covers the rest from the next run on.
    let (b, mut on_b) = node(&world, &admin, &["10.6.0.8/29"]).await;
    assert_eq!(site(&admin, &[&a, &b]).await, site_id);
    let scan = started().await;
    for stream in [&mut on_a, &mut on_b] {
        let (command, _) = stream.command().await;
        stream.ack(&command, AckCode::Ok).await;
    }
    let second = scan.is("SCAN_STATE_COMPLETED").await;
    assert_eq!(second.shares.len(), 2);
    assert_eq!(second.ledger.expect("a summary").skipped, 0);
}

/// The nodes are copied in the database, because enrolling a thousand takes minutes. The times are printed, for
/// docs/performance.md: they must grow with the number of nodes.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_over_the_most_nodes_has_a_share_for_each() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let (first, _stream) = node(&world, &admin, &["10.0.0.0/26"]).await;
    let site_id = admin.site_of(&first).await;
    let url = format!("sqlite://{}/fleet.db", world.folder().display());
    let database = Database::connect(&url).await.expect("opened");
    let options = || admin.options().timeout(Duration::from_secs(180));
    let mut copied = 1;
    for (count, network) in [(64, "10.0.0.0/20"), (1_024, "10.0.0.0/16")] {
        let others =
            "org_id, site_id, state, encryption_key, keys_proved, created_at, duplicate_identity";
        let copy = format!(
            "WITH RECURSIVE n (i) AS (SELECT {copied} UNION ALL SELECT i + 1 FROM n WHERE i < {last})
            INSERT INTO node (name, identity_key, hello, {others}) SELECT name || '-' || i, randomblob(32),
            replace(hello, '10.0.0.0/26', '10.0.' || (i / 4) || '.' || (i % 4 * 64) || '/26'), {others} FROM node, n WHERE node.id = {node}",
            last = count - 1,
            node = first.id,
        );
        database.execute_unprepared(&copy).await.expect("copied");
        copied = count;
        let request = on_site(site_id, target(network, &["4028"]));
        let began = Instant::now();
        let wanted = PlanScanRequest {
            request: request.request.clone(),
            site_id,
            ..PlanScanRequest::default()
        };
        let planned = admin.scans().plan_scan(&wanted, options()).await;
        let planned = planned.expect("a plan");
        let planning = began.elapsed();
        assert_eq!(planned.shares.len(), count);
        assert_eq!(planned.uncovered, 0);
        let began = Instant::now();
        let started = admin.scans().start_scan(&request, options()).await;
        let scan = started.expect("starts").scan.expect("a scan");
        let starting = began.elapsed();
        assert_eq!(scan.shares.len(), count);
        let nodes = u32::try_from(count).expect("a count");
        eprintln!(
            "{count} nodes: planned in {planning:?} ({:?} for a node), started in {starting:?} ({:?} for a node)",
            planning / nodes,
            starting / nodes
        );
    }
}
