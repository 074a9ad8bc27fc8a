//! `fleet.v1.ScheduleService`: scans that are repeated at set times.

use std::time::Duration;

use fleet_inventory::{Basis, TimingText};
use fleet_store::{ScheduleRow, ScheduleRunRow};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        CreateScheduleRequest, CreateScheduleResponse, DeleteScheduleRequest,
        DeleteScheduleResponse, GetScheduleRequest, GetScheduleResponse, ListSchedulesRequest,
        ListSchedulesResponse, PauseScheduleRequest, PauseScheduleResponse, PlannedRun,
        PreviewScheduleRequest, PreviewScheduleResponse, ResumeScheduleRequest,
        ResumeScheduleResponse, RunScheduleRequest, RunScheduleResponse, ScanState, Schedule,
        ScheduleRun, ScheduleService, ScheduleTiming, UpdateScheduleRequest,
        UpdateScheduleResponse,
    },
};

use super::Api;
use crate::{
    convert,
    failure::Answered,
    planning::{self, Named},
    schedules::{self, Wanted},
};

/// Default and maximum number of runs in a preview.
const PREVIEW: (u32, u32) = (5, 50);

impl ScheduleService for Api {
    async fn create_schedule(
        &self,
        context: Context,
        request: CreateScheduleRequest,
    ) -> Result<Reply<CreateScheduleResponse>, RpcError> {
        let call = self.operator(&context)?;
        let wanted = Wanted {
            name: request.name,
            choice: planning::choice(Named {
                node: request.fleet_node_id,
                nodes: &request.fleet_node_ids,
                site: request.site_id,
                auto: request.auto,
            })?,
            request: convert::scan_request(request.request)?,
            timing: text(request.timing),
        };
        let created = schedules::create(&self.app, &call, wanted).await?;
        Ok(Reply::new(CreateScheduleResponse {
            schedule: Some(schedule(created)),
        }))
    }

    async fn update_schedule(
        &self,
        context: Context,
        request: UpdateScheduleRequest,
    ) -> Result<Reply<UpdateScheduleResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = convert::id("schedule_id", &request.schedule_id)?;
        let wanted = Wanted {
            name: request.name,
            choice: planning::choice(Named {
                node: request.fleet_node_id,
                nodes: &request.fleet_node_ids,
                site: request.site_id,
                auto: request.auto,
            })?,
            request: convert::scan_request(request.request)?,
            timing: text(request.timing),
        };
        let updated = schedules::update(&self.app, &call, id, wanted).await?;
        Ok(Reply::new(UpdateScheduleResponse {
            schedule: Some(schedule(updated)),
        }))
    }

    async fn list_schedules(
        &self,
        context: Context,
        _: ListSchedulesRequest,
    ) -> Result<Reply<ListSchedulesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let rows = self.app.store.schedules(call.org).await.answered()?;
        Ok(Reply::new(ListSchedulesResponse {
            schedules: rows.into_iter().map(schedule).collect(),
        }))
    }

    async fn get_schedule(
        &self,
        context: Context,
        request: GetScheduleRequest,
    ) -> Result<Reply<GetScheduleResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = convert::id("schedule_id", &request.schedule_id)?;
        let found = self.app.store.schedule(call.org, id).await.answered()?;
        let (row, runs) = found.ok_or_else(|| schedules::unknown(id))?;
        Ok(Reply::new(GetScheduleResponse {
            schedule: Some(schedule(row)),
            last_runs: runs.into_iter().map(run).collect(),
        }))
    }

    async fn pause_schedule(
        &self,
        context: Context,
        request: PauseScheduleRequest,
    ) -> Result<Reply<PauseScheduleResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = convert::id("schedule_id", &request.schedule_id)?;
        let paused = schedules::pause(&self.app, &call, id).await?;
        Ok(Reply::new(PauseScheduleResponse {
            schedule: Some(schedule(paused)),
        }))
    }

    async fn resume_schedule(
        &self,
        context: Context,
        request: ResumeScheduleRequest,
    ) -> Result<Reply<ResumeScheduleResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = convert::id("schedule_id", &request.schedule_id)?;
        let resumed = schedules::resume(&self.app, &call, id).await?;
        Ok(Reply::new(ResumeScheduleResponse {
            schedule: Some(schedule(resumed)),
        }))
    }

    async fn run_schedule(
        &self,
        context: Context,
        request: RunScheduleRequest,
    ) -> Result<Reply<RunScheduleResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = convert::id("schedule_id", &request.schedule_id)?;
        let scan = schedules::run_now(&self.app, &call, id).await?;
        Ok(Reply::new(RunScheduleResponse {
            scan_id: scan.to_string(),
        }))
    }

    async fn delete_schedule(
        &self,
        context: Context,
        request: DeleteScheduleRequest,
    ) -> Result<Reply<DeleteScheduleResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = convert::id("schedule_id", &request.schedule_id)?;
        schedules::delete(&self.app, &call, id).await?;
        Ok(Reply::new(DeleteScheduleResponse {}))
    }

    async fn preview_schedule(
        &self,
        context: Context,
        request: PreviewScheduleRequest,
    ) -> Result<Reply<PreviewScheduleResponse>, RpcError> {
        self.operator(&context)?;
        let now = schedules::clock(&self.app).await?;
        let timing = schedules::timing(&text(request.timing), now)?;
        let count = convert::page_size(request.count, PREVIEW.0, PREVIEW.1);
        let basis = Basis {
            schedule: None,
            since: now,
        };
        let runs = timing.runs(basis, now).take(count as usize);
        let runs = runs.map(|run| PlannedRun {
            due_at: Some(convert::timestamp(run.due)),
            local: timing.local_text(run.due),
        });
        Ok(Reply::new(PreviewScheduleResponse {
            runs: runs.collect(),
        }))
    }
}

/// The texts of a timing on the wire. The bounds of the message are checked before.
fn text(timing: Option<ScheduleTiming>) -> TimingText {
    let timing = timing.unwrap_or_default();
    let seconds = timing.jitter.map_or(0, |jitter| jitter.seconds);
    TimingText {
        when: timing.when,
        zone: timing.time_zone,
        jitter: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        blackouts: timing.blackouts,
    }
}

fn schedule(row: ScheduleRow) -> Schedule {
    let timing = row.scan.timing;
    let is_paused = row.paused.is_some();
    let (paused_at, paused_reason) = row.paused.unzip();
    let (node, nodes, site_id, auto) = planning::named(&row.scan.choice);
    Schedule {
        schedule_id: row.id.to_string(),
        name: row.scan.name,
        fleet_node_id: node,
        node_name: if node > 0 {
            row.node_name
        } else {
            String::new()
        },
        request: Some(convert::discover_request(row.scan.request)),
        timing: Some(ScheduleTiming {
            when: timing.when,
            time_zone: timing.zone,
            jitter: Some(convert::duration(timing.jitter)),
            blackouts: timing.blackouts,
        }),
        operator: row.operator_email,
        created_at: Some(convert::timestamp(row.created_at)),
        paused_at: paused_at.map(convert::timestamp),
        paused_reason: paused_reason.unwrap_or_default(),
        next_run_at: row
            .next
            .filter(|_| !is_paused)
            .map(|run| convert::timestamp(run.at)),
        last_scan_id: row
            .last_scan
            .map(|scan| scan.to_string())
            .unwrap_or_default(),
        last_scan_state: row
            .last_state
            .map_or(ScanState::Unspecified, convert::scan_state)
            .into(),
        runs: i64::try_from(row.runs).unwrap_or(i64::MAX),
        missed: i64::try_from(row.missed).unwrap_or(i64::MAX),
        fleet_node_ids: nodes,
        site_id,
        auto,
    }
}

fn run(row: ScheduleRunRow) -> ScheduleRun {
    ScheduleRun {
        due_at: Some(convert::timestamp(row.due)),
        at: Some(convert::timestamp(row.at)),
        scan_id: row.scan.map(|scan| scan.to_string()).unwrap_or_default(),
        missed: i64::from(row.missed),
        reason: row.reason,
    }
}
