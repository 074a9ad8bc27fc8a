//! A scan's events as JSON lines: the one shape of event streams, of `-o ndjson` and of demonstrations.

use serde_json::{Value, json};

use crate::fleet::{
    DeviceFound, HostFound, Ledger, ReasonCount, ScanEnded, ScanHost, ScanProgress, ScanState,
    WatchScanResponse, watch_scan_response::Event,
};

/// The line of an event, one JSON object whose `type` is `device`, `host`, `progress`, `warning` or `ledger`; none for a sign of
/// life.
pub fn line(message: &WatchScanResponse) -> Option<Value> {
    Some(match message.event.as_ref()? {
        Event::Device(found) => device(message.sequence, found),
        Event::Host(found) => host(message.sequence, found),
        Event::Progress(progress) => self::progress(progress),
        Event::Warning(warning) => {
            json!({ "type": "warning", "seq": message.sequence, "text": warning.text })
        }
        Event::Ended(ended) => self::ended(message.sequence, ended),
    })
}

fn device(sequence: i64, found: &DeviceFound) -> Value {
    json!({
        "type": "device",
        "seq": sequence,
        "device_id": found.device_id,
        "identifier": found.identifier,
        "ip": found.ip,
        "port": found.port,
        "scheme": found.scheme,
        "driver": found.driver,
        "model": found.model,
        "manufacturer": found.manufacturer,
        "firmware": found.firmware,
        "host_name": found.host_name,
        "host_name_source": found.host_name_source,
        "elapsed_ms": found.elapsed_ms,
        "fleet_node_id": found.fleet_node_id,
    })
}

fn host(sequence: i64, found: &HostFound) -> Value {
    let none = ScanHost::default();
    let host = found.host.as_ref().unwrap_or(&none);
    json!({
        "type": "host",
        "seq": sequence,
        "ip": host.ip,
        "mac": host.mac,
        "vendor": host.vendor,
        "host_name": host.host_name,
        "host_name_source": host.host_name_source,
        "open_ports": host.open_ports,
        "reply_port": host.reply_port,
        "reply": host.reply,
        "requests": host.requests,
        "record_command": host.record_command,
        "elapsed_ms": found.elapsed_ms,
        "fleet_node_id": host.fleet_node_id,
    })
}

fn progress(progress: &ScanProgress) -> Value {
    json!({ "type": "progress", "done": progress.done, "total": progress.total, "phase": progress.phase, "elapsed_ms": progress.elapsed_ms })
}

fn ended(sequence: i64, ended: &ScanEnded) -> Value {
    let none = Ledger::default();
    let ledger = ended.ledger.as_ref().unwrap_or(&none);
    json!({
        "type": "ledger",
        "seq": sequence,
        "targets": ledger.targets,
        "identified": ledger.identified,
        "owned_elsewhere": ledger.owned_elsewhere,
        "unidentified": ledger.unidentified,
        "refused": ledger.refused,
        "silent": ledger.silent,
        "skipped": ledger.skipped,
        "targets_unknown": ledger.targets_unknown,
        "not_reached": ledger.not_reached,
        "unknown": ledger.unknown,
        "reported": ledger.reported,
        "accepted": ledger.accepted,
        "rejected": ledger.rejected,
        "owned_elsewhere_reasons": reasons(&ledger.owned_elsewhere_reasons),
        "skipped_reasons": reasons(&ledger.skipped_reasons),
        "rejected_reasons": reasons(&ledger.rejected_reasons),
        "first_device_ms": ledger.first_device_ms,
        "elapsed_ms": ledger.elapsed_ms,
        "outcome": outcome(ended.state()),
        "code": ended.code,
        "reason": ended.reason,
    })
}

fn reasons(counts: &[ReasonCount]) -> Vec<Value> {
    counts.iter().map(|count| json!({ "reason": count.reason, "count": count.count, "example": count.example })).collect()
}

/// The parts that a ledger's targets fall into, in the words that people read; together they are its targets.
pub fn parts(ledger: &Ledger) -> [(&'static str, u64); 8] {
    [
        ("identified", ledger.identified),
        ("identified, belongs elsewhere", ledger.owned_elsewhere),
        ("answered, not identified", ledger.unidentified),
        ("refused", ledger.refused),
        ("silent", ledger.silent),
        ("skipped", ledger.skipped),
        ("not reached", ledger.not_reached),
        ("unknown", ledger.unknown),
    ]
}

/// A state in the word that people read.
pub fn outcome(state: ScanState) -> &'static str {
    match state {
        ScanState::Unspecified => "unknown",
        ScanState::Queued => "queued",
        ScanState::Running => "running",
        ScanState::Completed => "completed",
        ScanState::Partial => "partial",
        ScanState::Failed => "failed",
        ScanState::Canceled => "canceled",
        ScanState::Expired => "expired",
    }
}
