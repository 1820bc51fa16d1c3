//! The plans that are watched, and what was last seen of them.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::Table;
use dat_guards::LivePlan;
use dat_plan::{PlanKey, PlanState};
use tokio::time::{Instant, sleep};

use super::live::{Live, key};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::plan_name::{self, PlanName};
use crate::cli::session::Session;
use crate::cli::table::{maybe, number, plan_state, table, text};

/// How often the rows are asked, in case a copy was lost.
const REFILL: Duration = Duration::from_secs(2);
/// How long a plan that was just submitted may take to be registered.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often that is looked at.
const PAUSE: Duration = Duration::from_millis(200);
/// How many open plans are watched where none is named.
const MOST: i64 = 1_000;
/// How many of them a table shows.
const SHOWN: usize = 20;

/// The plans that are watched.
pub(super) struct Board<'a> {
    session: &'a Session,
    live: Live,
    /// No plan was named: those that are opened meanwhile are watched too.
    every_open: bool,
    seen: BTreeMap<PlanKey, LivePlan>,
    rows_due: Instant,
    /// Redis did not answer the last time.
    pub(super) redis_away: bool,
}

impl<'a> Board<'a> {
    /// Finds the plans; with no name, every open one.
    pub(super) async fn open(session: &'a Session, names: &[PlanName]) -> Result<Self, Failure> {
        let mut board = Self {
            session,
            live: Live::new(session.live_plans()?, session.distant_store()?),
            every_open: names.is_empty(),
            seen: BTreeMap::new(),
            rows_due: Instant::now(),
            redis_away: false,
        };
        if board.every_open {
            board.look().await?;
        } else {
            let plans = board.find(names).await?;
            board.read(&plans).await?;
        }
        Ok(board)
    }

    async fn find(&self, names: &[PlanName]) -> Result<Vec<PlanKey>, Failure> {
        let late = Instant::now() + PATIENCE;
        let mut plans = Vec::with_capacity(names.len());
        for name in names {
            loop {
                let found = match name.find(self.live.store()).await? {
                    Some(plan) if self.is_there(plan).await? => Some(plan),
                    _ => None,
                };
                match found {
                    Some(plan) => break plans.push(plan),
                    None if Instant::now() < late => sleep(PAUSE).await,
                    None => return Err(plan_name::unknown(name.id)),
                }
            }
        }
        Ok(plans)
    }

    async fn is_there(&self, plan: PlanKey) -> Result<bool, Failure> {
        let reading = self.live.read(&[plan]).await.map_err(|error| self.session.no_store(&error))?;
        Ok(!reading.plans.is_empty())
    }

    /// Looks again; gives the plans that changed.
    pub(super) async fn look(&mut self) -> Result<Vec<LivePlan>, Failure> {
        let mut open = self.still_open();
        let mut changed = Vec::new();
        if self.rows_due <= Instant::now() {
            self.rows_due = Instant::now() + REFILL;
            let no_store = |error| self.session.no_store(&error);
            if self.every_open {
                open.extend(self.live.store().recent_plans(true, MOST).await.map_err(no_store)?);
                open.sort_unstable();
                open.dedup();
            }
            for row in self.live.refill(&open).await.map_err(no_store)? {
                // What a plan waits for can change without an event, and then no copy does.
                let differs = |seen: &LivePlan| seen.sequence <= row.sequence && *seen != row;
                if self.seen.get(&key(&row)).is_none_or(differs) {
                    self.seen.insert(key(&row), row.clone());
                    changed.push(row);
                }
            }
        }
        changed.extend(self.read(&open).await?);
        Ok(changed)
    }

    async fn read(&mut self, plans: &[PlanKey]) -> Result<Vec<LivePlan>, Failure> {
        let reading = self.live.read(plans).await.map_err(|error| self.session.no_store(&error))?;
        self.redis_away = reading.redis_away;
        let mut changed = Vec::new();
        for plan in reading.plans {
            if self.seen.get(&key(&plan)).is_none_or(|seen| seen.sequence < plan.sequence) {
                self.seen.insert(key(&plan), plan.clone());
                changed.push(plan);
            }
        }
        Ok(changed)
    }

    fn still_open(&self) -> Vec<PlanKey> {
        self.seen.values().filter(|plan| !plan.state.is_end()).map(key).collect()
    }

    /// Whether every plan that is watched has ended.
    pub(super) fn is_over(&self) -> bool {
        self.still_open().is_empty()
    }

    /// Every plan, as last seen.
    pub(super) fn plans(&self) -> impl Iterator<Item = &LivePlan> {
        self.seen.values()
    }

    /// The plans as a table: those that run first.
    pub(super) fn table(&self) -> String {
        let mut plans: Vec<&LivePlan> = self.plans().collect();
        plans.sort_by_key(|plan| (rank(plan.state), std::cmp::Reverse(plan.updated_at)));
        let mut table =
            table(&["plan", "name", "state", "steps", "spent", "reserved", "left", "currency", "waits for"]);
        for plan in plans.iter().take(SHOWN) {
            row(&mut table, plan);
        }
        let more = plans.len().saturating_sub(SHOWN);
        if more == 0 { table.to_string() } else { format!("{table}\nand {more} more") }
    }
}

fn rank(state: PlanState) -> u8 {
    match state {
        PlanState::Stuck => 0,
        PlanState::RollingBack | PlanState::Paused => 1,
        PlanState::Executing => 2,
        state if state.is_end() => 4,
        _ => 3,
    }
}

fn row(table: &mut Table, plan: &LivePlan) {
    table.add_row([
        text(key(plan)),
        text(&plan.name),
        plan_state(plan.state),
        number(format_args!("{}/{}", plan.steps_done, plan.steps_total)),
        number(plan.spent),
        number(plan.reserved),
        number(plan.limit - plan.spent - plan.reserved),
        text(&plan.currency),
        maybe(plan.waits_for.as_deref()),
    ]);
}

/// A change, in one line.
pub(super) fn line(plan: &LivePlan) -> String {
    let waits = plan.waits_for.as_ref().map(|what| format!("  {what}")).unwrap_or_default();
    format!(
        "{}  {}  {}  {}/{} steps  {} {} spent, {} reserved of {}{waits}",
        output::moment(plan.updated_at),
        key(plan),
        plan.state,
        plan.steps_done,
        plan.steps_total,
        plan.spent,
        plan.currency,
        plan.reserved,
        plan.limit
    )
}
