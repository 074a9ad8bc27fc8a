//! `fleetctl scan diff`: what changed since another scan.

use std::{fmt, io::Write};

use clap::{Args, ValueEnum};
use fleet_wire::fleet::{
    DifferenceGroup, DifferenceRow, GetScanDifferenceRequest, GetScanDifferenceResponse, SeenDevice,
};

use crate::{
    cli::Format,
    failure::Failure,
    output::{self, Rows},
    server::Server,
};

/// The two scans of a difference.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Id of the scan.
    pub(crate) scan: String,
    /// Scan to compare with [default: the previous scan of the same targets on the same site].
    #[arg(long, value_name = "SCAN")]
    pub(crate) against: Option<String>,
    /// Show only this group.
    #[arg(long)]
    pub(crate) group: Option<Group>,
    /// Exit with 2 if devices are new, missing, moved or changed.
    #[arg(long)]
    pub(crate) exit_code: bool,
}

/// A group of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Devices that only this scan saw.
    New,
    /// Devices whose endpoint was probed and found silent or refused.
    Missing,
    /// Devices at another address.
    Moved,
    /// Devices with other facts.
    Changed,
    /// Devices without a difference.
    Unchanged,
    /// Hosts that answered without being identified.
    Unidentified,
    /// Reported devices that the server rejected.
    Rejected,
    /// Devices that this scan did not see and that it does not show to be missing.
    Undecided,
}

impl Group {
    pub(crate) fn on_wire(self) -> DifferenceGroup {
        match self {
            Self::New => DifferenceGroup::New,
            Self::Missing => DifferenceGroup::Missing,
            Self::Moved => DifferenceGroup::Moved,
            Self::Changed => DifferenceGroup::Changed,
            Self::Unchanged => DifferenceGroup::Unchanged,
            Self::Unidentified => DifferenceGroup::Unidentified,
            Self::Rejected => DifferenceGroup::Rejected,
            Self::Undecided => DifferenceGroup::Undecided,
        }
    }
}

/// Maximum number of rows per page.
const PAGE: u32 = 1_000;
/// The exit status for a difference with `--exit-code`.
const DIFFERS: u8 = 2;

pub(crate) async fn run(
    server: &Server,
    format: Format,
    arguments: Arguments,
) -> Result<u8, Failure> {
    let found = load(server, &arguments).await?;
    match format {
        Format::Json => output::document(&mut std::io::stdout().lock(), &found)?,
        Format::Table | Format::Wide => {
            print_head(&found)?;
            // Without a selected group, unchanged devices would hide the others.
            let shown: Vec<DifferenceRow> = found
                .rows
                .iter()
                .filter(|row| {
                    arguments.group.is_some() || row.group() != DifferenceGroup::Unchanged
                })
                .cloned()
                .collect();
            if !shown.is_empty() {
                output::rows(format, &shown)?;
            }
        }
        Format::Ndjson | Format::Csv => output::rows(format, &found.rows)?,
    }
    let differs = found.counts.iter().any(|count| {
        let differs = matches!(
            count.group(),
            DifferenceGroup::New
                | DifferenceGroup::Missing
                | DifferenceGroup::Moved
                | DifferenceGroup::Changed
        );
        differs && count.count > 0
    });
    Ok(if arguments.exit_code && differs {
        DIFFERS
    } else {
        0
    })
}

/// Loads all pages into one response.
async fn load(
    server: &Server,
    arguments: &Arguments,
) -> Result<GetScanDifferenceResponse, Failure> {
    let mut request = GetScanDifferenceRequest {
        scan_id: arguments.scan.clone(),
        against_scan_id: arguments.against.clone().unwrap_or_default(),
        group: arguments
            .group
            .map_or(DifferenceGroup::Unspecified, Group::on_wire)
            .into(),
        limit: PAGE,
        cursor: 0,
    };
    let mut found = page(server, &request).await?;
    while found.next_cursor > request.cursor {
        request.cursor = found.next_cursor;
        // A scan that ends meanwhile must not change what the pages are compared with.
        request.against_scan_id.clone_from(&found.against_scan_id);
        let next = page(server, &request).await?;
        found.rows.extend(next.rows);
        found.next_cursor = next.next_cursor;
    }
    found.next_cursor = 0;
    Ok(found)
}

async fn page(
    server: &Server,
    request: &GetScanDifferenceRequest,
) -> Result<GetScanDifferenceResponse, Failure> {
    let call = server.call()?;
    Ok(server.results.get_scan_difference(request, call).await?)
}

/// The name of a group, as `--group` takes it.
fn name(group: DifferenceGroup) -> String {
    let name = group.as_str_name();
    let name = name.strip_prefix("DIFFERENCE_GROUP_").unwrap_or(name);
    name.to_lowercase()
}

fn print_head(found: &GetScanDifferenceResponse) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let counts: Vec<String> = found
        .counts
        .iter()
        .filter(|count| count.count > 0)
        .map(|count| format!("{} {}", count.count, name(count.group())))
        .collect();
    let counts = if counts.is_empty() {
        "no devices in either scan".to_owned()
    } else {
        counts.join(", ")
    };
    if found.against_scan_id.is_empty() {
        writeln!(
            out,
            "no earlier scan of the same targets, so every device is new: {counts}"
        )?;
    } else {
        writeln!(out, "since scan {}: {counts}", found.against_scan_id)?;
    }
    if !found.explanation.is_empty() {
        writeln!(out, "{}", output::plain(&found.explanation))?;
    }
    Ok(())
}

/// A device in few words: make, model and firmware.
struct InWords<'a>(&'a SeenDevice);

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.0;
        let has_make = seen
            .model
            .to_lowercase()
            .starts_with(&seen.manufacturer.to_lowercase());
        let make = if has_make { "" } else { &seen.manufacturer };
        let words = [make, &seen.model, &seen.firmware];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        f.write_str(&words.join(" "))
    }
}

/// What happened to a row, in words.
fn what(row: &DifferenceRow) -> String {
    let Some((before, after)) = row.before.as_ref().zip(row.after.as_ref()) else {
        return row.reason.clone();
    };
    let value = |seen: &SeenDevice, field: &str| match field {
        "address" => seen.ip.clone(),
        "site" => seen.site_name.clone(),
        "port" => seen.port.to_string(),
        "scheme" => seen.scheme.clone(),
        "manufacturer" => seen.manufacturer.clone(),
        "model" => seen.model.clone(),
        "firmware" => seen.firmware.clone(),
        "mac" => seen.mac.clone(),
        "serial" => seen.serial.clone(),
        _ => String::new(),
    };
    let change = |field: &String| {
        let (was, is) = (value(before, field), value(after, field));
        format!("{field} {was} -> {is}")
    };
    let changes: Vec<String> = row.changed.iter().map(change).collect();
    changes.join(", ")
}

impl Rows for DifferenceRow {
    const HEAD: &'static [&'static str] = &[
        "Group",
        "Device",
        "Identifier",
        "IP",
        "Port",
        "Model",
        "Change",
        "Count",
        "Node",
        "Site",
    ];
    const OPTIONAL: &'static [&'static str] = &[
        "Count",
        "Site",
        "Port",
        "Device",
        "Node",
        "Model",
        "Identifier",
    ];
    const WHOLE: &'static [&'static str] = &["Group", "Device"];

    fn cells(&self) -> Vec<String> {
        let seen = self.after.as_ref().or(self.before.as_ref());
        let number = |number: i64| match number {
            0 => String::new(),
            number => number.to_string(),
        };
        vec![
            name(self.group()),
            number(self.device_id),
            self.identifier.clone(),
            self.ip.clone(),
            number(self.port.into()),
            seen.map(|seen| InWords(seen).to_string())
                .unwrap_or_default(),
            what(self),
            self.count.to_string(),
            self.node_name.clone(),
            self.site_name.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_the_changed_facts_or_the_reason_of_the_absence() {
        let seen = |ip: &str, firmware: &str| SeenDevice {
            ip: ip.to_owned(),
            port: 80,
            manufacturer: "Bitmain".to_owned(),
            model: "Antminer S19".to_owned(),
            firmware: firmware.to_owned(),
            ..SeenDevice::default()
        };
        let moved = DifferenceRow {
            group: DifferenceGroup::Moved.into(),
            before: Some(seen("10.0.0.7", "1.0")),
            after: Some(seen("10.0.0.9", "1.1")),
            changed: vec!["address".to_owned(), "firmware".to_owned()],
            node_name: "barn-2".to_owned(),
            site_name: "north".to_owned(),
            ..DifferenceRow::default()
        };
        assert_eq!(
            what(&moved),
            "address 10.0.0.7 -> 10.0.0.9, firmware 1.0 -> 1.1"
        );
        assert_eq!(moved.cells()[0], "moved");
        assert_eq!(moved.cells()[5], "Bitmain Antminer S19 1.1");
        assert_eq!(moved.cells()[8..], ["barn-2", "north"]);
        let missing = DifferenceRow {
            group: DifferenceGroup::Missing.into(),
            before: Some(seen("10.0.0.7", "")),
            reason: "its address did not answer".to_owned(),
            ..DifferenceRow::default()
        };
        assert_eq!(what(&missing), "its address did not answer");
        assert_eq!(missing.cells()[5], "Bitmain Antminer S19");
    }
}
