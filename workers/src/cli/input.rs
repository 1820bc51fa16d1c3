//! Documents in files, as commands read them, and what is wrong with them.

use std::io::Read as _;
use std::path::Path;

use dat_plan::{Fault, FaultCode};

use crate::cli::failure::Failure;
use crate::cli::output;

/// A document, as it stands in its file.
#[derive(Debug)]
pub(crate) struct InputFile {
    /// The file's name, for people.
    pub(crate) name: String,
    /// Its bytes: what is hashed, and published or registered.
    pub(crate) body: Vec<u8>,
}

impl InputFile {
    /// Reads a file; `-` is standard input.
    pub(crate) fn read(name: &str) -> Result<Self, Failure> {
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

    /// Says what is wrong with it, a line a fault: `pointer: message (code)`.
    pub(crate) fn say_faults(&self, faults: &[Fault]) -> Result<(), Failure> {
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
