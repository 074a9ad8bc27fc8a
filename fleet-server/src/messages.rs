//! The messages that the server sends down a control stream.

use std::time::Duration;

use fleet_core::{CommandId, Epoch, Timestamp};
use fleet_discovery::{ChunkCommand, Mode, ScanRequest};
use fleet_registry::{Capabilities, registry::EvictReason};
use fleet_store::IssuedCommand;
use fleet_wire::{
    Message,
    gateway::{
        AgentCommand, ControlAccepted, ControlCancel, ControlCommand, ControlGoodbye,
        GoodbyeReason, agent_command,
    },
    pairing::{FleetNodePairRequest, discover_request},
};

use crate::{convert, credentials::PairCredentials};

/// The command message of a chunk.
pub(crate) fn command(issued: &IssuedCommand) -> ControlCommand {
    let mode = match issued.request.clone() {
        ChunkCommand::List(entries) => Mode::List(entries),
        ChunkCommand::Target(target) => Mode::Target(target),
        ChunkCommand::Mdns(listening) => Mode::Mdns {
            timeout_seconds: listening.seconds(),
            service_type: listening.service.to_string(),
            // mDNS has no other domain (RFC 6762, 3).
            domain: "local".to_owned(),
        },
    };
    let request = ScanRequest {
        mode,
        ports: issued.ports.iter().map(ToString::to_string).collect(),
        rate: issued.rate,
    };
    let mut request = convert::discover_request(request);
    if let Some(discover_request::Mode::IpList(list)) = &mut request.mode {
        list.explicit = issued.is_explicit;
    }
    let command = AgentCommand {
        command: Some(agent_command::Command::Discover(request)),
    };
    ControlCommand {
        command_id: issued.command.to_string(),
        payload: command.encode_to_vec().into(),
    }
}

/// The command message of one batch of a pairing.
pub(crate) fn pair(command: CommandId, request: FleetNodePairRequest) -> ControlCommand {
    let command_id = command.to_string();
    let mut command = AgentCommand {
        command: Some(agent_command::Command::Pair(request)),
    };
    let payload = command.encode_to_vec().into();
    if let Some(agent_command::Command::Pair(request)) = &mut command.command {
        // Wipes them.
        drop(PairCredentials::take(request.credentials.take()));
    }
    ControlCommand {
        command_id,
        payload,
    }
}

/// The answer to Hello, repeated as the liveness signal.
pub(crate) fn accepted(now: Timestamp, version: &str, epoch: Epoch) -> ControlAccepted {
    ControlAccepted {
        server_time: Some(convert::timestamp(now)),
        version: version.to_owned(),
        capabilities: Capabilities::all()
            .iter()
            .map(|capability| capability.to_string())
            .collect(),
        epoch: u64::try_from(epoch.0).unwrap_or(0),
    }
}

/// The message that stops a command.
pub(crate) fn cancel(command: CommandId) -> ControlCancel {
    ControlCancel {
        command_id: command.to_string(),
    }
}

/// The notice that the server shuts down, with the node's time to reconnect.
pub(crate) fn draining(retry_after: Duration) -> ControlGoodbye {
    parting(GoodbyeReason::Drain, Some(retry_after))
}

/// The notice that the server ended the stream, with the reason.
pub(crate) fn goodbye(reason: EvictReason, retry_after: Option<Duration>) -> ControlGoodbye {
    let reason = match reason {
        EvictReason::Replaced => GoodbyeReason::Replaced,
        EvictReason::Revoked => GoodbyeReason::Revoked,
        EvictReason::Draining => GoodbyeReason::Drain,
        EvictReason::NoHello | EvictReason::ClaimStuck => GoodbyeReason::Unspecified,
    };
    parting(reason, retry_after)
}

fn parting(reason: GoodbyeReason, retry_after: Option<Duration>) -> ControlGoodbye {
    let millis = retry_after.map_or(0, |after| {
        u32::try_from(after.as_millis()).unwrap_or(u32::MAX)
    });
    ControlGoodbye {
        reason: reason.into(),
        retry_after_ms: millis,
    }
}
