//! Plan documents in files, checked as Plan Builder checks them.

use std::io::Read as _;
use std::path::Path;

use clap::Args;
use dat_connectors::Connectors;
use dat_guards::CelCheck;
use dat_plan::check::{self, Checked, Rules};
use dat_plan::{Fault, FaultCode};

use crate::cli::failure::Failure;
use crate::cli::output;

/// The files that a command is given.
#[derive(Debug, Args)]
pub(super) struct Files {
    /// Plan documents; - reads one from standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
}

/// A document, as it stands in its file.
#[derive(Debug)]
pub(super) struct PlanFile {
    /// The file's name, for people.
    pub(super) name: String,
    /// Its bytes: what is hashed and published.
    pub(super) body: Vec<u8>,
}

impl Files {
    /// Reads them all.
    pub(super) fn read(&self) -> Result<Vec<PlanFile>, Failure> {
        self.files.iter().map(|name| PlanFile::read(name)).collect()
    }
}

impl PlanFile {
    fn read(name: &str) -> Result<Self, Failure> {
        let mut body = Vec::new();
        let read = if name == "-" {
            std::io::stdin().lock().read_to_end(&mut body).map(|_| body)
        } else {
            std::fs::read(Path::new(name))
        };
        match read {
            Ok(body) => Ok(Self { name: name.to_owned(), body }),
            Err(error) => Err(Failure::Failed(format!("{name} cannot be read: {error}"))),
        }
    }

    /// Checks it, as this version would when it is submitted; what only the registry knows is not checked.
    pub(super) fn check(&self) -> Result<Checked, Vec<Fault>> {
        let connectors = Connectors::NAMES.iter().map(|name| (*name).to_owned()).collect();
        check::plan(&self.body, &Rules { connectors: &connectors, predicates: &CelCheck })
    }

    /// Says what is wrong with it, a line a fault: `pointer: message (code)`.
    pub(super) fn say_faults(&self, faults: &[Fault]) -> Result<(), Failure> {
        let count = if faults.len() == 1 { "1 fault".to_owned() } else { format!("{} faults", faults.len()) };
        output::line(format_args!("{}: not valid, {count}", self.name))?;
        for fault in faults {
            output::line(format_args!("  {fault} ({})", word(fault.code)))?;
        }
        Ok(())
    }
}

/// The code as it stands in `submission.rejected`.
fn word(code: FaultCode) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(word)) => word,
        _ => format!("{code:?}"),
    }
}
