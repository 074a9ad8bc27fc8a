//! The wire from outside: every protocol over the real listener, limits, bounds, and what a hostile peer may try.

mod bounds;
mod corpus;
mod decoder;
mod descriptors;
mod errors;
mod floods;
mod golden;
mod harness;
mod hostile;
mod listener;
mod memory;
mod openapi;
mod pipes;
mod protocols;
mod shared;
mod streams;
