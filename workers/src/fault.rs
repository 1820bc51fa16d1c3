//! Fault points, for tests only: where a worker stops or ends itself, named by `DAT_FAULT=<point>:<act>:<n>`.
//!
//! `act` is `stop` (as by SIGSTOP: frozen until a SIGCONT) or `kill` (as by SIGKILL), at the n-th passing of the
//! point. Without the cargo feature `faults` a point is nothing at all.

/// Passes a fault point.
#[cfg(feature = "faults")]
pub(crate) fn point(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, OnceLock};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    static PLAN: OnceLock<Option<(String, String, u64)>> = OnceLock::new();

    let plan = PLAN.get_or_init(|| {
        let text = std::env::var("DAT_FAULT").ok()?;
        let mut parts = text.splitn(3, ':').map(str::to_owned);
        Some((parts.next()?, parts.next()?, parts.next()?.parse().ok()?))
    });
    let Some((at, act, nth)) = plan else { return };
    if at != name {
        return;
    }
    // A thread that comes second waits here until the first was woken again.
    let _alone = ONE_AT_A_TIME.lock();
    if PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *nth {
        tracing::warn!(point = name, act, "fault point");
        let signal = if act == "kill" { "-KILL" } else { "-STOP" };
        let _ = std::process::Command::new("kill").args([signal, &std::process::id().to_string()]).status();
        // A stop reaches every thread a moment after the signal was sent. This one goes no further until it has.
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
}

/// Passes a fault point: nothing, outside the tests.
#[cfg(not(feature = "faults"))]
#[inline]
pub(crate) const fn point(_: &str) {}
