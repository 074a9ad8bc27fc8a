//! Bounds of the operators' requests about nodes.

use super::{Checked, Repeated, Validate, at_most, id, inner, not_negative, required, texts};
use crate::{
    admin::{
        ConfirmFleetNodeRequest, CreateEnrollmentCodeRequest, DiscoverOnFleetNodeRequest,
        ListFleetNodeDevicesRequest, ListFleetNodeDiscoveredDevicesRequest, ListFleetNodesRequest,
        PairDeviceToFleetNodeRequest, PairDiscoveredDevicesOnFleetNodeRequest,
        RevokeFleetNodeRequest, UnpairDeviceRequest,
    },
    limits::MAX_REPORT,
    pairing::DiscoverRequest,
};

super::unbounded!(ListFleetNodesRequest);

impl Validate for CreateEnrollmentCodeRequest {
    fn validate(&self) -> Checked {
        not_negative("replaces_fleet_node_id", self.replaces_fleet_node_id)
    }
}

impl Validate for ConfirmFleetNodeRequest {
    fn validate(&self) -> Checked {
        id("fleet_node_id", self.fleet_node_id)?;
        id("pending_enrollment_id", self.pending_enrollment_id)
    }
}

impl Validate for RevokeFleetNodeRequest {
    fn validate(&self) -> Checked {
        id("fleet_node_id", self.fleet_node_id)?;
        self.pending_enrollment_id
            .map_or(Ok(()), |value| id("pending_enrollment_id", value))
    }
}

impl Validate for PairDeviceToFleetNodeRequest {
    fn validate(&self) -> Checked {
        id("fleet_node_id", self.fleet_node_id)?;
        id("device_id", self.device_id)
    }
}

impl Validate for UnpairDeviceRequest {
    fn validate(&self) -> Checked {
        id("device_id", self.device_id)
    }
}

impl Validate for ListFleetNodeDevicesRequest {
    fn validate(&self) -> Checked {
        not_negative("fleet_node_id", self.fleet_node_id)
    }
}

impl Validate for DiscoverOnFleetNodeRequest {
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

impl Validate for ListFleetNodeDiscoveredDevicesRequest {
    fn validate(&self) -> Checked {
        not_negative("fleet_node_id", self.fleet_node_id)?;
        at_most("limit", self.limit.into(), 1_024)?;
        not_negative("cursor", self.cursor)
    }
}

impl Validate for PairDiscoveredDevicesOnFleetNodeRequest {
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
