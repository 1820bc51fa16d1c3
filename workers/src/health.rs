//! `/livez`, `/readyz` and `/metrics` of a worker.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use dat_bus::LinkState;
use serde_json::json;

use crate::fleet::Fleet;

/// The routes.
pub(crate) fn routes(fleet: Arc<Fleet>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(fleet)
}

/// Ready: it can take work and commit it. Says what is missing.
async fn ready(State(fleet): State<Arc<Fleet>>) -> Response {
    let database = fleet.store.check().await.map_err(|error| error.to_string());
    let bus = fleet.bus.health();
    let draining = fleet.draining.is_cancelled();
    let is_ready = database.is_ok() && bus.is_ready() && !bus.blocked && !draining;
    let link = |state: LinkState| if state == LinkState::Up { "up" } else { "connecting" };
    let body = json!({
        "ready": is_ready,
        "worker": fleet.name,
        "draining": draining,
        "database": database.err().unwrap_or_else(|| "up".to_owned()),
        "broker": {
            "publishing": link(bus.publishing),
            "consuming": link(bus.consuming),
            "blocked": bus.blocked,
        },
    });
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

async fn metrics(State(fleet): State<Arc<Fleet>>) -> Response {
    // Figures from rows are left as they were while the database is away.
    if let (Ok(gauges), Ok(lag)) = (fleet.store.gauges().await, fleet.store.relay_lag().await) {
        fleet.metrics.waiting(&gauges, lag, fleet.bus.health().reconnects, fleet.now());
    }
    match fleet.metrics.text() {
        Ok(text) => ([("content-type", "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
