//! ARP and DHCP requests, of which only the address of the sender is read. Pure.
//!
//! Nothing in them is authenticated, so an address is a hint to dial a target and no more.

use std::net::Ipv4Addr;

use fleet_core::Mac;

use super::Sign;

/// Hardware Ethernet, protocol IPv4, the lengths of their addresses, and the operation "request" (RFC 826).
const ARP_REQUEST: [u8; 8] = [0, 1, 0x08, 0, 6, 4, 0, 1];

const UDP: u8 = 17;

/// The port of DHCP servers.
const DHCP_SERVER: u16 = 67;

/// A request of a client with an Ethernet address (RFC 2131, 2).
const CLIENT: [u8; 3] = [1, 1, 6];

/// The four octets before the options (RFC 2131, 3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Options of RFC 2132, and the message type DHCPREQUEST.
const PAD: u8 = 0;
const END: u8 = 255;
const REQUESTED_ADDRESS: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const REQUEST: u8 = 3;

/// Reads an ARP packet without its Ethernet header. A host that asks for its own address announces it (RFC 5227, 2.3).
/// A request without a sender's address is a probe for a free address.
pub(super) fn arp(packet: &[u8]) -> Option<Sign> {
    let rest = packet.strip_prefix(&ARP_REQUEST)?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let (sender, rest) = rest.split_first_chunk::<4>()?;
    let target = rest.get(6..10)?;
    let ip = Ipv4Addr::from(*sender);
    if Mac::new(*mac).is_placeholder() || ip.is_unspecified() {
        return None;
    }
    Some(if target == sender {
        Sign::Announced(ip)
    } else {
        Sign::Present(ip)
    })
}

/// Reads an IPv4 packet with a request to a DHCP server. A client that names the address that it wants will have it
/// soon; one that renews its address has it. A relayed request is about another link.
pub(super) fn dhcp(packet: &[u8]) -> Option<Sign> {
    let first = *packet.first()?;
    let header = usize::from(first & 0xf) * 4;
    let offset = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x1fff;
    let udp = packet.get(header..)?;
    let is_request = first >> 4 == 4
        && header >= 20
        && packet.get(9) == Some(&UDP)
        && offset == 0
        && udp.get(2..4)? == DHCP_SERVER.to_be_bytes();
    let message = udp.get(8..)?;
    let is_own = message.get(24..28)? == [0; 4];
    if !is_request || !is_own || !message.starts_with(&CLIENT) || message.get(236..240)? != COOKIE {
        return None;
    }
    let address = |octets: &[u8]| {
        let octets: [u8; 4] = octets.try_into().ok()?;
        Some(Ipv4Addr::from(octets)).filter(|ip| !ip.is_unspecified())
    };
    let (mut is_dhcp_request, mut wanted) = (false, None);
    let mut options = message.get(240..)?;
    while let Some((code, rest)) = options.split_first() {
        if *code == PAD {
            options = rest;
            continue;
        }
        if *code == END {
            break;
        }
        let (length, rest) = rest.split_first()?;
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        match *code {
            MESSAGE_TYPE => is_dhcp_request = value == [REQUEST],
            REQUESTED_ADDRESS => wanted = address(value),
            _ => {}
        }
        options = rest;
    }
    if !is_dhcp_request {
        return None;
    }
    let current = message.get(12..16).and_then(address);
    wanted.map(Sign::Soon).or(current.map(Sign::Present))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 4] = [10, 0, 0, 7];

    fn request(mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        [&ARP_REQUEST[..], &mac, &sender, &[0; 6], &target].concat()
    }

    fn discover(current: [u8; 4], relay: [u8; 4], options: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 236];
        message[..3].copy_from_slice(&CLIENT);
        message[12..16].copy_from_slice(&current);
        message[24..28].copy_from_slice(&relay);
        let udp = [&[0, 68, 0, 67, 0, 0, 0, 0][..], &message, &COOKIE, options].concat();
        let mut header = [0; 20];
        (header[0], header[9]) = (0x45, UDP);
        [&header[..], &udp].concat()
    }

    #[test]
    fn an_arp_request_names_its_sender() {
        const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
        let own = Ipv4Addr::from(OWN);
        for (packet, expected) in [
            (request(MAC, OWN, OWN), Some(Sign::Announced(own))),
            (request(MAC, OWN, [10, 0, 0, 1]), Some(Sign::Present(own))),
            // A probe for a free address.
            (request(MAC, [0; 4], OWN), None),
            (request([0; 6], OWN, OWN), None),
            (request([3, 0, 0, 0, 0, 7], OWN, OWN), None),
            (request(MAC, OWN, OWN)[..27].to_vec(), None),
        ] {
            assert_eq!(arp(&packet), expected, "{packet:?}");
        }
        let mut reply = request(MAC, OWN, OWN);
        reply[7] = 2;
        assert_eq!(arp(&reply), None);
        let padded = [request(MAC, OWN, OWN), vec![0; 18]].concat();
        assert_eq!(arp(&padded), Some(Sign::Announced(own)));
    }

    #[test]
    fn a_dhcp_request_names_the_wanted_or_the_current_address() {
        let own = Ipv4Addr::from(OWN);
        let wanted = [
            PAD,
            MESSAGE_TYPE,
            1,
            REQUEST,
            REQUESTED_ADDRESS,
            4,
            10,
            0,
            0,
            7,
            END,
        ];
        for (packet, expected) in [
            (discover([0; 4], [0; 4], &wanted), Some(Sign::Soon(own))),
            (
                discover(OWN, [0; 4], &[MESSAGE_TYPE, 1, REQUEST]),
                Some(Sign::Present(own)),
            ),
            (discover([0; 4], [10, 0, 0, 1], &wanted), None),
            (
                discover(
                    [0; 4],
                    [0; 4],
                    &[MESSAGE_TYPE, 1, 1, REQUESTED_ADDRESS, 4, 10, 0, 0, 7],
                ),
                None,
            ),
            (discover(OWN, [0; 4], &[MESSAGE_TYPE, 9, REQUEST]), None),
            (
                discover(
                    [0; 4],
                    [0; 4],
                    &[MESSAGE_TYPE, 1, REQUEST, REQUESTED_ADDRESS, 3, 10, 0, 0],
                ),
                None,
            ),
            (discover([0; 4], [0; 4], &[]), None),
        ] {
            assert_eq!(dhcp(&packet), expected, "{packet:?}");
        }
        let whole = discover([0; 4], [0; 4], &wanted);
        for (at, value) in [
            (0, 0x65),
            (0, 0x44),
            (7, 1),
            (9, 6),
            (23, 68),
            (28, 2),
            (264, 0),
        ] {
            let mut packet = whole.clone();
            packet[at] = value;
            assert_eq!(dhcp(&packet), None, "octet {at}");
        }
        for length in 0..whole.len() - 1 {
            let _ = dhcp(&whole[..length]);
        }
    }
}
