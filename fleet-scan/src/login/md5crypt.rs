//! MD5-crypt, the salted password hash of old Unix systems (`openssl passwd -1`). Whatsminers derive their keys with it.
//! No maintained crate offers it: [decision 0062](../../../docs/decisions/0062-password-proofs.md).

use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

/// The alphabet of the hash, six bits per character.
const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The bytes of the sum that each group of four characters holds, from the highest.
const GROUPS: [[usize; 3]; 5] = [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]];

/// Rounds of the hash. The algorithm fixes them.
const ROUNDS: usize = 1_000;

/// Characters of a salt that count.
const SALT: usize = 8;

/// The hash of a password: the 22 characters after the last `$`.
pub(super) fn hash(password: &[u8], salt: &[u8]) -> Zeroizing<String> {
    let salt = &salt[..salt.len().min(SALT)];
    let alternate = sum(&[password, salt, password]);
    let mut first = Md5::new();
    first.update(password);
    first.update(b"$1$");
    first.update(salt);
    for block in password.chunks(alternate.len()) {
        first.update(&alternate[..block.len()]);
    }
    let mut bits = password.len();
    while bits > 0 {
        // A zero byte for each set bit of the length, else the first byte of the password.
        first.update(if bits & 1 == 1 {
            &[0][..]
        } else {
            &password[..1]
        });
        bits >>= 1;
    }
    let mut state = Zeroizing::new(<[u8; 16]>::from(first.finalize()));
    for round in 0..ROUNDS {
        let is_odd = round % 2 == 1;
        let (before, after) = if is_odd {
            (password, &state[..])
        } else {
            (&state[..], password)
        };
        let salt = if round % 3 == 0 { &[][..] } else { salt };
        let again = if round % 7 == 0 { &[][..] } else { password };
        state = sum(&[before, salt, again, after]);
    }
    let mut text = Zeroizing::new(String::with_capacity(22));
    for [high, middle, low] in GROUPS {
        let group = [state[high], state[middle], state[low]];
        let bits = group
            .iter()
            .fold(0, |bits, byte| (bits << 8) | usize::from(*byte));
        write(&mut text, bits, 4);
    }
    write(&mut text, usize::from(state[11]), 2);
    text
}

fn sum(parts: &[&[u8]]) -> Zeroizing<[u8; 16]> {
    let mut sum = Md5::new();
    for part in parts {
        sum.update(part);
    }
    Zeroizing::new(sum.finalize().into())
}

/// Writes six bits per character, from the lowest.
fn write(text: &mut String, mut bits: usize, characters: usize) {
    for _ in 0..characters {
        text.push(char::from(ALPHABET[bits & 63]));
        bits >>= 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values: `openssl passwd -1 -salt SALT PASSWORD`.
    #[test]
    fn hashes_equal_those_of_openssl() {
        for (password, salt, expected) in [
            ("admin", "5QAHiKMb", "x5JSSQzqF0lEACIGSL0Ld1"),
            ("", "saltsalt", "5Jhcit4zN9UlGiA0txPkO0"),
            ("x", "a", "TYcRT0JumNkKBBlirG1X4/"),
            (
                "a password of more than sixteen characters",
                "12345678",
                "oJ4iwz90R8yqDCofhsYzE.",
            ),
            ("pässword", "BQ5hoXV9", "eiuxvU5I78XnHKdCLTfN8."),
            ("sixteen bytes ok", "toolongsalt", "oK7Le8WVG6e82XkdjtzlZ/"),
        ] {
            assert_eq!(
                *hash(password.as_bytes(), salt.as_bytes()),
                expected,
                "{password}"
            );
        }
    }
}
