//! `dat plan …`: one file a command.

mod abort;
mod board;
mod explain;
mod file;
mod journey;
mod list;
mod live;
mod resolve;
mod show;
mod submit;
mod validate;
mod watch;

use clap::Subcommand;

use crate::cli::failure::Answer;
use crate::cli::session::Session;
use crate::settings::Flags;

/// Validate, submit and follow plans
#[derive(Debug, Subcommand)]
pub(crate) enum Plan {
    Validate(validate::Validate),
    Submit(submit::Submit),
    Show(show::Show),
    List(list::List),
    Watch(watch::Watch),
    Explain(explain::Explain),
    Abort(abort::Abort),
    Resolve(resolve::Resolve),
}

impl Plan {
    pub(crate) async fn run(self, flags: &Flags) -> Answer {
        match self {
            Self::Validate(validate) => validate.run(),
            Self::Submit(submit) => submit.run(&Session::open(flags)?).await,
            Self::Show(show) => show.run(&Session::open(flags)?).await,
            Self::List(list) => list.run(&Session::open(flags)?).await,
            Self::Watch(watch) => watch.run(&Session::open(flags)?).await,
            Self::Explain(explain) => explain.run(&Session::open(flags)?).await,
            Self::Abort(abort) => abort.run(&Session::open(flags)?).await,
            Self::Resolve(resolve) => resolve.run(&Session::open(flags)?).await,
        }
    }
}
