//! Everything that the command writes: answers on stdout, notes on stderr.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::failure::Failure;
pub(crate) use crate::moments::{moment, span};

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Chooses how the answer is written.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputFlag {
    /// How the answer is written
    #[arg(long, short = 'o', value_enum, default_value = "table", value_name = "FORMAT")]
    output: Format,
}

impl OutputFlag {
    /// Whether a program reads the answer.
    pub(crate) fn is_json(self) -> bool {
        self.output == Format::Json
    }
}

/// One line of the answer, or several.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// The answer as one JSON document.
pub(crate) fn json(answer: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string_pretty(answer).map_err(io::Error::from)?)
}

/// One of many answers, as a line of JSON.
pub(crate) fn json_line(answer: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string(answer).map_err(io::Error::from)?)
}

/// A note beside the answer. Where nobody reads notes, it is lost, and that is no failure.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A question on the terminal; anything but a yes is a no. Blocks.
pub(crate) fn confirm(question: &str) -> Result<bool, Failure> {
    write!(io::stderr().lock(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Whether a person reads the answer.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether a person can be asked.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// The terminal's second screen, so that what is redrawn leaves no trace. Dropped, it gives the first one back.
#[derive(Debug)]
pub(crate) struct Screen(io::Stdout);

impl Screen {
    /// Takes the terminal.
    pub(crate) fn open() -> Result<Self, Failure> {
        let out = io::stdout();
        write!(out.lock(), "\x1b[?1049h\x1b[?25l")?;
        Ok(Self(out))
    }

    /// Draws over what was there.
    pub(crate) fn draw(&self, text: &str) -> Result<(), Failure> {
        let mut out = self.0.lock();
        write!(out, "\x1b[H\x1b[2J{text}")?;
        Ok(out.flush()?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = self.0.lock();
        let _ = write!(out, "\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
    }
}
