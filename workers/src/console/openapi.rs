//! The API as an `OpenAPI` 3.1 document, made from the types that are answered with.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::reading::{Event, Events, Plans};
use crate::blocker::Blocker;
use dat_plan::PlanState;
use dat_store::{AccountView, PlanView};

/// The document.
pub(crate) fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut api = Api { generator: settings.into_generator(), paths: Map::new() };
    let plan = || {
        parameter(
            "plan",
            "path",
            "A plan's id: its newest version; or `ID.VERSION`.",
            &json!({"type": "string"}),
        )
    };
    let number =
        |name: &str, what: &str| parameter(name, "query", what, &json!({"type": "integer", "minimum": 0}));
    let text = |name: &str, what: &str| parameter(name, "query", what, &json!({"type": "string"}));
    let states: Vec<&str> = PlanState::ALL.iter().map(|state| state.as_str()).collect();
    let state = parameter("state", "query", "In this state.", &json!({"type": "string", "enum": states}));
    api.get::<Plans>(
        "/api/v1/plans",
        "Plans, newest first, page by page.",
        &[
            text("search", "A part of the name in any case, or the beginning of the id."),
            state,
            text("tenant", "Of this tenant."),
            number("limit", "How many at most: 50 where nothing is said, never more than 500."),
            text("after", "`next` of the page before."),
        ],
    );
    api.get::<PlanView>("/api/v1/plans/{plan}", "One plan, with its steps, undos and attempts.", &[plan()]);
    api.get::<Vec<Blocker>>(
        "/api/v1/plans/{plan}/explain",
        "What it waits for, and what would help.",
        &[plan()],
    );
    let paged = || {
        vec![
            plan(),
            number("after", "Go on after this sequence."),
            number("limit", "How many at most: 500, and no more."),
        ]
    };
    api.get::<Events>("/api/v1/plans/{plan}/events", "What its log says, in its order.", &paged());
    api.get::<Event>(
        "/api/v1/plans/{plan}/live",
        "The same as it happens: server-sent events named `dat`, whose id is the sequence (`Last-Event-ID` goes on there).",
        &paged(),
    );
    api.stream("/api/v1/plans/{plan}/live");
    api.get::<Vec<AccountView>>("/api/v1/budgets", "Accounts of tenants, newest period first.", &[]);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "DAT console",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Reads only. Every answer has an ETag; amounts are in the smallest unit of their currency.",
        },
        "paths": api.paths,
        "components": {"schemas": api.generator.take_definitions(true)},
    })
}

struct Api {
    generator: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Api {
    fn get<T: JsonSchema>(&mut self, path: &str, summary: &str, parameters: &[Value]) {
        let schema = self.generator.subschema_for::<T>();
        let problem = |what: &str| json!({"description": what, "content": {"application/problem+json": {}}});
        let operation = json!({
            "summary": summary,
            "parameters": parameters,
            "responses": {
                "200": {"description": "It.", "content": {"application/json": {"schema": schema}}},
                "304": {"description": "It is what If-None-Match names."},
                "400": problem("A parameter cannot be."),
                "404": problem("There is no such plan."),
                "503": problem("The database does not answer."),
            },
        });
        self.paths.insert(path.to_owned(), json!({"get": operation}));
    }

    /// What is answered there is a stream of such.
    fn stream(&mut self, path: &str) {
        if let Some(content) =
            self.paths.get_mut(path).and_then(|path| path.pointer_mut("/get/responses/200/content"))
        {
            let schema = content["application/json"].take();
            *content = json!({"text/event-stream": schema});
        }
    }
}

fn parameter(name: &str, place: &str, description: &str, schema: &Value) -> Value {
    json!({"name": name, "in": place, "required": place == "path", "description": description, "schema": schema})
}
