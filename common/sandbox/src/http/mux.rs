//! `/mux/…`: what MUX did, and holding its requests.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Json;

use super::{HttpError, Patience, look_until};
use crate::report::{AppliedEffect, Held, Hold, MuxSummary, Request};
use crate::store::{Scope, mux};
use crate::world::World;

pub(super) async fn effects(
    State(world): State<Arc<World>>,
    Query(scope): Query<Scope>,
) -> Result<Json<Vec<AppliedEffect>>, HttpError> {
    Ok(Json(world.store.read(move |books| mux::effects(books, scope)).await?))
}

pub(super) async fn requests(
    State(world): State<Arc<World>>,
    Query(scope): Query<Scope>,
) -> Result<Json<Vec<Request>>, HttpError> {
    Ok(Json(world.store.read(move |books| mux::requests(books, scope)).await?))
}

/// Waits for so many requests to be decided.
pub(super) async fn summary(
    State(world): State<Arc<World>>,
    Query(scope): Query<Scope>,
    Query(patience): Query<Patience>,
) -> Result<Json<MuxSummary>, HttpError> {
    let enough = |seen: &MuxSummary| seen.requests - seen.in_flight >= patience.at_least;
    let mut seen =
        look_until(&world, patience.wait(), move |books| mux::summary(books, scope), enough).await?;
    seen.held = world.gate.held();
    Ok(Json(seen))
}

/// Waits for so many requests to be held.
pub(super) async fn held(State(world): State<Arc<World>>, Query(patience): Query<Patience>) -> Json<Held> {
    Json(Held { held: world.gate.at_least(patience.at_least, patience.wait()).await })
}

pub(super) async fn hold(State(world): State<Arc<World>>, Json(hold): Json<Hold>) -> Json<Held> {
    world.gate.hold(hold.action);
    Json(Held { held: world.gate.held() })
}

/// Answers with how many were held until now.
pub(super) async fn release(State(world): State<Arc<World>>) -> Json<Held> {
    let held = world.gate.held();
    world.gate.release();
    Json(Held { held })
}
