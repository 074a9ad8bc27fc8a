//! `fleetctl schedule`: scans that are repeated at set times.

use std::io::{self, Write};

use fleet_wire::{
    RpcError,
    fleet::{
        CreateScheduleRequest, DeleteScheduleRequest, GetScheduleRequest, ListSchedulesRequest,
        PauseScheduleRequest, PlannedRun, PreviewScheduleRequest, ResumeScheduleRequest,
        RunScheduleRequest, Schedule as Row, ScheduleRun, ScheduleTiming, UpdateScheduleRequest,
    },
    lines::outcome,
};

use crate::{
    cli::{Format, Schedule, Scheduled, Timing},
    failure::Failure,
    output::{self, Rows},
    scans,
    server::Server,
    times,
};

pub(crate) async fn run(server: &Server, format: Format, command: Schedule) -> Result<u8, Failure> {
    let schedules = &server.schedules;
    match command {
        Schedule::Create(new) => {
            let chosen = new.target.choice.resolve(server).await?;
            let request = CreateScheduleRequest {
                fleet_node_id: chosen.fleet_node_id,
                fleet_node_ids: chosen.fleet_node_ids,
                site_id: chosen.site_id,
                auto: chosen.auto,
                request: Some(scans::request(new.target.targets)?),
                name: new.name,
                timing: Some(timing(new.timing)),
            };
            let created = schedules.create_schedule(&request, server.call()?).await?;
            output::one(format, &created.schedule.unwrap_or_default())?;
        }
        Schedule::Update { schedule, new } => update(server, format, &schedule, new).await?,
        Schedule::List => output::rows(format, &list(server).await?)?,
        Schedule::Show { schedule } => show(server, format, &schedule).await?,
        Schedule::Pause { schedule } => {
            let request = PauseScheduleRequest {
                schedule_id: find(server, &schedule).await?,
            };
            let paused = schedules.pause_schedule(&request, server.call()?).await?;
            output::one(format, &paused.schedule.unwrap_or_default())?;
        }
        Schedule::Resume { schedule } => {
            let request = ResumeScheduleRequest {
                schedule_id: find(server, &schedule).await?,
            };
            let resumed = schedules.resume_schedule(&request, server.call()?).await?;
            output::one(format, &resumed.schedule.unwrap_or_default())?;
        }
        Schedule::Run { schedule } => {
            let request = RunScheduleRequest {
                schedule_id: find(server, &schedule).await?,
            };
            let started = schedules.run_schedule(&request, server.call()?).await?;
            match format {
                Format::Json | Format::Ndjson => output::line(&mut io::stdout(), &started)?,
                Format::Table | Format::Wide | Format::Csv => {
                    writeln!(io::stdout(), "{}", started.scan_id)?
                }
            }
        }
        Schedule::Delete { schedule } => {
            let request = DeleteScheduleRequest {
                schedule_id: find(server, &schedule).await?,
            };
            schedules.delete_schedule(&request, server.call()?).await?;
        }
        Schedule::Preview { timing, count } => {
            let request = PreviewScheduleRequest {
                timing: Some(self::timing(timing)),
                count,
            };
            let shown = schedules.preview_schedule(&request, server.call()?).await?;
            output::rows(format, &shown.runs)?;
        }
    }
    Ok(0)
}

async fn update(
    server: &Server,
    format: Format,
    schedule: &str,
    new: Scheduled,
) -> Result<(), Failure> {
    let chosen = new.target.choice.resolve(server).await?;
    let request = UpdateScheduleRequest {
        schedule_id: find(server, schedule).await?,
        fleet_node_id: chosen.fleet_node_id,
        fleet_node_ids: chosen.fleet_node_ids,
        site_id: chosen.site_id,
        auto: chosen.auto,
        request: Some(scans::request(new.target.targets)?),
        name: new.name,
        timing: Some(timing(new.timing)),
    };
    let updated = server.schedules.update_schedule(&request, server.call()?);
    let updated = updated.await?.schedule.unwrap_or_default();
    Ok(output::one(format, &updated)?)
}

async fn show(server: &Server, format: Format, schedule: &str) -> Result<(), Failure> {
    let request = GetScheduleRequest {
        schedule_id: find(server, schedule).await?,
    };
    let found = server.schedules.get_schedule(&request, server.call()?);
    let found = found.await?;
    if !format.is_table() {
        if matches!(format, Format::Csv) {
            output::rows(format, &found.last_runs)?;
        } else {
            output::document(&mut io::stdout(), &found)?;
        }
        return Ok(());
    }
    output::one(format, &found.schedule.unwrap_or_default())?;
    writeln!(io::stdout())?;
    Ok(output::rows(format, &found.last_runs)?)
}

async fn list(server: &Server) -> Result<Vec<Row>, Failure> {
    let listed = server
        .schedules
        .list_schedules(&ListSchedulesRequest {}, server.call()?);
    Ok(listed.await?.schedules)
}

/// The id of a schedule that is named by its id or its name.
async fn find(server: &Server, wanted: &str) -> Result<String, Failure> {
    Ok(pick(list(server).await?, wanted)?)
}

fn pick(schedules: Vec<Row>, wanted: &str) -> Result<String, RpcError> {
    let found = schedules
        .into_iter()
        .find(|row| row.schedule_id == wanted || row.name == wanted);
    found.map(|row| row.schedule_id).ok_or_else(|| {
        RpcError::not_found(format!(
            "no schedule `{}`: `fleetctl schedule list` shows all",
            output::plain(wanted)
        ))
    })
}

fn timing(timing: Timing) -> ScheduleTiming {
    ScheduleTiming {
        when: timing.when,
        time_zone: timing.zone,
        jitter: Some(times::seconds(timing.jitter)),
        blackouts: timing.blackouts.join("; "),
    }
}

/// The state of a schedule in one line.
fn state(row: &Row) -> String {
    match (&row.paused_at, &row.next_run_at) {
        (Some(_), _) => row.paused_reason.clone(),
        (None, Some(_)) => "active".to_owned(),
        (None, None) => "no run is left".to_owned(),
    }
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &[
        "Schedule",
        "Name",
        "Next run",
        "State",
        "When",
        "Zone",
        "Jitter",
        "Blackouts",
        "Node",
        "Targets",
        "Runs",
        "Missed",
        "Last scan",
        "Last state",
        "Acts for",
    ];
    const OPTIONAL: &'static [&'static str] = &[
        "Blackouts",
        "Jitter",
        "Acts for",
        "Last scan",
        "Last state",
        "Runs",
        "Missed",
        "Zone",
        "Targets",
        "Node",
        "Schedule",
    ];
    const WHOLE: &'static [&'static str] = &["Schedule", "Last scan"];

    fn cells(&self) -> Vec<String> {
        let timing = self.timing.clone().unwrap_or_default();
        let jitter = timing.jitter.map_or(0, |jitter| jitter.seconds);
        let last = if self.last_scan_id.is_empty() {
            ""
        } else {
            outcome(self.last_scan_state())
        };
        vec![
            self.schedule_id.clone(),
            self.name.clone(),
            times::timestamp(self.next_run_at.as_ref()),
            state(self),
            timing.when,
            timing.time_zone,
            if jitter == 0 {
                String::new()
            } else {
                format!("{jitter} s")
            },
            timing.blackouts,
            nodes_of(self),
            scans::targets(self.request.as_ref()),
            self.runs.to_string(),
            self.missed.to_string(),
            self.last_scan_id.clone(),
            last.to_owned(),
            self.operator.clone(),
        ]
    }
}

impl Rows for ScheduleRun {
    const HEAD: &'static [&'static str] = &["Due", "At", "Scan", "Missed before", "Reason"];
    const OPTIONAL: &'static [&'static str] = &["At"];
    const WHOLE: &'static [&'static str] = &["Scan"];

    fn cells(&self) -> Vec<String> {
        vec![
            times::timestamp(self.due_at.as_ref()),
            times::timestamp(self.at.as_ref()),
            self.scan_id.clone(),
            self.missed.to_string(),
            self.reason.clone(),
        ]
    }
}

impl Rows for PlannedRun {
    const HEAD: &'static [&'static str] = &["Due", "Local time"];

    fn cells(&self) -> Vec<String> {
        vec![times::timestamp(self.due_at.as_ref()), self.local.clone()]
    }
}

/// The nodes of a schedule as its operator named them.
fn nodes_of(row: &Row) -> String {
    let ids: Vec<String> = row.fleet_node_ids.iter().map(ToString::to_string).collect();
    match (row.auto, row.site_id) {
        (true, _) => "auto".to_owned(),
        (false, 0) if ids.is_empty() => row.node_name.clone(),
        (false, 0) => ids.join(" "),
        (false, site) => format!("site {site}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_names_its_nodes() {
        let one = Row {
            fleet_node_id: 3,
            node_name: "barn-1".to_owned(),
            ..Row::default()
        };
        let several = Row {
            fleet_node_ids: vec![3, 5],
            ..Row::default()
        };
        let site = Row {
            site_id: 2,
            ..Row::default()
        };
        let auto = Row {
            auto: true,
            ..Row::default()
        };
        let shown = [one, several, site, auto].map(|row| nodes_of(&row));
        assert_eq!(shown, ["barn-1", "3 5", "site 2", "auto"]);
    }

    #[test]
    fn a_schedule_is_found_by_its_id_or_name() {
        let rows = || {
            ["nightly", "hourly"].map(|name| Row {
                schedule_id: format!("id of {name}"),
                name: name.to_owned(),
                ..Row::default()
            })
        };
        for wanted in ["hourly", "id of hourly"] {
            let found = pick(rows().into(), wanted).expect(wanted);
            assert_eq!(found, "id of hourly");
        }
        let refused = pick(rows().into(), "weekly").expect_err("none").message;
        assert!(refused.contains("`weekly`"), "{refused}");
    }

    #[test]
    fn the_state_names_the_reason_of_a_pause() {
        let mut row = Row::default();
        assert_eq!(state(&row), "no run is left");
        row.next_run_at = Some(fleet_wire::Timestamp::default());
        assert_eq!(state(&row), "active");
        row.paused_at = Some(fleet_wire::Timestamp::default());
        row.paused_reason = "paused by ann@acme.test".to_owned();
        assert_eq!(state(&row), "paused by ann@acme.test");
    }
}
