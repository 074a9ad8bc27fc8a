//! Encodes the answers of devices: pure functions from a request to bytes. `lab.rs` has the sockets.

mod cgminer;
mod http;
mod malform;
mod whatsminer;

pub(crate) use cgminer::{command_in, reply as cgminer_reply};
pub(crate) use http::{
    Request as HttpRequest, body_length, head_length, keeps_alive, reply as http_reply,
};
pub(crate) use malform::malform;
pub(crate) use whatsminer::reply as encrypted_reply;
