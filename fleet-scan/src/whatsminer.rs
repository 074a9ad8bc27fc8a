//! Whatsminer API 3 (TCP 4433): JSON in frames with a length of four bytes, little-endian, both ways.
//!
//! The framing is that of the maker's documentation (apidoc.whatsminer.com). Every `get.` command is open.

use serde_json::Value;

use crate::{driver::DriverError, json, probe::Probe};

/// Where the API listens.
pub(crate) const PORT: u16 = 4433;

/// Bytes before each message.
const HEAD: usize = 4;

/// A longer message is none of this API: the largest that is published has 2 KiB.
const LONGEST: usize = 64 * 1024;

/// The answer to one command. None when the bytes are not a frame of this API.
///
/// # Errors
/// [`DriverError`] when nothing came back.
pub(crate) async fn send(
    probe: &mut Probe<'_>,
    command: &str,
) -> Result<Option<Value>, DriverError> {
    let body = format!(r#"{{"cmd":"{command}"}}"#);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    let reply = probe
        .ask(&[&length[..], body.as_bytes()].concat(), is_complete)
        .await?;
    Ok(parse(&reply.bytes))
}

fn length(bytes: &[u8]) -> Option<usize> {
    let head: [u8; HEAD] = bytes.get(..HEAD)?.try_into().ok()?;
    let length = usize::try_from(u32::from_le_bytes(head)).ok()?;
    (length <= LONGEST).then_some(length)
}

/// Whether a frame is whole, or can never be one: there is nothing to wait for then.
fn is_complete(bytes: &[u8]) -> bool {
    bytes.len() >= HEAD && length(bytes).is_none_or(|length| bytes.len() >= HEAD + length)
}

/// The message in a frame, as far as it arrived.
pub(crate) fn body(bytes: &[u8]) -> Option<&[u8]> {
    let length = length(bytes)?;
    bytes.get(HEAD..bytes.len().min(HEAD + length))
}

fn parse(bytes: &[u8]) -> Option<Value> {
    json::parse(body(bytes)?)
        .filter(|value| value.get("code").is_some() && value.get("msg").is_some())
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = (is_complete(bytes), parse(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_once_it_is_whole() {
        let body = br#"{"code":0,"msg":{"system":{}}}"#;
        let frame = [&(body.len() as u32).to_le_bytes()[..], body].concat();
        assert!(
            is_complete(&frame)
                && !is_complete(&frame[..frame.len() - 1])
                && !is_complete(&frame[..2])
        );
        assert!(parse(&frame).is_some());
        for other in [
            &b"HTTP/1.1 400"[..],
            b"\x15\x03\x01\x00\x02",
            &[0; 4],
            b"\x02\0\0\0{}",
        ] {
            assert_eq!(parse(other), None);
        }
        assert!(is_complete(b"HTTP/1.1"), "its length would be a gigabyte");
    }
}
