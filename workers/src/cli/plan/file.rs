//! Plan documents in files, checked as Plan Builder checks them.

use clap::Args;
use dat_connectors::Connectors;
use dat_guards::CelCheck;
use dat_plan::Fault;
use dat_plan::check::{self, Checked, Rules};

use crate::cli::failure::Failure;
use crate::cli::input::InputFile;

/// A plan document, as it stands in its file.
pub(super) type PlanFile = InputFile;

/// The files that a command is given.
#[derive(Debug, Args)]
pub(super) struct Files {
    /// Plan documents; - reads one from standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
}

impl Files {
    /// Reads them all.
    pub(super) fn read(&self) -> Result<Vec<PlanFile>, Failure> {
        self.files.iter().map(|name| PlanFile::read(name)).collect()
    }
}

/// Checks a plan, as this version would when it is submitted; what only the registry knows is not checked.
pub(super) fn check(file: &PlanFile) -> Result<Checked, Vec<Fault>> {
    let connectors = Connectors::NAMES.iter().map(|name| (*name).to_owned()).collect();
    check::plan(&file.body, &Rules { connectors: &connectors, predicates: &CelCheck })
}
