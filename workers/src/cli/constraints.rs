//! `dat constraints set | show | validate`.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use dat_connectors::Connectors;
use dat_guards::CelCheck;
use dat_plan::Fault;
use dat_plan::check::{self, CheckedConstraints, Rules};
use dat_store::{ConstraintSetRow, SetConstraints, SetScope};
use serde_json::json;

use crate::cli::act::Act;
use crate::cli::failure::Answer;
use crate::cli::input::InputFile;
use crate::cli::output::{self, OutputFlag};
use crate::cli::session::Session;
use crate::cli::table::{number, table, text};

/// The rules of operators, for the fleet or for a tenant
#[derive(Debug, Subcommand)]
pub(crate) enum Constraints {
    Set(Set),
    Show(Show),
    Validate(Validate),
}

/// Register the next version of a constraint set
#[derive(Debug, Args)]
#[command(after_help = "\
A version never changes; the newest applies to every claim that begins after this returns. The document is \
{\"format\": 1, \"constraints\": [...]}, see 'dat schema constraints'; with any fault, nothing is registered. A document \
without constraints takes the earlier rules back. The same document again changes nothing.

Examples:
  dat constraints set fleet.json --fleet --reason 'no more than 20 calls at once'
  dat constraints set acme.json --tenant acme --reason 'trial account'")]
pub(crate) struct Set {
    /// The constraint document; - reads it from standard input
    #[arg(value_name = "FILE")]
    file: String,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    act: Act,
}

/// Show which rules apply, and since when
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dat constraints show                                 the newest of every set
  dat constraints show --fleet                         every version of the fleet's
  dat constraints show --tenant acme --output json     with the documents")]
pub(crate) struct Show {
    /// Every version of the fleet's
    #[arg(long, conflicts_with = "tenant")]
    fleet: bool,
    /// Every version of a tenant's
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    tenant: Option<String>,
    #[command(flatten)]
    output: OutputFlag,
}

/// Find every fault of a constraint document, offline; exit status 1 if there is one
#[derive(Debug, Args)]
#[command(after_help = "\
Asks no server. Each fault is a line 'pointer: message (code)', with an RFC 6901 pointer.

Examples:
  dat constraints validate fleet.json")]
pub(crate) struct Validate {
    /// The constraint document; - reads it from standard input
    #[arg(value_name = "FILE")]
    file: String,
}

/// Whom the rules bind.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// Everybody
    #[arg(long)]
    fleet: bool,
    /// One tenant
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    tenant: Option<String>,
}

impl Constraints {
    pub(crate) async fn run(self, flags: &crate::settings::Flags) -> Answer {
        match self {
            Self::Set(set) => set.run(&Session::open(flags)?).await,
            Self::Show(show) => show.run(&Session::open(flags)?).await,
            Self::Validate(validate) => validate.run(),
        }
    }
}

fn checked(file: &InputFile) -> Result<CheckedConstraints, Vec<Fault>> {
    let connectors = Connectors::NAMES.iter().map(|name| (*name).to_owned()).collect();
    check::constraint_document(&file.body, &Rules { connectors: &connectors, predicates: &CelCheck })
}

impl Set {
    async fn run(self, session: &Session) -> Answer {
        let file = InputFile::read(&self.file)?;
        let set = match checked(&file) {
            Ok(set) => set,
            Err(faults) => {
                file.say_faults(&faults)?;
                return Ok(ExitCode::FAILURE);
            }
        };
        let scope = self.whose.tenant.map_or(SetScope::Fleet, SetScope::Tenant);
        let store = session.store().await?;
        let Act { actor, reason } = &self.act;
        let done =
            store.set_constraints(&scope, (&set.value, &set.hash), actor, reason, session.now()).await?;
        let (whose, hash) = (name(&scope), &set.hash);
        output::line(match done {
            SetConstraints::Registered(version) => {
                format!("version {version} of the constraint set of {whose} applies: {hash}")
            }
            SetConstraints::AlreadySo(version) => {
                format!("version {version} of the constraint set of {whose} says the same already: {hash}")
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let sets = match (self.fleet, self.tenant) {
            (true, _) => store.constraint_set_versions(&SetScope::Fleet).await?,
            (false, Some(tenant)) => store.constraint_set_versions(&SetScope::Tenant(tenant)).await?,
            (false, None) => store.newest_constraint_sets().await?,
        };
        if self.output.is_json() {
            output::json(&json!({ "constraint_sets": sets }))?;
            return Ok(ExitCode::SUCCESS);
        }
        if sets.is_empty() {
            output::line("no constraint set is registered: 'dat constraints set' registers one")?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = table(&["set", "version", "rules", "since", "by", "reason", "hash"]);
        for ConstraintSetRow { head, document, set_at, set_by, reason } in &sets {
            let rules = document.get("constraints").and_then(|list| list.as_array()).map_or(0, Vec::len);
            table.add_row([
                text(name(&head.scope)),
                number(head.version),
                number(rules),
                text(set_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
                text(set_by),
                text(reason),
                text(&head.hash),
            ]);
        }
        output::line(table)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Validate {
    fn run(self) -> Answer {
        let file = InputFile::read(&self.file)?;
        match checked(&file) {
            Ok(set) => {
                let count = set.document.constraints.len();
                output::line(format_args!("{}: valid, {count} constraints, {}", file.name, set.hash))?;
                Ok(ExitCode::SUCCESS)
            }
            Err(faults) => {
                file.say_faults(&faults)?;
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

fn name(scope: &SetScope) -> String {
    match scope {
        SetScope::Fleet => "the fleet".to_owned(),
        SetScope::Tenant(tenant) => format!("tenant {tenant}"),
    }
}
