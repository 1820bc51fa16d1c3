//! `dat schema plan | verdict | constraints | limits`.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::cli::failure::Answer;
use crate::cli::output;

/// Print the JSON Schema of a message
#[derive(Debug, Args)]
#[command(after_help = "\
Asks no server. The schema has every bound that a schema can say; 'dat plan validate' checks the rest too.

Examples:
  dat schema plan > plan.schema.json
  dat schema verdict | jq .required")]
pub(crate) struct Schema {
    /// Which message
    #[arg(value_enum)]
    message: Message,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Message {
    /// What a producer publishes to plan.submitted
    Plan,
    /// What governance publishes to plan.approved, plan.rejected and plan.revoked
    Verdict,
    /// What an operator registers with 'dat constraints set'
    Constraints,
    /// What an operator sets with 'dat budget set --file'
    Limits,
}

impl Schema {
    pub(crate) fn run(self) -> Answer {
        output::json(&match self.message {
            Message::Plan => dat_plan::schema::plan_document(),
            Message::Verdict => dat_plan::schema::verdict(),
            Message::Constraints => dat_plan::schema::constraint_document(),
            Message::Limits => dat_plan::schema::limits_document(),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
