//! When something failed is tried again.

use chrono::TimeDelta;

use crate::clock::Entropy;
use crate::document::Retry;

/// The wait before attempt `next` (from 2): exponential backoff with full jitter.
///
/// Uniform in `0..=min(max_ms, initial_ms × factor^(next−2))`, so that attempts which failed together do not come
/// back together (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). Never less than
/// `at_least`, which is what the outside system asked for.
#[must_use]
pub fn backoff(retry: &Retry, next: i32, at_least: TimeDelta, entropy: &dyn Entropy) -> TimeDelta {
    let drawn = entropy.below(bound_ms(retry, next) + 1);
    TimeDelta::milliseconds(i64::try_from(drawn).unwrap_or(i64::MAX)).max(at_least)
}

/// The greatest wait before attempt `next`, in milliseconds.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "waits are at most a day, far below 2^52 ms, and the factor is at least 1"
)]
pub fn bound_ms(retry: &Retry, next: i32) -> u64 {
    let mut bound = retry.initial_ms as f64;
    for _ in 2..next {
        bound *= retry.factor;
        if bound >= retry.max_ms as f64 {
            return retry.max_ms;
        }
    }
    (bound as u64).min(retry.max_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    #[test]
    fn bounds_double_up_to_the_maximum() {
        let retry = Retry { max_attempts: 9, initial_ms: 200, max_ms: 1_000, ..Retry::default() };
        let bounds: Vec<u64> = (2..7).map(|next| bound_ms(&retry, next)).collect();
        assert_eq!(bounds, [200, 400, 800, 1_000, 1_000]);
    }

    #[test]
    fn an_answer_that_asks_for_more_time_gets_it() {
        let retry = Retry { initial_ms: 1, ..Retry::default() };
        let wait = backoff(&retry, 2, TimeDelta::seconds(5), &SeededEntropy::new(1));
        assert_eq!(wait, TimeDelta::seconds(5));
    }
}
