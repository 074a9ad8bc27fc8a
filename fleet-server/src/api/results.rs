//! `fleet.v1.ResultService`: differences between scans.

use fleet_core::ScanId;
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{GetScanDifferenceRequest, GetScanDifferenceResponse, ResultService},
};

use super::Api;
use crate::{convert, results};

/// Default and maximum number of rows on a page.
const PAGE: u32 = 1_000;

impl ResultService for Api {
    async fn get_scan_difference(
        &self,
        context: Context,
        request: GetScanDifferenceRequest,
    ) -> Result<Reply<GetScanDifferenceResponse>, RpcError> {
        let call = self.operator(&context)?;
        let scan = convert::id("scan_id", &request.scan_id)?;
        let against = other("against_scan_id", &request.against_scan_id)?;
        let limit = convert::page_size(request.limit, PAGE, PAGE) as usize;
        let skip = usize::try_from(request.cursor).unwrap_or(0);
        let found = results::difference(&self.app, call.org, scan, against).await?;
        let mut response = GetScanDifferenceResponse {
            scan_id: found.scan.to_string(),
            against_scan_id: found.against.map_or_else(String::new, |id| id.to_string()),
            counts: found.counts(),
            explanation: found.explanation.clone().unwrap_or_default(),
            ..GetScanDifferenceResponse::default()
        };
        let group = results::from_wire(request.group());
        let mut rows = found.rows_of(group).skip(skip);
        response.rows = rows.by_ref().take(limit).collect();
        if rows.next().is_some() {
            // The rows of an ended scan keep their order, so that their position is a cursor.
            response.next_cursor = i64::try_from(skip + limit).unwrap_or(0);
        }
        Ok(Reply::new(response))
    }
}

/// The id of the other scan; none if the text is empty.
///
/// # Errors
///
/// INVALID_ARGUMENT that names the field.
fn other(field: &str, text: &str) -> Result<Option<ScanId>, RpcError> {
    if text.is_empty() {
        return Ok(None);
    }
    convert::id(field, text).map(Some)
}
