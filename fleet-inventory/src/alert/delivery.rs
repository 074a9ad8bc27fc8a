//! When a message is sent again, and when it counts as failed. Start with [`after_attempt`].

use std::time::Duration;

use fleet_core::{Timestamp, full_jitter};

/// How long a message is tried, from the moment when it may be sent first.
pub const RETRIED_FOR: Duration = Duration::from_secs(24 * 3_600);
/// The first and the last upper bound of the pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(2 * 3_600));
/// The least pause. A receiver that fails at once must not be called in a loop.
const LEAST: Duration = Duration::from_secs(1);

/// How a receiver answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It accepted the message.
    Accepted,
    /// It did not, or did not answer.
    Failed,
    /// It wants no message of this kind again: HTTP 410, or a permanent error of SMTP.
    Gone,
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterAttempt {
    /// The message was delivered.
    Delivered,
    /// The message is sent again then.
    Again(Timestamp),
    /// The message failed.
    Failed,
}

/// Decides after an attempt, the first of which has the number 1. The pause has full jitter below a bound that doubles.
/// The last attempt is at the end of the time; an attempt that ends later decides.
pub fn after_attempt(
    answer: Answer,
    attempt: u32,
    expires: Timestamp,
    now: Timestamp,
    random: u64,
) -> AfterAttempt {
    match answer {
        Answer::Accepted => return AfterAttempt::Delivered,
        Answer::Gone => return AfterAttempt::Failed,
        Answer::Failed if now >= expires => return AfterAttempt::Failed,
        Answer::Failed => {}
    }
    let doubled = 1_u32
        .checked_shl(attempt.saturating_sub(1))
        .unwrap_or(u32::MAX);
    let ceiling = PAUSES.0.saturating_mul(doubled).min(PAUSES.1);
    let pause = full_jitter(ceiling, random).max(LEAST);
    AfterAttempt::Again(now.plus(pause).min(expires))
}
