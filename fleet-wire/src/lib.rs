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
#[doc(hidden)]
pub mod fuzz;
mod generated;
pub mod limits;
pub mod lines;
pub mod listener;
mod method;
mod secret;
pub mod server;

pub use bounds::{BrokenBound, Repeated, Validate};
pub use context::{BoxStream, Context, Peer, Protocol, Reply};
pub use engine::decode_checked;
pub use error::{Code, Detail, RpcError};
pub use generated::common::v1 as common;
pub use generated::fleet::v1 as fleet;
pub use generated::fleetmanagement::v1 as fleetmanagement;
pub use generated::fleetnodeadmin::v1 as admin;
pub use generated::fleetnodegateway::v1 as gateway;
pub use generated::go_plugin::plugin;
pub use generated::google::rpc as google_rpc;
pub use generated::minercommand::v1 as minercommand;
pub use generated::pairing::v1 as pairing;
pub use generated::sdk::v1 as sdk;
pub use method::{Method, MethodKind, methods};

/// The well-known messages that the definitions use, and the trait that encodes them.
pub use pbjson_types::{Duration, Empty, Timestamp};
pub use prost::Message;

/// Every definition, imports included, as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
