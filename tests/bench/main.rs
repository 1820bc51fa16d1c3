//! What the guards cost, measured on a fleet of processes of its own: `guards-bench fairness | rate | ratio`.
//!
//! It prints figures, and its exit status is 0 only if they are within what is promised of them. Unlike the tests it looks
//! at the clock, so that it says nothing on a machine that does something else meanwhile.
#![expect(clippy::print_stdout, reason = "what it prints is the result")]

mod fairness;
mod figures;
mod rate;
mod ratio;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let within = match std::env::args().nth(1).as_deref() {
        Some("fairness") => fairness::run().await,
        Some("rate") => rate::run().await,
        Some("ratio") => ratio::run().await,
        _ => {
            println!("usage: guards-bench fairness | rate | ratio");
            return ExitCode::from(2);
        }
    };
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
