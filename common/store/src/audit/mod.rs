//! The audit: does the log hold together, and do rows, ledger and financial events say the same?

mod accounts;
mod approvals;
mod states;

use std::collections::{BTreeMap, BTreeSet};

use dat_plan::PlanKey;
use dat_plan::event::{CHAIN_START, LoggedEvent};
use dat_plan::replay::Replay;
use dat_plan::signing::Trust;
use serde::Serialize;
use uuid::Uuid;

use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::pool::Store;

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
    /// What does not hold.
    pub faults: Vec<AuditFault>,
}

impl Store {
    /// Follows every chain and compares ledger, accounts and financial events: of all plans and tenants, or of one
    /// plan. Streams and accounts in pages: memory is bounded by the longest plan. An account is proved from its last
    /// snapshot and what changed after it.
    pub async fn audit(&self, only: Option<PlanKey>, trust: &Trust) -> Result<AuditReport, StoreError> {
        let mut report = AuditReport::default();
        self.audit_streams(only, trust, &mut report).await?;
        self.audit_accounts(only, &mut report).await?;
        if only.is_none() {
            self.audit_reservations(&mut report).await?;
        }
        Ok(report)
    }

    /// As [`Store::audit`] of everything; besides, every account is followed from its beginning, through every
    /// snapshot of it, by all entries of the ledger.
    pub async fn audit_full(&self, trust: &Trust) -> Result<AuditReport, StoreError> {
        let mut report = self.audit(None, trust).await?;
        self.audit_history(&mut report).await?;
        Ok(report)
    }

    async fn audit_streams(
        &self,
        only: Option<PlanKey>,
        trust: &Trust,
        report: &mut AuditReport,
    ) -> Result<(), StoreError> {
        let mut after = (Uuid::nil(), -1);
        loop {
            // A page is read as of one moment: the fleet goes on writing.
            let mut tx = self.begin_reading().await?;
            let page = sqlx::query!(
                "SELECT plan_id, plan_version, partition_date, last_sequence, last_hash FROM event_stream
                 WHERE (plan_id, plan_version) > ($1, $2)
                   AND ($3::uuid IS NULL OR (plan_id = $3 AND plan_version = $4))
                 ORDER BY plan_id, plan_version LIMIT 500",
                after.0,
                after.1,
                only.map(|p| p.plan_id),
                only.map(|p| p.plan_version),
            )
            .fetch_all(&mut *tx)
            .await?;
            let Some(last) = page.last() else { break };
            after = (last.plan_id, last.plan_version);
            for head in &page {
                let plan = PlanKey::new(head.plan_id, head.plan_version);
                report.streams += 1;
                let rows = sqlx::query!(
                    "SELECT sequence, kind, at, data, hash FROM execution_event
                     WHERE partition_date = $1 AND plan_id = $2 AND plan_version = $3 ORDER BY sequence",
                    head.partition_date,
                    head.plan_id,
                    head.plan_version,
                )
                .fetch_all(&mut *tx)
                .await?;
                let mut chain = Chain::default();
                for row in rows {
                    report.events += 1;
                    let event = LoggedEvent {
                        plan,
                        sequence: row.sequence,
                        kind: row.kind,
                        at: row.at,
                        data: row.data,
                    };
                    chain.follow(&event, &row.hash)?;
                }
                chain.end(head.last_sequence, &head.last_hash);
                if !plan.is_control() {
                    compare_money(&mut tx, plan, &mut chain).await?;
                    states::compare(&mut tx, plan, &mut chain).await?;
                    approvals::compare(&mut tx, plan, &mut chain, &trust.verdicts).await?;
                }
                let faults = chain.faults.into_iter().map(|message| AuditFault { plan, message });
                report.faults.extend(faults);
            }
        }
        Ok(())
    }
}

async fn compare_money(conn: &mut PgConnection, plan: PlanKey, chain: &mut Chain) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        r#"SELECT entry, tenant, currency, sum(amount)::bigint AS "amount!" FROM budget_entry
         WHERE plan_id = $1 AND plan_version = $2 GROUP BY entry, tenant, currency"#,
        plan.plan_id,
        plan.plan_version
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut entries = BTreeMap::new();
    for row in rows {
        // One that the contract does not know is named as one that no event told of.
        let kind = ENTRIES.iter().find(|(entry, _)| *entry == row.entry).map_or("", |(_, kind)| *kind);
        entries.insert((kind.to_owned(), row.tenant, row.currency), row.amount);
    }
    let sums: BTreeSet<&Money> = entries.keys().chain(chain.amounts.keys()).collect();
    let mut wrong = Vec::new();
    for money in sums {
        let of = |book: &BTreeMap<Money, i64>| book.get(money).copied().unwrap_or(0);
        let (booked, said) = (of(&entries), of(&chain.amounts));
        if booked != said {
            let (kind, tenant, currency) = money;
            let entry = ENTRIES.iter().find(|(_, k)| k == kind).map_or("of no kind", |(entry, _)| *entry);
            wrong.push(format!(
                "the ledger has {booked} {entry}, the events {said}, of {tenant} in {currency}"
            ));
        }
    }
    chain.faults.append(&mut wrong);
    let booked = |wanted: &str| -> i64 {
        entries.iter().filter(|((kind, ..), _)| kind == wanted).map(|(_, amount)| *amount).sum()
    };
    let net = booked("spend.incurred") - booked("refund.issued");
    let account = sqlx::query!(
        r#"SELECT a.settled, a.reserved, p.ended_at IS NOT NULL AS "ended!",
                (SELECT s.settled FROM budget_snapshot s
                 WHERE s.plan_id = a.plan_id AND s.plan_version = a.plan_version AND s.moment = 'ended') AS at_end,
                (SELECT coalesce(sum(CASE WHEN action_open THEN action_amount ELSE 0 END
                                     + CASE WHEN undo_open THEN undo_amount ELSE 0 END), 0)::bigint
                 FROM budget_reservation r
                 WHERE r.plan_id = a.plan_id AND r.plan_version = a.plan_version) AS "open!"
         FROM budget_account a JOIN execution_plan p USING (plan_id, plan_version)
         WHERE a.plan_id = $1 AND a.plan_version = $2"#,
        plan.plan_id,
        plan.plan_version
    )
    .fetch_optional(conn)
    .await?;
    let Some(account) = account else { return Ok(()) };
    if account.settled != net {
        chain.faults.push(format!("the account says {} spent, the ledger {net}", account.settled));
    }
    if account.reserved != account.open {
        chain.faults.push(format!(
            "the account holds {} reserved, the open reservations {}",
            account.reserved, account.open
        ));
    }
    if account.ended && account.reserved != 0 {
        chain.faults.push(format!("the plan is over and {} is still reserved", account.reserved));
    }
    if let Some(at_end) = account.at_end
        && at_end != account.settled
    {
        let settled = account.settled;
        chain.faults.push(format!("the snapshot of its end says {at_end} spent, the account {settled}"));
    }
    Ok(())
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
