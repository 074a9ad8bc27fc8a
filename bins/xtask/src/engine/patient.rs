//! `dial-patiently` connects to every endpoint of a network, 32 at a time, and waits 10 s for each. It is the baseline of
//! `prove engine`: a scanner without any knowledge of the network.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// Connections at a time.
pub(super) const AT_A_TIME: usize = 32;

/// Time limit of one connection.
const WAIT: Duration = Duration::from_secs(10);

/// Shortest prefix that is accepted. Such a network takes about a minute.
const WIDEST: u32 = 24;

/// Prints the open endpoints.
pub(crate) fn dial(network: &str, ports: &[&str]) -> Result<bool> {
    let endpoints = Mutex::new(endpoints(network, ports)?.into_iter());
    let next = || {
        let mut endpoints = endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.next()
    };
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(endpoint) = next() {
                    if TcpStream::connect_timeout(&endpoint, WAIT).is_ok() {
                        println!("{endpoint}");
                    }
                }
            });
        }
    });
    Ok(true)
}

fn endpoints(network: &str, ports: &[&str]) -> Result<Vec<SocketAddr>> {
    let (first, length) = network
        .split_once('/')
        .with_context(|| format!("`{network}` is not a network; write one such as 10.77.0.0/27"))?;
    let first: Ipv4Addr = first.parse().with_context(|| format!("`{network}`"))?;
    let length: u32 = length.parse().with_context(|| format!("`{network}`"))?;
    if !(WIDEST..=32).contains(&length) {
        bail!(
            "`{network}` is too large: the limit is a /{WIDEST}, because every dark endpoint takes {WAIT:?}"
        );
    }
    let mut endpoints = Vec::new();
    for port in ports {
        let port: u16 = port.parse().with_context(|| format!("port `{port}`"))?;
        let hosts = 0..1_u32 << (32 - length);
        endpoints.extend(hosts.map(|host| {
            let address = Ipv4Addr::from_bits(first.to_bits().saturating_add(host));
            SocketAddr::from((address, port))
        }));
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_of_a_network_is_listed_once() {
        let named = endpoints("10.77.0.0/27", &["80", "4028"]).expect("a network");
        assert_eq!(named.len(), 64);
        assert_eq!(named[63].to_string(), "10.77.0.31:4028");
        for (wrong, hint) in [
            ("10.77.0.0", "write"),
            ("10.77.0.0/16", "/24"),
            ("x/27", "x"),
        ] {
            let error = endpoints(wrong, &["80"]).expect_err("wrong");
            assert!(format!("{error:#}").contains(hint), "{error:#}");
        }
        assert!(endpoints("10.77.0.0/27", &["0x50"]).is_err());
    }
}
