//! Fault points, for tests only: where a worker stops or ends itself, before and after every write and every send.
//!
//! **Owns** the points' names, each written once, where the write or the send is: the fault tests read them from the
//! sources, so that a new write without a point, or a point that no test passes, fails. **May be called** by whoever
//! writes or sends. **Must never** do anything in a build without the cargo feature `faults`: there a point is nothing.
//!
//! `DAT_FAULT=<point>:<act>:<n>` does `act` at the n-th passing of a point: `stop` (as by SIGSTOP: frozen until a SIGCONT)
//! or `kill` (as by SIGKILL; what the process had open at the servers ends with it). `DAT_FAULT_TRACE=<file>` notes
//! each passing of a point as a line of that file. `DAT_FAULT_DELIVER` has every delivery come `twice`, within its batch
//! and again once it was committed, or `swapped` with its neighbour.

/// Passes the points `<name>.before` and `<name>.after` around something that writes or sends.
pub async fn around<T>(name: &str, act: impl Future<Output = T>) -> T {
    point(name, Side::Before);
    let done = act.await;
    point(name, Side::After);
    done
}

/// As [`around`], for what is done at once.
pub fn around_call<T>(name: &str, act: impl FnOnce() -> T) -> T {
    point(name, Side::Before);
    let done = act();
    point(name, Side::After);
    done
}

/// Whether every delivery is to come twice.
#[must_use]
pub fn delivers_twice() -> bool {
    cfg!(feature = "faults") && std::env::var("DAT_FAULT_DELIVER").is_ok_and(|how| how == "twice")
}

/// Swaps what was delivered with its neighbour, where that is asked for.
pub fn disorder<T>(delivered: &mut [T]) {
    if cfg!(feature = "faults") && std::env::var("DAT_FAULT_DELIVER").is_ok_and(|how| how == "swapped") {
        for pair in delivered.chunks_exact_mut(2) {
            pair.swap(0, 1);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Before,
    After,
}

#[cfg(not(feature = "faults"))]
#[inline]
const fn point(_: &str, _: Side) {}

#[cfg(feature = "faults")]
fn point(name: &str, side: Side) {
    let name = match side {
        Side::Before => format!("{name}.before"),
        Side::After => format!("{name}.after"),
    };
    at::pass(&name);
}

#[cfg(feature = "faults")]
mod at {
    use std::fs::{File, OpenOptions};
    use std::io::Write as _;
    use std::process::Command;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, OnceLock};
    use std::time::Duration;

    /// What is to happen, where, and at which passing.
    struct Fault {
        point: String,
        act: String,
        nth: u64,
    }

    fn planned() -> Option<Fault> {
        let text = std::env::var("DAT_FAULT").ok()?;
        let mut parts = text.splitn(3, ':').map(str::to_owned);
        Some(Fault { point: parts.next()?, act: parts.next()?, nth: parts.next()?.parse().ok()? })
    }

    fn trace() -> Option<Mutex<File>> {
        let path = std::env::var_os("DAT_FAULT_TRACE")?;
        OpenOptions::new().create(true).append(true).open(path).ok().map(Mutex::new)
    }

    pub(super) fn pass(name: &str) {
        static PASSED: AtomicU64 = AtomicU64::new(0);
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
        static TRACE: OnceLock<Option<Mutex<File>>> = OnceLock::new();

        if let Some(Ok(mut file)) = TRACE.get_or_init(trace).as_ref().map(Mutex::lock) {
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
        let Some(fault) = FAULT.get_or_init(planned) else { return };
        if fault.point != name {
            return;
        }
        // A thread that comes second waits here until the first was woken again.
        let _alone = ONE_AT_A_TIME.lock();
        if PASSED.fetch_add(1, Ordering::SeqCst) + 1 == fault.nth {
            let signal = if fault.act == "kill" { "-KILL" } else { "-STOP" };
            let _ = Command::new("kill").args([signal, &std::process::id().to_string()]).status();
            // A stop reaches every thread a moment after the signal was sent. This one goes no further until it has.
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}
