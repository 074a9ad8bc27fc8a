//! The PROXY protocol (HAProxy, versions 1 and 2): a proxy that forwards bytes puts the client's address before them.
//! Only trusted proxies are asked for it, because anybody else could name any address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::rewind::Rewind;

/// The first bytes of version 1.
const V1: &[u8] = b"PROXY ";
/// The longest line of version 1, with its end.
const V1_MOST: usize = 107;
/// The first bytes of version 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 before its addresses: signature, version and command, family, length.
const V2_HEAD: usize = 16;
/// The most bytes of addresses and options. Options take far less than this.
const V2_MOST: usize = 4_096;

/// Reads the header, if there is one, and returns the client's address. `None` as an address means that the proxy
/// speaks for itself, or sent no header.
pub(super) async fn read<T: AsyncRead + Unpin>(
    mut io: T,
) -> io::Result<(Option<SocketAddr>, Rewind<T>)> {
    let mut seen = Vec::with_capacity(V1_MOST);
    loop {
        let could_be = |signature: &[u8]| {
            let length = seen.len().min(signature.len());
            seen[..length] == signature[..length]
        };
        match (could_be(V1), could_be(V2)) {
            (true, _) if seen.len() >= V1.len() => return version_1(io, seen).await,
            (_, true) if seen.len() >= V2.len() => return version_2(io, seen).await,
            (false, false) => return Ok((None, Rewind::after(io, seen))),
            _ => {}
        }
        // Byte by byte: the bytes after a signature belong to its own reader. This is at most twelve bytes.
        match io.read_u8().await {
            Ok(byte) => seen.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok((None, Rewind::after(io, seen)));
            }
            Err(error) => return Err(error),
        }
    }
}

async fn version_1<T: AsyncRead + Unpin>(
    mut io: T,
    mut line: Vec<u8>,
) -> io::Result<(Option<SocketAddr>, Rewind<T>)> {
    while !line.ends_with(b"\r\n") {
        if line.len() >= V1_MOST {
            return Err(malformed());
        }
        line.push(io.read_u8().await?);
    }
    let text = std::str::from_utf8(&line).map_err(|_| malformed())?;
    Ok((
        line_1(text.trim_end()).ok_or_else(malformed)?,
        Rewind::after(io, Vec::new()),
    ))
}

/// The client's address in a line of version 1; `Some(None)` if the proxy does not know it.
fn line_1(line: &str) -> Option<Option<SocketAddr>> {
    let mut words = line.split(' ').skip(1);
    match words.next()? {
        "UNKNOWN" => Some(None),
        "TCP4" | "TCP6" => {
            let client: IpAddr = words.next()?.parse().ok()?;
            let _proxy: IpAddr = words.next()?.parse().ok()?;
            Some(Some(SocketAddr::new(client, words.next()?.parse().ok()?)))
        }
        _ => None,
    }
}

async fn version_2<T: AsyncRead + Unpin>(
    mut io: T,
    seen: Vec<u8>,
) -> io::Result<(Option<SocketAddr>, Rewind<T>)> {
    let mut head = [0; V2_HEAD];
    head[..V2.len()].copy_from_slice(&seen);
    io.read_exact(&mut head[V2.len()..]).await?;
    let [.., command, family, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 || length > V2_MOST {
        return Err(malformed());
    }
    let mut addresses = vec![0; length];
    io.read_exact(&mut addresses).await?;
    // A LOCAL command is the proxy's own, such as a health check.
    let client = if command & 0xf == 0 {
        None
    } else {
        addresses_2(family, &addresses).ok_or_else(malformed)?
    };
    Ok((client, Rewind::after(io, Vec::new())))
}

/// The client's address in version 2; `Some(None)` for families without one.
fn addresses_2(family: u8, bytes: &[u8]) -> Option<Option<SocketAddr>> {
    let port = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (ip, port) = match family >> 4 {
        1 => {
            let octets: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
            (IpAddr::from(Ipv4Addr::from(octets)), port(8)?)
        }
        2 => {
            let octets: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
            (IpAddr::from(Ipv6Addr::from(octets)), port(32)?)
        }
        _ => return Some(None),
    };
    Some(Some(SocketAddr::new(ip, port)))
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the header of the PROXY protocol is malformed",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(sent: &[u8], client: Option<&str>, rest: &[u8]) {
        let (found, mut io) = read(sent).await.expect("well formed");
        assert_eq!(found, client.map(|text| text.parse().expect("an address")));
        let mut left = Vec::new();
        io.read_to_end(&mut left).await.expect("in memory");
        assert_eq!(left, rest);
    }

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).expect("short");
        [
            V2,
            &[command, family],
            &length.to_be_bytes(),
            addresses,
            b"GET",
        ]
        .concat()
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_leave_the_request() {
        check(
            b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\nGET",
            Some("192.0.2.7:4711"),
            b"GET",
        )
        .await;
        check(
            b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\nGET",
            Some("[2001:db8::7]:4711"),
            b"GET",
        )
        .await;
        check(b"PROXY UNKNOWN\r\nGET", None, b"GET").await;
        check(
            &v2(
                0x21,
                0x11,
                &[192, 0, 2, 7, 127, 0, 0, 1, 0x12, 0x67, 1, 0xbb],
            ),
            Some("192.0.2.7:4711"),
            b"GET",
        )
        .await;
        check(&v2(0x20, 0, &[]), None, b"GET").await;
        check(&v2(0x21, 0x31, &[0; 216]), None, b"GET").await;
    }

    #[tokio::test]
    async fn bytes_without_a_header_pass_unchanged() {
        for sent in [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            b"PROXIMITY / HTTP/1.1",
            b"\x16\x03\x01",
            b"P",
            b"",
        ] {
            check(sent, None, sent).await;
        }
    }

    #[tokio::test]
    async fn a_malformed_header_is_an_error() {
        let long = [V1, &[b'x'; 200][..]].concat();
        for sent in [
            &b"PROXY TCP4 nonsense 127.0.0.1 1 2\r\n"[..],
            b"PROXY TCP4 192.0.2.7\r\n",
            b"PROXY \r\n",
            &long,
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[0; 3]),
            &v2(0x21, 0x11, &[0; 5_000]),
        ] {
            assert!(read(sent).await.is_err(), "{}", sent.escape_ascii());
        }
    }
}
