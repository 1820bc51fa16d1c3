//! `dat schema`: the published messages.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use dat_plan::event::Destination;

use serde_json::Value;

use crate::asyncapi;
use crate::cli::failure::Answer;
use crate::cli::output;
use crate::console::openapi;

/// Print the JSON Schema of a message
#[derive(Debug, Args)]
#[command(after_help = "\
Asks no server. The schema has every bound that a schema can say; 'dat plan validate' checks the rest too.

Examples:
  dat schema plan > plan.schema.json
  dat schema verdict | jq .required
  dat schema asyncapi > asyncapi.json      for the generators of AsyncAPI")]
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
    /// What is published to dat.events; FLO and PTE get the same with other types
    Event,
    /// All messages and where they go, as an `AsyncAPI` 3 document
    Asyncapi,
    /// The console's API, as an `OpenAPI` 3.1 document
    Openapi,
}

impl Schema {
    pub(crate) fn run(self) -> Answer {
        output::json(&self.message.schema())?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Message {
    fn schema(self) -> Value {
        match self {
            Message::Plan => dat_plan::schema::plan_document(),
            Message::Verdict => dat_plan::schema::verdict(),
            Message::Constraints => dat_plan::schema::constraint_document(),
            Message::Limits => dat_plan::schema::limits_document(),
            Message::Event => dat_plan::schema::event(Destination::Events),
            Message::Asyncapi => asyncapi::document(),
            Message::Openapi => openapi::document(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is checked in is what the command prints.
    #[test]
    fn the_files_are_what_the_types_say() {
        for message in Message::value_variants() {
            let name = message.to_possible_value().expect("it has a name").get_name().to_owned();
            let path = format!("{}/../docs/schemas/{name}.json", env!("CARGO_MANIFEST_DIR"));
            let file = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let file: Value = serde_json::from_str(&file).expect("JSON");
            assert!(file == message.schema(), "{path} is old: dat schema {name} > docs/schemas/{name}.json");
        }
    }
}
