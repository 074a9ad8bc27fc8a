//! `fleetctl audit`. The client verifies the chain itself from the records, because a server that was tampered
//! with could report any result.

use std::io::{self, Write};

use fleet_core::{
    ChainFault, ChainHash, ChainHead, ChainRecord, ChainVerifier, OrgId, StoredLink, Timestamp,
};
use fleet_wire::{
    RpcError,
    fleet::{AuditLink, AuditRecord, GetAuditHeadRequest, ListAuditLinksRequest, ListAuditRequest},
};
use serde::Serialize;

use crate::{
    cli::{Audit, Format},
    failure::Failure,
    nodes,
    output::{self, Rows},
    server::Server,
    times,
};

/// Maximum number of records per page.
const PAGE: usize = 200;
/// Maximum number of faults printed. A rewritten chain has one fault per record.
const FAULTS: usize = 100;

pub(crate) async fn run(server: &Server, format: Format, command: Audit) -> Result<u8, Failure> {
    match command {
        Audit::List {
            action,
            refused,
            node,
            limit,
        } => {
            let node = nodes::resolve_filter(server, node.as_deref()).await?;
            let wanted = ListAuditRequest {
                action,
                refused,
                fleet_node_id: node,
                ..ListAuditRequest::default()
            };
            list(server, format, wanted, limit).await
        }
        Audit::Head => {
            let (head, _) = head(server).await?;
            print(format, head)?;
            Ok(0)
        }
        Audit::Verify { expect } => verify(server, format, expect).await,
    }
}

async fn list(
    server: &Server,
    format: Format,
    mut wanted: ListAuditRequest,
    limit: usize,
) -> Result<u8, Failure> {
    let mut records: Vec<AuditRecord> = Vec::new();
    while records.len() < limit {
        let page = PAGE.min(limit - records.len());
        wanted.limit = u32::try_from(page).unwrap_or(0);
        let page = server.audit.list_audit(&wanted, server.call()?).await?;
        records.extend(page.records);
        // The cursor must shrink: a faulty server that repeats a page must not cause an endless loop.
        let has_more =
            page.next_before > 0 && (wanted.before == 0 || page.next_before < wanted.before);
        if !has_more {
            break;
        }
        wanted.before = page.next_before;
    }
    records.truncate(limit);
    output::rows(format, &records)?;
    Ok(0)
}

/// Loads the head of the chain and the organization that its hashes include.
async fn head(server: &Server) -> Result<(ChainHead, OrgId), Failure> {
    let head = server
        .audit
        .get_audit_head(&GetAuditHeadRequest {}, server.call()?)
        .await?;
    let hash = hash(&head.hash)?;
    let found = ChainHead {
        seq: head.seq,
        hash,
    };
    Ok((found, OrgId(head.organization_id)))
}

/// Verifies the chain page by page from its first record.
async fn verify(server: &Server, format: Format, expect: Option<ChainHead>) -> Result<u8, Failure> {
    let (stored, org) = head(server).await?;
    let mut verifier = ChainVerifier::new(Some(org), stored, expect);
    let (mut faults, mut first) = (0_usize, Vec::new());
    let mut note = |fault: ChainFault| {
        faults += 1;
        if first.len() < FAULTS {
            first.push(fault);
        }
    };
    loop {
        let request = ListAuditLinksRequest {
            after: verifier.seq(),
            limit: 0,
        };
        let page = server
            .audit
            .list_audit_links(&request, server.call()?)
            .await?;
        for link in &page.links {
            take(&mut verifier, link)?.into_iter().for_each(&mut note);
        }
        // A server that repeats a page ends the loop, and the missing records are reported as a fault.
        if page.links.is_empty() || verifier.seq() <= request.after {
            break;
        }
    }
    let verified = match verifier.finish() {
        Ok(head) => Some(head),
        Err(fault) => {
            note(fault);
            None
        }
    };
    if let (Some(head), 0) = (verified, faults) {
        print(format, head)?;
        let kept = expect.map_or(String::new(), |kept| {
            format!("; the chain includes the stored head {}", kept.seq)
        });
        writeln!(io::stderr(), "verified {} records{kept}", head.seq)?;
        return Ok(0);
    }
    let mut err = io::stderr().lock();
    for fault in &first {
        writeln!(err, "fleetctl: {fault}")?;
    }
    if faults > first.len() {
        writeln!(err, "fleetctl: {} more faults", faults - first.len())?;
    }
    writeln!(err, "fleetctl: the audit trail was tampered with")?;
    Ok(1)
}

fn take(verifier: &mut ChainVerifier, link: &AuditLink) -> Result<Vec<ChainFault>, Failure> {
    let record = link.record.as_ref().map(|record| ChainRecord {
        id: record.id,
        at: micros(record),
        principal: &record.actor,
        principal_id: record.actor_id,
        from: record.from_address.as_deref(),
        action: &record.action,
        subject: &record.subject,
        refusal: record.refusal.as_deref(),
        count: record.count,
    });
    let link = StoredLink {
        seq: link.seq,
        hash: hash(&link.hash)?,
        record,
    };
    Ok(verifier.take(&link).err().unwrap_or_default())
}

fn micros(record: &AuditRecord) -> Timestamp {
    let (seconds, nanos) = record
        .at
        .as_ref()
        .map_or((0, 0), |at| (at.seconds, at.nanos));
    let micros = seconds
        .saturating_mul(1_000_000)
        .saturating_add(i64::from(nanos) / 1_000);
    Timestamp::from_micros(micros)
}

fn hash(bytes: &[u8]) -> Result<ChainHash, RpcError> {
    let hash = bytes.try_into().map(ChainHash);
    hash.map_err(|_| RpcError::internal("the server returned a hash that is not 32 bytes long"))
}

/// Prints a head. A table contains nothing else, so a script can store the output.
fn print(format: Format, head: ChainHead) -> io::Result<()> {
    match format {
        Format::Table | Format::Wide => writeln!(io::stdout(), "{head}"),
        Format::Json | Format::Ndjson | Format::Csv => output::one(format, &Head::from(head)),
    }
}

/// The JSON form of a head.
#[derive(Debug, Serialize)]
struct Head {
    /// A string, as the API encodes 64-bit integers.
    seq: String,
    hash: String,
    head: String,
}

impl From<ChainHead> for Head {
    fn from(head: ChainHead) -> Self {
        Self {
            seq: head.seq.to_string(),
            hash: head.hash.to_string(),
            head: head.to_string(),
        }
    }
}

impl Rows for Head {
    const HEAD: &'static [&'static str] = &["Head"];

    fn cells(&self) -> Vec<String> {
        vec![self.head.clone()]
    }
}

impl Rows for AuditRecord {
    const HEAD: &'static [&'static str] = &[
        "Seq", "Time", "Actor", "From", "Action", "Subject", "Result", "Count",
    ];
    const OPTIONAL: &'static [&'static str] = &["Count", "From"];
    const WHOLE: &'static [&'static str] = &["Seq", "Time"];

    fn cells(&self) -> Vec<String> {
        let who = match (self.actor_name.is_empty(), self.actor_id) {
            (false, _) => self.actor_name.clone(),
            (true, Some(id)) => format!("{} {id}", self.actor),
            (true, None) => self.actor.clone(),
        };
        vec![
            if self.seq == 0 {
                String::new()
            } else {
                self.seq.to_string()
            },
            times::timestamp(self.at.as_ref()),
            who,
            self.from_address.clone().unwrap_or_default(),
            self.action.clone(),
            self.subject.clone(),
            self.refusal
                .as_ref()
                .map_or_else(|| "done".to_owned(), |why| format!("refused: {why}")),
            self.count.to_string(),
        ]
    }
}
