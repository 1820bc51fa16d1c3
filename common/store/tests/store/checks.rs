//! The schema's own rules: what the code must never write, the database refuses.

use sqlx::{Connection as _, PgPool};

use crate::database::{Db, at, with};
use crate::plans::{done, plan, step};

/// Statements that must fail, with the SQLSTATE of the refusal: each is a state that no transition leads to.
const ILLEGAL: &[(&str, &str)] = &[
    // A registered version never changes.
    ("23001", "UPDATE execution_plan SET document = 'x'"),
    ("23001", "UPDATE execution_plan SET plan_hash = 'sha256:' || repeat('1', 64)"),
    ("23001", "UPDATE execution_plan SET tenant = 'evil'"),
    ("23001", "UPDATE execution_plan SET plan_version = 2"),
    ("23001", "UPDATE execution_plan SET registered_at = registered_at + interval '1 day'"),
    // Plans.
    ("23514", "UPDATE execution_plan SET state = 'nowhere'"),
    ("23514", "UPDATE execution_plan SET state = 'completed', ended_at = state_since, wake_at = NULL"),
    ("23514", "UPDATE execution_plan SET state = 'aborted'"),
    ("23514", "UPDATE execution_plan SET ended_at = state_since"),
    ("23514", "UPDATE execution_plan SET approval_decision = NULL"),
    ("23514", "UPDATE execution_plan SET approval_hash = 'sha256:' || repeat('1', 64)"),
    ("23514", "UPDATE execution_plan SET started_at = NULL"),
    ("23514", "UPDATE execution_plan SET steps_done = steps_total + 1"),
    ("23514", "UPDATE execution_plan SET approved_amount = budget_amount + 1"),
    ("23514", "UPDATE execution_plan SET undos_open = -1"),
    ("23514", "UPDATE execution_plan SET state = 'aborted', ended_at = state_since, wake_at = NULL, undos_open = 1"),
    ("23514", "UPDATE execution_plan SET wake_at = state_since, state = 'aborted', ended_at = state_since"),
    ("23503", "INSERT INTO execution_step (plan_id, plan_version, kind, step_index, step_key, connector, action, tenant,
                   priority, state, waits_for, not_before)
               VALUES (gen_random_uuid(), 1, 'action', 0, 'a', 'c', 'a', 't', 1, 'pending', 0, '2026-01-01')"),
    // Steps: step 0 completed, step 1 is running, step 2 is pending.
    ("23514", "UPDATE execution_step SET state = 'nowhere' WHERE step_index = 1"),
    ("23514", "UPDATE execution_step SET state = 'pending' WHERE step_index = 1"),
    ("23514", "UPDATE execution_step SET lease_until = NULL WHERE step_index = 1"),
    ("23514", "UPDATE execution_step SET worker = NULL WHERE step_index = 1"),
    ("23514", "UPDATE execution_step SET state = 'unknown' WHERE step_index = 1"),
    ("23514", "UPDATE execution_step SET needs_decision = true WHERE step_index = 1"),
    ("23514", "UPDATE execution_step SET state = 'compensating' WHERE step_index = 1"),
    ("23514", "UPDATE execution_step SET state = 'completed', sent = true WHERE step_index = 1"),
    ("23514", "UPDATE execution_step SET lost = attempts + 1 WHERE step_index = 1"),
    ("23514", "UPDATE execution_step SET result = NULL WHERE step_index = 0"),
    ("23514", "UPDATE execution_step SET sent = false WHERE step_index = 0"),
    ("23514", "UPDATE execution_step SET state = 'skipped' WHERE step_index = 0"),
    ("23514", "UPDATE execution_step SET state = 'running' WHERE step_index = 2"),
    ("23514", "UPDATE execution_step SET state = 'ready' WHERE step_index = 2"),
    ("23514", "UPDATE execution_step SET waits_for = -1 WHERE step_index = 2"),
    ("23514", "UPDATE execution_step SET kind = 'undo', state = 'rolled_back' WHERE step_index = 0"),
    ("23514", "UPDATE step_attempt SET ended_at = NULL WHERE step_index = 0"),
    ("23514", "UPDATE step_attempt SET outcome = 'fine' WHERE step_index = 0"),
    // Money.
    ("23514", "UPDATE budget_account SET settled = limit_amount + 1"),
    ("23514", "UPDATE budget_account SET reserved = limit_amount + 1"),
    ("23514", "UPDATE budget_account SET reserved = -1"),
    ("23514", "UPDATE budget_account SET overrun = -1"),
    ("23514", "UPDATE budget_account SET period = 'day'"),
    ("23505", "INSERT INTO budget_account (tenant, currency, plan_id, plan_version, limit_amount)
               SELECT tenant, currency, plan_id, plan_version, 1 FROM budget_account"),
    ("23505", "INSERT INTO budget_entry SELECT * FROM budget_entry"),
    ("23514", "UPDATE budget_entry SET amount = 0"),
    ("23514", "INSERT INTO budget_snapshot SELECT plan_id, plan_version, 'ended', 1, 1, 1, 'usd', taken_at
               FROM budget_snapshot"),
    ("23514", "UPDATE budget_snapshot SET moment = 'rolled_up'"),
    ("23514", "UPDATE budget_snapshot SET plan_id = NULL"),
    ("23514", "UPDATE budget_entry SET held = amount + 1"),
    ("23505", "INSERT INTO budget_change SELECT * FROM budget_change"),
    ("23505", "INSERT INTO runtime_state DEFAULT VALUES"),
    // The log, also where a statement names the partition.
    ("23001", "UPDATE execution_event SET data = '{}'"),
    ("23001", "DELETE FROM execution_event"),
    ("23001", "TRUNCATE execution_event"),
    ("23001", "UPDATE execution_event_other SET data = '{}'"),
    ("23001", "DELETE FROM execution_event_2026_03"),
    ("23505", "INSERT INTO execution_event SELECT * FROM execution_event WHERE sequence = 1"),
    ("23514", "UPDATE event_stream SET relayed = last_sequence + 1"),
    // Verdicts and control.
    ("23505", "INSERT INTO plan_verdict SELECT plan_id, plan_version, 'd2', 'rejected', plan_hash, approver, verdict,
                   received_at FROM plan_verdict"),
    ("23514", "INSERT INTO control_state VALUES ('fleet', 'acme', 'ann', 'why', '2026-01-01')"),
    ("23514", "INSERT INTO control_state VALUES ('tenant', 'acme', '', 'why', '2026-01-01')"),
    ("23514", "INSERT INTO breaker_force VALUES ('mux', 'ajar', 'ann', 'why', '2026-01-01')"),
];

async fn refusal(sql: &PgPool, statement: &'static str) -> Option<String> {
    let error = sqlx::query(statement).execute(sql).await.err()?;
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    Some(code.map_or_else(|| error.to_string(), std::borrow::Cow::into_owned))
}

/// A plan with a step that completed, one that runs and one that waits, with events in two partitions.
async fn in_the_middle(db: &Db) {
    db.store.ensure_partitions(at(0)).await.unwrap();
    let steps = vec![step("a", &[], 10, 1), step("b", &[], 10, 1), step("c", &["b"], 10, 1)];
    let plan = plan("acme", 100, steps);
    db.start(&plan, at(0)).await;
    db.go(&plan, plan.unit(0), done(5), at(1)).await;
    db.take(&plan, plan.unit(1), at(1)).await;
    let elsewhere = "INSERT INTO execution_event VALUES ('2000-01-01', gen_random_uuid(), 1, 1, 'plan.draft',
                         '2000-01-01', '{}', decode(repeat('00', 32), 'hex'))";
    sqlx::query(elsewhere).execute(&db.sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn states_that_no_transition_leads_to_are_refused() {
    with(async |db| {
        in_the_middle(&db).await;
        let before = db.dump().await;
        let mut wrong = Vec::new();
        for (code, statement) in ILLEGAL {
            let said = refusal(&db.sql, statement).await;
            if said.as_deref() != Some(*code) {
                wrong.push((statement, said));
            }
        }
        assert!(wrong.is_empty(), "not refused as expected: {wrong:#?}");
        assert_eq!(db.dump().await, before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_version_of_a_plan_is_active_at_most() {
    with(async |db| {
        let first = plan("acme", 100, vec![step("a", &[], 10, 1)]);
        let second = first.with(serde_json::json!({"plan_version": 2}));
        db.start(&first, at(0)).await;
        db.approve(&second, at(0)).await;
        let mut tx = db.sql.begin().await.unwrap();
        // No arrow leads to most of these from here; the index holds by itself.
        sqlx::query("ALTER TABLE execution_plan DISABLE TRIGGER USER").execute(&mut *tx).await.unwrap();
        for state in ["staged", "executing", "paused", "rolling_back", "stuck"] {
            let mut tx = tx.begin().await.unwrap();
            let error = sqlx::query(
                "UPDATE execution_plan SET state = $1, started_at = state_since WHERE plan_version = 2",
            )
            .bind(state)
            .execute(&mut *tx)
            .await
            .unwrap_err();
            assert!(error.as_database_error().unwrap().is_unique_violation(), "{state}: {error}");
        }
    })
    .await;
}
