//! IP report buttons of simulated miners: the datagrams of a press, with the copies that each make sends. Start with
//! [`Button::press`].

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use tokio::{net::UdpSocket, time::sleep};

use crate::site::{Device, Make};

/// The makes whose button differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ButtonMake {
    /// Repeats until a receiver answers, and follows an answer of another receiver.
    Antminer,
    /// Two NULs behind the text.
    DragonBall,
    /// No separator between address and MAC.
    Whatsminer,
    /// No MAC.
    IceRiver,
    /// JSON with the serial.
    Goldshell,
    /// Neither address nor MAC.
    Elphapex,
    /// A compressed part with pool passwords.
    SealMiner,
    /// JSON, shares its port with status broadcasts.
    Auradine,
    /// Brackets and tabs.
    IPollo,
}

/// The button of one device.
#[derive(Clone, Copy, Debug)]
pub struct Button {
    /// The make of the device.
    pub make: ButtonMake,
    /// The address of the device.
    pub ip: Ipv4Addr,
    /// The address that the datagrams go to: the broadcast address of the network.
    pub to: Ipv4Addr,
    /// Added to the ports of the makes, for receivers in tests.
    pub offset: u16,
    /// The time between two copies; the makes wait 1 to 6 seconds.
    pub pause: Duration,
}

impl ButtonMake {
    /// Every make.
    pub const ALL: [Self; 9] = [
        Self::Antminer,
        Self::DragonBall,
        Self::Whatsminer,
        Self::IceRiver,
        Self::Goldshell,
        Self::Elphapex,
        Self::SealMiner,
        Self::Auradine,
        Self::IPollo,
    ];

    /// The port of the receiver, and the number of copies without an answer.
    fn port_and_copies(self) -> (u16, usize) {
        match self {
            Self::Antminer => (14_235, 5),
            Self::DragonBall => (14_235, 3),
            Self::Whatsminer => (8_888, 2),
            Self::IceRiver => (11_503, 1),
            Self::Goldshell => (1_314, 1),
            Self::Elphapex => (9_999, 3),
            Self::SealMiner => (18_650, 1),
            Self::Auradine => (12_345, 2),
            Self::IPollo => (54_321, 3),
        }
    }

    fn datagram(self, ip: Ipv4Addr) -> Vec<u8> {
        let [_, b, c, d] = ip.octets();
        let mac = format!("02:00:5E:{b:02X}:{c:02X}:{d:02X}");
        let text = match self {
            Self::Antminer => format!("{ip},{mac}"),
            Self::DragonBall => format!("{ip},{mac}\0\0"),
            Self::Whatsminer => format!("IP:{ip}MAC:{}", mac.to_lowercase()),
            Self::IceRiver => format!("addr:{ip}"),
            Self::Goldshell => format!(
                r#"{{"version":"2.2.3","ip":"{ip}","dhcp":"dhcp","model":"DG-MAX","mac":"{mac}","cpbsn":["x",null],"dns":null,"boxsn":"B1"}}"#
            ),
            Self::Elphapex => "DG_IPREPORT_ONLY".to_owned(),
            Self::SealMiner => {
                let rest = b"\x20\x19\x03\x14\x78\x9cpools, workers and passwords";
                // Less than 2^32 bytes.
                let length = (rest.len() as u32).to_be_bytes();
                return [&length[..], rest].concat();
            }
            Self::Auradine => format!(
                r#"{{"command":"ipreport","SerialNo":"S1","ip":"{ip}","mac":"{mac}","model":"","version":"2.3.0"}}"#
            ),
            Self::IPollo => {
                format!("IP Addr:[{ip}]\t MAC Addr:[{mac}]  Time:[2026-01-01 00:00:00]")
            }
        };
        text.into_bytes()
    }
}

impl Button {
    /// The button of a device as its make has it, with a second between two copies. None if the make has no button, or
    /// the address is not IPv4.
    pub fn of(device: &Device, to: Ipv4Addr) -> Option<Self> {
        let IpAddr::V4(ip) = device.address else {
            return None;
        };
        let make = match device.make {
            Make::Antminer | Make::Braiins => ButtonMake::Antminer,
            Make::Whatsminer => ButtonMake::Whatsminer,
            Make::SealMiner => ButtonMake::SealMiner,
            Make::Auradine => ButtonMake::Auradine,
            Make::Avalon
            | Make::LuxOs
            | Make::Vnish
            | Make::Marathon
            | Make::Epic
            | Make::Bitaxe
            | Make::NerdAxe
            | Make::Proto
            | Make::PlainCgminer
            | Make::Printer
            | Make::Router => return None,
        };
        Some(Self {
            make,
            ip,
            to,
            offset: 0,
            pause: Duration::from_secs(1),
        })
    }

    /// Sends every copy of one press and returns the number of answers, which would change the lights of the device.
    ///
    /// # Errors
    ///
    /// If the datagrams cannot be sent from the address of the device.
    pub async fn press(self) -> io::Result<usize> {
        let (port, copies) = self.make.port_and_copies();
        let socket = UdpSocket::bind(SocketAddrV4::new(self.ip, 0)).await?;
        socket.set_broadcast(true)?;
        let to = SocketAddrV4::new(self.to, port.saturating_add(self.offset));
        let datagram = self.make.datagram(self.ip);
        for _ in 0..copies {
            socket.send_to(&datagram, to).await?;
            sleep(self.pause).await;
        }
        let (mut answers, mut answer) = (0, [0; 64]);
        while socket.try_recv(&mut answer).is_ok() {
            answers += 1;
        }
        Ok(answers)
    }
}
