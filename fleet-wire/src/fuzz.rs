//! The entry of the fuzz target: decoding and checking any bytes ends in a value or an error.

use bytes::Bytes;
use connectrpc::CodecFormat;

use crate::{
    admin,
    bounds::Validate,
    engine::{self, Wire},
    fleet, gateway, pairing,
};

fn both<M: Wire + Validate>(data: &Bytes) {
    for format in [CodecFormat::Proto, CodecFormat::Json] {
        let decoded = engine::decode::<M>(data.clone(), format);
        if let Ok(message) = decoded {
            engine::encode(&message, format)
                .map(|_| ())
                .unwrap_or_default();
        }
    }
}

macro_rules! each {
    ($data:expr, $($package:ident :: {$($message:ident),* $(,)?}),* $(,)?) => {
        $($(both::<$package::$message>(&$data);)*)*
    };
}

/// Decodes `data` as every message that our sides receive, in both codecs.
pub fn decode_any(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    each!(
        data,
        gateway::{
            RegisterRequest, BeginAuthHandshakeRequest, CompleteAuthHandshakeRequest, UploadHeartbeatRequest, ReportDiscoveredDevicesRequest,
            ReportPairedDevicesRequest, ControlStreamRequest, ControlStreamResponse, AgentCommand,
        },
        admin::{
            CreateEnrollmentCodeRequest, ListFleetNodesRequest, ConfirmFleetNodeRequest, RevokeFleetNodeRequest, PairDeviceToFleetNodeRequest,
            UnpairDeviceRequest, ListFleetNodeDevicesRequest, DiscoverOnFleetNodeRequest, ListFleetNodeDiscoveredDevicesRequest,
            PairDiscoveredDevicesOnFleetNodeRequest,
        },
        pairing::{DiscoverRequest, PairRequest},
        fleet::{
            StartScanRequest, PlanScanRequest, GetScanRequest, ListScansRequest, WatchScanRequest, CancelScanRequest, ListScanHostsRequest, ListNodesRequest,
            ListEnrollmentCodesRequest, CancelEnrollmentCodeRequest, ListDevicesRequest, WhoAmIRequest,
            GetScanDifferenceRequest, SearchDevicesRequest, GetDeviceFacetsRequest,
            GetOverviewRequest, GetSiteMapRequest, LabelDevicesRequest, SetDeviceNoteRequest,
        },
    );
}
