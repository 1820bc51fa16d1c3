//! The topology: exchanges, queues and bindings, as values, in one place.
//!
//! This crate owns the names. No other crate has the name of an exchange or a queue as a literal: it asks a
//! [`Topology`] for `queue(Stage::PlanSubmitted)`. It also owns how queues behave when work cannot be done, which is in
//! their arguments: every work queue is a quorum queue that parks a message at least once, in `<queue>.dead`, after
//! [`DELIVERY_LIMIT`] deliveries.
//!
//! The command `dat topology` calls [`Topology::apply`], [`Topology::verify`] and [`Topology::print`]; workers call the
//! accessors, and `verify` when they start. The sandbox applies [`Topology::sandbox`], which is what the systems around
//! DAT bring along themselves.
//!
//! It never deletes or changes what a broker has, never publishes and never consumes.

mod apply;
mod conflict;
mod drift;
mod exchange;
pub mod key;
mod management;
mod print;
mod queue;
mod rights;
mod topology;
mod verify;

pub use apply::{ApplyError, vhost_of};
pub use conflict::{Conflict, Conflicts};
pub use drift::{Drift, Part};
pub use exchange::{Exchange, ExchangeKind, ExchangeSpec};
pub use management::{ManagementError, broker_version};
pub use queue::{Argument, DELIVERY_LIMIT, Outside, Queue, QueueSpec, Stage, UnknownStage};
pub use rights::{Party, Rights, TopicRights};
pub use topology::{BindingSpec, Topology};
