//! Serving the services: [`Services`] collects them, [`HttpService`] is what goes into the listener (or into any hyper or
//! axum server). Authentication happens here, before any body byte is read. The embedder decides permissions in its
//! implementation of [`Authenticate`].

mod auth;
mod body;
mod budget;
mod explain;
mod health;
mod prefix;
mod routes;
mod service;
mod unread;

pub use auth::{Admission, Authenticate, Call};
pub use body::{Body, BoxError};
pub use budget::{BodyLimits, Payer};
pub use health::Health;
pub use routes::{Mount, Routes};
pub use service::{HttpService, Services};
