//! Writing a group: units, attempts, what was unlocked, plans that ended, money and events.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use dat_plan::event::EventKind;
use dat_plan::rollback::OutcomeClass;
use dat_plan::{PlanKey, PlanState, StepState, UnitKey, UnitKind};
use serde_json::Value;

use super::{Group, Write};
use crate::claim::{self, ClaimReport, GoingOn, Lent, Payers};
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::event_log;
use crate::finish;
use crate::plan_row;
use crate::unit_columns::unit_columns;

impl Group {
    /// Steps, attempts, and what is unlocked by them.
    pub(super) async fn write_units(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        write_rows(conn, &self.writes, self.now).await?;
        self.note_late(conn).await?;
        self.roll_back_forward_rows(conn).await?;
        self.unlock(conn).await
    }

    /// Claims what became ready and is asked for; the rest is left to be rung for.
    pub(super) async fn go_on(
        &mut self,
        conn: &mut PgConnection,
        next: GoingOn<'_>,
        payers: Payers,
    ) -> Result<ClaimReport, StoreError> {
        let lent = Lent {
            plans: std::mem::take(&mut self.plans),
            ledger: std::mem::take(&mut self.ledger),
            events: std::mem::take(&mut self.events),
        };
        let ready = std::mem::take(&mut self.ready);
        let (report, lent) = next.claim(conn, ready, payers, lent, self.now).await?;
        (self.plans, self.ledger, self.events) = (lent.plans, lent.ledger, lent.events);
        let claimed = report.claimed.iter().map(|claimed| claimed.lease.unit);
        let taken: BTreeSet<UnitKey> =
            claimed.chain(report.waiting.iter().copied()).chain(report.refused.iter().copied()).collect();
        self.report.ready.retain(|unit| !taken.contains(unit));
        Ok(report)
    }

    /// Plans that ended, money, and the log: what comes last in the order of locks.
    pub(super) async fn close(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let ended: Vec<(PlanKey, PlanState)> = self
            .plans
            .values()
            .filter_map(|plan| match plan.state {
                PlanState::Executing if plan.steps_done == plan.steps_total => {
                    Some((plan.key, PlanState::Completed))
                }
                PlanState::RollingBack if plan.undo_begun && plan.undos_open == 0 => {
                    Some((plan.key, PlanState::Aborted))
                }
                _ => None,
            })
            .collect();
        for (key, state) in ended {
            let Some(plan) = self.plans.get_mut(&key) else { continue };
            let event = finish::end(conn, &mut self.ledger, plan, state, self.now).await?;
            self.events.append(&mut self.ledger.events);
            self.events.push(event);
            self.report.ended.push((key, state));
        }
        self.ledger.write(conn).await?;
        plan_row::write(conn, &self.plans).await?;
        event_log::append(conn, &self.events).await
    }

    /// A completed undo takes its step to `rolled_back`. (A step of the plan's own rollback list has none.)
    async fn roll_back_forward_rows(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        if self.undone.is_empty() {
            return Ok(());
        }
        let (ids, versions, _, indexes) = unit_columns(self.undone.iter());
        let rows = sqlx::query!(
            "UPDATE execution_step AS s SET state = 'rolled_back', refund = s.refund + u.refund
             FROM UNNEST($1::uuid[], $2::integer[], $3::integer[]) AS k (plan_id, plan_version, step_index),
                  execution_step u
             WHERE s.plan_id = k.plan_id AND s.plan_version = k.plan_version AND s.step_index = k.step_index
               AND s.kind = 'action' AND s.state = 'compensating'
               AND u.plan_id = k.plan_id AND u.plan_version = k.plan_version AND u.step_index = k.step_index
               AND u.kind = 'undo' AND u.step_key = s.step_key
             RETURNING s.plan_id, s.plan_version, s.step_key, s.connector, u.action, s.attempts, u.cost AS undo_cost,
                       u.refund, u.started_at, u.ready_at",
            &ids,
            &versions,
            &indexes,
        )
        .fetch_all(conn)
        .await?;
        for row in rows {
            let Some(plan) = self.plans.get(&PlanKey::new(row.plan_id, row.plan_version)) else { continue };
            let queued = row
                .ready_at
                .zip(row.started_at)
                .map_or(0, |(from, to)| (to - from).num_milliseconds().max(0));
            self.events.push(
                plan.event(EventKind::Step(StepState::RolledBack), self.now)
                    .step(&row.step_key, row.attempts)
                    .with("connector", row.connector)
                    .with("action", row.action)
                    .with("outcome", OutcomeClass::Ok.as_str())
                    .with(
                        "duration_ms",
                        row.started_at.map_or(0, |from| (self.now - from).num_milliseconds().max(0)),
                    )
                    .with("queued_ms", queued)
                    .with("attempts", row.attempts)
                    .with("cost", row.undo_cost)
                    .with("refund", row.refund),
            );
        }
        Ok(())
    }

    async fn unlock(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        if self.unlocked.is_empty() {
            return Ok(());
        }
        let (ids, versions, kinds, indexes) = unit_columns(self.unlocked.keys());
        let met: Vec<i32> = self.unlocked.values().copied().collect();
        let rows = sqlx::query!(
            "UPDATE execution_step AS s
             SET waits_for = s.waits_for - n.met,
                 state = CASE WHEN s.waits_for = n.met THEN 'ready' ELSE s.state END,
                 ready_at = CASE WHEN s.waits_for = n.met THEN $6 ELSE s.ready_at END
             FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::integer[])
                  AS n (plan_id, plan_version, kind, step_index, met)
             WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version AND s.kind = n.kind
               AND s.step_index = n.step_index AND s.state = 'pending'
             RETURNING s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.state, s.connector, s.action,
                       s.attempts, s.key_number, s.lease_epoch, s.not_before, s.wait_reason",
            &ids,
            &versions,
            &kinds,
            &indexes,
            &met,
            self.now,
        )
        .fetch_all(conn)
        .await?;
        let mut ready: Vec<_> =
            rows.into_iter().filter(|row| row.state == StepState::Ready.as_str()).collect();
        ready.sort_by_key(|row| row.step_index);
        for row in ready {
            let key = PlanKey::new(row.plan_id, row.plan_version);
            let unit = UnitKey { plan: key, kind: row.kind.parse()?, index: row.step_index };
            let kind = match unit.kind {
                UnitKind::Action => EventKind::Step(StepState::Ready),
                UnitKind::Undo => EventKind::Undo(StepState::Ready),
            };
            let Some(plan) = self.plans.get(&key) else { continue };
            self.events.push(plan.event(kind, self.now).step(&row.step_key, 0));
            self.report.ready.push(unit);
            if unit.kind == UnitKind::Action && row.not_before <= self.now {
                let claimable = claim::Row {
                    step_key: row.step_key,
                    connector: row.connector,
                    action: row.action,
                    attempts: row.attempts,
                    key_number: row.key_number,
                    epoch: row.lease_epoch,
                    ready_at: self.now,
                    wait_reason: row.wait_reason,
                };
                self.ready.insert(unit, claimable);
            }
        }
        Ok(())
    }
}

/// Steps and their attempts in one statement: it costs a round trip, and there are two dozen of these in a settlement.
async fn write_rows(conn: &mut PgConnection, writes: &[Write], now: DateTime<Utc>) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let units: BTreeSet<UnitKey> = writes.iter().map(|w| w.unit).collect();
    debug_assert_eq!(units.len(), writes.len(), "a unit is settled once a group: its lease is consumed");
    let (ids, versions, kinds, indexes) = unit_columns(writes.iter().map(|w| &w.unit));
    let written = sqlx::query_scalar!(
        r#"WITH n AS (
             SELECT * FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::text[], $6::boolean[],
                     $7::boolean[], $8::text[], $9::integer[], $10::integer[], $11::integer[], $12::bigint[],
                     $13::bigint[], $14::jsonb[], $15::text[], $16::text[], $17::timestamptz[],
                     $18::timestamptz[], $19::bigint[], $20::integer[], $21::bigint[])
              AS n (plan_id, plan_version, kind, step_index, state, sent, needs_decision, outcome, lost,
                    key_number, probes, cost, refund, result, detail, wait_reason, not_before, ended_at,
                    retry_after_ms, attempt, attempt_cost)),
         ended AS (
             UPDATE step_attempt AS a
             SET ended_at = $22, outcome = n.outcome, cost = n.attempt_cost, detail = n.detail
             FROM n
             WHERE a.plan_id = n.plan_id AND a.plan_version = n.plan_version AND a.kind = n.kind
               AND a.step_index = n.step_index AND a.attempt = n.attempt),
         written AS (
             UPDATE execution_step AS s
             SET state = n.state, sent = s.sent OR n.sent, needs_decision = n.needs_decision,
                 last_outcome = n.outcome, lost = n.lost, key_number = n.key_number, probes = n.probes,
                 cost = n.cost, refund = n.refund, result = coalesce(n.result, s.result), detail = n.detail,
                 wait_reason = n.wait_reason, not_before = n.not_before, ended_at = n.ended_at,
                 retry_after_ms = n.retry_after_ms, lease_until = NULL
             FROM n
             WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version AND s.kind = n.kind
               AND s.step_index = n.step_index AND s.state IN ('running', 'unknown')
             RETURNING 1)
         SELECT count(*) AS "written!" FROM written"#,
        &ids,
        &versions,
        &kinds,
        &indexes,
        &writes.iter().map(|w| w.state.as_str().to_owned()).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.sent).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.needs_decision).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.outcome.as_str().to_owned()).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.lost).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.key_number).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.probes).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.cost).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.refund).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.result.clone()).collect::<Vec<_>>() as &[Option<Value>],
        &writes.iter().map(|w| w.detail.clone()).collect::<Vec<_>>() as &[Option<String>],
        &writes.iter().map(|w| w.wait_reason.clone()).collect::<Vec<_>>() as &[Option<String>],
        &writes.iter().map(|w| w.not_before).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.ended_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &writes.iter().map(|w| w.retry_after_ms).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.attempt).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.attempt_cost).collect::<Vec<_>>(),
        now,
    )
    .fetch_one(conn)
    .await?;
    plan_row::assert_rows(written.unsigned_abs(), writes.len(), "step")
}
