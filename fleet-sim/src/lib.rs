//! A simulated LAN of devices on real sockets, for tests, the demo and the lab.
//!
//! A [`Site`] describes the devices, and [`Lab::start`] runs them on the network. The [`Journal`] records their
//! connections. [`Truth`] is the expected result of a read-only identification. This crate is independent of the scan
//! engine, so it can serve as the reference.
//!
//! Start with [`Site`]. The crate also has a [`NameServer`] for tests of host names, an [`Announcer`] for tests of
//! mDNS, [`Button`]s for tests of IP reports, [`Namespace`] for tests with interfaces of their own, and [`attack`]: hostile HTTP/2 clients.

mod announcer;
mod answer;
pub mod attack;
mod button;
mod journal;
mod lab;
mod names;
mod namespace;
mod rng;
mod site;
mod truth;

pub use announcer::{Announcement, Announcer};
pub use button::{Button, ButtonMake};
pub use journal::{Connection, Journal, JournalError};
pub use lab::{Lab, LabError, RunningSite, raise_descriptor_limit};
pub use names::{NameRecord, NameServer};
pub use namespace::{Capture, Namespace};
pub use site::{
    Device, DeviceLogin, Make, Malformation, Manner, Ports, Protocol, Service, Site, SiteError,
};
pub use truth::{Identity, Truth};
