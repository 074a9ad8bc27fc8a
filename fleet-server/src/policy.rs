//! Who may call which procedure. Each procedure is in exactly one class; a procedure that is not in the table cannot be
//! called.

use fleet_core::Permission;

/// The callers of a procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Everybody; rate limited where a call costs something.
    Public,
    /// A node with a session.
    Node,
    /// An operator with this permission.
    Operator(Permission),
    /// An operator with both.
    OperatorOfBoth(Permission, Permission),
    /// Any operator.
    AnyOperator,
}

use Class::{AnyOperator, Node, Operator, OperatorOfBoth, Public};
use Permission::{MinerPair, NodeManage, NodeRead, OrgAdmin};

/// Every procedure, by service and method.
const TABLE: &[(&str, &[(&str, Class)])] = &[
    (
        "fleetnodegateway.v1.FleetNodeGatewayService",
        &[
            ("Register", Public),
            ("BeginAuthHandshake", Public),
            ("CompleteAuthHandshake", Public),
            ("UploadHeartbeat", Node),
            ("ReportDiscoveredDevices", Node),
            ("ReportPairedDevices", Node),
            ("ControlStream", Node),
        ],
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService",
        &[
            ("CreateEnrollmentCode", Operator(NodeManage)),
            ("ListFleetNodes", Operator(NodeRead)),
            ("ConfirmFleetNode", Operator(NodeManage)),
            ("RevokeFleetNode", Operator(NodeManage)),
            ("PairDeviceToFleetNode", Operator(NodeManage)),
            ("UnpairDevice", Operator(NodeManage)),
            ("ListFleetNodeDevices", Operator(NodeRead)),
            ("DiscoverOnFleetNode", Operator(NodeManage)),
            ("ListFleetNodeDiscoveredDevices", Operator(NodeRead)),
            (
                "PairDiscoveredDevicesOnFleetNode",
                OperatorOfBoth(NodeManage, MinerPair),
            ),
        ],
    ),
    (
        "pairing.v1.PairingService",
        &[
            ("Discover", Operator(NodeManage)),
            ("Pair", Operator(MinerPair)),
        ],
    ),
    (
        "fleet.v1.DirectService",
        &[("ScanOwnNetwork", Operator(NodeManage))],
    ),
    (
        "fleet.v1.ScanService",
        &[
            ("StartScan", Operator(NodeManage)),
            ("PlanScan", Operator(NodeManage)),
            ("GetScan", Operator(NodeRead)),
            ("ListScans", Operator(NodeRead)),
            ("WatchScan", Operator(NodeRead)),
            ("CancelScan", Operator(NodeManage)),
            ("ListScanHosts", Operator(NodeRead)),
        ],
    ),
    (
        "fleet.v1.ResultService",
        &[("GetScanDifference", Operator(NodeRead))],
    ),
    (
        "fleet.v1.AlertService",
        &[
            ("CreateAlertChannel", Operator(OrgAdmin)),
            ("ListAlertChannels", Operator(NodeRead)),
            ("DeleteAlertChannel", Operator(OrgAdmin)),
            ("TestAlertChannel", Operator(OrgAdmin)),
            ("CreateAlertRule", Operator(OrgAdmin)),
            ("UpdateAlertRule", Operator(OrgAdmin)),
            ("ListAlertRules", Operator(NodeRead)),
            ("DeleteAlertRule", Operator(OrgAdmin)),
            ("ListAlertDeliveries", Operator(NodeRead)),
            ("RetryAlertDelivery", Operator(OrgAdmin)),
        ],
    ),
    (
        "fleet.v1.ScheduleService",
        &[
            ("CreateSchedule", Operator(NodeManage)),
            ("UpdateSchedule", Operator(NodeManage)),
            ("ListSchedules", Operator(NodeRead)),
            ("GetSchedule", Operator(NodeRead)),
            ("PauseSchedule", Operator(NodeManage)),
            ("ResumeSchedule", Operator(NodeManage)),
            ("RunSchedule", Operator(NodeManage)),
            ("DeleteSchedule", Operator(NodeManage)),
            ("PreviewSchedule", Operator(NodeManage)),
        ],
    ),
    (
        "fleet.v1.NodeService",
        &[
            ("ListNodes", Operator(NodeRead)),
            ("ListEnrollmentCodes", Operator(NodeRead)),
            ("CancelEnrollmentCode", Operator(NodeManage)),
            ("ListRevokedNodes", Operator(NodeRead)),
            ("MoveNode", Operator(OrgAdmin)),
            ("RenameNode", Operator(NodeManage)),
        ],
    ),
    (
        "fleet.v1.DeviceSearchService",
        &[
            ("SearchDevices", Operator(NodeRead)),
            ("GetDeviceFacets", Operator(NodeRead)),
        ],
    ),
    (
        "fleet.v1.OverviewService",
        &[
            ("GetOverview", Operator(NodeRead)),
            ("GetSiteMap", Operator(NodeRead)),
        ],
    ),
    (
        "fleet.v1.SiteService",
        &[
            ("ListSites", Operator(NodeRead)),
            ("CreateSite", Operator(OrgAdmin)),
            ("RenameSite", Operator(OrgAdmin)),
            ("DeleteSite", Operator(OrgAdmin)),
            ("ExcludeTargets", Operator(OrgAdmin)),
            ("RemoveExclude", Operator(OrgAdmin)),
            ("SetBlackouts", Operator(OrgAdmin)),
        ],
    ),
    (
        "fleet.v1.NodeConfirmationService",
        &[("ConfirmFetchingNode", Operator(NodeManage))],
    ),
    (
        "fleet.v1.NodeKeyService",
        // Each request is signed by the node's identity key.
        &[("FetchNodeKey", Public)],
    ),
    (
        "fleet.v1.DeviceService",
        &[
            ("ListDevices", Operator(NodeRead)),
            ("GetDevice", Operator(NodeRead)),
            ("UndoIdentityChange", Operator(NodeManage)),
            ("DeleteDevices", Operator(NodeManage)),
            ("ListRefusedDevices", Operator(NodeRead)),
        ],
    ),
    (
        "fleet.v1.DeviceDetailService",
        &[
            ("GetDeviceDetail", Operator(NodeRead)),
            ("LabelDevices", Operator(NodeManage)),
            ("SetDeviceNote", Operator(NodeManage)),
        ],
    ),
    (
        "fleet.v1.DevicePairingService",
        &[
            ("StartPairing", Operator(MinerPair)),
            ("GetPairing", Operator(NodeRead)),
            ("CancelPairing", Operator(MinerPair)),
        ],
    ),
    (
        "fleet.v1.AccountService",
        &[
            ("WhoAmI", AnyOperator),
            // Everybody may manage their own sessions. The handlers check access to sessions of others.
            ("ListSessions", AnyOperator),
            ("EndSession", AnyOperator),
            ("ChangePassword", AnyOperator),
        ],
    ),
    (
        "fleet.v1.AuditService",
        &[
            ("ListAudit", Operator(OrgAdmin)),
            ("GetAuditHead", Operator(OrgAdmin)),
            ("ListAuditLinks", Operator(OrgAdmin)),
        ],
    ),
    (
        "fleet.v1.KeyService",
        &[
            // Everybody may manage their own keys. The handlers check access to keys of others.
            ("ListKeys", AnyOperator),
            ("CreateKey", AnyOperator),
            ("RevokeKey", AnyOperator),
            ("RotateKey", AnyOperator),
        ],
    ),
    (
        "fleet.v1.OperatorService",
        &[
            ("ListOperators", Operator(OrgAdmin)),
            ("CreateOperator", Operator(OrgAdmin)),
            ("SetOperatorRole", Operator(OrgAdmin)),
            ("RemoveOperator", Operator(OrgAdmin)),
            ("ResetOperatorPassword", Operator(OrgAdmin)),
            ("UnlinkOperator", Operator(OrgAdmin)),
        ],
    ),
    (
        "grpc.health.v1.Health",
        &[("Check", Public), ("Watch", Public)],
    ),
    (
        "grpc.reflection.v1.ServerReflection",
        &[("ServerReflectionInfo", Public)],
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection",
        &[("ServerReflectionInfo", Public)],
    ),
];

/// The class of a procedure, by its path without the leading slash; none when there is no such procedure.
pub(crate) fn class_of(path: &str) -> Option<Class> {
    let (service, method) = path.split_once('/')?;
    let (_, methods) = TABLE.iter().find(|(known, _)| *known == service)?;
    methods
        .iter()
        .find(|(known, _)| *known == method)
        .map(|(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Served by the RPC library; our descriptors do not contain them.
    const LIBRARY: [&str; 4] = [
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ];

    #[test]
    fn every_procedure_is_in_exactly_one_class_and_every_entry_exists() {
        let declared: BTreeSet<&str> = fleet_wire::methods()
            .map(|method| method.path().trim_start_matches('/'))
            .chain(LIBRARY)
            .collect();
        let classed: Vec<String> = TABLE
            .iter()
            .flat_map(|(service, methods)| {
                methods
                    .iter()
                    .map(move |(method, _)| format!("{service}/{method}"))
            })
            .collect();
        let unique: BTreeSet<&str> = classed.iter().map(String::as_str).collect();
        assert_eq!(
            classed.len(),
            unique.len(),
            "a procedure is in the table twice"
        );
        assert_eq!(declared, unique);
    }

    #[test]
    fn pairing_through_a_node_also_requires_the_permission_to_manage_nodes() {
        let path = "fleetnodeadmin.v1.FleetNodeAdminService/PairDiscoveredDevicesOnFleetNode";
        assert_eq!(class_of(path), Some(OperatorOfBoth(NodeManage, MinerPair)));
    }

    #[test]
    fn a_procedure_that_is_not_in_the_table_cannot_be_called() {
        assert_eq!(class_of("fleet.v1.ScanService/DropEverything"), None);
        assert_eq!(class_of("/fleet.v1.AccountService/WhoAmI"), None);
    }
}
