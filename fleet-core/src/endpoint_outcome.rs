//! What a scan shows about one endpoint. [`EndpointOutcome`] is the value that `fleet-discovery` reads from a scan and
//! that `fleet-inventory` judges.

/// What a scan shows about an endpoint, from weak to strong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointOutcome {
    /// Its address is not one of the targets.
    #[default]
    NotATarget,
    /// Its address is a target, but not with this port.
    PortNotScanned,
    /// The plan or the node skipped its address.
    Skipped,
    /// It was not probed, because the scan ended first.
    NotReached,
    /// The scan probed only hosts that announce a service, and this one sent no announcement.
    NotAnnounced,
    /// The node reported no outcome for its address.
    Unknown,
    /// It was probed and did not answer.
    Silent,
    /// It was probed and refused the connection.
    Refused,
    /// Its address answered without being identified, or its device was rejected.
    Answered,
}

impl EndpointOutcome {
    /// Every outcome, from weak to strong.
    pub const ALL: [Self; 9] = [
        Self::NotATarget,
        Self::PortNotScanned,
        Self::Skipped,
        Self::NotReached,
        Self::NotAnnounced,
        Self::Unknown,
        Self::Silent,
        Self::Refused,
        Self::Answered,
    ];

    /// Whether the endpoint was probed and no device answers there.
    pub fn is_absent(self) -> bool {
        matches!(self, Self::Silent | Self::Refused)
    }
}
