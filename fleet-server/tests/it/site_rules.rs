//! The rules of a site bind every scan of its nodes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleet_core::Role;
use fleet_wire::{
    Code, RpcError,
    admin::DiscoverOnFleetNodeRequest,
    client::Incoming,
    fleet::{
        ExcludeTargetsRequest, ListSitesRequest, PlanScanRequest, ScanPriority,
        SetBlackoutsRequest, StartScanRequest, StartScanResponse,
    },
    gateway::AckCode,
    pairing::discover_request::Mode,
};

use crate::harness::{
    Enrolled, Operator, Profile, Started, World, list, refused, start, stream_refused, target,
    unique,
};

impl Operator {
    /// The site of a node.
    pub(crate) async fn site_of(&self, node: &Enrolled) -> i64 {
        let client = self.sites();
        let listed = client.list_sites(&ListSitesRequest {}, self.options());
        let sites = listed.await.expect("listed").sites;
        let found = sites.iter().find(|site| site.fleet_node_ids == [node.id.0]);
        found.expect("a site").site_id
    }

    pub(crate) async fn black_out(&self, site_id: i64, blackouts: &str) -> Result<(), RpcError> {
        let request = SetBlackoutsRequest {
            site_id,
            time_zone: String::new(),
            blackouts: blackouts.to_owned(),
        };
        let sites = self.sites();
        sites
            .set_blackouts(&request, self.options())
            .await
            .map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_excluded_target_is_named_in_the_plan_and_never_sent_to_a_node() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let enrolled = Enrolled::new(&world, &admin).await;
    let request = ExcludeTargetsRequest {
        site_id: admin.site_of(&enrolled).await,
        targets: "10.0.0.2".to_owned(),
        reason: "printer".to_owned(),
    };
    let sites = admin.sites();
    sites
        .exclude_targets(&request, admin.options())
        .await
        .expect("excluded");
    let mut node = enrolled.connect(&world, Profile::upstream()).await;

    let wanted = || target("10.0.0.0/29", &["80"]);
    let plan = PlanScanRequest {
        fleet_node_id: enrolled.id.0,
        request: Some(wanted()),
        ..PlanScanRequest::default()
    };
    let plan = admin.scans().plan_scan(&plan, admin.options()).await;
    let plan = plan.expect("a plan");
    let named = |reasons: &[fleet_wire::fleet::ReasonCount]| {
        let excluded = reasons.iter().find(|one| one.reason.contains("printer"));
        let excluded = excluded.expect("the exclude");
        (excluded.count, excluded.example.clone())
    };
    assert_eq!(named(&plan.skipped_reasons), (1, "10.0.0.2".to_owned()));
    assert!(
        plan.notes
            .iter()
            .any(|note| note.contains("10.0.0.2 is skipped")),
        "{:?}",
        plan.notes
    );

    let scan = start(&admin, &enrolled, wanted()).await;
    let (command, sent) = node.command().await;
    match sent.mode {
        Some(Mode::IpList(list)) => assert_eq!(
            list.ip_addresses,
            ["10.0.0.1", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        ),
        other => panic!("not a list: {other:?}"),
    }
    node.ack(&command, AckCode::Ok).await;
    let ended = scan.is("SCAN_STATE_COMPLETED").await;
    let ledger = ended.ledger.expect("a summary");
    assert_eq!(named(&ledger.skipped_reasons), (1, "10.0.0.2".to_owned()));

    // The upstream call is bound too.
    let upstream = DiscoverOnFleetNodeRequest {
        fleet_node_id: enrolled.id.0,
        request: Some(list(&["10.0.0.2"], &["80"])),
    };
    let stream = admin
        .admin()
        .discover_on_fleet_node(&upstream, admin.options())
        .await;
    let error = stream_refused(stream.map(Incoming::into_stream), Code::InvalidArgument).await;
    assert!(error.message.contains("printer"), "{}", error.message);
}

/// A window of two hours around now.
pub(crate) fn around_now() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    let hour = now.as_secs() / 3_600 % 24;
    format!("{hour:02}:00-{:02}:00", (hour + 2) % 24)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blackout_refuses_people_and_holds_schedules_back() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &admin).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let site = admin.site_of(&enrolled).await;
    for (windows, error) in [("00:00-24:00", "no minute"), ("25:00-26:00", "25:00-26:00")] {
        let answer = refused(admin.black_out(site, windows).await, Code::InvalidArgument);
        assert!(answer.message.contains(error), "{}", answer.message);
    }
    admin.black_out(site, &around_now()).await.expect("set");

    let ask = |who: &Operator, priority: ScanPriority, override_blackout| {
        let request = StartScanRequest {
            request_id: format!("scan {}", unique()),
            fleet_node_id: enrolled.id.0,
            request: Some(list(&["10.0.0.1"], &["80"])),
            priority: priority.into(),
            override_blackout,
            ..StartScanRequest::default()
        };
        let (scans, options) = (who.scans(), who.options());
        async move { scans.start_scan(&request, options).await }
    };
    let id = |answer: Result<StartScanResponse, RpcError>| {
        answer.expect("started").scan.expect("a scan").scan_id
    };
    let now = ask(&operator, ScanPriority::Interactive, false).await;
    let error = refused(now, Code::FailedPrecondition);
    assert!(
        error.message.contains("has a blackout") && error.message.contains(":00 UTC"),
        "{}",
        error.message
    );
    let upstream = DiscoverOnFleetNodeRequest {
        fleet_node_id: enrolled.id.0,
        request: Some(list(&["10.0.0.1"], &["80"])),
    };
    let stream = admin
        .admin()
        .discover_on_fleet_node(&upstream, admin.options())
        .await;
    stream_refused(stream.map(Incoming::into_stream), Code::FailedPrecondition).await;
    // Only an administrator may override it.
    let override_it = ask(&operator, ScanPriority::Interactive, true).await;
    refused(override_it, Code::PermissionDenied);

    let scheduled = id(ask(&operator, ScanPriority::Scheduled, false).await);
    let urgent = id(ask(&admin, ScanPriority::Interactive, true).await);
    // The urgent scan gets a command although the scheduled one waited first.
    let (command, _) = node.command().await;
    node.ack(&command, AckCode::Ok).await;
    Started::known(&admin, &urgent)
        .is("SCAN_STATE_COMPLETED")
        .await;
    let waiting = Started::known(&admin, &scheduled).get().await;
    assert_eq!(waiting.started_at, None, "{waiting:?}");
    let audited = world.audited(admin.org, "scan.start").await;
    let overriding = |row: &&fleet_store::AuditRow| row.entry.subject.contains("in spite of");
    assert_eq!(audited.iter().filter(overriding).count(), 1);

    // It starts when the blackout ends.
    drop(node);
    world.clock.pass(Duration::from_secs(2 * 3_600 + 60));
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let (command, _) = node.command().await;
    node.ack(&command, AckCode::Ok).await;
    Started::known(&admin, &scheduled)
        .is("SCAN_STATE_COMPLETED")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_exclude_within_its_bounds_reaches_the_rules() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let enrolled = Enrolled::new(&world, &admin).await;
    // Longer than other requests may be, with a comment for each target.
    let targets: Vec<String> = (1..=200)
        .map(|host| format!("10.0.0.{host} # {}", "the reason in words ".repeat(10)))
        .collect();
    let targets = targets.join("\n");
    assert!(
        (20_000..65_536).contains(&targets.len()),
        "{}",
        targets.len()
    );
    let request = ExcludeTargetsRequest {
        site_id: admin.site_of(&enrolled).await,
        targets,
        reason: "printers".to_owned(),
    };
    let sites = admin.sites();
    let excluded = sites.exclude_targets(&request, admin.options());
    excluded.await.expect("excluded");
}
