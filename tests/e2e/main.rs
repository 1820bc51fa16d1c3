//! End to end, on real servers: each test has a fleet of its own, of real processes.

mod health;
