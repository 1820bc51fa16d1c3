//! `dat migrate`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::failure::Answer;
use crate::cli::output;
use crate::cli::session::{Session, without_login};

/// Brings the database to the schema of this version
#[derive(Debug, Args)]
#[command(after_help = "\
Safe to run again, and from several processes at once. Workers of the version before go on beside it.

Examples:
  dat migrate
  dat migrate --database-url postgres://dat:secret@db:5432/dat")]
pub(crate) struct Migrate {}

impl Migrate {
    pub(crate) async fn run(self, session: &Session) -> Answer {
        let store = session.distant_store()?;
        // An empty database and one that does not answer fail alike here; the second one fails again below.
        let was_there = store.check().await.is_ok();
        store.migrate().await.map_err(|error| session.no_store(&error))?;
        let address = without_login(&session.settings.database_url);
        if was_there {
            output::line(format_args!("{address} has every migration of this version"))?;
        } else {
            output::line(format_args!("{address} was empty: its tables are made"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
