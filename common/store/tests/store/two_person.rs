//! Acts that take two: the first operator's is a request, and only a second, different one puts it in force.

use chrono::TimeDelta;
use dat_plan::PlanState;
use dat_plan::event::ControlAct;
use dat_store::{Confirmation, ControlChange, ControlScope, Requested, Resolution, Resolve, Resolved};

use crate::database::{Db, at, with};
use crate::plans::{plan, step};

async fn takes_two(db: &Db, acts: &[ControlAct]) {
    let minute = TimeDelta::minutes(1);
    let set = db.store.set_two_person(acts, minute, "ann", "four eyes", at(0)).await.unwrap();
    assert_eq!(set, ControlChange::Done);
}

fn requested(change: ControlChange) -> Requested {
    match change {
        ControlChange::Requested(request) => request,
        other => panic!("{other:?} and not a request"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_takes_two_is_in_force_only_when_a_second_operator_confirms_it() {
    with(async |db| {
        takes_two(&db, &[ControlAct::Pause]).await;
        let fleet = ControlScope::Fleet;
        let asked = requested(db.store.control(&fleet, true, "ann", "smoke", at(1)).await.unwrap());
        assert_eq!(asked.expires_at, at(61));
        assert!(db.store.stops().await.unwrap().is_empty(), "nothing is in force yet");
        for same in ["ann", " Ann "] {
            let answer = db.store.confirm(asked.id, same, "me again", at(2)).await.unwrap();
            assert_eq!(answer, Confirmation::SamePerson);
        }
        assert!(db.store.stops().await.unwrap().is_empty(), "one person is not two");
        assert_eq!(
            db.store.confirm(asked.id + 1, "bob", "so it is", at(2)).await.unwrap(),
            Confirmation::NotThere
        );
        let answer = db.store.confirm(asked.id, "bob", "so it is", at(3)).await.unwrap();
        assert!(matches!(answer, Confirmation::Control(_, ControlChange::Done)), "{answer:?}");
        assert_eq!(db.store.stops().await.unwrap().len(), 1);
        let again = db.store.confirm(asked.id, "cid", "so it is", at(4)).await.unwrap();
        assert_eq!(again, Confirmation::Before("bob".to_owned()));
        let both = "SELECT (data->>'actor') || ' and ' || (data->>'confirmed_by') FROM execution_event
                    WHERE kind = 'control.pause'";
        assert_eq!(db.text(both).await.as_deref(), Some("ann and bob"));
        let acts =
            "SELECT string_agg(kind, ' ' ORDER BY sequence) FROM execution_event WHERE plan_version = 0";
        assert_eq!(
            db.text(acts).await.as_deref(),
            Some("control.set_two_person control.request control.pause")
        );
        // What does not take two is in force at once.
        assert_eq!(db.store.control(&fleet, false, "ann", "gone", at(5)).await.unwrap(), ControlChange::Done);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_expires() {
    with(async |db| {
        takes_two(&db, &[ControlAct::DisableConnector]).await;
        let mux = ControlScope::Connector("mux".to_owned());
        let asked = requested(db.store.control(&mux, true, "ann", "smoke", at(1)).await.unwrap());
        assert_eq!(db.store.control_requests(at(60)).await.unwrap().len(), 1);
        assert!(db.store.control_requests(at(61)).await.unwrap().is_empty());
        let late = db.store.confirm(asked.id, "bob", "so it is", at(61)).await.unwrap();
        assert_eq!(late, Confirmation::Expired(at(61)));
        assert!(db.store.stops().await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_operator_alone_cannot_lift_the_rule() {
    with(async |db| {
        takes_two(&db, &[ControlAct::Abort, ControlAct::Resolve]).await;
        let hour = TimeDelta::hours(1);
        let lifted = db.store.set_two_person(&[], hour, "ann", "in a hurry", at(1)).await.unwrap();
        let asked = requested(lifted);
        assert_eq!(db.store.two_person().await.unwrap().len(), 2);
        let confirmed = db.store.confirm(asked.id, "bob", "it is over", at(2)).await.unwrap();
        assert!(matches!(confirmed, Confirmation::Control(_, ControlChange::Done)), "{confirmed:?}");
        assert!(db.store.two_person().await.unwrap().is_empty());
        let none = db.store.set_two_person(&[], hour, "ann", "again", at(3)).await.unwrap();
        assert_eq!(none, ControlChange::AlreadySo);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_and_a_resolution_wait_for_the_second_operator() {
    with(async |db| {
        takes_two(&db, &[ControlAct::Abort, ControlAct::Resolve]).await;
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0)]);
        db.start(&plan, at(0)).await;
        let claimed = db.take(&plan, plan.unit(0), at(1)).await;
        let unanswered = dat_store::Finding::Unanswered { detail: "timeout".to_owned() };
        db.settle(&plan, &claimed.lease, unanswered, at(2)).await;

        let resolution = Resolution::NoEffect { timeout_ms: 1_000 };
        let order = Resolve { unit: plan.unit(0), attempt: 1, resolution, successors: Vec::new() };
        let asked = db
            .store
            .resolve(plan.key(), std::slice::from_ref(&order), "ann", "I looked", at(62))
            .await
            .unwrap();
        let Resolved::Requested(asked) = asked else { panic!("{asked:?}") };
        assert_eq!(db.state(plan.unit(0)).await, "unknown", "nothing is resolved yet");
        let confirmed = db.store.confirm(asked.id, "bob", "me too", at(63)).await.unwrap();
        let done = Resolved::Done { plan: PlanState::Executing, stuck: 0 };
        assert!(
            matches!(&confirmed, Confirmation::Resolved(_, resolved) if *resolved == done),
            "{confirmed:?}"
        );
        assert_eq!(db.state(plan.unit(0)).await, "failed");

        let asked = requested(db.store.abort(plan.id(), "ann", "enough", at(64)).await.unwrap());
        assert_eq!(db.plan_state(&plan).await, PlanState::Executing, "nothing is aborted yet");
        let confirmed = db.store.confirm(asked.id, "bob", "me too", at(65)).await.unwrap();
        assert!(matches!(confirmed, Confirmation::Control(_, ControlChange::Done)), "{confirmed:?}");
        assert_eq!(db.plan_state(&plan).await, PlanState::RollingBack);
        db.assert_sound().await;
    })
    .await;
}
