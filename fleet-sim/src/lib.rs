//! A simulated LAN of devices on real sockets: the truth that tests, the demo and the lab compare with.
//!
//! A [`Site`] describes the devices, [`Lab::start`] puts them on the network, the [`Journal`] records every
//! connection they see, and [`Truth`] says what a read-only identification should find. Nothing here knows how
//! discovery works; the answers and the truth are written down independently of the scan engine.
//!
//! Read [`Site`] first. Beside the devices there is a [`NameServer`] for tests of host names, an [`Announcer`] for
//! tests of mDNS, and [`attack`]: peers that a server must withstand.

mod announcer;
mod answer;
pub mod attack;
mod journal;
mod lab;
mod names;
mod rng;
mod site;
mod truth;

pub use announcer::{Announcement, Announcer};
pub use journal::{Connection, Journal, JournalError};
pub use lab::{Lab, LabError, RunningSite, raise_descriptor_limit};
pub use names::{NameRecord, NameServer};
pub use site::{
    Device, DeviceLogin, Make, Malformation, Manner, Ports, Protocol, Service, Site, SiteError,
};
pub use truth::{Identity, Truth};
