//! The sandbox, asked over HTTP with the types of its report.

use dat_plan::PlanKey;
use dat_plan::approval::{Outcome, Verdict};
use dat_sandbox::report::{
    AppliedEffect, Decision, Event, EventSummary, Held, Hold, LedgerLine, MuxSummary, Package, Request,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::Agent;

use crate::patience::PATIENCE;

/// How long one long poll waits; the sandbox answers earlier when there is something new.
const POLL_MS: u64 = 5_000;

/// A client of the sandbox's report.
#[derive(Debug, Clone)]
pub struct SandboxClient {
    url: String,
    agent: Agent,
}

impl SandboxClient {
    pub(crate) fn new(url: &str) -> Self {
        let agent = Agent::config_builder().timeout_global(Some(PATIENCE + PATIENCE)).build().into();
        Self { url: url.to_owned(), agent }
    }

    /// What MUX did for a plan version, in order.
    pub async fn effects(&self, plan: PlanKey) -> Vec<AppliedEffect> {
        self.get(&format!("mux/effects?{}", of(plan))).await
    }

    /// What MUX did for every plan, in order.
    pub async fn all_effects(&self) -> Vec<AppliedEffect> {
        self.get("mux/effects").await
    }

    /// The requests that MUX received for a plan version, in order.
    pub async fn requests(&self, plan: PlanKey) -> Vec<Request> {
        self.get(&format!("mux/requests?{}", of(plan))).await
    }

    /// MUX's figures of a plan version.
    pub async fn mux_summary(&self, plan: PlanKey) -> MuxSummary {
        self.get(&format!("mux/summary?{}", of(plan))).await
    }

    /// MUX's figures of every plan.
    pub async fn all_mux_summary(&self) -> MuxSummary {
        self.get("mux/summary").await
    }

    /// Makes MUX hold every request whose action matches, in which `*` stands for any characters.
    pub async fn hold(&self, action: &str) {
        let _: Held = self.post("mux/hold", &Hold { action: action.to_owned() }).await;
    }

    /// Waits until MUX holds so many requests.
    pub async fn wait_for_held(&self, at_least: u64) {
        let wait = PATIENCE.as_millis();
        let seen: Held = self.get(&format!("mux/held?at_least={at_least}&wait_ms={wait}")).await;
        assert!(
            seen.held >= at_least,
            "MUX holds {} requests, not {at_least}, after {PATIENCE:?}",
            seen.held
        );
    }

    /// Lets everything that is held go on.
    pub async fn release(&self) {
        let _: Held = self.post("mux/release", &json!({})).await;
    }

    /// Has GGP decide about a plan, once it was asked.
    pub async fn decide(&self, decision: &Decision) -> Verdict {
        self.post("ggp/decide", decision).await
    }

    /// A decision that says nothing but the outcome, and waits for the plan to be asked about.
    #[must_use]
    pub fn decision(plan: PlanKey, outcome: Outcome) -> Decision {
        Decision {
            plan_id: plan.plan_id,
            plan_version: plan.plan_version,
            outcome,
            reason: None,
            budget: None,
            constraints: None,
            expires_at: None,
            wait_ms: PATIENCE.as_millis().try_into().unwrap_or(u64::MAX),
        }
    }

    /// What GGP was asked about a plan version.
    pub async fn packages(&self, plan: PlanKey) -> Vec<Package> {
        self.get(&format!("ggp/packages?{}", of(plan))).await
    }

    /// What FLO has booked, for every plan.
    pub async fn ledger(&self) -> Vec<LedgerLine> {
        self.get("flo/plans").await
    }

    /// The events of a plan version that PTE received.
    pub async fn pte_events(&self, plan: PlanKey) -> Vec<Event> {
        self.get(&format!("pte/events?{}", of(plan))).await
    }

    /// The events of a plan version that FLO received.
    pub async fn flo_events(&self, plan: PlanKey) -> Vec<Event> {
        self.get(&format!("flo/events?{}", of(plan))).await
    }

    /// What `flo` or `pte` received in all, once that is so many different events.
    pub(crate) async fn wait_for_events(&self, system: &str, events: u64) -> EventSummary {
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut at_least = events;
        loop {
            let seen: EventSummary =
                self.get(&format!("{system}/summary?at_least={at_least}&wait_ms={POLL_MS}")).await;
            if seen.events >= events {
                return seen;
            }
            assert!(
                tokio::time::Instant::now() < until,
                "{system} has not received {events} events: {seen:?}"
            );
            // Repeats count as deliveries: wait for one more than there are.
            at_least = events.max(seen.events + seen.duplicates + seen.malformed + 1);
        }
    }

    async fn get<T: DeserializeOwned + Send + 'static>(&self, path: &str) -> T {
        let (agent, url) = (self.agent.clone(), format!("{}/{path}", self.url));
        blocking(move || {
            let answer = agent
                .get(&url)
                .call()
                .and_then(|mut answer| answer.body_mut().with_config().limit(u64::MAX).read_json());
            answer.unwrap_or_else(|error| panic!("GET {url}: {error}"))
        })
        .await
    }

    async fn post<T: DeserializeOwned + Send + 'static>(&self, path: &str, body: &impl Serialize) -> T {
        let (agent, url) = (self.agent.clone(), format!("{}/{path}", self.url));
        let body: Value = serde_json::to_value(body).expect("it is JSON");
        blocking(move || {
            let answer =
                agent.post(&url).send_json(&body).and_then(|mut answer| answer.body_mut().read_json());
            answer.unwrap_or_else(|error| panic!("POST {url} {body}: {error}"))
        })
        .await
    }
}

fn of(plan: PlanKey) -> String {
    format!("plan_id={}&plan_version={}", plan.plan_id, plan.plan_version)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
