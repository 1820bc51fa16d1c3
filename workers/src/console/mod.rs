//! The console: a web page for looking, and the JSON that it is made from.
//!
//! **Owns** the pages and `/api/v1`: which plans there are, one plan's way, what is spent. **May be called** by `dat console`.
//! **Must never** change anything: it has no route but GET, and needs the rights of an auditor. What it shows was written
//! by strangers (names, parameters, errors), so every text goes through the templates, which escape it, and pages may
//! load nothing but this server's own style and script.

mod api;
mod hosts;
pub(crate) mod openapi;
mod pages;
mod query;
mod reading;
mod timeline;

use std::sync::Arc;

use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use dat_plan::Clock;
use dat_store::Store;
use tokio::sync::Semaphore;

pub(crate) use hosts::Hosts;

/// What a page may load: its own server's style, script and answers, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// How many follow plans at once.
const FOLLOWERS: usize = 50;

/// What the pages are made from.
pub(crate) struct Console {
    store: Store,
    clock: Arc<dyn Clock>,
    /// Who may follow a plan besides: each asks the database twice a second.
    followers: Arc<Semaphore>,
}

impl Console {
    pub(crate) fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, followers: Arc::new(Semaphore::new(FOLLOWERS)) }
    }
}

/// Every route. Answers only to requests that were sent to one of these hosts: a page of somebody else's, whose name was
/// made to lead here, reads nothing.
pub(crate) fn routes(console: Console, hosts: Hosts) -> Router {
    Router::new()
        .route("/", get(pages::plans))
        .route("/plans/{plan}", get(pages::plan))
        .route("/budgets", get(pages::budgets))
        .route("/style.css", get(async || file("text/css", include_str!("style.css"))))
        .route("/script.js", get(async || file("text/javascript", include_str!("script.js"))))
        .route("/api/v1/plans", get(api::plans))
        .route("/api/v1/plans/{plan}", get(api::plan))
        .route("/api/v1/plans/{plan}/explain", get(api::explain))
        .route("/api/v1/plans/{plan}/events", get(api::events))
        .route("/api/v1/plans/{plan}/live", get(api::live))
        .route("/api/v1/budgets", get(api::budgets))
        .route("/api/v1/openapi.json", get(async || Json(openapi::document())))
        .route("/api/{*rest}", any(api::nothing))
        .fallback(pages::nothing)
        .layer(middleware::map_response(guarded))
        .layer(middleware::from_fn_with_state(Arc::new(hosts), hosts::admit))
        .with_state(Arc::new(console))
}

fn file(media_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, media_type), (CACHE_CONTROL, "max-age=3600")], text).into_response()
}

/// Every answer says what browsers may do with it.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 3] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    response
}
