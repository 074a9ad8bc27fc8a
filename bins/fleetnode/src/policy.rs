//! `fleetnode policy check`: applies the site policy to endpoints.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

use fleet_core::{Endpoint, Port};

use crate::{cli::SiteArgs, options};

/// Prints one line per endpoint. The exit code is 1 if an endpoint is forbidden.
pub(crate) fn check(endpoints: &[SocketAddr], site: SiteArgs) -> anyhow::Result<ExitCode> {
    let policy = options::site(site);
    let mut out = io::stdout().lock();
    let mut all = true;
    for requested in endpoints {
        let Some(port) = Port::new(requested.port()) else {
            continue;
        };
        let endpoint = Endpoint {
            ip: requested.ip(),
            port,
        };
        let verdict = policy.explain(endpoint);
        all &= verdict.is_ok();
        match verdict {
            Ok(why) => writeln!(out, "{endpoint:<24} allowed: {why}")?,
            Err(why) => writeln!(out, "{endpoint:<24} forbidden: {why}")?,
        }
    }
    Ok(if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
