//! The Connector Layer: one contract over outside systems.
//!
//! **Owns** the contract ([`Connector`]) and its implementations: `mux` over AMQP, `http` to real APIs,
//! `echo` in the process. **May be
//! called** by the Step Runner (to act) and the Rollback Coordinator (to probe), each under a lease it has just
//! checked. **Must never** touch the database or Redis, retry by itself, or guess: whether a request may have left is
//! the one thing that the caller cannot find out otherwise, so every answer says it.

mod connector;
mod echo;
pub mod http;
mod listener;
mod mux;
mod registry;

pub use connector::{
    ActionDeclaration, Answer, Call, Connector, Declaration, ProbeAnswer, Reached, Rehearsal,
};
pub use echo::Echo;
pub use http::Http;
pub use listener::{Listener, Nobody};
pub use mux::Mux;
pub use registry::Connectors;
