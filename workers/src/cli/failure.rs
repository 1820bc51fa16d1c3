//! What a command comes to when it cannot do what it was asked.

use std::io;
use std::process::ExitCode;

use dat_store::StoreError;

use crate::cli::output;
use crate::settings::BadSetting;

/// The exit status of a command that did its work, or why it did not.
pub(crate) type Answer = Result<ExitCode, Failure>;

/// Why a command did not do its work. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It was asked for rightly, and could not be done.
    #[error("{0}")]
    Failed(String),
    /// It was asked for wrongly.
    #[error("{0}")]
    Usage(String),
    /// Nobody can read the answer.
    #[error("the answer cannot be written: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// Says it in one line, and gives the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            // `dat plan list | head`: the reader has enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            _ => output::note(format_args!("error: {}", self.to_string().replace('\n', " "))),
        }
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) | Self::Output(_) => ExitCode::FAILURE,
        }
    }
}

/// A database that went away between two statements; [`crate::cli::session::Session::store`] names its address.
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if let Some(denied) = error.denied() {
            return Self::Failed(format!(
                "the login of DATABASE_URL may not do this ({denied}): use one that 'dat migrate' has granted it to"
            ));
        }
        match error {
            StoreError::Unavailable(_) => Self::Failed(format!("{error}; try again, or check DATABASE_URL")),
            StoreError::Data(_) | StoreError::Corrupt(_) => Self::Failed(error.to_string()),
        }
    }
}

impl From<BadSetting> for Failure {
    fn from(error: BadSetting) -> Self {
        Self::Usage(format!("a setting cannot be used: {error}"))
    }
}
