//! What the sandbox tells and is told over HTTP, on a loopback address: reports, and the levers that tests pull.

mod ggp;
mod inboxes;
mod mux;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use crate::report::Refusal;
use crate::store::{Reading, StoreError};
use crate::world::World;

/// Every path.
pub(crate) fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/mux/effects", get(mux::effects))
        .route("/mux/requests", get(mux::requests))
        .route("/mux/summary", get(mux::summary))
        .route("/mux/held", get(mux::held))
        .route("/mux/hold", post(mux::hold))
        .route("/mux/release", post(mux::release))
        .route("/ggp/packages", get(ggp::packages))
        .route("/ggp/decide", post(ggp::decide))
        .route("/ggp/mode", get(ggp::mode).post(ggp::set_mode))
        .route("/flo/plans", get(inboxes::flo_plans))
        .route("/flo/events", get(inboxes::flo_events))
        .route("/flo/summary", get(inboxes::flo_summary))
        .route("/pte/events", get(inboxes::pte_events))
        .route("/pte/summary", get(inboxes::pte_summary))
        .with_state(world)
}

async fn healthz() -> &'static str {
    "ok"
}

/// A long poll: for how many to wait, and how long.
#[derive(Debug, Deserialize)]
struct Patience {
    #[serde(default)]
    at_least: u64,
    #[serde(default)]
    wait_ms: u64,
}

impl Patience {
    fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }
}

/// Looks again at each commit, until what is seen suffices or patience ends; says what was seen last.
async fn look_until<T: Send + 'static>(
    world: &World,
    patience: Duration,
    look: impl Fn(&Reading) -> Result<T, StoreError> + Copy + Send + 'static,
    suffices: impl Fn(&T) -> bool,
) -> Result<T, StoreError> {
    let deadline = tokio::time::Instant::now() + patience;
    let mut commits = world.store.commits();
    loop {
        commits.borrow_and_update();
        let seen = world.store.read(look).await?;
        if suffices(&seen) {
            return Ok(seen);
        }
        match tokio::time::timeout_at(deadline, commits.changed()).await {
            Ok(changed) => changed.map_err(|_| StoreError::Closed)?,
            Err(_) => return Ok(seen),
        }
    }
}

/// Why a path answers with a [`Refusal`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The verdict did not reach the broker.
    #[error("the verdict did not reach the broker: {0}")]
    Broker(String),
    /// Nothing is known of it.
    #[error("GGP was not asked about plan {0}")]
    Unknown(dat_plan::PlanKey),
    /// GGP does not do that.
    #[error(transparent)]
    Objection(#[from] crate::ggp::Objection),
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Broker(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::Objection(_) => StatusCode::CONFLICT,
        };
        (status, Json(Refusal { error: self.to_string() })).into_response()
    }
}
