//! The audit chain links each record of an organization to the previous one by a hash. Changing, removing,
//! moving or inserting a record breaks the chain. A [`ChainHead`] that is stored elsewhere also reveals a
//! truncated or rewritten chain.
//!
//! [`ChainHead::next`] creates links and [`ChainVerifier`] checks them. One record can stand for several refusals. It
//! is linked again when its count grows, because a link covers the record at that time.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use crate::{OrgId, Timestamp};

/// Separates these hashes from all others. Its number is the version of the encoding.
const DOMAIN: &[u8] = b"fleet-audit-chain-1\0";

/// The content of a link: one record at the time when it was linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainRecord<'a> {
    /// The record's id, which later links of the same record repeat.
    pub id: i64,
    /// When the recorded action happened.
    pub at: Timestamp,
    /// The kind of the author: `operator`, `node`, `system`, `anonymous`.
    pub principal: &'a str,
    /// The author's id, if it has one.
    pub principal_id: Option<i64>,
    /// The remote address of the request, as text.
    pub from: Option<&'a str>,
    /// The action: `node.revoke`.
    pub action: &'a str,
    /// The object of the action.
    pub subject: &'a str,
    /// Why the action was refused; none if it was carried out.
    pub refusal: Option<&'a str>,
    /// Number of equal records that this one stands for.
    pub count: u64,
}

impl ChainRecord<'_> {
    /// Hashes the record without ambiguity. Integers are 8 bytes big-endian, texts are their length and UTF-8, and
    /// optional values follow a byte 0 or 1.
    fn hash_into(&self, hash: &mut Sha256) {
        let integer = |hash: &mut Sha256, value: i64| hash.update(value.to_be_bytes());
        let text = |hash: &mut Sha256, value: &str| {
            // Without the length, text could move to the next field without a change of the hash.
            hash.update((value.len() as u64).to_be_bytes());
            hash.update(value);
        };
        let maybe = |hash: &mut Sha256, value: Option<&str>| {
            // A missing value and an empty text must differ.
            hash.update([u8::from(value.is_some())]);
            text(hash, value.unwrap_or_default());
        };
        integer(hash, self.id);
        integer(hash, self.at.as_micros());
        text(hash, self.principal);
        hash.update([u8::from(self.principal_id.is_some())]);
        integer(hash, self.principal_id.unwrap_or_default());
        maybe(hash, self.from);
        text(hash, self.action);
        text(hash, self.subject);
        maybe(hash, self.refusal);
        hash.update(self.count.to_be_bytes());
    }
}

/// SHA-256 over a link and all previous links.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChainHash(pub [u8; 32]);

impl fmt::Display for ChainHash {
    /// Writes 64 lower-case hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The head of a chain, to be stored elsewhere. Its text is `SEQ:HASH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainHead {
    /// The number of links.
    pub seq: u64,
    /// The hash of the last link.
    pub hash: ChainHash,
}

impl ChainHead {
    /// The head before the first link.
    pub const START: Self = Self {
        seq: 0,
        hash: ChainHash([0; 32]),
    };

    /// Returns the head after one more record. `org` is none in the chain of records without an organization.
    #[must_use]
    pub fn next(self, org: Option<OrgId>, record: &ChainRecord<'_>) -> Self {
        let seq = self.seq.saturating_add(1);
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        // Without the organization, a link could be moved
        // to another chain. Ids in the database begin at 1.
        hash.update(org.map_or(0, |org| org.0).to_be_bytes());
        hash.update(seq.to_be_bytes());
        hash.update(self.hash.0);
        record.hash_into(&mut hash);
        Self {
            seq,
            hash: ChainHash(hash.finalize().into()),
        }
    }
}

impl fmt::Display for ChainHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

/// A text that is not a head.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not SEQ:HASH: expected a number, a colon and 64 hex digits, as `audit head` prints them"
)]
pub struct InvalidHead(String);

impl FromStr for ChainHead {
    type Err = InvalidHead;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let head = || {
            let (seq, hex) = text.split_once(':')?;
            // `from_str_radix` and `parse` also accept a plus sign.
            let digits = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
            if !digits || !seq.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let mut bytes = [0; 32];
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
            }
            Some(Self {
                seq: seq.parse().ok()?,
                hash: ChainHash(bytes),
            })
        };
        head().ok_or_else(|| {
            InvalidHead(text.chars().take(80).flat_map(char::escape_debug).collect())
        })
    }
}

/// A link as it was stored.
#[derive(Clone, Copy, Debug)]
pub struct StoredLink<'a> {
    /// The position in the chain, from 1.
    pub seq: u64,
    /// The stored hash.
    pub hash: ChainHash,
    /// The linked record; none if it was deleted.
    pub record: Option<ChainRecord<'a>>,
}

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// The record differs from the linked one, or is at another position.
    #[error("record {seq} was changed after it was sealed, or is not in its place")]
    Changed {
        /// The position of the link.
        seq: u64,
    },
    /// The link exists, but its record was deleted.
    #[error("record {seq} was deleted")]
    Deleted {
        /// The position of the link.
        seq: u64,
    },
    /// Links are missing, from the middle or the end.
    #[error("records {from} to {to} are missing")]
    Missing {
        /// The first missing position.
        from: u64,
        /// The last missing position.
        to: u64,
    },
    /// The chain is consistent, but differs from the chain whose head was kept.
    #[error(
        "record {seq} is not the one whose hash was kept: the chain was written anew up to there"
    )]
    Rewritten {
        /// The position of the kept head.
        seq: u64,
    },
    /// The stored head does not match the last link.
    #[error("the stored head does not match record {seq}")]
    Head {
        /// The position of the head.
        seq: u64,
    },
}

/// Checks a chain link by link, in bounded memory. Pass every link in order to [`take`](Self::take), then call
/// [`finish`](Self::finish).
///
/// After a fault it continues from the stored hash, which makes one change one fault.
#[derive(Clone, Debug)]
pub struct ChainVerifier {
    org: Option<OrgId>,
    at: ChainHead,
    stored: ChainHead,
    kept: Option<ChainHead>,
}

impl ChainVerifier {
    /// Creates a verifier for the chain of `org`. `stored` is the chain's own head, read before its links. `kept` is
    /// a head that the caller kept elsewhere, if any.
    pub fn new(org: Option<OrgId>, stored: ChainHead, kept: Option<ChainHead>) -> Self {
        Self {
            org,
            at: ChainHead::START,
            stored,
            kept,
        }
    }

    /// Checks the next link.
    ///
    /// # Errors
    ///
    /// Returns the faults of the link. There are at most two: a link can end a gap and also be wrong itself.
    pub fn take(&mut self, link: &StoredLink<'_>) -> Result<(), Vec<ChainFault>> {
        let mut faults = Vec::new();
        let StoredLink { seq, hash, record } = *link;
        if seq <= self.at.seq {
            // Two links at one position. The key of the table prevents this, but a server can send it.
            return Err(vec![ChainFault::Changed { seq }]);
        }
        let gap = seq > self.at.seq + 1;
        if gap {
            faults.push(ChainFault::Missing {
                from: self.at.seq + 1,
                to: seq - 1,
            });
        }
        match record {
            None => faults.push(ChainFault::Deleted { seq }),
            // After a gap the previous hash is unknown.
            Some(_) if gap => {}
            Some(record) => {
                if self.at.next(self.org, &record).hash != hash {
                    faults.push(ChainFault::Changed { seq });
                }
            }
        }
        self.at = ChainHead { seq, hash };
        if self
            .kept
            .is_some_and(|kept| kept.seq == seq && kept.hash != hash)
        {
            faults.push(ChainFault::Rewritten { seq });
        }
        // Sealers may append while the links are read, so the head is compared at its own position.
        if self.stored.seq == seq && self.stored.hash != hash {
            faults.push(ChainFault::Head { seq });
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    /// The position of the last checked link.
    pub fn seq(&self) -> u64 {
        self.at.seq
    }

    /// Returns the verified head after all links were checked without a fault.
    ///
    /// # Errors
    ///
    /// [`ChainFault::Missing`] if the stored or kept head is beyond the last link.
    pub fn finish(self) -> Result<ChainHead, ChainFault> {
        let reached = self.at.seq;
        let further = self.stored.seq.max(self.kept.map_or(0, |kept| kept.seq));
        if further > reached {
            return Err(ChainFault::Missing {
                from: reached + 1,
                to: further,
            });
        }
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests;
