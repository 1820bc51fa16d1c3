//! What a fleet does and costs, measured on a fleet of processes of its own: `fleet-bench throughput | peers | ratio |
//! tenants | history | backlog | overload | idle | fairness | rate`.
//!
//! It prints figures, and its exit status is 0 only if they are within what is promised of them. Unlike the tests it looks
//! at the clock, so that it says nothing on a machine that does something else meanwhile.
#![expect(clippy::print_stdout, reason = "what it prints is the result")]

mod fairness;
mod figures;
mod history;
mod idle;
mod load;
mod overload;
mod peers;
mod rate;
mod ratio;
mod tenants;
mod throughput;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let within = match std::env::args().nth(1).as_deref() {
        Some("throughput") => throughput::run().await,
        Some("peers") => peers::run().await,
        Some("ratio") => ratio::run().await,
        Some("tenants") => tenants::run().await,
        Some("history") => history::run().await,
        Some("backlog") => history::backlog().await,
        Some("overload") => overload::run().await,
        Some("idle") => idle::run().await,
        Some("fairness") => fairness::run().await,
        Some("rate") => rate::run().await,
        _ => {
            println!(
                "usage: fleet-bench throughput | peers | ratio | tenants | history | backlog | overload | idle | fairness | rate"
            );
            return ExitCode::from(2);
        }
    };
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
