//! Time and randomness as parameters, so that a decision can be made again with the same result.

use std::sync::Mutex;

use chrono::{DateTime, SubsecRound, Utc};
use uuid::Uuid;

/// Tells the time. Workers take the system's; tests set their own.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now, to the microsecond: what PostgreSQL keeps, so that a time read back equals the time written.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the system's clock is read")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}

/// Gives ids and random numbers.
pub trait Entropy: Send + Sync + std::fmt::Debug {
    /// A new unique id.
    fn id(&self) -> Uuid;
    /// A uniform number in `0..bound`; 0 where `bound` is 0.
    fn below(&self, bound: u64) -> u64;
}

/// A seeded source: the same seed gives the same ids and numbers.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<fastrand::Rng>);

impl SeededEntropy {
    /// A source from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    /// A source from the operating system's randomness.
    #[must_use]
    pub fn from_os() -> Self {
        Self(Mutex::new(fastrand::Rng::new()))
    }

    fn with<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        // A poisoned lock still holds a usable generator.
        draw(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Entropy for SeededEntropy {
    fn id(&self) -> Uuid {
        self.with(|rng| uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid())
    }

    fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.with(|rng| rng.u64(0..bound)) }
    }
}
