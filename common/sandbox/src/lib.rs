//! Stand-ins of the outside systems: GGP, MUX, FLO and PTE, in a process of their own.
//!
//! **Owns** what those four would own: MUX's effects and seals by idempotency key, GGP's verdicts, the events that FLO
//! and PTE received and what FLO books of them; in a store of its own, a file or memory.
//! **May be called** by the `dat sandbox` command, the demo, the tests and the load tests. They read its report over
//! HTTP with the types of [`report`].
//! **Must never** know a database of DAT's, or link more of DAT than the contract types, the bus and the topology: what
//! it says of the world comes from AMQP alone, so that a real system can take its place unchanged.
//!
//! A message goes from the queue to its `desk`, which has it decided by a pure model (`mux`, `ggp`, `flo`) within one
//! change of the `store`, sends the answer, and only then acknowledges. So a message that is delivered again, after a
//! crash of either side, finds what was decided the first time.

mod behaviour;
mod books;
mod broker;
mod concurrency;
mod config;
mod desk;
mod envelope;
mod flo;
mod gate;
mod ggp;
mod governance;
mod herald;
mod http;
mod mux;
pub mod report;
mod rules;
mod sandbox;
mod store;
mod world;

pub use books::OutsideBooks;
pub use config::SandboxConfig;
pub use governance::Governance;
pub use report::GgpMode;
pub use rules::{BadRule, RuleBook, RuleSetting, Rules, Then};
pub use sandbox::{Sandbox, SandboxError};
pub use store::StoreError;
