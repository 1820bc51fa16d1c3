//! `/flo/…` and `/pte/…`: the events that came, and what FLO booked.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Json;

use super::{HttpError, Patience, look_until};
use crate::report::{Event, EventSummary, LedgerLine};
use crate::store::Scope;
use crate::store::events::{self, FLO, Inbox, PTE};
use crate::world::World;

type Answer<T> = Result<Json<T>, HttpError>;

pub(super) async fn flo_plans(
    State(world): State<Arc<World>>,
    Query(scope): Query<Scope>,
) -> Answer<Vec<LedgerLine>> {
    Ok(Json(world.store.read(move |books| events::ledger(books, scope)).await?))
}

pub(super) async fn flo_events(
    State(world): State<Arc<World>>,
    Query(scope): Query<Scope>,
) -> Answer<Vec<Event>> {
    received(&world, &FLO, scope).await
}

pub(super) async fn pte_events(
    State(world): State<Arc<World>>,
    Query(scope): Query<Scope>,
) -> Answer<Vec<Event>> {
    received(&world, &PTE, scope).await
}

pub(super) async fn flo_summary(
    State(world): State<Arc<World>>,
    Query(patience): Query<Patience>,
) -> Answer<EventSummary> {
    summary(&world, &FLO, &patience).await
}

pub(super) async fn pte_summary(
    State(world): State<Arc<World>>,
    Query(patience): Query<Patience>,
) -> Answer<EventSummary> {
    summary(&world, &PTE, &patience).await
}

async fn received(world: &World, inbox: &'static Inbox, scope: Scope) -> Answer<Vec<Event>> {
    Ok(Json(world.store.read(move |books| events::events(books, inbox, scope)).await?))
}

async fn summary(world: &World, inbox: &'static Inbox, patience: &Patience) -> Answer<EventSummary> {
    let enough = |seen: &EventSummary| seen.events + seen.duplicates + seen.malformed >= patience.at_least;
    Ok(Json(look_until(world, patience.wait(), move |books| events::summary(books, inbox), enough).await?))
}
