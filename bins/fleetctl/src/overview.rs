//! `fleetctl overview`: counts, the last days, and the maps of sites.

use std::io::Write;

use clap::Args;
use fleet_wire::fleet::{
    GetOverviewRequest, GetOverviewResponse, GetSiteMapRequest, GetSiteMapResponse, InventoryDay,
    MapBlock,
};

use crate::{
    cli::Format,
    failure::Failure,
    output::{self, Rows},
    server::Server,
    sites,
};

/// Blocks per call.
const PAGE: u32 = 64;
/// Cells per line of a block, as on the page.
const WIDTH: usize = 16;

/// Counts or the map of a site.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Show the map of this site instead: the last outcome of each address, in blocks of 256.
    #[arg(long, value_name = "SITE")]
    map: Option<String>,
}

pub(crate) async fn run(
    server: &Server,
    format: Format,
    arguments: Arguments,
) -> Result<u8, Failure> {
    match arguments.map {
        Some(site) => map(server, format, &site).await?,
        None => counts(server, format).await?,
    }
    Ok(0)
}

async fn counts(server: &Server, format: Format) -> Result<(), Failure> {
    let request = GetOverviewRequest {};
    let found = server
        .overview
        .get_overview(&request, server.call()?)
        .await?;
    if !format.is_table() {
        output::document(&mut std::io::stdout().lock(), &found)?;
        return Ok(());
    }
    let mut table = output::table(format);
    for (name, count) in figures(&found) {
        table.add_row([name.to_owned(), count.to_string()]);
    }
    writeln!(std::io::stdout().lock(), "{table}\n")?;
    output::rows(format, &found.days)?;
    Ok(())
}

fn figures(found: &GetOverviewResponse) -> [(&'static str, u64); 6] {
    [
        ("devices", found.devices),
        ("new today", found.new_today),
        ("missing", found.missing),
        ("need a password", found.need_password),
        ("nodes offline", found.nodes_offline),
        ("scans running", found.scans_running),
    ]
}

impl Rows for InventoryDay {
    const HEAD: &'static [&'static str] = &["Day (UTC)", "Seen", "New", "Missing"];
    const WHOLE: &'static [&'static str] = &["Day (UTC)"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.date.clone(),
            self.seen.to_string(),
            self.added.to_string(),
            self.missing.to_string(),
        ]
    }
}

async fn map(server: &Server, format: Format, site: &str) -> Result<(), Failure> {
    let mut request = GetSiteMapRequest {
        site_id: sites::find(server, site).await?.site_id,
        limit: PAGE,
        cursor: String::new(),
    };
    let mut map = GetSiteMapResponse::default();
    loop {
        let page = server
            .overview
            .get_site_map(&request, server.call()?)
            .await?;
        // A faulty server that repeats a page must not cause an endless loop.
        let is_stuck = page.blocks.is_empty() || page.next_cursor == request.cursor;
        map.total = page.total;
        map.ipv6_total = map.ipv6_total.max(page.ipv6_total);
        map.ipv6_networks.extend(page.ipv6_networks);
        map.blocks.extend(page.blocks);
        if page.next_cursor.is_empty() || is_stuck {
            break;
        }
        request.cursor = page.next_cursor;
    }
    let mut out = std::io::stdout().lock();
    if !format.is_table() {
        output::document(&mut out, &map)?;
        return Ok(());
    }
    writeln!(out, "{LEGEND}")?;
    for block in &map.blocks {
        writeln!(out, "\n{}", drawn(block))?;
    }
    if !map.ipv6_networks.is_empty() {
        writeln!(
            out,
            "\nIPv6 networks, which have too many addresses for a map:"
        )?;
    }
    for network in &map.ipv6_networks {
        let name = output::plain(&network.network);
        writeln!(out, "{name}: {} devices", network.devices)?;
    }
    let more = map
        .ipv6_total
        .saturating_sub(map.ipv6_networks.len() as u64);
    if more > 0 {
        writeln!(out, "and {more} more networks")?;
    }
    Ok(())
}

const LEGEND: &str = "# identified  ? unidentified  r refused  . silent  - not reached  x excluded  (blank) never scanned";

/// A block as lines of cells, each with the address of its first cell.
fn drawn(block: &MapBlock) -> String {
    let network = output::plain(&block.network);
    let mut lines = vec![network];
    for (line, cells) in block.outcomes.chunks(WIDTH).enumerate() {
        let cells: String = cells.iter().map(|byte| sign(*byte)).collect();
        lines.push(format!("{:>5} |{cells}|", format!(".{}", line * WIDTH)));
    }
    lines.join("\n")
}

fn sign(outcome: u8) -> char {
    match outcome {
        0 => '-',
        1 => '.',
        2 => 'r',
        3 => '?',
        4 => '#',
        5 => 'x',
        _ => ' ',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_drawn_as_sixteen_lines_of_signs() {
        let mut outcomes = vec![6; 256];
        outcomes[..7].copy_from_slice(&[0, 1, 2, 3, 4, 5, 6]);
        outcomes[255] = 4;
        let block = MapBlock {
            network: "10.0.0.0/24".into(),
            outcomes: outcomes.into(),
            ..MapBlock::default()
        };
        let lines = drawn(&block);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 17);
        assert_eq!(lines[0], "10.0.0.0/24");
        assert_eq!(lines[1], "   .0 |-.r?#x          |");
        assert_eq!(lines[16], " .240 |               #|");
    }
}
