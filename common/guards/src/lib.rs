//! The guards: what holds a plan back before it acts.
//!
//! **Owns** the constraint engine ([`Predicate`], [`ConstraintSet`], [`Conditions`]), which is pure, and what the fleet
//! keeps in Redis: rate schedules ([`RateSchedule`]), token windows ([`TokenWindows`]), copies of accounts
//! ([`AccountCopies`]), live plans ([`LivePlans`]) and circuit breakers ([`Breakers`]).
//! **May be called** by the workers, in the order constraints, windows, rates; and by tools that decide again offline.
//! **Must never** know SQL or AMQP, or say the last word on money: Redis only postpones, PostgreSQL refuses. Losing
//! Redis loses nothing: rates go on in each process ([`LocalRate`]), windows stop until they are rebuilt, copies and
//! live plans are refilled from rows, breakers close. The engine never reads a clock: time is an input, and equal inputs decide alike.

mod breaker;
mod conditions;
mod constraints;
mod copy;
mod decision;
mod inputs;
mod limits;
mod live_plan;
mod local_rate;
mod looks;
mod predicate;
mod rate;
mod redis;
mod token_windows;
mod versioned;
mod window;

pub use breaker::{BadBreaker, BreakerRequest, BreakerRule, Breakers, Health, Moved, Passage};
pub use conditions::{Conditions, When};
pub use constraints::{Cap, ConstraintSet, Counter, Origin, RateRule, StepPlace};
pub use copy::{AccountCopies, AccountCopy, Affordable, COPY_LIFETIME, can_be_of, fits};
pub use decision::{Decision, Verdict, Violation};
pub use inputs::{BudgetFacts, Counted, Counts, Inputs, PlanFacts, StepFacts};
pub use live_plan::{Lifetimes, LivePlan, LivePlans};
pub use local_rate::LocalRate;
pub use looks::Looks;
pub use predicate::{CelCheck, Outcome, Place, Predicate, PredicateFault, Reads, ResultsRead};
pub use rate::{BadLimit, RateLimit, RateRequest, RateSchedule, SHARED, Turn, slot_is_valid};
pub use redis::{BadStore, PAUSE, RedisAway, RedisDiagnosis, RuntimeStore};
pub use token_windows::TokenWindows;
pub use window::{
    Period, TokenWindow, WindowAnswer, WindowAnswers, WindowCount, WindowCounts, WindowEntry, WindowKey,
    WindowRequest,
};
