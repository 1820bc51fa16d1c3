//! End to end, on real servers: each test has a fleet of its own, of real processes.
//!
//! `scenarios` and `invalid` run plan documents against tables of what must come of them; the other modules each take
//! one side of the contract.

mod backlog;
mod batched;
mod books;
mod breaker;
mod console;
mod constraints;
mod control;
mod crash;
mod crowd;
mod dead;
mod documents;
mod drain;
mod dry_run;
mod exports;
mod faults;
mod foreign_mux;
mod freeze;
mod governance;
mod governance_seal;
mod health;
mod http;
mod invalid;
mod keys;
mod late;
mod limits;
mod live;
mod monitoring;
mod orphan;
mod outages;
mod outcomes;
mod poison;
mod progress;
mod properties;
mod python;
mod rates;
mod readme;
mod reconcile;
mod redis_loss;
mod resolve;
mod roles;
mod scenario_table;
mod scenarios;
mod shop;
mod stops;
mod token_trace;
mod who;
