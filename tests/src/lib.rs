//! What the end-to-end tests stand on: a fleet of real processes on real servers, and the outsiders around it.
//!
//! **Owns** how a test gets a fleet of its own (database, virtual host, Redis prefix, workers, sandbox), how it speaks to
//! it as a producer, what the sandbox says of the world, and what must hold at the end of every test.
//! **May be called** by the tests of this package. **Must never** reach into a worker: a fleet is what its processes,
//! messages, rows and reports show.
//!
//! Tests wait on signals (events, long polls, the end of a process), each with a deadline that says what was seen.
//! Whatever does not work panics, as in a test; a [`Fleet`] that is dropped, also by a panic, takes its processes,
//! database, virtual host and keys with it. What its processes logged stays in `target/test-logs/<test>/`.
#![expect(clippy::missing_panics_doc, reason = "in a harness of tests, everything that fails panics")]

mod announcement;
mod binary;
mod draft;
mod eventually;
mod fleet;
mod login;
mod patience;
mod private;
mod process;
mod producer;
mod proxy;
mod realm;
mod reconciliation;
mod stack;
mod world;

pub use announcement::{Announcement, EndState};
pub use binary::{dat_binary, log_folder};
pub use draft::{PlanDraft, StepDraft, named_id, random_id};
pub use eventually::eventually;
pub use fleet::{Fleet, FleetOptions, WorkerOptions};
pub use login::{Login, Refusal};
pub use patience::{PATIENCE, within};
pub use private::{PrivatePostgres, PrivateRabbitMq, PrivateRedis};
pub use process::Process;
pub use producer::{DeadLetter, Producer, Submission};
pub use proxy::{Proxy, Way};
pub use realm::Realm;
pub use stack::Stack;
pub use world::SandboxClient;
