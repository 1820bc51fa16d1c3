//! Waiting for what announces nothing: the state of a process, a row's reason to wait, a metric.

use std::fmt::{Debug, Display};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::patience::PATIENCE;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until what must come is there, and panics with what was seen last if it does not come.
pub async fn eventually<T, E: Debug>(what: impl Display, mut look: impl AsyncFnMut() -> Result<T, E>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => {
                assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}. Seen last: {seen:?}");
            }
        }
        sleep(LOOK).await;
    }
}
