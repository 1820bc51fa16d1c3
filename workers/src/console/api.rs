//! `/api/v1`: what the pages show, as JSON.
//!
//! Every answer has an `ETag`, so that who asks again and again is answered in few bytes while nothing changes.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response, sse};
use dat_plan::PlanKey;
use futures_util::stream::{self, Stream};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::Console;
use super::query::{Asked, EventsQuery, PlansQuery, Wrong};
use super::reading::{self, Event};

/// How often a plan that is followed is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How many events are sent at one look.
const AT_ONCE: i64 = 200;

type Shared = State<Arc<Console>>;

pub(super) async fn plans(
    State(console): Shared,
    query: Asked<PlansQuery>,
    headers: HeaderMap,
) -> Result<Response, Wrong> {
    let Query(query) = query?;
    Ok(answer(&headers, &reading::plans(&console, &query).await?))
}

pub(super) async fn plan(
    State(console): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Wrong> {
    let plan = reading::named(&console, &name).await?;
    Ok(answer(&headers, &reading::view(&console, plan).await?))
}

pub(super) async fn explain(
    State(console): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Wrong> {
    let plan = reading::named(&console, &name).await?;
    let whole = reading::whole(&console, plan).await?;
    Ok(answer(&headers, &reading::blockers(&console, &whole).await?))
}

pub(super) async fn events(
    State(console): Shared,
    Path(name): Path<String>,
    query: Asked<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Wrong> {
    let Query(query) = query?;
    let plan = reading::named(&console, &name).await?;
    reading::view(&console, plan).await?;
    Ok(answer(&headers, &reading::events(&console, plan, query.after, query.limit()).await?))
}

pub(super) async fn budgets(State(console): Shared, headers: HeaderMap) -> Result<Response, Wrong> {
    Ok(answer(&headers, &reading::budgets(&console).await?))
}

pub(super) async fn nothing() -> Wrong {
    Wrong::Nowhere
}

/// A plan's events as they happen (server-sent events); `Last-Event-ID`, or `after`, is where to go on.
pub(super) async fn live(
    State(console): Shared,
    Path(name): Path<String>,
    query: Asked<EventsQuery>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Wrong> {
    let Query(query) = query?;
    let plan = reading::named(&console, &name).await?;
    reading::view(&console, plan).await?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let after = last.unwrap_or(query.after);
    let place = Arc::clone(&console.followers).try_acquire_owned().map_err(|_| Wrong::Crowded)?;
    let following = Following { console, plan, after, ready: Vec::new(), _place: place };
    let told = stream::unfold(following, async |mut following| {
        let event = following.next().await;
        Some((Ok(told(&event)), following))
    });
    Ok(Sse::new(Box::pin(told)).keep_alive(KeepAlive::default()))
}

fn told(event: &Event) -> sse::Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().id(event.sequence.to_string()).event("dat").data(data)
}

/// Somebody who follows a plan.
struct Following {
    console: Arc<Console>,
    plan: PlanKey,
    after: i64,
    /// What was read and not told yet, the next one last.
    ready: Vec<Event>,
    /// Held until the client has gone.
    _place: OwnedSemaphorePermit,
}

impl Following {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready.pop() {
                self.after = event.sequence;
                return event;
            }
            match reading::events(&self.console, self.plan, self.after, AT_ONCE).await {
                Ok(found) if !found.events.is_empty() => {
                    self.ready = found.events;
                    self.ready.reverse();
                }
                // The database is away, or nothing happened: looked at again.
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

/// JSON, or that it is what the client has already.
fn answer(headers: &HeaderMap, content: &impl Serialize) -> Response {
    let Ok(body) = serde_json::to_vec(content) else {
        return Wrong::Store("it cannot be written as JSON".to_owned()).into_response();
    };
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let known = headers.get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
    }
    ([(CONTENT_TYPE, "application/json".to_owned()), (ETAG, tag)], body).into_response()
}
