//! The store on a real PostgreSQL: each test in a database of its own, on the server at `DATABASE_URL`.
//!
//! Time is a parameter of every call, so that leases run out and periods turn without waiting. Each test fails if the
//! guard that it is about is taken away.

mod admission;
mod approvals;
mod budget;
mod checkpoints;
mod checks;
mod claims;
mod constraints;
mod control;
mod database;
mod deadlock;
mod events;
mod fairness;
mod fence;
mod fleet;
mod going_on;
mod grants;
mod handover;
mod ledger;
mod lock_order;
mod periods;
mod plans;
mod registry;
mod relay;
mod resolve;
mod retention;
mod rollback;
mod seals;
mod transitions;
mod two_person;
mod verdicts;
