//! The fence: a worker that lost its lease changes nothing, and what its attempt did is settled once, by a probe.

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::{PlanState, Progress, StepState};
use dat_store::{BreakerForce, Finding, LateAnswer, Probe, Settled};

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, error, plan, step};

/// The lease of a claimed unit runs out, and the unit is claimed for a probe.
async fn lost(db: &Db, now: DateTime<Utc>) -> Probe {
    let expired = db.store.expire_leases(10, now).await.unwrap();
    assert_eq!(expired.len(), 1);
    probe(db, now).await
}

async fn probe(db: &Db, now: DateTime<Utc>) -> Probe {
    let probes = db.store.claim_probes("prober", 10, now + TimeDelta::minutes(1), now).await.unwrap();
    assert_eq!(probes.len(), 1);
    probes.into_iter().next().unwrap()
}

fn one() -> Plan {
    plan("acme", 100, vec![step("a", &[], 10, 2), step("b", &["a"], 10, 2)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_settlement_is_fenced_and_changes_nothing() {
    with(async |db| {
        let plan = one();
        db.start(&plan, at(0)).await;
        let late = db.take(&plan, plan.unit(0), at(1)).await;
        assert!(db.store.expire_leases(10, at(60)).await.unwrap().is_empty(), "it holds until 61");
        for stage in 0..4 {
            match stage {
                0 => assert_eq!(db.store.expire_leases(10, at(61)).await.unwrap().len(), 1),
                1 => drop(probe(&db, at(62)).await),
                2 => {
                    let sealed = probe(&db, at(130)).await;
                    db.settle(&plan, &sealed.lease, Finding::Sealed, at(131)).await;
                }
                _ => {
                    retry(&db, at(132)).await;
                    db.take(&plan, plan.unit(0), at(133)).await;
                }
            }
            let before = db.without_late().await;
            for finding in [done(1), error(1), Finding::NotSent { detail: String::new() }, Finding::Sealed] {
                let report = db.settle(&plan, &late.lease, finding, at(140)).await;
                assert_eq!(report.settled, [Settled::Fenced], "at stage {stage}");
            }
            assert_eq!(
                db.store.renew(std::slice::from_ref(&late.lease), at(999)).await.unwrap(),
                [plan.unit(0)]
            );
            assert_eq!(db.without_late().await, before, "at stage {stage}");
        }
        assert_eq!(db.number(LATE).await, 1, "an attempt's late answers are one anomaly");
        db.assert_sound().await;
    })
    .await;
}

const LATE: &str = "SELECT count(*) FROM execution_event WHERE kind = 'anomaly.late_answer'";

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_an_anomaly_once_and_only_where_it_is_not_on_record() {
    with(async |db| {
        let plan = one();
        db.start(&plan, at(0)).await;
        let late = db.take(&plan, plan.unit(0), at(1)).await;
        let sealed = lost(&db, at(61)).await;
        db.settle(&plan, &sealed.lease, Finding::Sealed, at(62)).await;
        // Whoever says that nothing left, or that no answer came, answers nothing.
        for finding in [
            Finding::NotSent { detail: String::new() },
            Finding::Unanswered { detail: String::new() },
            Finding::Sealed,
        ] {
            assert_eq!(db.settle(&plan, &late.lease, finding, at(63)).await.late, 0);
        }
        assert_eq!(db.settle(&plan, &late.lease, done(9), at(64)).await.late, 1);
        assert_eq!(db.settle(&plan, &late.lease, done(9), at(65)).await.late, 0, "it is said once");
        let said = "SELECT data->>'step' || ' ' || (data->>'attempt') || ' ' || (data->>'answered') || ' '
                           || (data->>'cost') || ' ' || (data->>'recorded') || ' ' || (data->>'state')
                    FROM execution_event WHERE kind = 'anomaly.late_answer'";
        assert_eq!(db.text(said).await.as_deref(), Some("a 1 ok 9 lost failed"));
        assert_eq!(db.number("SELECT settled FROM budget_account").await, 0);

        // A commit that was made and not heard of is repeated: it finds itself on record.
        retry(&db, at(66)).await;
        let second = db.take(&plan, plan.unit(0), at(67)).await;
        db.settle(&plan, &second.lease, error(3), at(68)).await;
        assert_eq!(db.settle(&plan, &second.lease, error(3), at(69)).await.late, 0);
        retry(&db, at(70)).await;
        let third = db.take(&plan, plan.unit(0), at(71)).await;
        assert_eq!(db.settle(&plan, &second.lease, error(3), at(72)).await.late, 0);
        // The same answer by way of a probe is no anomaly.
        let found = lost(&db, at(140)).await;
        db.settle(&plan, &found.lease, done(4), at(141)).await;
        assert_eq!(db.settle(&plan, &third.lease, done(4), at(142)).await.late, 0);
        assert_eq!(db.number(LATE).await, 1);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_when_its_time_was_up_is_an_event_and_never_a_settlement() {
    with(async |db| {
        let plan = one();
        db.start(&plan, at(0)).await;
        let claimed = db.take(&plan, plan.unit(0), at(1)).await;
        let late = |finding: Finding| {
            [
                LateAnswer { lease: claimed.lease.clone(), finding },
                LateAnswer { lease: claimed.lease.clone(), finding: done(9) },
            ]
        };
        // Its lease still holds: that it was answered late may not settle it all the same.
        let before = db.without_late().await;
        let nothing = Finding::Unanswered { detail: String::new() };
        assert_eq!(db.store.note_late(&late(nothing)[..1], at(2)).await.unwrap(), 0);
        assert_eq!(db.store.note_late(&late(done(9)), at(2)).await.unwrap(), 1, "two of one attempt are one");
        assert_eq!(db.store.note_late(&late(done(9)), at(3)).await.unwrap(), 0, "and it is said once");
        assert_eq!(db.without_late().await, before);
        let said = "SELECT data->>'answered' || ' ' || (data->>'cost') || ' ' || (data->>'recorded') || ' '
                           || (data->>'state') FROM execution_event WHERE kind = 'anomaly.late_answer'";
        assert_eq!(db.text(said).await.as_deref(), Some("ok 9 nothing yet running"));
        // What is on record already is no anomaly.
        db.settle(&plan, &claimed.lease, done(1), at(4)).await;
        let second = db.take(&plan, plan.unit(1), at(5)).await;
        db.settle(&plan, &second.lease, done(2), at(6)).await;
        let same = LateAnswer { lease: second.lease, finding: done(2) };
        assert_eq!(db.store.note_late(&[same], at(7)).await.unwrap(), 0);
        assert_eq!(db.plan_state(&plan).await, PlanState::Completed);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_an_attempt_is_is_told_under_its_lease_alone_which_it_renews() {
    with(async |db| {
        let plan = one();
        db.start(&plan, at(0)).await;
        let first = db.take(&plan, plan.unit(0), at(1)).await;
        let told = |lease: &dat_store::Lease, done| {
            [(lease.clone(), Progress { done: Some(done), total: Some(9), message: None })]
        };
        let stored = "SELECT progress_done || ' of ' || progress_total || ' in attempt ' || attempt
                      FROM step_attempt ORDER BY progress_at DESC NULLS LAST LIMIT 1";
        assert_eq!(db.store.progress(&told(&first.lease, 3), at(90), at(2)).await.unwrap(), []);
        assert_eq!(db.text(stored).await.as_deref(), Some("3 of 9 in attempt 1"));
        let summary = db.store.summaries(&[plan.key()]).await.unwrap().remove(0);
        assert_eq!((summary.progress.as_deref(), summary.reason), (Some("a: 3 of 9"), None));
        assert!(db.store.expire_leases(10, at(89)).await.unwrap().is_empty(), "it was renewed until 90");
        // Its lease is lost: it may tell nothing any more, also not of the attempt that follows.
        let sealed = lost(&db, at(90)).await;
        let before = db.dump().await;
        let held = db.store.progress(&told(&first.lease, 4), at(999), at(91)).await.unwrap();
        assert_eq!((held, db.dump().await), (vec![plan.unit(0)], before));
        db.settle(&plan, &sealed.lease, Finding::Sealed, at(92)).await;
        retry(&db, at(93)).await;
        let second = db.take(&plan, plan.unit(0), at(94)).await;
        let before = db.dump().await;
        let both = [told(&first.lease, 5), told(&second.lease, 1)].concat();
        assert_eq!(db.store.progress(&both[..1], at(999), at(95)).await.unwrap(), [plan.unit(0)]);
        assert_eq!(db.dump().await, before);
        assert_eq!(db.store.progress(&both[1..], at(200), at(96)).await.unwrap(), []);
        assert_eq!(db.text(stored).await.as_deref(), Some("1 of 9 in attempt 2"));
        db.assert_sound().await;
    })
    .await;
}

/// The coordinator lets every failed unit be tried again.
async fn retry(db: &Db, now: DateTime<Utc>) {
    let failed = db.store.undecided(10, now).await.unwrap();
    let decision = dat_plan::rollback::Decision::Retry { at: now };
    let rulings: Vec<_> = failed.into_iter().map(|failed| dat_store::Ruling { failed, decision }).collect();
    assert_eq!(db.store.rule(&rulings, now).await.unwrap().retries, rulings.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_settlement_beside_the_probes_own_does_not_write_under_the_probes_lease() {
    with(async |db| {
        let plan = one();
        db.start(&plan, at(0)).await;
        let late = db.take(&plan, plan.unit(0), at(1)).await;
        let probe = lost(&db, at(61)).await;
        // One group, as the committer of one worker gathers them: the late answer first.
        let group = [plan.settlement(&late.lease, done(9)), plan.settlement(&probe.lease, Finding::Sealed)];
        let report = db.store.settle(&group, at(62)).await.unwrap();
        assert_eq!(report.settled, [Settled::Fenced, Settled::Written(StepState::Failed)]);
        assert_eq!(db.number("SELECT settled FROM budget_account").await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_settles_once() {
    with(async |db| {
        let plan = one();
        db.start(&plan, at(0)).await;
        let claimed = db.take(&plan, plan.unit(0), at(1)).await;
        let twice = [plan.settlement(&claimed.lease, done(1)), plan.settlement(&claimed.lease, done(1))];
        let report = db.store.settle(&twice, at(2)).await.unwrap();
        assert_eq!(report.settled, [Settled::Written(StepState::Completed), Settled::Fenced]);
        let before = db.dump().await;
        assert_eq!(db.settle(&plan, &claimed.lease, done(1), at(3)).await.settled, [Settled::Fenced]);
        // Also where the attempt did not end the step: its outcome is not known, and no answer may tell any more.
        let claimed = db.take(&plan, plan.unit(1), at(4)).await;
        assert_ne!(db.dump().await, before);
        let unanswered = Finding::Unanswered { detail: "timeout".to_owned() };
        db.settle(&plan, &claimed.lease, unanswered, at(5)).await;
        let before = db.without_late().await;
        assert_eq!(db.settle(&plan, &claimed.lease, done(1), at(6)).await.settled, [Settled::Fenced]);
        assert_eq!(db.without_late().await, before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_lease_is_not_lost() {
    with(async |db| {
        let plan = one();
        db.start(&plan, at(0)).await;
        let claimed = db.take(&plan, plan.unit(0), at(1)).await;
        assert!(db.store.renew(std::slice::from_ref(&claimed.lease), at(121)).await.unwrap().is_empty());
        assert!(db.store.expire_leases(10, at(120)).await.unwrap().is_empty());
        let report = db.settle(&plan, &claimed.lease, done(1), at(120)).await;
        assert_eq!(report.settled, [Settled::Written(StepState::Completed)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seal_raises_the_key_and_counts_a_lost_attempt_apart() {
    with(async |db| {
        let plan = one();
        db.start(&plan, at(0)).await;
        let first = db.take(&plan, plan.unit(0), at(1)).await;
        let sealed = lost(&db, at(61)).await;
        assert_eq!(sealed.idempotency_key, first.idempotency_key);
        db.settle(&plan, &sealed.lease, Finding::Sealed, at(62)).await;
        let failed = db.store.undecided(10, at(62)).await.unwrap();
        assert_eq!((failed[0].attempts, failed[0].lost), (1, 1));
        assert_eq!(failed[0].last, dat_plan::rollback::OutcomeClass::Lost);
        retry(&db, at(63)).await;
        let second = db.take(&plan, plan.unit(0), at(64)).await;
        assert_eq!(first.idempotency_key, format!("{}/a/1", plan.key()));
        assert_eq!(second.idempotency_key, format!("{}/a/2", plan.key()));
        // One that was answered by nobody in time, but whose worker came back, counts as an attempt.
        let unanswered = Finding::Unanswered { detail: "timeout".to_owned() };
        db.settle(&plan, &second.lease, unanswered, at(65)).await;
        let sealed = probe(&db, at(66)).await;
        db.settle(&plan, &sealed.lease, Finding::Sealed, at(67)).await;
        let failed = db.store.undecided(10, at(67)).await.unwrap();
        assert_eq!((failed[0].attempts, failed[0].lost), (2, 1));
        assert_eq!(failed[0].last, dat_plan::rollback::OutcomeClass::TimedOut);
        // An answer is tried again under the same key.
        retry(&db, at(68)).await;
        assert_eq!(db.go(&plan, plan.unit(0), error(0), at(69)).await, StepState::Failed);
        retry(&db, at(70)).await;
        let fourth = db.take(&plan, plan.unit(0), at(71)).await;
        assert_eq!(fourth.idempotency_key, format!("{}/a/3", plan.key()));
        assert_eq!(fourth.attempt, 4);
        assert_eq!(
            db.number("SELECT reserved FROM budget_account").await,
            12,
            "one attempt's action and undo"
        );
    })
    .await;
}

/// What nobody can be asked about, and can be sent again: it counts where the attempt had its time, and not where it was
/// lost with its worker; the key is the same, and how often it may be lost is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_repeated_counts_unless_it_was_lost() {
    with(async |db| {
        let plan = one();
        db.start(&plan, at(0)).await;
        let first = db.take(&plan, plan.unit(0), at(1)).await;
        let repeatable = || Finding::Repeatable { detail: "its key can be sent again".to_owned() };
        let found = lost(&db, at(61)).await;
        db.settle(&plan, &found.lease, repeatable(), at(62)).await;
        let failed = db.store.undecided(10, at(62)).await.unwrap().remove(0);
        assert_eq!((failed.attempts, failed.counted, failed.lost), (1, 0, 1));
        assert_eq!(failed.last, dat_plan::rollback::OutcomeClass::Lost);
        retry(&db, at(63)).await;
        let second = db.take(&plan, plan.unit(0), at(64)).await;
        assert_eq!(second.idempotency_key, first.idempotency_key);
        let unanswered = Finding::Unanswered { detail: "timeout".to_owned() };
        db.settle(&plan, &second.lease, unanswered, at(65)).await;
        let found = probe(&db, at(66)).await;
        db.settle(&plan, &found.lease, repeatable(), at(67)).await;
        let failed = db.store.undecided(10, at(67)).await.unwrap().remove(0);
        assert_eq!((failed.attempts, failed.counted, failed.lost), (2, 1, 1));
        assert_eq!(failed.last, dat_plan::rollback::OutcomeClass::Error);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_held_back_leaves_the_unit_as_it_is_until_it_is_due_or_woken() {
    with(async |db| {
        let plan = one();
        db.start(&plan, at(0)).await;
        db.take(&plan, plan.unit(0), at(1)).await;
        let first = lost(&db, at(61)).await;
        let reason = format!("{}open until later", dat_store::breaker_wait("mux"));
        let held = Finding::HeldBack { reason: reason.clone(), until: at(300) };
        let before = db.number("SELECT count(*) FROM execution_event").await;
        db.settle(&plan, &first.lease, held, at(62)).await;
        assert_eq!(db.state(plan.unit(0)).await, "unknown");
        assert_eq!(
            db.text("SELECT wait_reason FROM execution_step WHERE step_key = 'a'").await,
            Some(reason)
        );
        assert_eq!(
            db.number("SELECT count(*) FROM execution_event").await,
            before,
            "it is no change of state"
        );
        assert!(db.store.claim_probes("p", 10, at(999), at(299)).await.unwrap().is_empty());
        // Forced open it is left alone even when it is due; freed, it is due at once.
        let force =
            async |force, now| db.store.force_breaker("mux", force, "ann", "a test", at(now)).await.unwrap();
        force(Some(BreakerForce::Open), 70).await;
        assert!(db.store.claim_probes("p", 10, at(999), at(301)).await.unwrap().is_empty());
        force(None, 80).await;
        let again = probe(&db, at(80)).await;
        assert_eq!((again.probes, again.attempt), (0, 1), "nobody was asked");
        // That it was lost is not forgotten meanwhile.
        db.settle(&plan, &again.lease, Finding::Sealed, at(81)).await;
        assert_eq!(db.store.undecided(10, at(81)).await.unwrap()[0].counted, 0);
        db.assert_sound().await;
    })
    .await;
}

/// What cannot be sealed may be believed undone only when its request cannot be accepted any more, and that may have left
/// at the end of the lease as it was claimed: the worker checks that lease right before it sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_knows_until_when_the_request_may_have_left_however_often_the_lease_was_renewed() {
    with(async |db| {
        let plan = one();
        db.start(&plan, at(0)).await;
        let claimed = db.take(&plan, plan.unit(0), at(1)).await;
        let lost_now = db.store.renew(std::slice::from_ref(&claimed.lease), at(500)).await.unwrap();
        assert_eq!(lost_now, []);
        let probe = lost(&db, at(501)).await;
        assert_eq!(probe.send_before, claimed.lease.until);
        assert_eq!(probe.send_before, at(61));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_finds_it_done_completes_the_step_with_its_cost_once() {
    with(async |db| {
        let plan = one();
        db.start(&plan, at(0)).await;
        db.take(&plan, plan.unit(0), at(1)).await;
        let first = lost(&db, at(61)).await;
        let later = Finding::CannotTell { detail: "away".to_owned(), again_at: at(70) };
        db.settle(&plan, &first.lease, later, at(62)).await;
        assert!(db.store.claim_probes("p", 10, at(99), at(69)).await.unwrap().is_empty(), "not due yet");
        let second = probe(&db, at(70)).await;
        assert_eq!((second.probes, second.attempt), (1, 1));
        // The first prober is fenced by the second.
        assert_eq!(db.settle(&plan, &first.lease, done(7), at(71)).await.settled, [Settled::Fenced]);
        let report = db.settle(&plan, &second.lease, done(7), at(71)).await;
        assert_eq!(report.settled, [Settled::Written(StepState::Completed)]);
        assert_eq!(report.ready, [plan.unit(1)]);
        assert_eq!(db.settle(&plan, &second.lease, done(7), at(72)).await.settled, [Settled::Fenced]);
        assert_eq!(db.number("SELECT settled FROM budget_account").await, 7);
        let incurred = "SELECT sum(amount)::bigint FROM budget_entry WHERE entry = 'incurred'";
        assert_eq!(db.number(incurred).await, 7);
        db.go(&plan, plan.unit(1), done(1), at(73)).await;
        assert_eq!(db.plan_state(&plan).await, PlanState::Completed);
        db.assert_sound().await;
    })
    .await;
}
