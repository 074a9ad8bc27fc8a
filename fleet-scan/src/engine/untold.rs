//! Words on their way from a loop that must not wait to somebody who may be slow: in order, in batches, bounded.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

/// Words that may wait before no more work is begun; what is in flight can still add to them.
const MOST: usize = 256;

/// Words that are told in one go: waking the listener costs more than what most of them say.
const AT_ONCE: usize = 64;

/// Between two tries to say what there was no room for.
const AGAIN: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Untold<T> {
    words: VecDeque<T>,
    /// Work was put off for want of room: it goes on once there is room, which nothing else may tell.
    held_up: bool,
    out: mpsc::Sender<Vec<T>>,
}

impl<T> Untold<T> {
    pub(super) fn new(out: mpsc::Sender<Vec<T>>) -> Self {
        Self {
            words: VecDeque::new(),
            held_up: false,
            out,
        }
    }

    /// In the order of events, so that nothing overtakes what waits.
    pub(super) fn say(&mut self, word: T) {
        self.words.push_back(word);
    }

    /// Whether work may be begun that adds to it. If not, [`Untold::again`] says when to ask again.
    pub(super) fn has_room(&mut self) -> bool {
        self.held_up |= self.words.len() >= MOST;
        self.words.len() < MOST
    }

    /// Says what there is room for; whether anybody listens.
    pub(super) fn tell(&mut self) -> bool {
        while !self.words.is_empty() {
            match self.out.try_reserve() {
                Ok(room) => {
                    let words = self.words.len().min(AT_ONCE);
                    room.send(self.words.drain(..words).collect());
                }
                Err(mpsc::error::TrySendError::Full(())) => break,
                Err(mpsc::error::TrySendError::Closed(())) => return false,
            }
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// When to go on for the sake of what waits here, or was put off since it was last asked.
    pub(super) fn again(&mut self, now: Instant) -> Option<Instant> {
        let held_up = std::mem::take(&mut self.held_up);
        (held_up || !self.words.is_empty()).then_some(now + AGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_in_order_as_far_as_there_is_room() {
        let (out, mut heard) = mpsc::channel(2);
        let (mut untold, now) = (Untold::new(out), Instant::now());
        (0..AT_ONCE * 3).for_each(|word| untold.say(word));
        assert!(untold.tell());
        assert_eq!(untold.again(now), Some(now + AGAIN), "some are left");
        let mut words = Vec::new();
        while let Ok(batch) = heard.try_recv() {
            words.extend(batch);
            assert!(untold.tell());
        }
        assert_eq!(words, (0..AT_ONCE * 3).collect::<Vec<_>>());
        assert!(untold.is_empty());
        assert_eq!(untold.again(now), None);
        drop(heard);
        untold.say(0);
        assert!(!untold.tell());
    }

    #[test]
    fn work_that_was_put_off_goes_on_though_everything_was_told_at_once() {
        let (out, _heard) = mpsc::channel(MOST);
        let (mut untold, now) = (Untold::new(out), Instant::now());
        (1..MOST).for_each(|word| untold.say(word));
        assert!(untold.has_room());
        untold.say(MOST);
        assert!(!untold.has_room());
        assert!(untold.tell() && untold.is_empty());
        assert_eq!(untold.again(now), Some(now + AGAIN));
        assert!(untold.has_room());
        assert_eq!(untold.again(now), None);
    }
}
