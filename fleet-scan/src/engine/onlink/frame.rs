//! The part of ARP over Ethernet (RFC 826) that a sweep needs. Pure.

use std::net::Ipv4Addr;

use fleet_core::Mac;

/// Length of a request with its Ethernet header.
pub(super) const LENGTH: usize = 42;

const BROADCAST: [u8; 6] = [0xff; 6];

/// EtherType of ARP.
const ARP: [u8; 2] = [0x08, 0x06];

/// Hardware Ethernet, protocol IPv4, and the lengths of their addresses.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0, 6, 4];

const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// The sender of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) mac: Mac,
    pub(super) address: Ipv4Addr,
}

/// A broadcast request for the hardware address of a target.
pub(super) fn request(sender: Sender, target: Ipv4Addr) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    let fields: [&[u8]; 9] = [
        &BROADCAST,
        &sender.mac.octets(),
        &ARP,
        &ETHERNET_IPV4,
        &REQUEST,
        &sender.mac.octets(),
        &sender.address.octets(),
        &[0; 6],
        &target.octets(),
    ];
    for (octet, field) in frame.iter_mut().zip(fields.concat()) {
        *octet = field;
    }
    frame
}

/// The sender of a reply. Padding may follow the reply.
pub(super) fn reply(frame: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let (_, arp) = frame.get(..LENGTH)?.split_at(12);
    let rest = arp
        .strip_prefix(&ARP)?
        .strip_prefix(&ETHERNET_IPV4)?
        .strip_prefix(&REPLY)?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let (address, _) = rest.split_first_chunk::<4>()?;
    let mac = Mac::new(*mac);
    (!mac.is_placeholder()).then_some((Ipv4Addr::from(*address), mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: Sender = Sender {
        mac: Mac::new([2, 0, 0, 0, 0, 1]),
        address: Ipv4Addr::new(10, 0, 0, 1),
    };

    fn answer() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 8, 6];
        frame.extend([0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend([2, 0, 0, 0, 0, 7, 10, 0, 0, 7]);
        frame.extend([2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
        frame
    }

    #[test]
    fn a_request_has_the_layout_of_the_rfc() {
        let mut expected = vec![0xff; 6];
        expected.extend([2, 0, 0, 0, 0, 1, 8, 6]);
        expected.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        expected.extend([2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
        expected.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 7]);
        let frame = request(SENDER, Ipv4Addr::new(10, 0, 0, 7));
        assert_eq!(frame.as_slice(), expected);
        assert_eq!(reply(&frame), None, "a request is not a reply");
    }

    #[test]
    fn a_reply_holds_its_sender() {
        let expected = Some((Ipv4Addr::new(10, 0, 0, 7), Mac::new([2, 0, 0, 0, 0, 7])));
        let mut padded = answer();
        assert_eq!(reply(&padded), expected);
        padded.resize(60, 0);
        assert_eq!(reply(&padded), expected);
    }

    #[test]
    fn other_frames_are_not_replies() {
        for length in 0..LENGTH {
            assert_eq!(reply(&answer()[..length]), None);
        }
        // EtherType, hardware, protocol, lengths, operation.
        for at in 12..22 {
            let mut frame = answer();
            frame[at] ^= 1;
            assert_eq!(reply(&frame), None, "octet {at}");
        }
        let mut multicast = answer();
        multicast[22] |= 1;
        assert_eq!(reply(&multicast), None);
    }
}
