//! What a device says on the wire: pure functions from a request to bytes. Sockets are `lab.rs`.

mod cgminer;
mod http;
mod malform;

pub(crate) use cgminer::{command_in, reply as cgminer_reply};
pub(crate) use http::{head_length, header_in, keeps_alive, path_in, reply as http_reply};
pub(crate) use malform::malform;
