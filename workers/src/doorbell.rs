//! Doorbells: messages that wake a worker and say nothing that it relies on.

use std::collections::BTreeMap;

use dat_bus::Message;
use dat_plan::UnitKey;
use dat_topology::{Exchange, key};
use serde_json::json;

use crate::fleet::Fleet;

/// At most so many doorbells for one plan at once: each wakes a worker, which then takes whatever is due.
const PER_PLAN: usize = 16;

/// Which doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doorbell {
    /// Something may be claimed.
    Dispatch,
    /// Something failed, or its outcome is unknown.
    Failed,
}

impl Doorbell {
    const fn routing_key(self) -> &'static str {
        match self {
            Self::Dispatch => key::STEP_DISPATCH,
            Self::Failed => key::STEP_FAILED,
        }
    }
}

/// Rings for units. A doorbell that is lost is rung again by the sweeper, so a failure here is only logged.
pub(crate) async fn ring(fleet: &Fleet, bell: Doorbell, units: &[UnitKey]) {
    let mut rung: BTreeMap<_, usize> = BTreeMap::new();
    let messages: Vec<Message> = units
        .iter()
        .filter(|unit| {
            let count = rung.entry(unit.plan).or_default();
            *count += 1;
            *count <= PER_PLAN
        })
        .map(|unit| {
            let ids = json!({
                "plan_id": unit.plan.plan_id,
                "plan_version": unit.plan.plan_version,
                "kind": unit.kind,
                "step_index": unit.index,
            });
            message(fleet, bell, &ids.to_string())
        })
        .collect();
    publish(fleet, messages).await;
}

/// Rings without naming anything: the sweeper found that something is due.
pub(crate) async fn ring_any(fleet: &Fleet, bell: Doorbell) {
    publish(fleet, vec![message(fleet, bell, "{}")]).await;
}

fn message(fleet: &Fleet, bell: Doorbell, ids: &str) -> Message {
    let exchange = fleet.topology.exchange(Exchange::Steps);
    Message::json(exchange.name(), bell.routing_key(), ids)
        .kind(bell.routing_key())
        .message_id(fleet.entropy.id().to_string())
        .timestamp_s(u64::try_from(fleet.now().timestamp()).unwrap_or(0))
        .mandatory(false)
}

async fn publish(fleet: &Fleet, messages: Vec<Message>) {
    if messages.is_empty() {
        return;
    }
    let timer = fleet.metrics.publish_timer("doorbells");
    if let Err(error) = dat_fault::around("doorbell", fleet.publisher.publish_all(messages)).await {
        timer.stop_and_discard();
        tracing::warn!(%error, "a doorbell was not rung; the sweeper will");
    }
}
