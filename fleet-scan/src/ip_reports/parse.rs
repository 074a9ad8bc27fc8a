//! The announcements that miners broadcast when somebody presses their IP report button, or by themselves. Pure.
//!
//! Only the address is read. Some formats also hold the pool's user and password, which are never kept or logged.

use std::net::Ipv4Addr;

use fleet_core::Mac;
use serde_json::Value;

/// The ports of the announcements. In this order: Goldshell; Whatsminer; Elphapex; IceRiver; Auradine, NMMiner and
/// NMAxe; Antminer, Braiins OS, VolcMiner, DragonBall and Hammer; SealMiner; rigs with HiveOS; iPollo.
pub(super) const PORTS: [u16; 9] = [
    1_314, 8_888, 9_999, 11_503, 12_345, 14_235, 18_650, 42_069, 54_321,
];

/// What follows the length in a SealMiner's announcement. The rest is compressed, and holds pool passwords.
const SEALMINER: [u8; 4] = [0x20, 0x19, 0x03, 0x14];

/// The whole announcement of an Elphapex.
const ELPHAPEX: &str = "DG_IPREPORT_ONLY";

/// Reads the address of the device from an announcement. `port` is the port that it was sent to, and `from` its source.
/// None if it is no announcement, such as the acknowledgment of another receiver.
pub(super) fn address(port: u16, from: Ipv4Addr, datagram: &[u8]) -> Option<Ipv4Addr> {
    if port == 18_650 {
        return is_sealminer(datagram).then_some(from);
    }
    let text = std::str::from_utf8(datagram).ok()?;
    // Senders add NULs, line ends and blanks.
    let text = text.trim_matches(|c: char| c == '\0' || c.is_ascii_whitespace());
    match port {
        1_314 => json(text, "mac", "ip"),
        8_888 => whatsminer(text),
        9_999 => (text == ELPHAPEX).then_some(from),
        11_503 => text.strip_prefix("addr:")?.trim().parse().ok(),
        12_345 => json(text, "command", "ip").or_else(|| json(text, "BoardType", "IP")),
        14_235 => antminer(text),
        42_069 => {
            let rest = text.strip_prefix("HiveOS ")?;
            rest.split_ascii_whitespace().next()?.parse().ok()
        }
        54_321 => ipollo(text),
        _ => None,
    }
}

/// `IP,MAC`.
fn antminer(text: &str) -> Option<Ipv4Addr> {
    let (ip, mac) = text.split_once(',')?;
    mac.trim().parse::<Mac>().ok()?;
    ip.trim().parse().ok()
}

/// `IP:a.b.c.dMAC:xx:xx:xx:xx:xx:xx`, without a separator. Some readers lose the last character of the MAC, which is
/// not needed.
fn whatsminer(text: &str) -> Option<Ipv4Addr> {
    let (ip, mac) = text.strip_prefix("IP:")?.split_once("MAC:")?;
    (mac.len() >= 16).then(|| ip.trim().parse().ok())?
}

/// `IP Addr:[a.b.c.d]`, `MAC Addr:[..]` and `Time:[..]` with blanks in between.
fn ipollo(text: &str) -> Option<Ipv4Addr> {
    let (_, rest) = text.split_once("IP Addr:[")?;
    let (ip, rest) = rest.split_once(']')?;
    rest.contains("MAC Addr:[")
        .then(|| ip.trim().parse().ok())?
}

/// An object with these two members, of which one is the address.
fn json(text: &str, mark: &str, address: &str) -> Option<Ipv4Addr> {
    // The parser bounds the depth, and the datagram bounds the size.
    let value: Value = serde_json::from_str(text).ok()?;
    value.get(mark)?.as_str()?;
    value.get(address)?.as_str()?.trim().parse().ok()
}

/// Four bytes with the length of the rest, then a mark. The compressed part is not read.
fn is_sealminer(datagram: &[u8]) -> bool {
    let Some((length, rest)) = datagram.split_first_chunk::<4>() else {
        return false;
    };
    u32::from_be_bytes(*length) as usize == rest.len() && rest.starts_with(&SEALMINER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);

    fn sealminer() -> Vec<u8> {
        let rest = [&SEALMINER[..], b"compressed"].concat();
        let length = u32::try_from(rest.len()).expect("short").to_be_bytes();
        [&length[..], &rest].concat()
    }

    #[test]
    fn the_address_is_read_from_every_published_format() {
        let goldshell = br#"{"version":"2.2.3","ip":"10.0.0.7","dhcp":"dhcp","model":"DG-MAX","mac":"28:e2:97:00:00:07","cpbsn":["a",null],"dns":null,"time":"1"}"#;
        let auradine = br#"{"command":"ipreport","SerialNo":"S1","ip":"10.0.0.7","mac":"1c:00:00:00:00:07","model":"","version":"2.3.0","hostname":""}"#;
        let nmminer = br#"{"IP":"10.0.0.7","BoardType":"ESP32","HashRate":"1K","PoolInUse":"stratum+tcp://pool/worker"}"#;
        for (port, datagram) in [
            (14_235, &b"10.0.0.7,02:00:5E:00:00:07"[..]),
            (14_235, b"10.0.0.7,02:00:5e:00:00:07\0\0"),
            (8_888, b"IP:10.0.0.7MAC:c4:08:28:00:00:07"),
            (8_888, b"IP:10.0.0.7MAC:c4:08:28:00:00:07\r\n\0"),
            (11_503, b"addr:10.0.0.7"),
            (1_314, goldshell),
            (12_345, auradine),
            (12_345, nmminer),
            (
                54_321,
                b"IP Addr:[10.0.0.7] \t MAC Addr:[02:00:5e:00:00:07]  Time:[2026-01-01 00:00:00]",
            ),
            (42_069, b"HiveOS 10.0.0.7 rig"),
        ] {
            let read = address(port, FROM, datagram);
            assert_eq!(read, Some([10, 0, 0, 7].into()), "{port} {datagram:?}");
        }
        assert_eq!(address(9_999, FROM, b"DG_IPREPORT_ONLY"), Some(FROM));
        assert_eq!(address(18_650, FROM, &sealminer()), Some(FROM));
    }

    #[test]
    fn other_datagrams_are_no_announcements() {
        let mut short = sealminer();
        short.pop();
        let deep = "[".repeat(2_000);
        for (port, datagram) in [
            // Acknowledgments of Bitmain's receiver, with bytes of its stack behind them.
            (14_235, &b"OK\0\0send_a"[..]),
            (14_235, b"FAILD\0\0\0\0\0"),
            (14_235, b"10.0.0.7"),
            (14_235, b"10.0.0.07,02:00:5e:00:00:07"),
            (14_235, b"10.0.0.7,rack 4"),
            (14_235, b"\xff\xfe"),
            (14_235, b""),
            (8_888, b"IP:10.0.0.7"),
            (11_503, b"10.0.0.7"),
            (9_999, b"DG_IPREPORT"),
            (1_314, br#"{"ip":"10.0.0.7"}"#),
            (1_314, deep.as_bytes()),
            (12_345, br#"{"command":7,"ip":"10.0.0.7"}"#),
            (12_345, br#"{"command":"x","ip":["10.0.0.7"]}"#),
            (18_650, &short),
            (18_650, b"\0\0\0\x04abcd"),
            (54_321, b"IP Addr:[10.0.0.7"),
            (42_069, b"HiveOS"),
            // UniFi controllers.
            (10_001, b"\x01\0\0\0"),
        ] {
            assert_eq!(address(port, FROM, datagram), None, "{port} {datagram:?}");
        }
    }

    #[test]
    fn every_port_has_a_format() {
        let any = |port: u16| {
            [
                &b"10.0.0.7,02:00:5E:00:00:07"[..],
                b"IP:10.0.0.7MAC:c4:08:28:00:00:07",
                b"DG_IPREPORT_ONLY",
                b"addr:10.0.0.7",
                br#"{"command":"ipreport","mac":"x","ip":"10.0.0.7"}"#,
                b"HiveOS 10.0.0.7",
                b"IP Addr:[10.0.0.7] MAC Addr:[x]",
                &sealminer(),
            ]
            .iter()
            .any(|datagram| address(port, FROM, datagram).is_some())
        };
        assert!(PORTS.into_iter().all(any));
    }
}
