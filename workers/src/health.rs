//! `/livez`, `/readyz` and `/metrics` of a worker.
//!
//! Ready means that it can take work, commit it and say so, now: the database answers and is migrated, both connections to
//! the broker are up, each of its queues is consumed, and the broker reads what is published. A broker with a memory or
//! disk alarm does not: such a worker still takes deliveries and acknowledges them, but sends no request and no event,
//! so it is not ready, and says that it is blocked. Redis is named and never missing: without it limits hold in each
//! process, and only what counts tokens waits.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use dat_bus::LinkState;
use dat_store::StoreError;
use dat_topology::{Queue, Stage};
use serde_json::json;
use tokio::time::timeout;

use crate::fleet::Fleet;

/// How long the database may take to say that it is there. Whoever asks `/readyz` wants to know now.
const ANSWER: Duration = Duration::from_secs(3);

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
    let (database, redis) = tokio::join!(timeout(ANSWER, fleet.store.check()), fleet.runtime.ping());
    let database = match database {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the database has not answered within {ANSWER:?}")),
    };
    let bus = fleet.bus.health();
    let draining = fleet.draining.is_cancelled();
    let is_ready = database.is_ok() && bus.is_ready() && !draining;
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
            "queues_not_consumed": bus.unbound,
        },
        "redis": redis.err().map_or_else(|| "up".to_owned(), |away| away.to_string()),
    });
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

/// Asks the broker how much waits in each queue, and was parked from it.
async fn queues(fleet: &Fleet) {
    let depth = async |queue: String| {
        let browser = fleet.bus.browse(&queue).await.ok()?;
        let messages = browser.messages();
        let _ = browser.close().await;
        Some(messages)
    };
    for stage in Stage::ALL {
        let waiting = depth(fleet.topology.queue(stage).name().to_owned()).await;
        let dead = depth(fleet.topology.queue(Queue::Dead(stage)).name().to_owned()).await;
        fleet.metrics.waiting.queue(stage, waiting, dead, fleet.now());
    }
}

async fn metrics(State(fleet): State<Arc<Fleet>>) -> Response {
    // Figures of the database and of the queues are left as they were while it, or the broker, is away.
    let rows = async {
        let (gauges, lag) = (fleet.store.gauges().await?, fleet.store.relay_lag().await?);
        fleet.metrics.waiting.rows(&gauges, lag, fleet.now());
        Ok::<_, StoreError>(())
    };
    let (rows, _, redis) =
        tokio::join!(timeout(ANSWER, rows), timeout(ANSWER, queues(&fleet)), fleet.runtime.ping());
    let bus = fleet.bus.health();
    fleet.metrics.server_up("database", matches!(rows, Ok(Ok(()))));
    fleet.metrics.server_up("broker", bus.is_ready());
    fleet.metrics.server_up("redis", redis.is_ok());
    fleet.metrics.reconnects(bus.reconnects);
    fleet.metrics.behind(fleet.backlog.is_behind());
    match fleet.metrics.text() {
        Ok(text) => ([("content-type", "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
