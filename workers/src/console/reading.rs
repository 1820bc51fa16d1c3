//! What the console reads of the store, for pages and API alike.

use chrono::{DateTime, Utc};
use dat_plan::event::LoggedEvent;
use dat_plan::graph::Graph;
use dat_plan::{PlanDocument, PlanKey};
use dat_store::{AccountView, PlanSummary, PlanView};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::Console;
use super::query::{PlansQuery, Wrong};
use crate::blocker::{Blocker, Facts};

/// A page of plans.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Plans {
    /// Newest first.
    pub(super) plans: Vec<PlanSummary>,
    /// Where the next page begins; none at the end.
    pub(super) next: Option<String>,
}

/// One event.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Event {
    /// Its place in the plan's log, from 1.
    pub(super) sequence: i64,
    /// What happened: its routing key.
    pub(super) kind: String,
    /// When.
    pub(super) at: DateTime<Utc>,
    /// What is published as `data`.
    pub(super) data: Value,
}

/// A page of a plan's events.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Events {
    /// In their order.
    pub(super) events: Vec<Event>,
    /// The sequence to go on after; none at the end.
    pub(super) next: Option<i64>,
}

/// A plan with its document and what each step needs.
pub(super) struct Whole {
    pub(super) view: PlanView,
    pub(super) document: PlanDocument,
    pub(super) needs: Vec<Vec<usize>>,
}

/// The plan that an address names: `ID`, its newest version, or `ID/VERSION`, written `ID.VERSION` there.
pub(super) async fn named(console: &Console, name: &str) -> Result<PlanKey, Wrong> {
    let (id, version) = name.split_once('.').map_or((name, None), |(id, version)| (id, Some(version)));
    let unknown = || Wrong::NoPlan(name.to_owned());
    let id: Uuid = id.parse().map_err(|_| unknown())?;
    match version {
        Some(version) => Ok(PlanKey::new(id, version.parse().map_err(|_| unknown())?)),
        None => console.store.newest_version(id).await?.ok_or_else(unknown),
    }
}

pub(super) async fn plans(console: &Console, query: &PlansQuery) -> Result<Plans, Wrong> {
    let (found, next) = console.store.plans_page(&query.filter()?, query.limit()).await?;
    let plans = console.store.summaries(&found).await?;
    Ok(Plans { plans, next: next.map(|cursor| cursor.to_string()) })
}

pub(super) async fn view(console: &Console, plan: PlanKey) -> Result<PlanView, Wrong> {
    console.store.plan(plan).await?.ok_or_else(|| Wrong::no_plan(plan))
}

pub(super) async fn whole(console: &Console, plan: PlanKey) -> Result<Whole, Wrong> {
    let view = view(console, plan).await?;
    let stored = console.store.documents(&[plan]).await?.pop().ok_or_else(|| Wrong::no_plan(plan))?;
    let unread = |error: String| Wrong::Store(format!("the document of {plan} cannot be read: {error}"));
    let document: PlanDocument =
        serde_json::from_slice(&stored.body).map_err(|error| unread(error.to_string()))?;
    let graph = Graph::of(&document).map_err(|error| unread(error.to_string()))?;
    let needs = (0..graph.len()).map(|step| graph.needs(step).to_vec()).collect();
    Ok(Whole { view, document, needs })
}

/// What it waits for, as `dat plan explain` says.
pub(super) async fn blockers(console: &Console, whole: &Whole) -> Result<Vec<Blocker>, Wrong> {
    let stops = console.store.stops().await?;
    let Whole { view, document, needs } = whole;
    Ok(Facts { view, stops: &stops, document, needs, now: console.clock.now() }.of_plan())
}

pub(super) async fn events(
    console: &Console,
    plan: PlanKey,
    after: i64,
    limit: i64,
) -> Result<Events, Wrong> {
    let found = console.store.read_streams(&[(plan, after)], limit).await?;
    let full = i64::try_from(found.len()).is_ok_and(|found| found >= limit);
    let next = found.last().filter(|_| full).map(|event| event.sequence);
    let event = |LoggedEvent { sequence, kind, at, data, .. }| Event { sequence, kind, at, data };
    Ok(Events { events: found.into_iter().map(event).collect(), next })
}

/// Accounts of tenants, newest period first.
pub(super) async fn budgets(console: &Console) -> Result<Vec<AccountView>, Wrong> {
    Ok(console.store.accounts(None, None).await?)
}
