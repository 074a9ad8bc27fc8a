//! The memory that request bodies may take, over all connections. Start with [`BodyBudget`].
//!
//! A body is charged as it arrives, and before it is decompressed. Each call belongs to a payer, which has a share of
//! the memory: many connections of one caller do not get more of it than one. A call that gets no memory within a few
//! seconds is refused, so that callers that hold memory and wait for more cannot block each other forever.

use std::{
    collections::HashMap,
    hash::Hash,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::RpcError;

/// Bytes of a body that are charged to the common pool: a report of 64 devices, as nodes send it, is 20 KB. Longer
/// bodies take the rest from the other pool. Callers that fill that one refuse no ordinary call.
const ORDINARY: usize = 256 << 10;
/// Bytes of one charge. A frame of HTTP/2 has at most 16 KiB.
const STEP: usize = 16 << 10;
/// Longest wait for memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// When a call that got none may be retried.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The bytes that bodies may take at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// The first 256 KiB of all bodies.
    pub ordinary: usize,
    /// The first 256 KiB of the bodies of one payer.
    pub ordinary_share: usize,
    /// All that is longer, and what compressed bodies may unpack to.
    pub bulk: usize,
    /// The same of one payer. The longest legal request takes three times its limit: compressed, unpacked, decoded.
    pub bulk_share: usize,
}

impl Default for BodyLimits {
    /// 64 MiB for the beginnings of bodies, of which 4 MiB for one payer, and 256 MiB for the rest, of which one payer has
    /// what its longest request takes.
    fn default() -> Self {
        Self {
            ordinary: 64 << 20,
            ordinary_share: 4 << 20,
            bulk: 256 << 20,
            bulk_share: 104 << 20,
        }
    }
}

/// The party to which the memory of a call is charged: the hash of a principal or of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Payer(u64);

impl Payer {
    /// Two values with one hash share an allowance. The hash is not keyed: nobody chooses their own id.
    pub fn of(value: impl Hash) -> Self {
        use std::hash::{DefaultHasher, Hasher};
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The memory of the bodies of one port.
#[derive(Debug, Clone)]
pub(super) struct BodyBudget(Arc<Pools>);

#[derive(Debug)]
struct Pools {
    limits: BodyLimits,
    ordinary: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
    shares: Mutex<HashMap<Payer, Arc<Share>>>,
}

/// What a payer may take.
#[derive(Debug)]
struct Share {
    ordinary: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
}

impl BodyBudget {
    pub(super) fn new(limits: BodyLimits) -> Self {
        let pool = |bytes: usize| Arc::new(Semaphore::new(bytes / STEP));
        Self(Arc::new(Pools {
            ordinary: pool(limits.ordinary),
            bulk: pool(limits.bulk),
            shares: Mutex::default(),
            limits,
        }))
    }

    /// Begins to charge a body, which holds nothing yet.
    pub(super) fn meter(&self, payer: Payer) -> Meter {
        let share = {
            let mut shares = self.shares();
            let share = shares.entry(payer).or_insert_with(|| {
                let share = |bytes: usize| Arc::new(Semaphore::new(bytes / STEP));
                Arc::new(Share {
                    ordinary: share(self.0.limits.ordinary_share),
                    bulk: share(self.0.limits.bulk_share),
                })
            });
            share.clone()
        };
        let reservation = Reservation {
            budget: self.clone(),
            payer,
            share,
            steps: (0, 0),
            permits: Vec::new(),
        };
        Meter {
            reservation: Arc::new(Mutex::new(reservation)),
            refused: Arc::default(),
        }
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<Payer, Arc<Share>>> {
        let shares = self.0.shares.lock();
        shares.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory of one body. Dropping it returns the memory.
#[derive(Debug)]
struct Reservation {
    budget: BodyBudget,
    payer: Payer,
    share: Arc<Share>,
    /// Steps that are held of each pool.
    steps: (usize, usize),
    permits: Vec<OwnedSemaphorePermit>,
}

impl Reservation {
    /// The steps that a body of `bytes` needs beyond those that are held.
    fn missing(&self, bytes: usize) -> (usize, usize) {
        let ordinary = bytes.min(ORDINARY).div_ceil(STEP);
        let bulk = bytes.saturating_sub(ORDINARY).div_ceil(STEP);
        (
            ordinary.saturating_sub(self.steps.0),
            bulk.saturating_sub(self.steps.1),
        )
    }

    /// The semaphores to take from. The share of the payer is first: a call that waits for it holds nothing of others.
    fn sources(&self, missing: (usize, usize)) -> [(Arc<Semaphore>, usize); 4] {
        let (share, pools) = (&self.share, &self.budget.0);
        [
            (share.ordinary.clone(), missing.0),
            (share.bulk.clone(), missing.1),
            (pools.ordinary.clone(), missing.0),
            (pools.bulk.clone(), missing.1),
        ]
    }

    fn add(&mut self, missing: (usize, usize), permits: Vec<OwnedSemaphorePermit>) {
        self.steps.0 += missing.0;
        self.steps.1 += missing.1;
        self.permits.extend(permits);
    }

    fn clear(&mut self) {
        self.steps = (0, 0);
        self.permits.clear();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.clear();
        let mut shares = self.budget.shares();
        // One is the map's, one is this reservation's.
        if Arc::strong_count(&self.share) == 2 {
            shares.remove(&self.payer);
        }
    }
}

fn take_now(sources: [(Arc<Semaphore>, usize); 4]) -> Option<Vec<OwnedSemaphorePermit>> {
    let mut permits = Vec::new();
    for (pool, steps) in sources.into_iter().filter(|(_, steps)| *steps > 0) {
        permits.push(
            pool.try_acquire_many_owned(u32::try_from(steps).ok()?)
                .ok()?,
        );
    }
    Some(permits)
}

async fn take(sources: [(Arc<Semaphore>, usize); 4]) -> Option<Vec<OwnedSemaphorePermit>> {
    let mut permits = Vec::new();
    for (pool, steps) in sources.into_iter().filter(|(_, steps)| *steps > 0) {
        let permit = pool.acquire_many_owned(u32::try_from(steps).ok()?);
        permits.push(permit.await.ok()?);
    }
    Some(permits)
}

type Growth = Pin<Box<dyn Future<Output = Option<Vec<OwnedSemaphorePermit>>> + Send>>;

/// Charges one body. Clones charge the same body, and the last one that is dropped returns its memory.
#[derive(Clone)]
pub(super) struct Meter {
    reservation: Arc<Mutex<Reservation>>,
    refused: Arc<AtomicBool>,
}

impl Meter {
    /// Whether the call got no memory in time.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// The answer to such a call.
    pub(super) fn refusal() -> RpcError {
        RpcError::resource_exhausted(
            "the requests in progress use all memory for request bodies: retry, or send smaller requests",
        )
        .with_reason("TOO_MANY_BYTES")
        .with_retry_after(RETRY_AFTER)
    }

    fn lock(&self) -> MutexGuard<'_, Reservation> {
        let reservation = self.reservation.lock();
        reservation.unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a body has taken and takes next.
pub(super) struct Charging {
    meter: Meter,
    growth: Option<((usize, usize), Growth)>,
}

impl Charging {
    pub(super) fn new(meter: Meter) -> Self {
        Self {
            meter,
            growth: None,
        }
    }

    /// Waits until the body holds `bytes`. False if it got no memory in time. The caller repeats the call with the same
    /// number until it is ready.
    pub(super) fn poll(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<bool> {
        if self.growth.is_none() {
            let mut reservation = self.meter.lock();
            let missing = reservation.missing(bytes);
            if missing == (0, 0) {
                return Poll::Ready(true);
            }
            let sources = reservation.sources(missing);
            if let Some(permits) = take_now(sources.clone()) {
                reservation.add(missing, permits);
                return Poll::Ready(true);
            }
            let growth = async move { tokio::time::timeout(PATIENCE, take(sources)).await.ok()? };
            self.growth = Some((missing, Box::pin(growth)));
        }
        let Some((missing, growth)) = &mut self.growth else {
            return Poll::Ready(true);
        };
        let (permits, missing) = (ready!(growth.as_mut().poll(cx)), *missing);
        self.growth = None;
        match permits {
            Some(permits) => {
                self.meter.lock().add(missing, permits);
                Poll::Ready(true)
            }
            None => {
                self.meter.refused.store(true, Ordering::Relaxed);
                Poll::Ready(false)
            }
        }
    }

    /// Returns what is held.
    pub(super) fn clear(&mut self) {
        self.meter.lock().clear();
    }
}

/// Follows the messages of a stream, whose bodies have no end: an envelope of five bytes precedes each.
#[derive(Debug, Default)]
pub(super) struct Envelopes {
    header: [u8; 5],
    header_bytes: usize,
    /// Bytes of the message that are missing. None while the envelope is incomplete.
    missing: Option<usize>,
    /// Bytes of the incomplete message.
    pub(super) begun: usize,
}

/// The messages that end within a piece of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) messages: usize,
    pub(super) compressed: bool,
}

impl Envelopes {
    /// Whether the next byte begins an envelope.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.begun == 0
    }

    pub(super) fn follow(&mut self, mut piece: &[u8]) -> Ended {
        let mut ended = Ended::default();
        while !piece.is_empty() {
            let taken = match self.missing {
                None => {
                    let taken = piece.len().min(5 - self.header_bytes);
                    self.header[self.header_bytes..][..taken].copy_from_slice(&piece[..taken]);
                    self.header_bytes += taken;
                    if self.header_bytes == 5 {
                        let [_, length @ ..] = self.header;
                        self.missing = usize::try_from(u32::from_be_bytes(length)).ok();
                    }
                    taken
                }
                Some(missing) => {
                    let taken = piece.len().min(missing);
                    self.missing = Some(missing - taken);
                    taken
                }
            };
            piece = &piece[taken..];
            self.begun += taken;
            if self.missing == Some(0) {
                ended.messages += 1;
                ended.compressed |= self.header[0] & 1 != 0;
                *self = Self::default();
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMITS: BodyLimits = BodyLimits {
        ordinary: 4 * ORDINARY,
        ordinary_share: 2 * ORDINARY,
        bulk: 4 << 20,
        bulk_share: 2 << 20,
    };

    async fn charged(budget: &BodyBudget, payer: u64, bytes: usize) -> Result<Meter, Meter> {
        let meter = budget.meter(Payer::of(payer));
        let mut charging = Charging::new(meter.clone());
        match poll_fn(|cx| charging.poll(bytes, cx)).await {
            true => Ok(meter),
            false => Err(meter),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_payer_gets_its_share_and_others_still_get_theirs() {
        let budget = BodyBudget::new(LIMITS);
        let large = (2 << 20) + ORDINARY;
        let first = charged(&budget, 1, large).await.ok().expect("is free");
        let second = charged(&budget, 1, large)
            .await
            .err()
            .expect("has its share");
        assert!(second.is_refused());
        let other = charged(&budget, 2, large).await.ok().expect("has a share");
        assert!(
            charged(&budget, 3, large).await.is_err(),
            "the pool is empty"
        );
        let ordinary = charged(&budget, 3, ORDINARY).await;
        assert!(ordinary.is_ok(), "bulk takes nothing from ordinary calls");
        drop((first, second, other, ordinary));
        assert!(charged(&budget, 3, large).await.is_ok());
        assert!(budget.shares().is_empty(), "idle payers cost no memory");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_memory_that_is_returned_in_time() {
        let budget = BodyBudget::new(LIMITS);
        let first = charged(&budget, 1, 2 * ORDINARY + (1 << 20)).await.ok();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { charged(&budget, 1, 2 << 20).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        assert!(waiting.await.expect("does not panic"));
    }

    #[test]
    fn messages_are_followed_in_any_pieces() {
        let mut stream = Vec::new();
        for (flags, length) in [(0_u8, 0_u32), (1, 3), (0, 700), (3, 40)] {
            stream.push(flags);
            stream.extend(length.to_be_bytes());
            stream.extend(vec![7; length as usize]);
        }
        for size in [1, 2, 3, 5, 8, 64, 1_000] {
            let mut envelopes = Envelopes::default();
            let ended: Vec<Ended> = stream.chunks(size).map(|p| envelopes.follow(p)).collect();
            assert_eq!(ended.iter().map(|e| e.messages).sum::<usize>(), 4, "{size}");
            assert!(ended.iter().any(|e| e.compressed), "{size}");
            assert_eq!(envelopes.begun, 0, "{size}");
        }
        let mut envelopes = Envelopes::default();
        assert_eq!(envelopes.follow(&[0, 0, 0, 0, 9, 1, 2]), Ended::default());
        assert_eq!(envelopes.begun, 7);
    }
}
