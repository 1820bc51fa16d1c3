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
    /// Reads a file; `-` is standard input. One whose name ends in `.yaml` or `.yml` is read as YAML, and is from then on
    /// the JSON that it stands for: that is what is hashed and published.
    pub(crate) fn read(name: &str) -> Result<Self, Failure> {
        let mut body = Vec::new();
        let read = if name == "-" {
            std::io::stdin().lock().read_to_end(&mut body).map(|_| body)
        } else {
            std::fs::read(Path::new(name))
        };
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        match read {
            Ok(body) if matches!(extension, Some("yaml" | "yml")) => {
                let body =
                    json_of(&body).map_err(|why| Failure::Failed(format!("{name} is not YAML: {why}")))?;
                Ok(Self { name: name.to_owned(), body })
            }
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

/// The JSON that a YAML document stands for. Read as YAML first, which refuses a key that stands twice.
fn json_of(yaml: &[u8]) -> Result<Vec<u8>, String> {
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_slice(yaml).map_err(|error| error.to_string())?;
    serde_json::to_vec_pretty(&value).map_err(|error| error.to_string())
}

/// The code as it stands in `submission.rejected`.
fn word(code: FaultCode) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(word)) => word,
        _ => format!("{code:?}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn yaml_is_read_as_the_json_that_it_stands_for() {
        let yaml = "steps:\n  - key: a\n    parameters: {sku: X, price: 12.5, tags: [new, \"no\"]}\n    max_cost: 300\n";
        let read: Value = serde_json::from_slice(&json_of(yaml.as_bytes()).expect("YAML")).expect("JSON");
        let step = json!({"key": "a", "parameters": {"sku": "X", "price": 12.5, "tags": ["new", "no"]}, "max_cost": 300});
        assert_eq!(read, json!({"steps": [step]}));
        for wrong in ["a: 1\na: 2\n", "a: [1\n", "a: \"\n"] {
            assert!(json_of(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
