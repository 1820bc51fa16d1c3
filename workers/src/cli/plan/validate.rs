//! `dat plan validate`.

use std::process::ExitCode;

use clap::Args;
use dat_plan::check::Checked;
use serde_json::json;

use super::file::{self, Files, PlanFile};
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{self, OutputFlag};

/// Find every fault of plan documents, offline; exit status 1 if there is one
#[derive(Debug, Args)]
#[command(after_help = "\
Asks no server. Each fault is a line 'pointer: message (code)', with an RFC 6901 pointer. A valid plan shows its hash, \
which is what an approval names.

Examples:
  dat plan validate launch.json
  dat plan validate launch.yaml            YAML is as good: its hash is that of the JSON it stands for
  dat plan validate plans/*.json --output json
  generate-plan | dat plan validate -")]
pub(crate) struct Validate {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    output: OutputFlag,
}

impl Validate {
    pub(super) fn run(self) -> Answer {
        let mut all_valid = true;
        let mut reports = Vec::new();
        for file in self.files.read()? {
            let checked = file::check(&file);
            all_valid &= checked.is_ok();
            if self.output.is_json() {
                reports.push(match checked {
                    Ok(Checked { document, hash, readiness, .. }) => json!({
                        "file": file.name, "valid": true, "faults": [],
                        "plan_id": document.plan_id, "plan_version": document.plan_version,
                        "plan_hash": hash, "readiness": readiness,
                    }),
                    Err(faults) => json!({"file": file.name, "valid": false, "faults": faults}),
                });
            } else {
                match checked {
                    Ok(checked) => say_valid(&file, &checked)?,
                    Err(faults) => file.say_faults(&faults)?,
                }
            }
        }
        if self.output.is_json() {
            output::json(&reports)?;
        }
        Ok(if all_valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn say_valid(file: &PlanFile, checked: &Checked) -> Result<(), Failure> {
    let Checked { document, hash, readiness, .. } = checked;
    output::line(format_args!("{}: valid", file.name))?;
    output::line(format_args!(
        "  plan          {} \"{}\" of {}",
        document.key(),
        document.name,
        document.tenant
    ))?;
    output::line(format_args!("  hash          {hash}"))?;
    output::line(format_args!(
        "  steps         {}, of which {} can be undone",
        readiness.steps, readiness.reversible
    ))?;
    if !readiness.irreversible.is_empty() {
        output::line(format_args!("  irreversible  {}", readiness.irreversible.join(", ")))?;
    }
    let budget = &document.budget;
    output::line(format_args!(
        "  cost          at most {} of a budget of {} {}",
        readiness.max_cost, budget.amount, budget.currency
    ))?;
    for warning in &readiness.warnings {
        output::line(format_args!("  warning       {warning}"))?;
    }
    Ok(())
}
