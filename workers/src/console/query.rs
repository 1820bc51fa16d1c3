//! What is asked for in an address: which plans, from where on, how many.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use dat_plan::{PlanKey, PlanState};
use dat_store::{PlanCursor, PlanFilter, StoreError};
use serde::Deserialize;
use serde_json::json;

/// How many plans or events an answer has where nothing is said,
const FEW: i64 = 50;
/// and at most.
const MOST: i64 = 500;

/// The query of `/` and `/api/v1/plans`.
#[derive(Debug, Default, Clone, Deserialize)]
pub(super) struct PlansQuery {
    /// A part of the name, or the beginning of the id.
    #[serde(default)]
    pub(super) search: String,
    /// In this state; empty for any.
    #[serde(default)]
    pub(super) state: String,
    /// Of this tenant; empty for any.
    #[serde(default)]
    pub(super) tenant: String,
    /// Go on after this, as `next` of the answer before has it.
    #[serde(default)]
    pub(super) after: String,
    /// How many at most.
    pub(super) limit: Option<i64>,
}

impl PlansQuery {
    /// What to ask the store, or what is wrong.
    pub(super) fn filter(&self) -> Result<PlanFilter, Wrong> {
        let some = |text: &str| Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned);
        let state = match some(&self.state) {
            Some(word) => Some(word.parse::<PlanState>().map_err(|error| Wrong::Query(error.to_string()))?),
            None => None,
        };
        let after = match some(&self.after) {
            Some(text) => {
                let read = text.parse::<PlanCursor>();
                Some(read.map_err(|()| Wrong::Query("after: it is 'next' of an answer before".to_owned()))?)
            }
            None => None,
        };
        Ok(PlanFilter { open: false, search: some(&self.search), state, tenant: some(&self.tenant), after })
    }

    /// How many to answer with.
    pub(super) fn limit(&self) -> i64 {
        self.limit.unwrap_or(FEW).clamp(1, MOST)
    }
}

/// The query of events.
#[derive(Debug, Default, Clone, Deserialize)]
pub(super) struct EventsQuery {
    /// Go on after this sequence.
    #[serde(default)]
    pub(super) after: i64,
    /// How many at most.
    pub(super) limit: Option<i64>,
}

impl EventsQuery {
    /// How many to answer with.
    pub(super) fn limit(&self) -> i64 {
        self.limit.unwrap_or(MOST).clamp(1, MOST)
    }
}

/// A query as it came, which may be none.
pub(super) type Asked<T> = Result<Query<T>, QueryRejection>;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Wrong {
    /// The address asks for what cannot be.
    Query(String),
    /// There is no such plan.
    NoPlan(String),
    /// There is nothing under this address.
    Nowhere,
    /// Too many follow plans already.
    Crowded,
    /// The database does not answer, or what it has cannot be read.
    Store(String),
}

impl Wrong {
    pub(super) fn no_plan(plan: PlanKey) -> Self {
        Self::NoPlan(plan.to_string())
    }

    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Query(_) => StatusCode::BAD_REQUEST,
            Self::NoPlan(_) | Self::Nowhere => StatusCode::NOT_FOUND,
            Self::Store(_) | Self::Crowded => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn said(&self) -> String {
        match self {
            Self::Query(why) | Self::Store(why) => why.clone(),
            Self::NoPlan(plan) => format!("no plan {plan} is registered"),
            Self::Nowhere => "there is nothing here: /api/v1/openapi.json says what there is".to_owned(),
            Self::Crowded => {
                "as many follow plans as may: close a page, or ask for events instead".to_owned()
            }
        }
    }
}

impl From<QueryRejection> for Wrong {
    fn from(rejection: QueryRejection) -> Self {
        Self::Query(rejection.body_text())
    }
}

impl From<StoreError> for Wrong {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

/// As the API says it: RFC 9457.
impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        let status = self.status();
        let body =
            json!({"title": status.canonical_reason(), "status": status.as_u16(), "detail": self.said()});
        let media_type = [("content-type", "application/problem+json")];
        (status, media_type, body.to_string()).into_response()
    }
}
