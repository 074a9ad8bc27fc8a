//! Who may call what: every procedure in exactly one class. A procedure that is not in the table does
//! not exist for callers.

use fleet_core::Permission;

/// Who may call a procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Anybody; rate limited where it matters.
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

/// Every procedure, by its path without the leading slash.
const TABLE: &[(&str, Class)] = &[
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/Register",
        Public,
    ),
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/BeginAuthHandshake",
        Public,
    ),
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/CompleteAuthHandshake",
        Public,
    ),
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/UploadHeartbeat",
        Node,
    ),
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/ReportDiscoveredDevices",
        Node,
    ),
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/ReportPairedDevices",
        Node,
    ),
    (
        "fleetnodegateway.v1.FleetNodeGatewayService/ControlStream",
        Node,
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/CreateEnrollmentCode",
        Operator(NodeManage),
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/ListFleetNodes",
        Operator(NodeRead),
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/ConfirmFleetNode",
        Operator(NodeManage),
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/RevokeFleetNode",
        Operator(NodeManage),
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/PairDeviceToFleetNode",
        Operator(NodeManage),
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/UnpairDevice",
        Operator(NodeManage),
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/ListFleetNodeDevices",
        Operator(NodeRead),
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/DiscoverOnFleetNode",
        Operator(NodeManage),
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/ListFleetNodeDiscoveredDevices",
        Operator(NodeRead),
    ),
    (
        "fleetnodeadmin.v1.FleetNodeAdminService/PairDiscoveredDevicesOnFleetNode",
        OperatorOfBoth(NodeManage, MinerPair),
    ),
    ("pairing.v1.PairingService/Discover", Operator(NodeManage)),
    ("pairing.v1.PairingService/Pair", Operator(MinerPair)),
    (
        "fleet.v1.DirectService/ScanOwnNetwork",
        Operator(NodeManage),
    ),
    ("fleet.v1.ScanService/StartScan", Operator(NodeManage)),
    ("fleet.v1.ScanService/PlanScan", Operator(NodeManage)),
    ("fleet.v1.ScanService/GetScan", Operator(NodeRead)),
    ("fleet.v1.ScanService/ListScans", Operator(NodeRead)),
    ("fleet.v1.ScanService/WatchScan", Operator(NodeRead)),
    ("fleet.v1.ScanService/CancelScan", Operator(NodeManage)),
    ("fleet.v1.NodeService/ListNodes", Operator(NodeRead)),
    (
        "fleet.v1.NodeService/ListEnrollmentCodes",
        Operator(NodeRead),
    ),
    (
        "fleet.v1.NodeService/CancelEnrollmentCode",
        Operator(NodeManage),
    ),
    ("fleet.v1.NodeService/ListRevokedNodes", Operator(NodeRead)),
    ("fleet.v1.DeviceService/ListDevices", Operator(NodeRead)),
    ("fleet.v1.DeviceService/GetDevice", Operator(NodeRead)),
    (
        "fleet.v1.DeviceService/UndoIdentityChange",
        Operator(NodeManage),
    ),
    (
        "fleet.v1.DeviceService/ListRefusedDevices",
        Operator(NodeRead),
    ),
    (
        "fleet.v1.DevicePairingService/StartPairing",
        Operator(MinerPair),
    ),
    (
        "fleet.v1.DevicePairingService/GetPairing",
        Operator(NodeRead),
    ),
    (
        "fleet.v1.DevicePairingService/CancelPairing",
        Operator(MinerPair),
    ),
    ("fleet.v1.AccountService/WhoAmI", AnyOperator),
    ("fleet.v1.AuditService/ListAudit", Operator(OrgAdmin)),
    ("fleet.v1.AuditService/GetAuditHead", Operator(OrgAdmin)),
    ("fleet.v1.AuditService/ListAuditLinks", Operator(OrgAdmin)),
    ("fleet.v1.AccountService/ListSessions", AnyOperator),
    ("fleet.v1.AccountService/EndSession", AnyOperator),
    ("fleet.v1.AccountService/ChangePassword", AnyOperator),
    // Everybody's own keys; others' are asked about inside.
    ("fleet.v1.KeyService/ListKeys", AnyOperator),
    ("fleet.v1.KeyService/CreateKey", AnyOperator),
    ("fleet.v1.KeyService/RevokeKey", AnyOperator),
    ("fleet.v1.KeyService/RotateKey", AnyOperator),
    ("fleet.v1.OperatorService/ListOperators", Operator(OrgAdmin)),
    (
        "fleet.v1.OperatorService/CreateOperator",
        Operator(OrgAdmin),
    ),
    (
        "fleet.v1.OperatorService/SetOperatorRole",
        Operator(OrgAdmin),
    ),
    (
        "fleet.v1.OperatorService/RemoveOperator",
        Operator(OrgAdmin),
    ),
    (
        "fleet.v1.OperatorService/ResetOperatorPassword",
        Operator(OrgAdmin),
    ),
    ("grpc.health.v1.Health/Check", Public),
    ("grpc.health.v1.Health/Watch", Public),
    ("grpc.health.v1.Health/List", Public),
    (
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Public,
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Public,
    ),
];

/// The class of a procedure; none when there is no such procedure.
pub(crate) fn class_of(path: &str) -> Option<Class> {
    TABLE
        .iter()
        .find(|(known, _)| *known == path)
        .map(|(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Served by the engine itself: no descriptor of ours names them.
    const OF_THE_ENGINE: [&str; 5] = [
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/List",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ];

    #[test]
    fn every_procedure_is_in_exactly_one_class_and_every_entry_exists() {
        let declared: BTreeSet<&str> = fleet_wire::methods()
            .map(|method| method.path().trim_start_matches('/'))
            .chain(OF_THE_ENGINE)
            .collect();
        let classed: BTreeSet<&str> = TABLE.iter().map(|(path, _)| *path).collect();
        assert_eq!(
            TABLE.len(),
            classed.len(),
            "a procedure is in the table twice"
        );
        assert_eq!(declared, classed);
    }

    #[test]
    fn pairing_through_a_node_manages_the_node_too() {
        let path = "fleetnodeadmin.v1.FleetNodeAdminService/PairDiscoveredDevicesOnFleetNode";
        assert_eq!(class_of(path), Some(OperatorOfBoth(NodeManage, MinerPair)));
    }

    #[test]
    fn nobody_may_call_what_is_not_in_the_table() {
        assert_eq!(class_of("fleet.v1.ScanService/DropEverything"), None);
        assert_eq!(class_of("/fleet.v1.AccountService/WhoAmI"), None);
    }
}
