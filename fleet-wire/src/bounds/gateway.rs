//! Bounds of what nodes send, and of what our node receives on its stream.

use super::{BrokenBound, Checked, Repeated, Validate, bytes, count, inner, required, text, texts};
use crate::{
    gateway::{
        AgentCommand, BeginAuthHandshakeRequest, CompleteAuthHandshakeRequest, ControlAccepted,
        ControlAck, ControlCancel, ControlCommand, ControlGoodbye, ControlHello, ControlPins,
        ControlProgress, ControlStreamRequest, ControlStreamResponse, PinnedName, RegisterRequest,
        ReportDiscoveredDevicesRequest, ReportPairedDevicesRequest, UploadHeartbeatRequest,
        agent_command, control_stream_request, control_stream_response,
    },
    limits::{MAX_COMMAND_TARGETS, MAX_PAYLOAD, MAX_PINNED_NAMES, MAX_PORTS, MAX_REPORT},
};

const KEY: usize = 32;
const COMMAND_ID: usize = 128;
const NOTE: usize = 512;
const NOTES: usize = 64;
const CAPABILITIES: usize = 32;
const RUNNING: usize = 64;
const DEFAULT_PORTS: usize = 64;
const SUBNETS: usize = 16;
const ADDRESSES_A_NAME: usize = 8;

fn command_id(value: &str) -> Checked {
    text("command_id", value, 1, COMMAND_ID)
}

impl Validate for RegisterRequest {
    fn validate(&self) -> Checked {
        text("enrollment_token", &self.enrollment_token, 20, 512)?;
        text("name", &self.name, 1, 255)?;
        bytes("identity_pubkey", &self.identity_pubkey, KEY, KEY)?;
        bytes("encryption_pubkey", &self.encryption_pubkey, KEY, KEY)?;
        if self.identity_proof.is_empty() {
            Ok(())
        } else {
            bytes("identity_proof", &self.identity_proof, 64, 64)
        }
    }
}

impl Validate for BeginAuthHandshakeRequest {
    fn validate(&self) -> Checked {
        text("api_key", &self.api_key, 20, 512)?;
        bytes("identity_pubkey", &self.identity_pubkey, KEY, KEY)
    }
}

impl Validate for CompleteAuthHandshakeRequest {
    fn validate(&self) -> Checked {
        bytes("challenge", &self.challenge, 16, 64)?;
        bytes("signature", &self.signature, 64, 64)
    }
}

impl Validate for UploadHeartbeatRequest {
    fn validate(&self) -> Checked {
        required("sent_at", self.sent_at.as_ref()).map(|_| ())
    }
}

impl Validate for ReportDiscoveredDevicesRequest {
    const REPEATED: &'static [Repeated] = &[Repeated {
        field: "devices",
        number: 1,
        max: MAX_REPORT,
        inner: &[],
    }];

    fn validate(&self) -> Checked {
        count("devices", &self.devices, 0, MAX_REPORT)?;
        command_id(&self.command_id)
    }
}

impl Validate for ReportPairedDevicesRequest {
    const REPEATED: &'static [Repeated] = &[Repeated {
        field: "results",
        number: 2,
        max: MAX_REPORT,
        inner: &[],
    }];

    fn validate(&self) -> Checked {
        count("results", &self.results, 0, MAX_REPORT)?;
        command_id(&self.command_id)
    }
}

impl Validate for ControlStreamRequest {
    const REPEATED: &'static [Repeated] = &[
        Repeated {
            field: "hello",
            number: 1,
            max: 1,
            inner: &[
                Repeated {
                    field: "hello.capabilities",
                    number: 101,
                    max: CAPABILITIES,
                    inner: &[],
                },
                Repeated {
                    field: "hello.running",
                    number: 103,
                    max: RUNNING,
                    inner: &[],
                },
                Repeated {
                    field: "hello.default_ports",
                    number: 104,
                    max: DEFAULT_PORTS,
                    inner: &[],
                },
                Repeated {
                    field: "hello.local_subnets",
                    number: 105,
                    max: SUBNETS,
                    inner: &[],
                },
            ],
        },
        Repeated {
            field: "ack",
            number: 2,
            max: 1,
            inner: &[Repeated {
                field: "ack.notes",
                number: 101,
                max: NOTES,
                inner: &[],
            }],
        },
        Repeated {
            field: "pins",
            number: 101,
            max: 1,
            inner: &[Repeated {
                field: "pins.names",
                number: 2,
                max: MAX_PINNED_NAMES,
                inner: &[Repeated {
                    field: "pins.names.addresses",
                    number: 2,
                    max: ADDRESSES_A_NAME,
                    inner: &[],
                }],
            }],
        },
    ];

    fn validate(&self) -> Checked {
        match &self.kind {
            None => Ok(()),
            Some(control_stream_request::Kind::Hello(m)) => inner("hello", m),
            Some(control_stream_request::Kind::Ack(m)) => inner("ack", m),
            Some(control_stream_request::Kind::Progress(m)) => inner("progress", m),
            Some(control_stream_request::Kind::Pins(m)) => inner("pins", m),
        }
    }
}

impl Validate for ControlHello {
    fn validate(&self) -> Checked {
        text("version", &self.version, 0, 64)?;
        texts("capabilities", &self.capabilities, CAPABILITIES, 0, 64)?;
        if !self.instance_id.is_empty() {
            bytes("instance_id", &self.instance_id, 16, 16)?;
        }
        texts("running", &self.running, RUNNING, 1, COMMAND_ID)?;
        texts("default_ports", &self.default_ports, DEFAULT_PORTS, 1, 5)?;
        texts("local_subnets", &self.local_subnets, SUBNETS, 1, 64)
    }
}

impl Validate for ControlAck {
    fn validate(&self) -> Checked {
        command_id(&self.command_id)?;
        text("error_message", &self.error_message, 0, 4_096)?;
        bytes("payload", &self.payload, 0, MAX_PAYLOAD)?;
        bytes("outcomes", &self.outcomes, 0, 65_536)?;
        texts("notes", &self.notes, NOTES, 0, NOTE)
    }
}

impl Validate for ControlProgress {
    fn validate(&self) -> Checked {
        command_id(&self.command_id)?;
        text("phase", &self.phase, 0, 64)?;
        text("note", &self.note, 0, NOTE)
    }
}

impl Validate for ControlPins {
    fn validate(&self) -> Checked {
        command_id(&self.command_id)?;
        count("names", &self.names, 0, MAX_PINNED_NAMES)?;
        self.names
            .iter()
            .enumerate()
            .try_for_each(|(i, name)| inner(&format!("names[{i}]"), name))
    }
}

impl Validate for PinnedName {
    fn validate(&self) -> Checked {
        text("name", &self.name, 1, 255)?;
        texts("addresses", &self.addresses, ADDRESSES_A_NAME, 1, 45)?;
        text("skipped_reason", &self.skipped_reason, 0, NOTE)
    }
}

impl Validate for ControlStreamResponse {
    fn validate(&self) -> Checked {
        match &self.kind {
            None => Ok(()),
            Some(control_stream_response::Kind::Accepted(m)) => inner("accepted", m),
            Some(control_stream_response::Kind::Command(m)) => inner("command", m),
            Some(control_stream_response::Kind::Cancel(m)) => inner("cancel", m),
            Some(control_stream_response::Kind::Goodbye(m)) => inner("goodbye", m),
        }
    }
}

impl Validate for ControlAccepted {
    fn validate(&self) -> Checked {
        text("version", &self.version, 0, 64)?;
        texts("capabilities", &self.capabilities, CAPABILITIES, 0, 64)
    }
}

impl Validate for ControlCommand {
    fn validate(&self) -> Checked {
        command_id(&self.command_id)?;
        bytes("payload", &self.payload, 0, MAX_PAYLOAD)
    }
}

impl Validate for ControlCancel {
    fn validate(&self) -> Checked {
        command_id(&self.command_id)
    }
}

super::unbounded!(ControlGoodbye);

/// The payload of a command, as our node takes it: a list may be as long as a big command.
impl Validate for AgentCommand {
    const REPEATED: &'static [Repeated] = &[
        Repeated {
            field: "discover",
            number: 1,
            max: 1,
            inner: &[
                Repeated {
                    field: "discover.ip_list",
                    number: 1,
                    max: 1,
                    inner: &[
                        Repeated {
                            field: "discover.ip_list.ip_addresses",
                            number: 1,
                            max: MAX_COMMAND_TARGETS,
                            inner: &[],
                        },
                        Repeated {
                            field: "discover.ip_list.ports",
                            number: 2,
                            max: MAX_PORTS,
                            inner: &[],
                        },
                    ],
                },
                Repeated {
                    field: "discover.ip_range",
                    number: 2,
                    max: 1,
                    inner: &[Repeated {
                        field: "discover.ip_range.ports",
                        number: 3,
                        max: MAX_PORTS,
                        inner: &[],
                    }],
                },
                Repeated {
                    field: "discover.nmap",
                    number: 4,
                    max: 1,
                    inner: &[Repeated {
                        field: "discover.nmap.ports",
                        number: 2,
                        max: MAX_PORTS,
                        inner: &[],
                    }],
                },
            ],
        },
        Repeated {
            field: "pair",
            number: 2,
            max: 1,
            inner: &[Repeated {
                field: "pair.targets",
                number: 1,
                max: MAX_REPORT,
                inner: &[],
            }],
        },
    ];

    fn validate(&self) -> Checked {
        match &self.command {
            None => Err(BrokenBound::new(
                "command",
                "is not one that this side knows",
            )),
            Some(agent_command::Command::Discover(m)) => {
                super::pairing::discover(m, MAX_COMMAND_TARGETS).map_err(|e| e.within("discover"))
            }
            Some(agent_command::Command::Pair(m)) => inner("pair", m),
        }
    }
}
