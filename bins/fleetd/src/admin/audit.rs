//! `fleetd admin audit-head` and `audit-verify`: all audit chains, directly in the database.

use std::{collections::BTreeMap, io::Write};

use anyhow::{Context, Result, bail};
use fleet_core::{ChainHead, ChainVerifier, OrgId, StoredLink};
use fleet_store::{AuditChain, LinkedRecord, SqlStore};

/// Number of links per query.
const PAGE: u32 = 1_000;
/// Maximum number of faults printed per chain. A rewritten chain has one fault per record.
const FAULTS: usize = 100;

/// Prints the heads, one `CHAIN=SEQ:HASH` per line.
pub(super) async fn head(store: &SqlStore) -> Result<()> {
    for org in store.audit_chains().await? {
        let head = store.audit_head(org).await?;
        writeln!(std::io::stdout(), "{}={head}", name(org))?;
    }
    Ok(())
}

/// Verifies every chain in the database and every chain that `expect` names.
pub(super) async fn verify(store: &SqlStore, expect: &[String]) -> Result<()> {
    let mut kept = kept(expect)?;
    let mut broken = Vec::new();
    let mut chains = store.audit_chains().await?;
    for org in kept.keys().map(|id| (*id != 0).then_some(OrgId(*id))) {
        if !chains.contains(&org) {
            chains.push(org);
        }
    }
    for org in chains {
        let kept = kept.remove(&org.map_or(0, |org| org.0));
        if !chain(store, org, kept).await? {
            broken.push(name(org));
        }
    }
    if !broken.is_empty() {
        bail!("the audit trail was tampered with: {}", broken.join(", "));
    }
    Ok(())
}

/// Verifies one chain and prints its faults. Returns whether it is valid.
async fn chain(store: &SqlStore, org: Option<OrgId>, kept: Option<ChainHead>) -> Result<bool> {
    let stored = store.audit_head(org).await?;
    let mut verifier = ChainVerifier::new(org, stored, kept);
    let mut faults = 0;
    let mut print = |fault: fleet_core::ChainFault| {
        faults += 1;
        if faults <= FAULTS {
            writeln!(std::io::stderr(), "{}: {fault}", name(org))
        } else {
            Ok(())
        }
    };
    loop {
        let links = store.audit_links(org, verifier.seq(), PAGE).await?;
        if links.is_empty() {
            break;
        }
        for link in &links {
            let link = StoredLink {
                seq: link.seq,
                hash: link.hash,
                record: link.record.as_ref().map(LinkedRecord::as_chain),
            };
            for fault in verifier.take(&link).err().unwrap_or_default() {
                print(fault)?;
            }
        }
    }
    let head = match verifier.finish() {
        Ok(head) => Some(head),
        Err(fault) => {
            print(fault)?;
            None
        }
    };
    if let (Some(head), 0) = (head, faults) {
        writeln!(std::io::stdout(), "{}={head}", name(org))?;
        return Ok(true);
    }
    if faults > FAULTS {
        writeln!(
            std::io::stderr(),
            "{}: {} more faults",
            name(org),
            faults - FAULTS
        )?;
    }
    Ok(false)
}

/// Returns the name of a chain: the id of its organization, or `server`.
fn name(org: Option<OrgId>) -> String {
    org.map_or_else(|| "server".to_owned(), |org| org.0.to_string())
}

fn kept(expect: &[String]) -> Result<BTreeMap<i64, ChainHead>> {
    expect
        .iter()
        .map(|text| -> Result<(i64, ChainHead)> {
            let (chain, head) = text.split_once('=').with_context(|| {
                format!("--expect {text}: expected CHAIN=SEQ:HASH, as audit-head prints it")
            })?;
            let id = match chain {
                "server" => 0,
                id => id
                    .parse::<i64>()
                    .with_context(|| format!("--expect {text}: `{id}` is not a chain"))?,
            };
            Ok((id, head.parse::<ChainHead>()?))
        })
        .collect()
}
