//! A bounded, ordered queue between a loop that must never block and a consumer that may be slow.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

/// Events that may wait before the loop starts no more work. Work in flight can still add to them.
const CAPACITY: usize = 256;

/// Events per message. Waking the consumer costs more than handling most events.
const BATCH: usize = 64;

/// Delay between two attempts to send when the channel is full.
const RETRY: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Outbox<T> {
    queue: VecDeque<T>,
    /// The loop put off work for lack of room. Nothing else would wake it when there is room again.
    blocked: bool,
    out: mpsc::Sender<Vec<T>>,
}

impl<T> Outbox<T> {
    pub(super) fn new(out: mpsc::Sender<Vec<T>>) -> Self {
        Self {
            queue: VecDeque::new(),
            blocked: false,
            out,
        }
    }

    pub(super) fn push(&mut self, event: T) {
        self.queue.push_back(event);
    }

    /// Returns whether the loop may start work that adds events. If not, [`Outbox::retry_at`] returns when to ask
    /// again.
    pub(super) fn has_room(&mut self) -> bool {
        self.blocked |= self.queue.len() >= CAPACITY;
        self.queue.len() < CAPACITY
    }

    /// Sends as much as the channel takes. Returns false when the consumer is gone.
    pub(super) fn flush(&mut self) -> bool {
        while !self.queue.is_empty() {
            // Reserved before the queue is drained, so a full channel loses nothing.
            match self.out.try_reserve() {
                Ok(permit) => {
                    let count = self.queue.len().min(BATCH);
                    permit.send(self.queue.drain(..count).collect());
                }
                Err(mpsc::error::TrySendError::Full(())) => break,
                Err(mpsc::error::TrySendError::Closed(())) => return false,
            }
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When the loop has to run again for the events that wait here, or for work that it put off since the last call.
    pub(super) fn retry_at(&mut self, now: Instant) -> Option<Instant> {
        let blocked = std::mem::take(&mut self.blocked);
        (blocked || !self.queue.is_empty()).then_some(now + RETRY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_leave_in_order_as_far_as_there_is_room() {
        let (out, mut received) = mpsc::channel(2);
        let (mut outbox, now) = (Outbox::new(out), Instant::now());
        (0..BATCH * 3).for_each(|event| outbox.push(event));
        assert!(outbox.flush());
        assert_eq!(outbox.retry_at(now), Some(now + RETRY), "some are left");
        let mut events = Vec::new();
        while let Ok(batch) = received.try_recv() {
            events.extend(batch);
            assert!(outbox.flush());
        }
        assert_eq!(events, (0..BATCH * 3).collect::<Vec<_>>());
        assert!(outbox.is_empty());
        assert_eq!(outbox.retry_at(now), None);
        drop(received);
        outbox.push(0);
        assert!(!outbox.flush());
    }

    #[test]
    fn work_that_was_put_off_resumes_even_if_the_queue_drained_in_between() {
        let (out, _received) = mpsc::channel(CAPACITY);
        let (mut outbox, now) = (Outbox::new(out), Instant::now());
        (1..CAPACITY).for_each(|event| outbox.push(event));
        assert!(outbox.has_room());
        outbox.push(CAPACITY);
        assert!(!outbox.has_room());
        assert!(outbox.flush() && outbox.is_empty());
        assert_eq!(outbox.retry_at(now), Some(now + RETRY));
        assert!(outbox.has_room());
        assert_eq!(outbox.retry_at(now), None);
    }
}
