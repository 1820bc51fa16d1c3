//! `dat plan watch`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use dat_guards::LivePlan;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::board::{Board, line};
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{self, OutputFlag, Screen};
use crate::cli::plan_name::PlanName;
use crate::cli::session::Session;
use crate::cli::stop::Stop;

/// How often the plans are looked at.
const EVERY: Duration = Duration::from_millis(250);

/// Watch running plans until they end
#[derive(Debug, Args)]
#[command(after_help = "\
Reads the live plans in Redis, so that watching does not load the database; what Redis has lost is refilled from rows. \
A terminal shows a table, anything else gets a line for each change.

Examples:
  dat plan watch                                          every open plan
  dat plan watch PLAN     one, just submitted perhaps
  dat plan watch --once                                   a look, and no more
  dat plan watch --output json | jq -c '[.name, .state]'")]
pub(crate) struct Watch {
    /// The plans, as UUID or UUID/VERSION; every open one if none is given
    #[arg(value_name = "PLAN")]
    plans: Vec<PlanName>,
    /// Look once
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    output: OutputFlag,
}

impl Watch {
    pub(super) async fn run(self, session: &Session) -> Answer {
        let mut board = Board::open(session, &self.plans).await?;
        if board.plans().next().is_none() {
            output::note("no plan is open");
        } else if self.once {
            self.look(&board)?;
        } else if output::is_terminal() && !self.output.is_json() {
            redraw(&mut board).await?;
            output::line(board.table())?;
        } else {
            self.follow(&mut board).await?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn look(&self, board: &Board<'_>) -> Result<(), Failure> {
        if self.output.is_json() {
            board.plans().try_for_each(output::json_line)
        } else {
            output::line(board.table())
        }
    }

    async fn follow(&self, board: &mut Board<'_>) -> Result<(), Failure> {
        let say = |plan: &LivePlan| {
            if self.output.is_json() { output::json_line(plan) } else { output::line(line(plan)) }
        };
        board.plans().try_for_each(say)?;
        let mut ticks = Ticks::start()?;
        let mut said = None;
        while !board.is_over() && ticks.next().await {
            match board.look().await {
                Ok(changed) => {
                    changed.iter().try_for_each(say)?;
                    said = None;
                }
                Err(error) => {
                    // Once, and not four times a second.
                    let note = error.to_string();
                    if said.as_ref() != Some(&note) {
                        output::note(format_args!("note: {note}"));
                    }
                    said = Some(note);
                }
            }
        }
        Ok(())
    }
}

async fn redraw(board: &mut Board<'_>) -> Result<(), Failure> {
    let screen = Screen::open()?;
    let mut ticks = Ticks::start()?;
    while !board.is_over() && ticks.next().await {
        let note = match board.look().await {
            Ok(_) if board.redis_away => "Redis is away: read from PostgreSQL".to_owned(),
            Ok(_) => String::new(),
            Err(error) => format!("as last seen: {error}"),
        };
        screen.draw(&format!("{}\n{note}\nCtrl-C leaves; the plans go on.", board.table()))?;
    }
    Ok(())
}

/// The beat of looking, until somebody leaves.
struct Ticks {
    every: Interval,
    leave: Stop,
}

impl Ticks {
    fn start() -> Result<Self, Failure> {
        let mut every = interval(EVERY);
        // A database that was slow is not asked faster afterwards.
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { every, leave: Stop::listen()? })
    }

    /// Waits for the next look; false if somebody wants to leave.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.every.tick() => true,
            () = self.leave.told() => false,
        }
    }
}
