//! Whatsminer API 3 (TCP 4433): JSON in frames with a four-byte little-endian length prefix, in both directions.
//!
//! The framing follows the maker's documentation (apidoc.whatsminer.com). All `get.` commands work without a login.

use serde_json::Value;

use crate::{driver::DriverError, json, probe::Probe};

/// The port of the API.
pub(crate) const PORT: u16 = 4433;

/// The size of the length prefix.
const HEAD: usize = 4;

/// The limit of a message. The largest published message has 2 KiB, so longer ones belong to another protocol.
const LONGEST: usize = 64 * 1024;

/// Returns the answer to one command. None if the reply is not a frame of this API.
///
/// # Errors
/// [`DriverError`] if no byte was received.
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

/// Whether a frame is complete or invalid. In both cases there is nothing to wait for.
fn is_complete(bytes: &[u8]) -> bool {
    bytes.len() >= HEAD && length(bytes).is_none_or(|length| bytes.len() >= HEAD + length)
}

/// The received part of the message in a frame.
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
