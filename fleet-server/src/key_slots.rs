//! Slots per key: a few holders at a time, a bounded queue, and a refusal for all others. The keys are the credentials
//! and the sources of calls whose caller is not known yet.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fleet_wire::RpcError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::call_limits::refusal;

/// The slots of every key.
#[derive(Debug)]
pub(crate) struct KeySlots<K> {
    at_once: usize,
    most: usize,
    keys: Arc<Keys<K>>,
}

/// The semaphore of each key, and how many hold a slot of it or wait for one.
#[derive(Debug)]
struct Keys<K>(Mutex<HashMap<K, (Arc<Semaphore>, usize)>>);

/// A slot. Dropping it admits the next in the queue.
#[derive(Debug)]
pub(crate) struct Slot<K: Hash + Eq> {
    keys: Arc<Keys<K>>,
    key: K,
    permit: Option<OwnedSemaphorePermit>,
}

impl<K: Hash + Eq + Clone> KeySlots<K> {
    /// `at_once` holders of each key, and `most` together with those that wait.
    pub(crate) fn new(at_once: usize, most: usize) -> Self {
        Self {
            at_once,
            most,
            keys: Arc::new(Keys(Mutex::default())),
        }
    }

    /// Waits for a slot.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a retry hint when too many wait.
    pub(crate) async fn wait(&self, key: K) -> Result<Slot<K>, RpcError> {
        let (semaphore, mut slot) = {
            let mut keys = self.keys.lock();
            let (semaphore, waiting) = keys
                .entry(key.clone())
                .or_insert_with(|| (Arc::new(Semaphore::new(self.at_once)), 0));
            if *waiting >= self.most {
                let text = format!(
                    "{} calls of this credential, address or organization wait already",
                    self.most
                );
                return Err(refusal(&text, self.most));
            }
            *waiting += 1;
            let slot = Slot {
                keys: self.keys.clone(),
                key,
                permit: None,
            };
            (semaphore.clone(), slot)
        };
        // A closed semaphore does not exist: nothing closes it.
        slot.permit = semaphore.acquire_owned().await.ok();
        Ok(slot)
    }
}

impl<K> Keys<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, (Arc<Semaphore>, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Drop for Slot<K> {
    fn drop(&mut self) {
        self.permit = None;
        let mut keys = self.keys.lock();
        if let Some((_, waiting)) = keys.get_mut(&self.key) {
            *waiting -= 1;
            if *waiting == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_has_few_slots_and_a_bounded_queue() {
        let slots = KeySlots::new(1, 2);
        let first = slots.wait("a").await.expect("is free");
        let mut second = std::pin::pin!(slots.wait("a"));
        assert!(futures::poll!(&mut second).is_pending());
        let refused = slots.wait("a").await.expect_err("the queue is full");
        assert!(refused.retry_after().is_some(), "{refused}");
        let other = slots.wait("b").await.expect("another key");
        drop((first, other));
        drop(second.await.expect("has a slot"));
        assert!(slots.keys.lock().is_empty(), "idle keys cost no memory");
    }

    #[tokio::test]
    async fn a_call_that_leaves_the_queue_frees_its_place() {
        let slots = KeySlots::new(1, 2);
        let first = slots.wait("a").await.expect("is free");
        {
            let mut left = std::pin::pin!(slots.wait("a"));
            assert!(futures::poll!(&mut left).is_pending());
        }
        let mut next = std::pin::pin!(slots.wait("a"));
        assert!(futures::poll!(&mut next).is_pending());
        drop(first);
        next.await.expect("has a slot");
    }
}
