//! `fleetnode policy check`: what the site's rules say of endpoints.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

use fleet_core::{Endpoint, Port};

use crate::{cli::SiteArgs, options};

/// Prints a line an endpoint; fails when one may not be dialed.
pub(crate) fn check(endpoints: &[SocketAddr], site: SiteArgs) -> anyhow::Result<ExitCode> {
    let policy = options::site(site);
    let mut out = io::stdout().lock();
    let mut all = true;
    for asked in endpoints {
        let Some(port) = Port::new(asked.port()) else {
            continue;
        };
        let endpoint = Endpoint {
            ip: asked.ip(),
            port,
        };
        let verdict = policy.explain(endpoint);
        all &= verdict.is_ok();
        match verdict {
            Ok(why) => writeln!(out, "{endpoint:<24} dialed: {why}")?,
            Err(why) => writeln!(out, "{endpoint:<24} never dialed: {why}")?,
        }
    }
    Ok(if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
