//! The guards on a real Redis: each test in a namespace of its own, on the server at `REDIS_URL`; a test that flushes or
//! stops a server starts its own.

mod breaker;
mod hostile;
#[path = "../../../../fuzz/inputs.rs"]
mod inputs;
mod looks;
mod schedule;
mod server;
mod values;
mod windows;

use std::time::Duration;

use dat_guards::RuntimeStore;
use dat_plan::clock::{Entropy, SeededEntropy};

/// Long enough for a loaded machine: no test asserts how fast a healthy server is.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The shared server.
fn shared_url() -> String {
    let Ok(url) = std::env::var("REDIS_URL") else {
        panic!("REDIS_URL is not set: run `make test`, or set it to what `make -s env` prints");
    };
    url
}

/// A store on the shared server, in a namespace that no other run has.
fn store() -> RuntimeStore {
    let namespace = format!("test-{}", SeededEntropy::from_os().id());
    RuntimeStore::connect(&shared_url(), &namespace, TIMEOUT).unwrap()
}
