//! Calling the services: a [`Channel`] to one server, over which the generated clients call.
//!
//! Unary calls and server streams go by Connect over HTTP/1.1 (or HTTP/2, where TLS negotiates it), streams both ways by
//! gRPC over HTTP/2. The path of the server's URL is kept as a prefix, redirects are never followed, and nothing is
//! retried here.

mod broken;
mod channel;
mod fetch;
mod options;
mod post;
mod raw;
mod stream;
mod tls;
mod transport;

pub use channel::{Channel, ChannelConfig, ChannelError};
pub use fetch::{Fetch, Fetched, fetch};
pub use options::CallOptions;
pub use post::{InvalidPostUrl, Post, PostError, PostUrl, post};
pub use stream::{Incoming, Outgoing};
pub use tls::Roots;
