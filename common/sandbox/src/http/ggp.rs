//! `/ggp/…`: what GGP was asked, and deciding in its place.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::Json;
use dat_plan::PlanKey;
use dat_plan::approval::Verdict;

use super::{HttpError, look_until};
use crate::report::{Decision, ModeSetting, Package};
use crate::store::{Scope, packages};
use crate::world::World;

pub(super) async fn packages(
    State(world): State<Arc<World>>,
    Query(scope): Query<Scope>,
) -> Result<Json<Vec<Package>>, HttpError> {
    Ok(Json(world.store.read(move |books| packages::packages(books, scope)).await?))
}

pub(super) async fn decide(
    State(world): State<Arc<World>>,
    Json(decision): Json<Decision>,
) -> Result<Json<Verdict>, HttpError> {
    let plan = PlanKey::new(decision.plan_id, decision.plan_version);
    let patience = Duration::from_millis(decision.wait_ms);
    // A plan that is still not known when patience ends is answered below.
    look_until(&world, patience, move |books| packages::is_known(books, plan), |known| *known).await?;
    let governance = Arc::clone(&world.governance);
    let decided = world.store.write(move |books| packages::decide(books, &decision, &governance)).await?;
    let pronounced = decided.ok_or(HttpError::Unknown(plan))??;
    let verdict = pronounced.verdict.clone();
    world.herald.pronounce(&pronounced).await.map_err(|error| HttpError::Broker(error.to_string()))?;
    Ok(Json(verdict))
}

pub(super) async fn mode(State(world): State<Arc<World>>) -> Json<ModeSetting> {
    Json(ModeSetting { mode: world.mode() })
}

pub(super) async fn set_mode(
    State(world): State<Arc<World>>,
    Json(setting): Json<ModeSetting>,
) -> Json<ModeSetting> {
    world.set_mode(setting.mode);
    Json(setting)
}
