//! Bounds of the operator services.

use super::{
    BrokenBound, Checked, Repeated, Validate, at_most, id, inner, not_negative, required, text,
    texts,
};
use crate::{
    fleet::{
        CancelEnrollmentCodeRequest, CancelPairingRequest, CancelScanRequest, GetDeviceRequest,
        GetPairingRequest, GetScanRequest, ListDevicesRequest, ListEnrollmentCodesRequest,
        ListNodesRequest, ListRefusedDevicesRequest, ListRevokedNodesRequest, ListScansRequest,
        PlanScanRequest, ScanOwnNetworkRequest, StartPairingRequest, StartScanRequest,
        UndoIdentityChangeRequest, WatchScanRequest, WhoAmIRequest,
    },
    limits::MAX_REPORT,
    pairing::DiscoverRequest,
};

/// Longer than the text of any scan id.
const SCAN_ID: usize = 64;
/// The longest that a scan may wait for its node: 7 days.
const MAX_QUEUE_SECONDS: i64 = 7 * 24 * 3_600;

super::unbounded!(
    ListEnrollmentCodesRequest,
    ListNodesRequest,
    ListRevokedNodesRequest,
    WhoAmIRequest
);

impl Validate for StartScanRequest {
    const REPEATED: &'static [Repeated] = &[Repeated {
        field: "request",
        number: 3,
        max: 1,
        inner: DiscoverRequest::REPEATED,
    }];

    fn validate(&self) -> Checked {
        text("request_id", &self.request_id, 1, 64)?;
        id("fleet_node_id", self.fleet_node_id)?;
        if let Some(wait) = self.queue_for
            && !(1..=MAX_QUEUE_SECONDS).contains(&wait.seconds)
        {
            return Err(BrokenBound::new(
                "queue_for",
                format_args!("1 to {MAX_QUEUE_SECONDS} seconds, found {}", wait.seconds),
            ));
        }
        inner("request", required("request", self.request.as_ref())?)
    }
}

impl Validate for PlanScanRequest {
    const REPEATED: &'static [Repeated] = &[Repeated {
        field: "request",
        number: 2,
        max: 1,
        inner: DiscoverRequest::REPEATED,
    }];

    fn validate(&self) -> Checked {
        id("fleet_node_id", self.fleet_node_id)?;
        inner("request", required("request", self.request.as_ref())?)
    }
}

impl Validate for ScanOwnNetworkRequest {
    const REPEATED: &'static [Repeated] = &[Repeated {
        field: "request",
        number: 1,
        max: 1,
        inner: DiscoverRequest::REPEATED,
    }];

    fn validate(&self) -> Checked {
        inner("request", required("request", self.request.as_ref())?)
    }
}

impl Validate for GetScanRequest {
    fn validate(&self) -> Checked {
        text("scan_id", &self.scan_id, 1, SCAN_ID)
    }
}

impl Validate for ListScansRequest {
    fn validate(&self) -> Checked {
        not_negative("fleet_node_id", self.fleet_node_id)?;
        at_most("limit", self.limit.into(), 200)?;
        text("before", &self.before, 0, SCAN_ID)
    }
}

impl Validate for WatchScanRequest {
    fn validate(&self) -> Checked {
        text("scan_id", &self.scan_id, 1, SCAN_ID)?;
        not_negative("after_sequence", self.after_sequence)
    }
}

impl Validate for CancelScanRequest {
    fn validate(&self) -> Checked {
        text("scan_id", &self.scan_id, 1, SCAN_ID)
    }
}

impl Validate for StartPairingRequest {
    const REPEATED: &'static [Repeated] = &[Repeated {
        field: "device_identifiers",
        number: 2,
        max: MAX_REPORT,
        inner: &[],
    }];

    fn validate(&self) -> Checked {
        id("fleet_node_id", self.fleet_node_id)?;
        texts(
            "device_identifiers",
            &self.device_identifiers,
            MAX_REPORT,
            1,
            255,
        )?;
        self.credentials
            .iter()
            .try_for_each(|c| inner("credentials", c))
    }
}

impl Validate for GetPairingRequest {
    fn validate(&self) -> Checked {
        text("pairing_id", &self.pairing_id, 1, SCAN_ID)?;
        not_negative("after", self.after)
    }
}

impl Validate for CancelPairingRequest {
    fn validate(&self) -> Checked {
        text("pairing_id", &self.pairing_id, 1, SCAN_ID)
    }
}

impl Validate for CancelEnrollmentCodeRequest {
    fn validate(&self) -> Checked {
        id("pending_enrollment_id", self.pending_enrollment_id)
    }
}

impl Validate for ListDevicesRequest {
    fn validate(&self) -> Checked {
        not_negative("fleet_node_id", self.fleet_node_id)?;
        at_most("limit", self.limit.into(), 1_000)?;
        not_negative("cursor", self.cursor)
    }
}

impl Validate for GetDeviceRequest {
    fn validate(&self) -> Checked {
        not_negative("device_id", self.device_id)?;
        text("identifier", &self.identifier, 0, 255)?;
        if (self.device_id == 0) == self.identifier.is_empty() {
            return Err(BrokenBound::new(
                "device_id",
                format_args!("either device_id or identifier, one of the two"),
            ));
        }
        Ok(())
    }
}

impl Validate for UndoIdentityChangeRequest {
    fn validate(&self) -> Checked {
        id("identity_change_id", self.identity_change_id)
    }
}

impl Validate for ListRefusedDevicesRequest {
    fn validate(&self) -> Checked {
        not_negative("fleet_node_id", self.fleet_node_id)?;
        at_most("limit", self.limit.into(), 1_000)?;
        not_negative("cursor", self.cursor)
    }
}
