//! The audit chain links each record of an organization to the previous one by a hash. Changing, removing,
//! moving or inserting a record breaks the chain. A [`ChainHead`] that is stored elsewhere also reveals a
//! truncated or rewritten chain.
//!
//! [`ChainHead::next`] creates links and [`ChainVerifier`] checks them. A record that stands for several
//! refusals is linked again when its count has grown: a link states the record at that time.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use crate::{OrgId, Timestamp};

/// Keeps these hashes apart from all others; its number is the encoding's version.
const DOMAIN: &[u8] = b"fleet-audit-chain-1\0";

/// What a link states: one record as it was when it was linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainRecord<'a> {
    /// The record's id, which later links of the same record repeat.
    pub id: i64,
    /// When it happened.
    pub at: Timestamp,
    /// The kind of author: `operator`, `node`, `system`, `anonymous`.
    pub who: &'a str,
    /// The author's id, if it has one.
    pub who_id: Option<i64>,
    /// The address it came from, as text.
    pub from: Option<&'a str>,
    /// The action: `node.revoke`.
    pub action: &'a str,
    /// The object of the action.
    pub subject: &'a str,
    /// Why the action was refused; none if it was carried out.
    pub refusal: Option<&'a str>,
    /// Number of equal records that it stands for.
    pub count: u64,
}

impl ChainRecord<'_> {
    /// Hashes the record without ambiguity: integers as 8 bytes big-endian, texts as their length and UTF-8,
    /// optional values after a byte 0 or 1.
    fn hash_into(&self, hash: &mut Sha256) {
        let integer = |hash: &mut Sha256, value: i64| hash.update(value.to_be_bytes());
        let text = |hash: &mut Sha256, value: &str| {
            hash.update((value.len() as u64).to_be_bytes());
            hash.update(value);
        };
        let maybe = |hash: &mut Sha256, value: Option<&str>| {
            hash.update([u8::from(value.is_some())]);
            text(hash, value.unwrap_or_default());
        };
        integer(hash, self.id);
        integer(hash, self.at.as_micros());
        text(hash, self.who);
        hash.update([u8::from(self.who_id.is_some())]);
        integer(hash, self.who_id.unwrap_or_default());
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
    /// 64 lower-case hex digits.
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
    /// The hash of the last one.
    pub hash: ChainHash,
}

impl ChainHead {
    /// Before the first link.
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
    /// Its place, from 1.
    pub seq: u64,
    /// Its hash, as stored.
    pub hash: ChainHash,
    /// The linked record; none if it was deleted.
    pub record: Option<ChainRecord<'a>>,
}

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// The record is not what was linked, or not in its place.
    #[error("record {seq} was changed after it was sealed, or is not in its place")]
    Changed {
        /// Its place.
        seq: u64,
    },
    /// The link stands, the record is gone.
    #[error("record {seq} was deleted")]
    Deleted {
        /// Its place.
        seq: u64,
    },
    /// Links are gone, from the middle or the end.
    #[error("records {from} to {to} are missing")]
    Missing {
        /// The first place.
        from: u64,
        /// The last place.
        to: u64,
    },
    /// The chain holds together, but it is not the one whose head was kept.
    #[error(
        "record {seq} is not the one whose hash was kept: the chain was written anew up to there"
    )]
    Rewritten {
        /// The kept head's place.
        seq: u64,
    },
    /// The chain's own head does not belong to its last link.
    #[error("the stored head does not match record {seq}")]
    Head {
        /// The head's place.
        seq: u64,
    },
}

/// Checks a chain link by link, in bounded memory: give it every link in order with
/// [`take`](Self::take), then [`finish`](Self::finish).
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
    /// A verifier for the chain of `org`, whose own head was `stored` before its links were read, and of
    /// which the caller may have kept a head elsewhere.
    pub fn new(org: Option<OrgId>, stored: ChainHead, kept: Option<ChainHead>) -> Self {
        Self {
            org,
            at: ChainHead::START,
            stored,
            kept,
        }
    }

    /// Takes the next link.
    ///
    /// # Errors
    ///
    /// What is wrong with it; at most two faults, as it may end a gap and be wrong itself.
    pub fn take(&mut self, link: &StoredLink<'_>) -> Result<(), Vec<ChainFault>> {
        let mut faults = Vec::new();
        let StoredLink { seq, hash, record } = *link;
        if seq <= self.at.seq {
            // Two links at one position: the key of the table prevents it, but a server can send it.
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
        if self.stored.seq == seq && self.stored.hash != hash {
            faults.push(ChainFault::Head { seq });
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    /// The place of the last link that was taken.
    pub fn seq(&self) -> u64 {
        self.at.seq
    }

    /// The verified head, once all links were taken without a fault.
    ///
    /// # Errors
    ///
    /// [`ChainFault::Missing`] when the chain once went further.
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
