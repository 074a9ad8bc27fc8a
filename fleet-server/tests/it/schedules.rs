//! Schedules through the API: their runs, previews and refusals.

use std::time::Duration;

use fleet_core::Role;
use fleet_wire::{
    Code,
    admin::RevokeFleetNodeRequest,
    fleet::{
        CreateScheduleRequest, GetScheduleRequest, GetScheduleResponse, ListOperatorsRequest,
        ListScansRequest, OperatorClient, PauseScheduleRequest, PreviewScheduleRequest,
        RemoveOperatorRequest, RunScheduleRequest, Scan, ScanPriority, Schedule, ScheduleClient,
        ScheduleTiming,
    },
    gateway::AckCode,
};
use tokio::time::timeout;

use crate::harness::{Enrolled, Operator, Profile, World, eventually, list, refused, soon};

fn every_minute(enrolled: &Enrolled, name: &str) -> CreateScheduleRequest {
    CreateScheduleRequest {
        name: name.to_owned(),
        fleet_node_id: enrolled.id.0,
        request: Some(list(&["10.0.0.1"], &["80"])),
        timing: Some(timing("every 1m", "UTC")),
        ..CreateScheduleRequest::default()
    }
}

fn timing(when: &str, zone: &str) -> ScheduleTiming {
    ScheduleTiming {
        when: when.to_owned(),
        time_zone: zone.to_owned(),
        ..ScheduleTiming::default()
    }
}

fn schedules(world: &World) -> ScheduleClient {
    ScheduleClient::new(world.channel())
}

async fn create(world: &World, by: &Operator, request: CreateScheduleRequest) -> Schedule {
    let client = schedules(world);
    let created = client.create_schedule(&request, by.options());
    created.await.expect("is created").schedule.expect("it")
}

async fn read(world: &World, by: &Operator, id: &str) -> GetScheduleResponse {
    let request = GetScheduleRequest {
        schedule_id: id.to_owned(),
    };
    let read = schedules(world).get_schedule(&request, by.options()).await;
    read.expect("is read")
}

async fn scans(by: &Operator) -> Vec<Scan> {
    let request = ListScansRequest::default();
    let listed = by.scans().list_scans(&request, by.options()).await;
    listed.expect("are listed").scans
}

#[tokio::test(flavor = "multi_thread")]
async fn a_due_run_becomes_a_scan_of_its_creator_behind_interactive_scans() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let made = create(&world, &operator, every_minute(&enrolled, "minutely")).await;
    assert!(made.next_run_at.is_some());
    assert!(scans(&operator).await.is_empty());
    world.clock.pass(Duration::from_secs(61));
    let (command, _) = node.command().await;
    let scan = scans(&operator).await.remove(0);
    assert_eq!(scan.priority(), ScanPriority::Scheduled);
    let id = &made.schedule_id;
    let run = read(&world, &operator, id).await;
    let schedule = run.schedule.expect("it");
    assert_eq!(schedule.operator, scan.started_by);
    assert_eq!((schedule.runs, &schedule.last_scan_id), (1, &scan.scan_id));
    assert_eq!(run.last_runs[0].scan_id, scan.scan_id);
    // The next run is due while the scan still runs.
    world.clock.pass(Duration::from_secs(60));
    eventually(|| async { read(&world, &operator, id).await.last_runs.len() == 2 }).await;
    let left_out = read(&world, &operator, id).await.last_runs.remove(0);
    assert_eq!(left_out.scan_id, "");
    assert!(left_out.reason.contains("had not ended"), "{left_out:?}");
    // After an interruption one run starts, and the others are counted.
    node.ack(&command, AckCode::Ok).await;
    soon(async {
        while scans(&operator).await[0].ended_at.is_none() {
            // The minute may have been longer than the command's deadline: it is then sent again.
            let again = timeout(Duration::from_millis(200), node.command());
            if let Ok((again, _)) = again.await {
                node.ack(&again, AckCode::Ok).await;
            }
        }
    })
    .await;
    world.clock.pass(Duration::from_secs(300));
    eventually(|| async { scans(&operator).await.len() == 2 }).await;
    let schedule = read(&world, &operator, id).await.schedule.expect("it");
    assert_eq!((schedule.runs, schedule.missed), (2, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_be_planned_says_why_and_a_removed_creator_pauses() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let creator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &admin).await;
    let made = create(&world, &creator, every_minute(&enrolled, "minutely")).await;
    let revoke = RevokeFleetNodeRequest {
        fleet_node_id: enrolled.id.0,
        pending_enrollment_id: None,
    };
    let nodes = admin.admin();
    let revoked = nodes.revoke_fleet_node(&revoke, admin.options()).await;
    revoked.expect("is revoked");
    world.clock.pass(Duration::from_secs(61));
    let id = &made.schedule_id;
    eventually(|| async { !read(&world, &admin, id).await.last_runs.is_empty() }).await;
    let run = read(&world, &admin, id).await.last_runs.remove(0);
    let expected = format!("no node {} in this organization", enrolled.id);
    assert_eq!((run.scan_id, run.reason), (String::new(), expected));
    let operators = OperatorClient::new(world.channel());
    let members = operators
        .list_operators(&ListOperatorsRequest::default(), admin.options())
        .await;
    let members = members.expect("are listed").operators;
    let member = members.iter().find(|member| member.email == creator.email);
    let remove = RemoveOperatorRequest {
        operator_id: member.expect("it").operator_id,
    };
    let removed = operators.remove_operator(&remove, admin.options()).await;
    removed.expect("is removed");
    world.clock.pass(Duration::from_secs(60));
    let paused = || async { read(&world, &admin, id).await.schedule.expect("it") };
    eventually(|| async { paused().await.paused_at.is_some() }).await;
    let paused = paused().await;
    assert!(paused.paused_reason.contains("revoked"), "{paused:?}");
    assert_eq!(paused.next_run_at, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_schedule_runs_only_by_hand() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let _node = enrolled.connect(&world, Profile::ours()).await;
    let made = create(&world, &operator, every_minute(&enrolled, "minutely")).await;
    let second = create(&world, &operator, every_minute(&enrolled, "second")).await;
    let pause = PauseScheduleRequest {
        schedule_id: made.schedule_id.clone(),
    };
    let client = schedules(&world);
    let paused = client.pause_schedule(&pause, operator.options());
    paused.await.expect("is paused");
    world.clock.pass(Duration::from_secs(61));
    // The run of the other schedule shows that the server has looked.
    let id = &second.schedule_id;
    eventually(|| async { !read(&world, &operator, id).await.last_runs.is_empty() }).await;
    let id = &made.schedule_id;
    assert_eq!(read(&world, &operator, id).await.last_runs, []);
    let run = RunScheduleRequest {
        schedule_id: id.clone(),
    };
    let client = schedules(&world);
    let started = client.run_schedule(&run, operator.options());
    let scan = started.await.expect("is started").scan_id;
    let all = scans(&operator).await;
    let scan = all.iter().find(|one| one.scan_id == scan).expect("it");
    assert_eq!(scan.priority(), ScanPriority::Interactive);
    let client = schedules(&world);
    let again = client.run_schedule(&run, operator.options());
    let again = refused(again.await, Code::FailedPrecondition).message;
    assert!(again.contains(&scan.scan_id), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_shows_local_times_and_invalid_timings_are_named() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let preview = async |timing, count| {
        let request = PreviewScheduleRequest {
            timing: Some(timing),
            count,
        };
        let client = schedules(&world);
        let shown = client.preview_schedule(&request, operator.options());
        shown.await
    };
    let shown = preview(timing("30 2 * * *", "Asia/Kathmandu"), 3).await;
    let shown = shown.expect("is shown").runs;
    assert_eq!(shown.len(), 3);
    for run in &shown {
        assert!(run.local.ends_with("T02:30:00+05:45"), "{run:?}");
    }
    for (timing, named) in [
        (timing("61 * * * *", "UTC"), "`61`"),
        (timing("@daily", "Mars/Olympus"), "`Mars/Olympus`"),
        (timing("every 5s", "UTC"), "`every 5s`"),
        (
            ScheduleTiming {
                blackouts: "08:00-25:00".to_owned(),
                ..timing("@daily", "UTC")
            },
            "`08:00-25:00`",
        ),
    ] {
        let refused = refused(preview(timing, 0).await, Code::InvalidArgument).message;
        assert!(refused.contains(named), "{refused}");
    }
    let enrolled = Enrolled::new(&world, &operator).await;
    let outside = CreateScheduleRequest {
        request: Some(list(&["8.8.8.8"], &["80"])),
        ..every_minute(&enrolled, "outside")
    };
    let client = schedules(&world);
    let created = client.create_schedule(&outside, operator.options());
    let refused = refused(created.await, Code::InvalidArgument).message;
    assert!(refused.contains("8.8.8.8"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_schedule_within_its_bounds_is_stored() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let addresses: Vec<String> = (0..4_000)
        .map(|number| format!("10.0.{}.{}", number / 250, number % 250 + 1))
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let large = CreateScheduleRequest {
        request: Some(list(&addresses, &["80"])),
        ..every_minute(&enrolled, "large")
    };
    let made = create(&world, &operator, large).await;
    assert_eq!(made.name, "large");
}
