//! The disk fills up 200 times while operators create codes and a node reports devices. [`Acknowledged`] records every
//! write that the server confirmed. At the end, a new server opens the same database and must have every confirmed code
//! and device. The scan that ran all the time must end with exactly the confirmed devices.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use fleet_store::{MigrateMode, SqlStore};
use fleet_wire::{
    Code, RpcError,
    fleet::{GetScanRequest, ListDevicesRequest, ScanState},
    gateway::{AckCode, ControlAck, DiscoveredDeviceReport, ReportDiscoveredDevicesRequest},
    pairing::{DiscoverRequest, NmapModeRequest, discover_request::Mode},
};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};

use super::{fleet, tmpfs::Tmpfs};
use crate::{
    database,
    live::{Live, Node},
};

/// How often the disk fills up.
const ROUNDS: usize = 200;
/// Writes per round while the disk has space.
const BEFORE: usize = 4;
/// Rejected writes after which the server counts as aware of the full disk.
const NOTICED: usize = 3;
/// Successful writes after which the disk counts as not full.
const MOST_ATTEMPTS: usize = 3_000;
/// Maximum delay until readiness turns red after a failed write, and green after space is available (SPEC 12).
const RED: Duration = Duration::from_secs(2);
/// Maximum time until service returns after space is available.
const GREEN: Duration = Duration::from_secs(10);
/// Readiness is checked in every tenth round, because each check takes up to two seconds.
const WATCHED: usize = 10;
/// 16,382 addresses on one port. The quota of this single command outlasts all rounds.
const NETWORK: (&str, Ipv4Addr) = ("10.20.0.0/18", Ipv4Addr::new(10, 20, 0, 0));

/// The confirmed writes.
#[derive(Debug, Default)]
struct Acknowledged {
    codes: BTreeSet<i64>,
    devices: BTreeSet<String>,
    answers: u64,
    rejected: u64,
}

pub(super) fn sqlite() -> Result<Vec<String>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let disk = Tmpfs::mount(12 << 20)?;
        let url = format!("sqlite://{}/fleet.db", disk.path().display());
        rounds("SQLite", &disk, &url).await
    })
}

pub(super) fn postgres() -> Result<Vec<String>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let disk = Tmpfs::mount(48 << 20)?;
        let server = database::postgres_server()?;
        let admin = Database::connect(&server).await?;
        let name = format!("fleet_faults_{}", std::process::id());
        let folder = disk.path().join("tablespace");
        give_to_postgres(&admin, disk.path(), &folder).await?;
        admin
            .execute_unprepared(&format!(
                "CREATE TABLESPACE {name} LOCATION '{}'",
                folder.display()
            ))
            .await?;
        admin
            .execute_unprepared(&format!("CREATE DATABASE {name} TABLESPACE {name}"))
            .await?;
        let proved = rounds("PostgreSQL", &disk, &database::beside(&server, &name)?).await;
        disk.free()?;
        admin
            .execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)"))
            .await?;
        admin
            .execute_unprepared(&format!("DROP TABLESPACE {name}"))
            .await?;
        proved
    })
}

/// Gives the tablespace folder to the server process, and grants access to its parent folders.
async fn give_to_postgres(admin: &DatabaseConnection, mount: &Path, folder: &Path) -> Result<()> {
    let data = admin
        .query_one_raw(sea_orm::Statement::from_string(
            admin.get_database_backend(),
            "SHOW data_directory",
        ))
        .await?
        .context("a data directory")?
        .try_get_by_index::<String>(0)?;
    let owner = std::fs::metadata(&data).with_context(|| format!("looking at {data}"))?;
    std::fs::set_permissions(mount, std::fs::Permissions::from_mode(0o711))?;
    std::fs::create_dir(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    chown(folder, Some(owner.uid()), Some(owner.gid()))?;
    Ok(())
}

async fn rounds(engine: &str, disk: &Tmpfs, url: &str) -> Result<Vec<String>> {
    let store = SqlStore::open(url, MigrateMode::Migrate).await?;
    let live = Live::start(&store).await?;
    let mut node = live.node("disk").await?;
    let scan = live.scan(&node, wanted()).await?;
    let command = node.command().await?;
    let mut kept = Acknowledged::default();
    let (mut slowest_red, mut slowest_green) = (Duration::ZERO, Duration::ZERO);
    let maintenance = Database::connect(url).await?;
    for round in 0..ROUNDS {
        for _ in 0..BEFORE {
            write(&live, &node, &command, &mut kept)
                .await
                .map_err(|error| {
                    anyhow::anyhow!("round {round}: refused with space left: {error}")
                })?;
        }
        // SQLite never shrinks its write-ahead log. While the log has free space, a full disk has no effect.
        if engine == "SQLite" {
            maintenance
                .execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)")
                .await?;
        }
        disk.fill()?;
        let failed_at = fail(&live, &node, &command, &mut kept)
            .await
            .with_context(|| format!("round {round}"))?;
        if round % WATCHED == 0 {
            let red = until(&live, false, RED).await;
            let red = red.with_context(|| format!("round {round}: readiness stayed green"))?;
            slowest_red = slowest_red.max(red.duration_since(failed_at));
        }
        disk.free()?;
        let freed = Instant::now();
        while let Err(error) = write(&live, &node, &command, &mut kept).await {
            ensure!(
                freed.elapsed() < GREEN,
                "round {round}: still refused {GREEN:?} after space came back: {error}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        slowest_green = slowest_green.max(freed.elapsed());
        if round % WATCHED == 0 {
            until(&live, true, GREEN)
                .await
                .with_context(|| format!("round {round}: readiness stayed red"))?;
        }
    }
    node.ack(ControlAck {
        command_id: command.clone(),
        succeeded: true,
        code: AckCode::Ok.into(),
        ..ControlAck::default()
    })
    .await?;
    ended(&live, &scan, &kept).await?;
    maintenance.close().await?;
    let key = live.key();
    live.stop().await?;
    store.close().await;

    let store = SqlStore::open(url, MigrateMode::Check).await?;
    let live = Live::serve(&store, key).await?;
    let lost = lost(&live, &kept).await?;
    live.stop().await?;
    store.close().await;
    ensure!(
        lost == 0,
        "{lost} of {} acknowledged answers are lost",
        kept.answers
    );
    Ok(vec![format!(
        "{engine}: {ROUNDS} rounds, {} answers acknowledged, {} refused with UNAVAILABLE, {lost} lost; \
         red after {} ms, serving again after {} ms at most",
        kept.answers,
        kept.rejected,
        slowest_red.as_millis(),
        slowest_green.as_millis()
    )])
}

fn wanted() -> DiscoverRequest {
    DiscoverRequest {
        mode: Some(Mode::Nmap(NmapModeRequest {
            target: NETWORK.0.to_owned(),
            ports: vec!["4028".to_owned()],
        })),
        max_rate: 0,
    }
}

/// Codes that are created: an organization may have 1,000 open ones.
const CODES_MOST: usize = 900;

/// Creates a code or reports a device, and records the confirmed write.
async fn write(
    live: &Live,
    node: &Node,
    command: &str,
    kept: &mut Acknowledged,
) -> Result<(), RpcError> {
    let attempt = kept.answers + kept.rejected;
    let answer = if attempt.is_multiple_of(2) && kept.codes.len() < CODES_MOST {
        fleet::create_code(live).await.map(|id| {
            kept.codes.insert(id);
        })
    } else {
        report(node, command, attempt).await.map(|identifier| {
            kept.devices.insert(identifier);
        })
    };
    match answer {
        Ok(()) => {
            kept.answers += 1;
            Ok(())
        }
        Err(error) => {
            kept.rejected += 1;
            Err(error)
        }
    }
}

async fn report(node: &Node, command: &str, number: u64) -> Result<String, RpcError> {
    // Skip the network address and the first host. Each attempt has its own address.
    let number = u32::try_from(number).unwrap_or(u32::MAX) % 16_000;
    let [_, b, c, d] = number.to_be_bytes();
    let device_identifier = format!("mac:02:00:5E:{b:02X}:{c:02X}:{d:02X}");
    let device = DiscoveredDeviceReport {
        device_identifier: device_identifier.clone(),
        ip_address: Ipv4Addr::from(u32::from(NETWORK.1) + 2 + number).to_string(),
        port: "4028".to_owned(),
        url_scheme: "http".to_owned(),
        driver_name: "antminer".to_owned(),
        model: "S19".to_owned(),
        ..DiscoveredDeviceReport::default()
    };
    let request = ReportDiscoveredDevicesRequest {
        hosts: Vec::new(),
        devices: vec![device],
        command_id: command.to_owned(),
    };
    let options = node
        .options()
        .map_err(|error| RpcError::internal(error.to_string()))?;
    let answer = node
        .gateway
        .report_discovered_devices(&request, options)
        .await?;
    if answer.accepted_count == 1 {
        Ok(device_identifier)
    } else {
        Err(RpcError::internal("a good device was rejected"))
    }
}

/// Writes until the full disk has an effect. Every rejection must be UNAVAILABLE. Returns the time of the first failed
/// write.
async fn fail(live: &Live, node: &Node, command: &str, kept: &mut Acknowledged) -> Result<Instant> {
    let mut first = None;
    let mut failures = 0;
    for _ in 0..MOST_ATTEMPTS {
        match write(live, node, command, kept).await {
            Ok(()) => {}
            Err(error) if error.code == Code::Unavailable => {
                failures += 1;
                let first = *first.get_or_insert_with(Instant::now);
                if failures == NOTICED {
                    return Ok(first);
                }
            }
            Err(error) => bail!("a full disk was answered {error}, which is not UNAVAILABLE"),
        }
    }
    bail!("{MOST_ATTEMPTS} writes on a full disk, and {failures} were refused")
}

/// Waits until readiness is `green`. Returns that time.
async fn until(live: &Live, green: bool, limit: Duration) -> Result<Instant> {
    let started = Instant::now();
    loop {
        let asked = Instant::now();
        let ready = fleet::is_ready(live).await?;
        ensure!(
            asked.elapsed() < Duration::from_secs(1),
            "readiness took {:?} to answer",
            asked.elapsed()
        );
        if ready == green {
            return Ok(Instant::now());
        }
        ensure!(started.elapsed() < limit, "after {limit:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Checks that the scan completed with exactly the confirmed devices.
async fn ended(live: &Live, scan: &str, kept: &Acknowledged) -> Result<()> {
    let started = Instant::now();
    loop {
        let request = GetScanRequest {
            scan_id: scan.to_owned(),
        };
        let answer = live.scans()?.get_scan(&request, live.operator()?).await?;
        let found = answer.scan.context("the scan")?;
        if let Some(summary) = &found.ledger {
            ensure!(
                found.state() == ScanState::Completed || found.state() == ScanState::Partial,
                "the scan ended {:?}: {}",
                found.state(),
                found.reason
            );
            ensure!(
                summary.accepted == kept.devices.len() as u64,
                "the scan counts {} accepted devices, {} were acknowledged",
                summary.accepted,
                kept.devices.len()
            );
            return Ok(());
        }
        ensure!(
            started.elapsed() < GREEN,
            "the scan does not end after its ack: {:?}",
            found.state()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Counts confirmed codes and devices that are missing on a new server.
async fn lost(live: &Live, kept: &Acknowledged) -> Result<usize> {
    let codes = fleet::open_codes(live).await?;
    let mut devices = BTreeSet::new();
    let mut request = ListDevicesRequest::default();
    loop {
        let page = live
            .devices()?
            .list_devices(&request, live.operator()?)
            .await?;
        devices.extend(page.devices.into_iter().map(|device| device.identifier));
        match page.next_cursor {
            0 => break,
            cursor => request.cursor = cursor,
        }
    }
    Ok(kept.codes.difference(&codes).count() + kept.devices.difference(&devices).count())
}
