//! How long a test waits for what must happen.

use std::fmt::Display;
use std::time::Duration;

/// The deadline of every wait. Far above what anything takes, also on a busy machine: it ends a test that would hang,
/// and measures nothing.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// How often is looked for what nothing announces.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// Waits for something, and panics with what it was if it does not come.
pub async fn within<T>(what: impl Display, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|late| panic!("{what}: not within {PATIENCE:?} ({late})"))
}
