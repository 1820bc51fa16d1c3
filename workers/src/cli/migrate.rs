//! `dat migrate`.

use std::process::ExitCode;

use clap::Args;
use dat_store::{GrantError, Role};

use crate::cli::failure::{Answer, Failure};
use crate::cli::output;
use crate::cli::session::{Session, without_login};

/// Brings the database to the schema of this version
#[derive(Debug, Args)]
#[command(after_help = "\
Safe to run again, and from several processes at once. Workers of the version before go on beside it.

With roles, each is granted what it is for, and what else it had on the tables is taken away: run it so after every \
upgrade, as the owner of the tables. The roles must be there; docs/permissions.md has the commands.

Examples:
  dat migrate
  dat migrate --worker-role dat_worker --operator-role dat_operator --auditor-role dat_auditor
  dat migrate --database-url postgres://dat:secret@db:5432/dat")]
pub(crate) struct Migrate {
    /// The login of workers
    #[arg(long = "worker-role", value_name = "NAME")]
    worker: Option<String>,
    /// The login of commands that act
    #[arg(long = "operator-role", value_name = "NAME")]
    operator: Option<String>,
    /// The login of commands that only read
    #[arg(long = "auditor-role", value_name = "NAME")]
    auditor: Option<String>,
}

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
        let named =
            [(Role::Worker, self.worker), (Role::Operator, self.operator), (Role::Auditor, self.auditor)];
        let roles: Vec<(Role, String)> =
            named.into_iter().filter_map(|(role, name)| Some((role, name?))).collect();
        if !roles.is_empty() {
            store.grant(&roles).await.map_err(|error| match error {
                GrantError::Store(error) => session.no_store(&error),
                error => Failure::Failed(format!("nothing was granted: {error}")),
            })?;
            let granted: Vec<&str> = roles.iter().map(|(_, name)| name.as_str()).collect();
            output::line(format_args!("granted to {}", granted.join(", ")))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
