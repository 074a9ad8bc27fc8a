//! Operators' passwords in clear text: the rules for chosen passwords, and the format of one-time passwords. The
//! server hashes them. Start with [`Password`].

use std::fmt;

use zeroize::Zeroizing;

/// Minimum number of characters of a chosen password. NIST SP 800-63B-4, 3.1.1.2 requires 15 for a password as the
/// only factor and 8 beside another one; OWASP ASVS 2.1.1 requires 12.
pub const PASSWORD_LEAST: usize = 12;
/// Maximum number of bytes. Any passphrase fits, and the cost of hashing depends on its memory setting, not on this
/// length.
pub const PASSWORD_MOST: usize = 1_024;

/// A password in clear text. Wiped when dropped; its `Debug` form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

/// Why a password cannot be chosen. The error never contains the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// It has fewer characters than [`PASSWORD_LEAST`].
    #[error(
        "the password has {0} characters: choose at least {PASSWORD_LEAST}, several words for instance"
    )]
    TooShort(usize),
    /// It has more bytes than [`PASSWORD_MOST`].
    #[error("the password has {0} bytes: at most {PASSWORD_MOST} are taken")]
    TooLong(usize),
    /// It equals the e-mail address.
    #[error("the password is the e-mail itself: choose something that nobody can look up")]
    IsEmail,
}

impl Password {
    /// Checks a password that is chosen for the account with this e-mail address. There is no rule about kinds of
    /// characters, because such rules make passwords worse (NIST SP 800-63B-4, appendix A).
    ///
    /// # Errors
    ///
    /// [`WeakPassword`] states the problem and what to do.
    pub fn chosen(text: Zeroizing<String>, email: &str) -> Result<Self, WeakPassword> {
        if text.len() > PASSWORD_MOST {
            return Err(WeakPassword::TooLong(text.len()));
        }
        let characters = text.chars().count();
        if characters < PASSWORD_LEAST {
            return Err(WeakPassword::TooShort(characters));
        }
        // The copy in lower case is a secret too.
        if Zeroizing::new(text.trim().to_lowercase()).as_str() == email.trim().to_lowercase() {
            return Err(WeakPassword::IsEmail);
        }
        Ok(Self(text))
    }

    /// Accepts a password for a login. Returns none if it is longer than any valid password.
    pub fn presented(text: Zeroizing<String>) -> Option<Self> {
        (text.len() <= PASSWORD_MOST).then_some(Self(text))
    }

    /// Creates a one-time password of 100 random bits, which must be exchanged at its first use. It has five groups
    /// of four letters and digits that are hard to confuse (Crockford's base 32).
    pub fn one_time(random: &[u8; 20]) -> Self {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        // A string that grows leaves a copy of the password in freed memory.
        let mut text = Zeroizing::new(String::with_capacity(24));
        for (at, byte) in random.iter().enumerate() {
            if at > 0 && at % 4 == 0 {
                text.push('-');
            }
            // 32 divides 256, so every digit is equally likely.
            text.push(char::from(DIGITS[usize::from(byte & 31)]));
        }
        Self(text)
    }

    /// Returns the clear text, for hashing and for the one place that displays it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(text: &str) -> Result<(), WeakPassword> {
        Password::chosen(Zeroizing::new(text.to_owned()), "Ann@Example.org").map(|_| ())
    }

    #[test]
    fn length_counts_and_kinds_of_characters_do_not() {
        for (text, expected) in [
            ("", Err(WeakPassword::TooShort(0))),
            ("Tr0ub4dor&3", Err(WeakPassword::TooShort(11))),
            ("aaaaaaaaaaaa", Ok(())),
            ("correct horse battery staple", Ok(())),
            // The limit counts characters, not bytes: twelve have 36 bytes here, eleven have 33.
            (&"\u{732b}".repeat(12), Ok(())),
            (&"\u{732b}".repeat(11), Err(WeakPassword::TooShort(11))),
            (&"x".repeat(1_024), Ok(())),
            (&"x".repeat(1_025), Err(WeakPassword::TooLong(1_025))),
            (" ann@example.ORG ", Err(WeakPassword::IsEmail)),
            ("ann@example.org!", Ok(())),
        ] {
            assert_eq!(chosen(text), expected, "{text}");
        }
    }

    #[test]
    fn a_one_time_password_could_be_chosen_and_does_not_print() {
        let one_time = Password::one_time(&[255; 20]);
        assert_eq!(one_time.expose(), "zzzz-zzzz-zzzz-zzzz-zzzz");
        assert_eq!(chosen(one_time.expose()), Ok(()));
        assert_eq!(format!("{one_time:?}"), "Password(..)");
        assert_ne!(one_time, Password::one_time(&[254; 20]));
    }
}
