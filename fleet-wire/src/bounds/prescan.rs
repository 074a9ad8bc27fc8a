//! Counts repeated fields in the encoded form. Only lengths are looked at; what is malformed is left to the decoder.

use super::{BrokenBound, Repeated};

/// The wire type that begins a group.
const GROUP: u64 = 3;

/// Checks the bounds of `fields` on an encoded message.
///
/// # Errors
///
/// The first field that occurs too often.
pub(crate) fn count_repeated(message: &[u8], fields: &[Repeated]) -> Result<(), BrokenBound> {
    if fields.is_empty() {
        return Ok(());
    }
    let mut seen = vec![0_usize; fields.len()];
    let mut rest = message;
    while let Some((number, payload, next)) = next_field(rest)? {
        rest = next;
        let Some(at) = fields.iter().position(|f| u64::from(f.number) == number) else {
            continue;
        };
        let Repeated {
            field, max, inner, ..
        } = fields[at];
        seen[at] += 1;
        if seen[at] > max {
            return Err(BrokenBound::new(
                field,
                format_args!("at most {max} elements, found more"),
            ));
        }
        // The depth of the recursion is that of the table, not that of the message.
        count_repeated(payload, inner)?;
    }
    Ok(())
}

/// A field: its number, its payload if it is length-delimited, and the bytes after it.
type Field<'a> = (u64, &'a [u8], &'a [u8]);

/// Splits off one field. Returns `None` at the end and at the first malformed field, where the decoder stops too.
///
/// # Errors
///
/// A group. No message of the protocol has one. The decoder skips an unknown group and reads on, so that a scan which
/// stopped there would not count the fields behind it.
fn next_field(message: &[u8]) -> Result<Option<Field<'_>>, BrokenBound> {
    let Some((key, rest)) = varint(message) else {
        return Ok(None);
    };
    if key & 7 == GROUP {
        return Err(BrokenBound::new(
            format!("field {}", key >> 3),
            "is a group, an encoding that no message of this protocol has",
        ));
    }
    Ok(after(key, rest).map(|(payload, rest)| (key >> 3, payload, rest)))
}

/// The payload of a field with this key, and the bytes after it.
fn after(key: u64, rest: &[u8]) -> Option<(&[u8], &[u8])> {
    match key & 7 {
        0 => Some((&[], varint(rest)?.1)),
        1 => Some((&[], rest.get(8..)?)),
        2 => {
            let (length, rest) = varint(rest)?;
            rest.split_at_checked(usize::try_from(length).ok()?)
        }
        5 => Some((&[], rest.get(4..)?)),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    // A longer varint is malformed, and the decoder rejects it.
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}
