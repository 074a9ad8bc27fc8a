//! Exports: all devices or scans of an organization and the unidentified hosts of a scan as CSV, JSON or NDJSON, and the
//! devices as targets for Prometheus.
//! Rows are read page by page while the caller reads, so that an export takes the memory of one page. Start with
//! [`export`]. Exports of differences are in `exports.rs`.

mod encoder;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use bytes::Bytes;
use encoder::Encoder;
pub(super) use encoder::Format;
use fleet_core::{DeviceId, NodeId, OrgId, Permission, ScanId};
use fleet_store::{
    DeviceOrder, DevicePairing, DevicePosition, DeviceQuery, OperatorIdentity, StoreError,
};
use fleet_wire::{
    RpcError,
    server::{Body, BoxError},
};
use futures::{Stream, StreamExt, stream};
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};

use super::{caller, response::respond};
use crate::{api::search, app::App, auth, call_limits::CallPermit, convert, failure, scans};

/// Rows of a page. A device takes about a kilobyte.
const PAGE: u32 = 500;
/// Scans of one read: each comes with its request, of up to 256 KiB.
const PAGE_OF_SCANS: u32 = 50;

/// Columns of a CSV file of devices: the names of their JSON.
const DEVICE_COLUMNS: &[&str] = &[
    "deviceId",
    "identifier",
    "ip",
    "port",
    "scheme",
    "manufacturer",
    "model",
    "firmware",
    "driver",
    "mac",
    "serial",
    "fleetNodeId",
    "pairingStatus",
    "boundToFleetNodeId",
    "boundToServer",
    "firstSeen",
    "lastSeen",
    "evidence",
    "hostName",
    "hostNameSource",
];

/// Columns of a CSV file of unidentified hosts: the names of their JSON. Several ports or requests share a cell.
const HOST_COLUMNS: &[&str] = &[
    "ip",
    "mac",
    "vendor",
    "hostName",
    "hostNameSource",
    "openPorts",
    "replyPort",
    "reply",
    "requests",
    "reportedAt",
    "recordCommand",
    "fleetNodeId",
];

/// Columns of a CSV file of scans: paths in their JSON.
const SCAN_COLUMNS: &[&str] = &[
    "scanId",
    "nodeName",
    "fleetNodeId",
    "state",
    "priority",
    "createdAt",
    "startedAt",
    "endedAt",
    "startedBy",
    "code",
    "reason",
    "ledger.targets",
    "ledger.identified",
    "ledger.ownedElsewhere",
    "ledger.unidentified",
    "ledger.refused",
    "ledger.silent",
    "ledger.skipped",
    "ledger.notReached",
    "ledger.unknown",
    "ledger.accepted",
    "ledger.rejected",
    "name",
    "shares.nodeName",
    "shares.siteName",
    "shares.state",
];

/// The rows of an export, and the position in them.
enum Rows {
    Devices {
        query: DeviceQuery,
    },
    Scans {
        node: Option<NodeId>,
        before: Option<ScanId>,
    },
    Hosts {
        scan: ScanId,
        after: i64,
    },
    /// Devices in the form of Prometheus' HTTP service discovery.
    Targets {
        node: Option<NodeId>,
        after: DeviceId,
        names: BTreeMap<NodeId, String>,
    },
    End,
}

/// Streams `FILE`, such as `devices.csv`, with the filters of the query: `node=ID`, and for devices `search=TERMS`.
pub(super) async fn export(
    app: &Arc<App>,
    from: IpAddr,
    parts: &Parts,
    file: &str,
) -> Result<Response<Body>, RpcError> {
    let (name, format) = file
        .split_once('.')
        .and_then(|(name, ending)| Some((name, Format::of(ending)?)))
        .ok_or_else(|| unknown(file))?;
    let (columns, rows) = match name {
        "devices" => {
            let Filters { node, search } = Filters::read(parts, true)?;
            let query = DeviceQuery {
                search: search::parse(&search)?,
                node,
                order: DeviceOrder::Id,
                descending: false,
                after: None,
                limit: PAGE,
                now: app.environment.now(),
            };
            (DEVICE_COLUMNS, Rows::Devices { query })
        }
        "scans" => {
            let Filters { node, .. } = Filters::read(parts, false)?;
            let before = None;
            (SCAN_COLUMNS, Rows::Scans { node, before })
        }
        _ => return Err(unknown(file)),
    };
    let encoder = Encoder::new(format, columns);
    let response = respond_with(app, from, parts, encoder, rows).await?;
    Ok(as_file(response, file))
}

/// Streams the unidentified hosts of a scan as `FILE`, such as `hosts.csv`.
pub(super) async fn hosts(
    app: &Arc<App>,
    from: IpAddr,
    parts: &Parts,
    scan: &str,
    file: &str,
) -> Result<Response<Body>, RpcError> {
    let format = file.split_once('.').and_then(|(_, end)| Format::of(end));
    let format = format.ok_or_else(|| unknown(file))?;
    let scan: ScanId = convert::id("scan_id", scan)?;
    let rows = Rows::Hosts { scan, after: 0 };
    let encoder = Encoder::new(format, HOST_COLUMNS);
    let response = respond_with(app, from, parts, encoder, rows).await?;
    Ok(as_file(response, &format!("scan-{scan}-{file}")))
}

/// `name` consists of known words and ids.
fn as_file(mut response: Response<Body>, name: &str) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

/// The devices with an endpoint, in the form that Prometheus' `http_sd_configs` reads.
pub(super) async fn targets(
    app: &Arc<App>,
    from: IpAddr,
    parts: &Parts,
) -> Result<Response<Body>, RpcError> {
    let rows = Rows::Targets {
        node: Filters::read(parts, false)?.node,
        after: DeviceId(0),
        names: BTreeMap::new(),
    };
    respond_with(app, from, parts, Encoder::new(Format::Json, &[]), rows).await
}

async fn respond_with(
    app: &Arc<App>,
    from: IpAddr,
    parts: &Parts,
    encoder: Encoder,
    mut rows: Rows,
) -> Result<Response<Body>, RpcError> {
    let operator = caller::operator(app, parts, from).await?;
    caller::mark_known(parts, &operator);
    let path = parts.uri.path();
    auth::permit(app, &operator, Permission::NodeRead, path, from).await?;
    let permit = auth::count_operator(app, &operator, true)?;
    match &mut rows {
        Rows::Targets { names, .. } => {
            let nodes = app.all_nodes(operator.org).await;
            let nodes = nodes.map_err(|error| failure::storage(&error))?;
            *names = nodes.into_iter().map(|node| (node.id, node.name)).collect();
        }
        // An unknown scan is an error before the first byte, and not an empty file.
        Rows::Hosts { scan, .. } => {
            let page = app.store.scan_hosts(operator.org, *scan, 0, 1).await;
            let page = page.map_err(|error| failure::storage(&error))?;
            if page.is_none() {
                return Err(scans::unknown(app, operator.org, *scan).await);
            }
        }
        Rows::Devices { .. } | Rows::Scans { .. } | Rows::End => {}
    }
    let content_type = encoder.format().content_type();
    let pieces = pieces(app.clone(), operator.org, encoder, rows);
    let body = streamed(app, &operator, parts, permit, pieces);
    Ok(respond(StatusCode::OK, content_type, body))
}

/// The body of a download. It ends when its caller may not read it any more, also while the caller does not read, and
/// holds `permit` until its end.
pub(super) fn streamed(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    parts: &Parts,
    permit: Arc<CallPermit>,
    pieces: impl Stream<Item = Result<Bytes, RpcError>> + Send + 'static,
) -> Body {
    let cut = auth::cut_when_revoked(app, operator, Permission::NodeRead, &parts.extensions);
    let pieces = auth::while_permitted(app.clone(), operator, Permission::NodeRead, pieces);
    let frames = pieces.map(|piece| {
        // The error breaks the connection, so that nobody takes a part for the whole.
        piece.map(Frame::data).map_err(|error| {
            tracing::debug!(%error, "an export ended early");
            BoxError::from(error.to_string())
        })
    });
    Body::new(StreamBody::new(frames)).holding((permit, cut))
}

fn pieces(
    app: Arc<App>,
    org: OrgId,
    encoder: Encoder,
    rows: Rows,
) -> impl Stream<Item = Result<Bytes, RpcError>> + Send {
    stream::unfold((encoder, rows, false), move |(mut encoder, rows, ended)| {
        let app = app.clone();
        async move {
            if ended {
                return None;
            }
            Some(match next(&app, org, rows).await {
                Ok((page, rest)) => {
                    let mut piece = encoder.rows(&page);
                    let ended = matches!(rest, Rows::End);
                    if ended {
                        piece.extend(encoder.end());
                    }
                    (Ok(Bytes::from(piece)), (encoder, rest, ended))
                }
                Err(error) => (Err(failure::storage(&error)), (encoder, Rows::End, true)),
            })
        }
    })
}

/// Reads a page, and returns the rest.
async fn next(app: &Arc<App>, org: OrgId, rows: Rows) -> Result<(Vec<Value>, Rows), StoreError> {
    match rows {
        Rows::Devices { query } => {
            let (page, next) = found(app, org, query.clone()).await?;
            let page = page.iter().map(to_json).collect();
            let rest = next.map_or(Rows::End, |after| Rows::Devices {
                query: DeviceQuery {
                    after: Some(after),
                    ..query
                },
            });
            Ok((page, rest))
        }
        Rows::Hosts { scan, after } => {
            let read = move |app: Arc<App>| async move {
                app.store.scan_hosts(org, scan, after, PAGE).await
            };
            // A scan that was deleted in the meantime has no more hosts.
            let page = app.detached(read).await?.unwrap_or_default();
            let full = page.len() >= PAGE as usize;
            let last = page.last().filter(|_| full).map(|host| host.id);
            let page = page.iter().map(|host| to_json(&convert::scan_host(host)));
            let page = page.collect();
            let rest = last.map_or(Rows::End, |after| Rows::Hosts { scan, after });
            Ok((page, rest))
        }
        Rows::Targets { node, after, names } => {
            let (page, last) = devices(app, org, node, after).await?;
            let page = page.iter().filter_map(|device| target(device, &names));
            let page = page.collect();
            let rest = last.map_or(Rows::End, |after| Rows::Targets { node, after, names });
            Ok((page, rest))
        }
        Rows::Scans { node, before } => {
            let read = move |app: Arc<App>| async move {
                let now = app.environment.now();
                app.store
                    .list_scans(org, node, before, PAGE_OF_SCANS, now)
                    .await
            };
            let page = app.detached(read).await?;
            let full = page.len() >= PAGE_OF_SCANS as usize;
            let last = page.last().filter(|_| full).map(|scan| scan.id);
            let page = page.into_iter().map(convert::scan);
            let page = page.map(|scan| to_json(&scan)).collect();
            let rest = last.map_or(Rows::End, |last| Rows::Scans {
                node,
                before: Some(last),
            });
            Ok((page, rest))
        }
        Rows::End => Ok((Vec::new(), Rows::End)),
    }
}

/// A page of the devices that match, and the position to continue after.
async fn found(
    app: &Arc<App>,
    org: OrgId,
    query: DeviceQuery,
) -> Result<(Vec<fleet_wire::fleet::Device>, Option<DevicePosition>), StoreError> {
    let read = move |app: Arc<App>| async move {
        let page = app.store.search_devices(org, query).await?;
        let ids: Vec<DeviceId> = page.devices.iter().map(|row| row.id).collect();
        let pairings = app.store.pairings_of(org, &ids).await?;
        Ok((page, pairings))
    };
    let (page, mut pairings) = app.detached(read).await?;
    let device = |row: fleet_store::DeviceRow| {
        let pairing = pairings.remove(&row.id).unwrap_or(DevicePairing::NONE);
        convert::device(row, pairing)
    };
    Ok((page.devices.into_iter().map(device).collect(), page.next))
}

/// A page of devices, and the id to continue after.
async fn devices(
    app: &Arc<App>,
    org: OrgId,
    node: Option<NodeId>,
    after: DeviceId,
) -> Result<(Vec<fleet_wire::fleet::Device>, Option<DeviceId>), StoreError> {
    let read = move |app: Arc<App>| async move {
        let rows = app.store.list_devices(org, node, after, PAGE).await?;
        let ids: Vec<DeviceId> = rows.iter().map(|row| row.id).collect();
        let pairings = app.store.pairings_of(org, &ids).await?;
        Ok((rows, pairings))
    };
    let (rows, mut pairings) = app.detached(read).await?;
    let full = rows.len() >= PAGE as usize;
    let last = rows.last().filter(|_| full).map(|row| row.id);
    let device = |row: fleet_store::DeviceRow| {
        let pairing = pairings.remove(&row.id).unwrap_or(DevicePairing::NONE);
        convert::device(row, pairing)
    };
    Ok((rows.into_iter().map(device).collect(), last))
}

/// The JSON of the API.
fn to_json(message: &impl serde::Serialize) -> Value {
    serde_json::to_value(message).unwrap_or_default()
}

/// A target group of Prometheus. Its labels begin with `__meta_`, so that none of them reaches a time series before
/// relabeling chooses it.
fn target(device: &fleet_wire::fleet::Device, names: &BTreeMap<NodeId, String>) -> Option<Value> {
    let ip: IpAddr = device.ip.parse().ok()?;
    let port = u16::try_from(device.port).ok()?;
    let node = names.get(&NodeId(device.fleet_node_id));
    Some(json!({
        "targets": [std::net::SocketAddr::new(ip, port).to_string()],
        "labels": {
            "__meta_fleet_device_id": device.device_id.to_string(),
            "__meta_fleet_identifier": device.identifier,
            "__meta_fleet_ip": device.ip,
            "__meta_fleet_port": port.to_string(),
            "__meta_fleet_scheme": device.scheme,
            "__meta_fleet_manufacturer": device.manufacturer,
            "__meta_fleet_model": device.model,
            "__meta_fleet_firmware": device.firmware,
            "__meta_fleet_mac": device.mac,
            "__meta_fleet_serial": device.serial,
            "__meta_fleet_node_id": device.fleet_node_id.to_string(),
            "__meta_fleet_node": node.map_or("", String::as_str),
            "__meta_fleet_pairing_status": device.pairing_status,
        },
    }))
}

/// The filters of a query.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filters {
    /// None for all nodes.
    node: Option<NodeId>,
    /// The terms of a search of devices.
    search: String,
}

impl Filters {
    /// Reads a query. Only exports of devices take a search.
    fn read(parts: &Parts, of_devices: bool) -> Result<Self, RpcError> {
        let mut filters = Self::default();
        for pair in parts.uri.query().unwrap_or_default().split('&') {
            match pair.split_once('=') {
                None if pair.is_empty() => {}
                Some(("node", id)) => {
                    let id: i64 = convert::id("node", id)?;
                    filters.node = convert::node_filter(id);
                }
                Some(("search", text)) if of_devices => {
                    filters.search = decoded(text).ok_or_else(|| {
                        RpcError::invalid_argument(
                            "search: it is not text in UTF-8 with percent-encoding",
                        )
                        .with_reason("INVALID_FIELD")
                        .with_fact("field", "search")
                    })?;
                }
                Some(_) | None => {
                    let known = if of_devices {
                        "give node=ID, search=TERMS or nothing"
                    } else {
                        "give node=ID or nothing"
                    };
                    return Err(RpcError::invalid_argument(format!(
                        "`{}` is not a filter: {known}",
                        convert::printable(pair, 64)
                    ))
                    .with_reason("INVALID_FIELD")
                    .with_fact("field", convert::printable(pair, 64)));
                }
            }
        }
        Ok(filters)
    }
}

/// Decodes a value of a query, as browsers encode it in a form: `%XX`, and `+` for a blank.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                digits
                    .bytes()
                    .all(|digit| digit.is_ascii_hexdigit())
                    .then_some(())?;
                u8::from_str_radix(digits, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn unknown(file: &str) -> RpcError {
    RpcError::not_found(format!(
        "there is no export `{}`: the exports are devices, scans and the hosts of a scan, each as .csv, .json or .ndjson",
        convert::printable(file, 64)
    )).with_reason("EXPORT_NOT_FOUND").with_fact("value", convert::printable(file, 64))
}

#[cfg(test)]
mod tests {
    use fleet_wire::fleet::{Device, Ledger, Scan};

    use super::*;

    #[test]
    fn ipv6_targets_are_in_brackets_and_devices_without_endpoint_are_none() {
        let device = Device {
            ip: "fd00::7".into(),
            port: 80,
            fleet_node_id: 3,
            ..Device::default()
        };
        let names = BTreeMap::from([(NodeId(3), "barn-1".to_owned())]);
        let group = target(&device, &names).expect("has an endpoint");
        assert_eq!(group["targets"], json!(["[fd00::7]:80"]));
        assert_eq!(group["labels"]["__meta_fleet_node"], "barn-1");
        assert_eq!(target(&Device::default(), &names), None);
    }

    #[test]
    fn searches_are_decoded_as_browsers_encode_them() {
        for (text, expected) in [
            ("", Some("")),
            ("model%3AS19+site%3Abarn", Some("model:S19 site:barn")),
            ("%C3%A9", Some("\u{e9}")),
            ("%", None),
            ("%2", None),
            ("%zz", None),
            ("%+1", None),
            ("%ff", None),
        ] {
            assert_eq!(decoded(text).as_deref(), expected, "{text}");
        }
    }

    /// A message without values has no keys in JSON, so each field is set.
    #[test]
    fn every_column_is_a_field_of_its_message() {
        let time = Some(fleet_wire::Timestamp {
            seconds: 1,
            nanos: 0,
        });
        let text = || "x".to_owned();
        let device = to_json(&Device {
            device_id: 1,
            identifier: text(),
            fleet_node_id: 1,
            ip: text(),
            port: 1,
            scheme: text(),
            driver: text(),
            model: text(),
            manufacturer: text(),
            firmware: text(),
            mac: text(),
            serial: text(),
            first_seen: time,
            last_seen: time,
            evidence: text(),
            pairing_status: text(),
            bound_to_fleet_node_id: 1,
            bound_to_server: true,
            host_name: text(),
            host_name_source: text(),
            ..Device::default()
        });
        let scan = to_json(&Scan {
            scan_id: text(),
            name: text(),
            node_name: text(),
            fleet_node_id: 1,
            shares: vec![fleet_wire::fleet::ScanShare {
                node_name: text(),
                site_name: text(),
                state: 1,
                ..fleet_wire::fleet::ScanShare::default()
            }],
            state: 1,
            priority: 1,
            created_at: time,
            started_at: time,
            ended_at: time,
            started_by: text(),
            code: text(),
            reason: text(),
            ledger: Some(Ledger {
                targets: 1,
                identified: 1,
                owned_elsewhere: 1,
                unidentified: 1,
                refused: 1,
                silent: 1,
                skipped: 1,
                not_reached: 1,
                unknown: 1,
                accepted: 1,
                rejected: 1,
                ..Ledger::default()
            }),
            ..Scan::default()
        });
        for (value, columns) in [(device, DEVICE_COLUMNS), (scan, SCAN_COLUMNS)] {
            for column in columns {
                assert_ne!(encoder::cell(&value, column), "", "{column}");
            }
        }
    }
}
