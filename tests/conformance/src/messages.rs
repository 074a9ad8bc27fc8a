//! The generated messages.

#![expect(
    unreachable_pub,
    clippy::allow_attributes,
    reason = "generated from the definitions"
)]

include!(concat!(env!("OUT_DIR"), "/connectrpc.conformance.v1.rs"));
include!(concat!(
    env!("OUT_DIR"),
    "/connectrpc.conformance.v1.serde.rs"
));
