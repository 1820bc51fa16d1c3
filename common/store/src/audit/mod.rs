//! The audit: does the log hold together, is it what checkpoints sealed, and do rows, ledger and financial events say the
//! same?

mod accounts;
mod approvals;
mod checkpoints;
mod money;
mod replayed;
mod states;
mod streams;

use std::collections::BTreeMap;

use dat_plan::PlanKey;
use dat_plan::checkpoint::Checkpoint;
use dat_plan::event::{CHAIN_START, LoggedEvent};
use dat_plan::replay::Replay;
use dat_plan::signing::Trust;
use serde::Serialize;

use crate::error::StoreError;
use crate::pool::Store;

pub use replayed::{Replayed, ReplayedUnit};

/// One thing that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditFault {
    /// The stream.
    pub plan: PlanKey,
    /// What is wrong.
    pub message: String,
}

/// What an audit looked at and found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AuditReport {
    /// Streams whose chain was followed.
    pub streams: u64,
    /// Events read.
    pub events: u64,
    /// Accounts compared with what their snapshots and changes say.
    pub accounts: u64,
    /// Changes of accounts read: those after the last snapshots.
    pub changes: u64,
    /// Streams whose month was archived: their heads are compared with the checkpoints, their events are in files.
    pub archived: u64,
    /// Checkpoints that were followed.
    pub checkpoints: u64,
    /// Of them, those whose signature was checked.
    pub signatures: u64,
    /// Leaves found in their streams.
    pub leaves: u64,
    /// Events that no checkpoint seals yet, but for those that announce checkpoints.
    pub unsealed: i64,
    /// What does not hold.
    pub faults: Vec<AuditFault>,
}

impl Store {
    /// Follows every chain, finds in it what checkpoints sealed, and compares ledger, accounts and financial events: of
    /// all plans and tenants, or of one plan. Streams, accounts and checkpoints in pages: memory is bounded by the
    /// longest plan. An account is proved from its last snapshot and what changed after it.
    pub async fn audit(&self, only: Option<PlanKey>, trust: &Trust) -> Result<AuditReport, StoreError> {
        if only.is_none() {
            return self.audit_against(&[], trust).await;
        }
        let mut report = AuditReport::default();
        self.audit_streams(only, trust, &mut report).await?;
        self.audit_accounts(only, &mut report).await?;
        Ok(report)
    }

    /// As [`Store::audit`] of everything; besides, the checkpoints that someone else holds are those of the chain.
    pub async fn audit_against(&self, held: &[Checkpoint], trust: &Trust) -> Result<AuditReport, StoreError> {
        let mut report = AuditReport::default();
        self.audit_streams(None, trust, &mut report).await?;
        self.audit_accounts(None, &mut report).await?;
        self.audit_reservations(&mut report).await?;
        self.audit_checkpoints(trust, held, &mut report).await?;
        Ok(report)
    }

    /// As [`Store::audit`] of everything; besides, every account is followed from its beginning, through every
    /// snapshot of it, by all entries of the ledger.
    pub async fn audit_full(&self, trust: &Trust) -> Result<AuditReport, StoreError> {
        let mut report = self.audit(None, trust).await?;
        self.audit_history(&mut report).await?;
        Ok(report)
    }
}

/// The entries of the ledger, and the events that tell of them.
const ENTRIES: [(&str, &str); 4] = [
    ("reserved", "spend.reserved"),
    ("incurred", "spend.incurred"),
    ("released", "spend.released"),
    ("refund", "refund.issued"),
];

/// A kind of financial event, of a tenant, in a currency.
type Money = (String, String, String);

#[derive(Debug)]
struct Chain {
    sequence: i64,
    hash: Vec<u8>,
    amounts: BTreeMap<Money, i64>,
    replay: Replay,
    approval: approvals::Told,
    faults: Vec<String>,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            sequence: 0,
            hash: CHAIN_START.to_vec(),
            amounts: BTreeMap::new(),
            replay: Replay::default(),
            approval: approvals::Told::default(),
            faults: Vec::new(),
        }
    }
}

impl Chain {
    fn follow(&mut self, event: &LoggedEvent, stored: &[u8]) -> Result<(), StoreError> {
        if event.sequence != self.sequence + 1 {
            self.faults.push(format!("event {} follows event {}", event.sequence, self.sequence));
        }
        if event.chained(&self.hash)?.as_slice() != stored {
            self.faults
                .push(format!("event {} ({}) does not hash to what was chained", event.sequence, event.kind));
        }
        self.sequence = event.sequence;
        self.hash = stored.to_vec();
        self.approval.follow(event);
        let step = event.data.get("step").and_then(serde_json::Value::as_str);
        // A word of another version of DAT is about no state that this one knows.
        if let Ok(kind) = event.kind.parse()
            && let Err(impossible) = self.replay.follow(kind, step)
        {
            let about = step.map_or_else(String::new, |step| format!(" of {step}"));
            self.faults.push(format!("event {} ({}{about}): {impossible}", event.sequence, event.kind));
        }
        let amount = event.data.get("amount").and_then(serde_json::Value::as_i64);
        if let Some(amount) = amount.filter(|_| ENTRIES.iter().any(|(_, kind)| *kind == event.kind)) {
            let text = |field: &str| {
                event.data.get(field).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
            };
            *self.amounts.entry((event.kind.clone(), text("tenant"), text("currency"))).or_default() +=
                amount;
        }
        Ok(())
    }

    fn end(&mut self, last_sequence: i64, last_hash: &[u8]) {
        if self.sequence != last_sequence || self.hash != last_hash {
            self.faults.push(format!("the stream ends at {}, its head says {last_sequence}", self.sequence));
        }
    }
}
