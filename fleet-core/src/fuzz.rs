//! Bodies of the fuzz targets. Each asserts properties that hold for any input.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{AddressClass, AddressPolicy, canonical, classify, parse_literal};

/// Every accepted address has one canonical form with the same class. Every admitted address is private by RFC 1918
/// or RFC 4193, or enabled by the policy. The bytes are parsed as a text and as addresses.
pub fn address_class(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let literal = parse_literal(text);
        assert_eq!(literal, text.parse().ok(), "{text:?}");
        if let Some(ip) = literal {
            assert_eq!(parse_literal(&ip.to_string()), Some(ip), "{text:?}");
            assert!(!text.contains('%'), "{text:?}");
            judge(ip);
        }
    }
    if let Some(octets) = data.first_chunk::<4>() {
        judge(Ipv4Addr::from(*octets).into());
        judge(Ipv4Addr::from(*octets).to_ipv6_mapped().into());
    }
    if let Some(octets) = data.first_chunk::<16>() {
        judge(Ipv6Addr::from(*octets).into());
    }
}

fn judge(ip: IpAddr) {
    let plain = canonical(ip);
    assert_eq!(canonical(plain), plain, "{ip}");
    assert_eq!(classify(plain), classify(ip), "{ip}");
    for (carrier_shared, loopback) in [(false, false), (true, false), (false, true), (true, true)] {
        let policy = AddressPolicy {
            carrier_shared,
            loopback,
        };
        let Ok(admitted) = policy.admit(ip) else {
            continue;
        };
        assert_eq!(admitted, plain, "{ip}");
        let by_numbers = match plain {
            IpAddr::V4(ip) => {
                ip.is_private()
                    || (loopback && ip.octets()[0] == 127)
                    || (carrier_shared && ip.to_bits() >> 22 == 0x6440_0000 >> 22)
            }
            IpAddr::V6(ip) => {
                ip.octets()[0] & 0xfe == 0xfc || (loopback && ip == Ipv6Addr::LOCALHOST)
            }
        };
        assert!(by_numbers, "{ip} is admitted");
        assert_ne!(classify(ip), AddressClass::Metadata, "{ip} is admitted");
    }
}
