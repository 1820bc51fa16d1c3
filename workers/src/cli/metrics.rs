//! `dat metrics`: what a worker counts.

use std::process::ExitCode;

use clap::Args;

use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{self, OutputFlag};
use crate::metrics::{self, Described};

/// Print every metric that a worker serves on /metrics, with its labels and its meaning
#[derive(Debug, Args)]
#[command(after_help = "\
Asks no server. The table is that of docs/metrics.md.

Examples:
  dat metrics
  dat metrics --output json | jq -r '.[] | select(.kind == \"histogram\") | .name'")]
pub(crate) struct MetricsArgs {
    #[command(flatten)]
    output: OutputFlag,
}

impl MetricsArgs {
    pub(crate) fn run(self) -> Answer {
        let described = metrics::described().map_err(|error| Failure::Failed(error.to_string()))?;
        if self.output.is_json() {
            output::json(&described)?;
        } else {
            output::line(page(&described))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The table, as the page has it.
fn page(described: &[Described]) -> String {
    let rows = described.iter().map(|Described { name, kind, labels, help }| {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {kind} | {} | {help} |", labels.join(" "))
    });
    let head = ["| metric | type | labels | what it says |", "| --- | --- | --- | --- |"];
    head.into_iter().map(str::to_owned).chain(rows).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/metrics.md");

    #[test]
    fn the_page_lists_what_a_worker_serves_and_nothing_else() {
        let table = page(&metrics::described().expect("metrics"));
        let rows: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("| `dat_")).collect();
        let meant: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(rows, meant, "docs/metrics.md is not what 'dat metrics' prints");
    }
}
