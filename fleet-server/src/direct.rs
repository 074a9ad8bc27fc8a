//! Scanning and pairing devices that the server itself reaches, when its administrator has enabled that. Devices that
//! belong or belonged to a node are left out.
//!
//! [`scan`] admits a scan and `run` carries it out in batches. A [`Prober`](crate::Prober) dials.

mod dialing;
mod pair;
mod rules;
mod run;
mod scan;
mod selection;

pub(crate) use pair::pair;
pub(crate) use scan::scan;
