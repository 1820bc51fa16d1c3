//! The lifecycles, once more in the database: of every pair of states, a row goes from one to the other exactly if the
//! transition functions have that arrow.

use dat_plan::signing::Trust;
use dat_plan::{PlanState, StepState};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::database::{Db, at, with};
use crate::plans::{plan, step};

/// Two arrows that one transaction takes and writes once.
const WRITTEN_ONCE: [(PlanState, PlanState, PlanState); 2] = [
    (PlanState::Approved, PlanState::Staged, PlanState::Executing),
    (PlanState::Paused, PlanState::Executing, PlanState::Completed),
];

/// Takes the only row of a table to a state, with whatever its CHECKs ask of a row in it.
fn change(table: &str, state: &str) -> String {
    let rest = if table == "execution_plan" {
        let end = matches!(state, "completed" | "rejected" | "aborted" | "archived");
        let ended = if end { "state_since" } else { "NULL" };
        format!("started_at = state_since, steps_done = steps_total, wake_at = NULL, ended_at = {ended}")
    } else {
        let attempts = i32::from(state != "pending");
        let sent = matches!(state, "unknown" | "completed" | "compensating" | "rolled_back");
        format!(
            "attempts = {attempts}, lost = 0, sent = {sent}, needs_decision = {}, worker = 'w', waits_for = 0,
             lease_until = not_before, started_at = not_before, ready_at = not_before, ended_at = not_before,
             result = '{{}}'",
            state == "unknown"
        )
    };
    format!("UPDATE {table} SET state = '{state}', {rest}")
}

/// Whether the database lets the row of a table go from one state to another. Nothing is changed.
async fn goes(db: &Db, table: &str, from: &str, to: &str) -> bool {
    let mut connection = PgConnection::connect(&db.url).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    for statement in [
        format!("ALTER TABLE {table} DISABLE TRIGGER USER"),
        change(table, from),
        format!("ALTER TABLE {table} ENABLE TRIGGER USER"),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await.unwrap();
    }
    let went = sqlx::query(AssertSqlSafe(change(table, to))).execute(&mut *tx).await;
    if let Err(error) = &went {
        let said = error.to_string();
        assert!(said.contains(&format!("cannot go from {from} to {to}")), "{from} to {to}: {said}");
    }
    went.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_knows_the_same_arrows() {
    with(async |db| {
        db.start(&plan("acme", 100, vec![step("a", &[], 10, 1)]), at(0)).await;
        for from in PlanState::ALL {
            for to in PlanState::ALL {
                let at_once = WRITTEN_ONCE.iter().any(|(a, through, b)| {
                    assert!(a.to(*through).is_ok() && through.to(*b).is_ok(), "{a} to {b} is two arrows");
                    (a, b) == (from, to)
                });
                let legal = from == to || from.to(*to).is_ok() || at_once;
                let goes = goes(&db, "execution_plan", from.as_str(), to.as_str()).await;
                assert_eq!(goes, legal, "a plan, {from} to {to}");
            }
        }
        for from in StepState::ALL {
            for to in StepState::ALL {
                let legal = from == to || from.to(*to).is_ok();
                let goes = goes(&db, "execution_step", from.as_str(), to.as_str()).await;
                assert_eq!(goes, legal, "a step, {from} to {to}");
            }
        }
    })
    .await;
}

/// What a row says and no event told of is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_the_log_does_not_replay_to_is_named_by_the_audit() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 1)]);
        db.start(&plan, at(0)).await;
        db.assert_sound().await;
        db.force("UPDATE execution_step SET state = 'skipped'").await;
        db.run("UPDATE execution_plan SET state = 'paused'".to_owned()).await;
        let faults = db.store.audit(Some(plan.key()), &Trust::default()).await.unwrap().faults;
        let said: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
        let expected =
            ["the plan is paused, its events say executing", "step a is skipped, its events say ready"];
        assert_eq!(said, expected);
    })
    .await;
}
