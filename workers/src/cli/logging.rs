//! What the process says of itself, on stderr: text on a terminal, else a line of JSON an event.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::cli::failure::Failure;

/// Chooses what is logged, as `tracing-subscriber`'s filters are written: `info`, `warn,dat_store=debug`.
const VARIABLE: &str = "DAT_LOG";

/// Starts to log what `DAT_LOG` says, or from this level on.
pub(crate) fn start(level: &str) -> Result<(), Failure> {
    let directives = match std::env::var(VARIABLE) {
        Ok(directives) if !directives.is_empty() => directives,
        _ => level.to_owned(),
    };
    let filter = EnvFilter::try_new(&directives).map_err(|error| {
        Failure::Usage(format!(
            "{VARIABLE} is '{directives}', which is no filter ({error}): set it to info, say"
        ))
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if io::stderr().is_terminal() {
        log.compact().try_init()
    } else {
        log.json().flatten_event(true).with_span_list(false).with_ansi(false).try_init()
    };
    started.map_err(|error| Failure::Failed(format!("the log cannot be started: {error}")))
}
