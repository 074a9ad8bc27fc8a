//! The wire: messages, service traits and servers, clients, bounds, and the listener that serves all protocols on one port.
//!
//! Nothing here knows storage or rules. The RPC engine is an implementation detail: no public item names it. Read
//! [`gateway::FleetNodeGatewayService`] for what a service looks like, [`server::Services`] for how services are
//! served, [`client::Channel`] for how they are called, and [`listener::serve`] for the port.

mod bounds;
pub mod client;
mod context;
mod engine;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod generated;
pub mod limits;
pub mod lines;
pub mod listener;
mod method;
pub mod metrics;
mod secret;
pub mod server;
mod visible;

pub use bounds::{BrokenBound, Repeated, Validate};
pub use context::{BoxStream, Context, Peer, Protocol, Reply};
pub use engine::{Wire, decode_checked};
pub use error::{Code, Detail, ErrorMetadata, RpcError};
pub use generated::{
    common::v1 as common, fleet::v1 as fleet, fleetmanagement::v1 as fleetmanagement,
    fleetnodeadmin::v1 as admin, fleetnodegateway::v1 as gateway, go_plugin::plugin,
    google::rpc as google_rpc, grpc::health::v1 as health, minercommand::v1 as minercommand,
    pairing::v1 as pairing, sdk::v1 as sdk,
};
pub use method::{Method, MethodKind, methods};
/// The well-known messages that the definitions use, and the trait that encodes them.
pub use pbjson_types::{Duration, Empty, Timestamp};
pub use prost::Message;
pub use visible::VisibleWriter;

/// Every definition, imports included, as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The OpenAPI 3.1 description of the unary procedures in Connect's JSON form, generated from the definitions.
pub const OPENAPI: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));
