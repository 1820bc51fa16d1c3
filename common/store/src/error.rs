//! What went wrong with the database, and what the caller does about it.

use std::borrow::Cow;

/// A failed transaction. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, is starting, overloaded, or chose this transaction as a deadlock's victim:
    /// keep the deliveries, wait, and do it again.
    #[error("the database is unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// A value that PostgreSQL does not store (U+0000, a number out of range) or that breaks a rule of the schema:
    /// doing it again fails again. Split the batch and park the culprit.
    #[error("the database refuses a value: {0}")]
    Data(#[source] sqlx::Error),
    /// A row holds what this version cannot read, or not what the log says.
    #[error("a row cannot be read: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// What the login may not do, in the database's words, if that is why. It counts as unavailable: a worker whose role
    /// was not granted something keeps its deliveries until it is.
    #[must_use]
    pub fn denied(&self) -> Option<String> {
        let (Self::Unavailable(error) | Self::Data(error)) = self else { return None };
        let refused = error.as_database_error()?;
        (refused.code().as_deref() == Some("42501")).then(|| refused.message().to_owned())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|e| e.code().map(Cow::into_owned));
        match (&error, code.as_deref()) {
            // 22: data exception; 23: integrity constraint violation; 54: a limit of the server's.
            (_, Some(code)) if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => {
                Self::Data(error)
            }
            (sqlx::Error::Encode(_), _) => Self::Data(error),
            (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => {
                Self::Corrupt(error.to_string())
            }
            _ => Self::Unavailable(error),
        }
    }
}

impl From<dat_plan::ids::UnknownWord> for StoreError {
    fn from(error: dat_plan::ids::UnknownWord) -> Self {
        Self::Corrupt(error.to_string())
    }
}

impl From<dat_plan::state::IllegalTransition> for StoreError {
    fn from(error: dat_plan::state::IllegalTransition) -> Self {
        Self::Corrupt(error.to_string())
    }
}

impl From<dat_plan::hash::NoCanonicalForm> for StoreError {
    fn from(error: dat_plan::hash::NoCanonicalForm) -> Self {
        Self::Corrupt(error.to_string())
    }
}
