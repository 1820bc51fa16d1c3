//! Copies of accounts and live plans: only what is newer is kept.

use chrono::DateTime;
use dat_guards::{AccountCopies, AccountCopy, Affordable, Lifetimes, LivePlan, LivePlans};
use dat_plan::{Currency, PlanKey, PlanState};
use uuid::Uuid;

use crate::server::Server;
use crate::{TIMEOUT, store};

fn copy(account: &str, version: i64, settled: i64) -> AccountCopy {
    AccountCopy { account: account.to_owned(), version, limit: 100, settled, reserved: 10 }
}

/// A copy lives for a second and the machine may stall: only what was there before and after counts.
#[tokio::test]
async fn a_copy_is_replaced_only_by_a_newer_one() {
    let copies = AccountCopies::new(store());
    let mut seen = false;
    for attempt in 0..20 {
        let account = format!("a{attempt}");
        let put = async |version, settled| copies.put_all(&[copy(&account, version, settled)]).await.unwrap();
        let kept = async || copies.get(&[&account]).await.unwrap().remove(0);
        put(5, 50).await;
        put(4, 0).await;
        put(5, 1).await;
        let (older, before) = (kept().await, copy(&account, 5, 50));
        put(6, 60).await;
        seen = older == Some(before) && kept().await == Some(copy(&account, 6, 60));
        if seen {
            break;
        }
    }
    assert!(seen, "version 5 outlives 4 and another 5, and 6 replaces it");
}

#[tokio::test]
async fn what_a_copy_cannot_pay_is_put_off() {
    let copies = AccountCopies::new(store());
    assert_eq!(copies.affordable(&["a"], 1).await.unwrap(), Affordable::Unknown);
    let mut answers = vec![];
    for _ in 0..20 {
        copies.put_all(&[copy("a", 1, 0), copy("b", 1, 80)]).await.unwrap();
        answers = vec![
            copies.affordable(&["a"], 90).await.unwrap(),
            copies.affordable(&["a", "b"], 10).await.unwrap(),
            copies.affordable(&["a", "b"], 11).await.unwrap(),
            copies.affordable(&["b", "absent"], 11).await.unwrap(),
        ];
        if !answers.contains(&Affordable::Unknown) {
            break;
        }
    }
    assert_eq!(answers, [Affordable::Yes, Affordable::Yes, Affordable::No, Affordable::No]);
}

fn plan(sequence: i64, state: PlanState) -> LivePlan {
    LivePlan {
        plan_id: Uuid::nil(),
        plan_version: 1,
        tenant: "acme".to_owned(),
        name: "Launch".to_owned(),
        state,
        steps_done: 1,
        steps_total: 3,
        spent: 5,
        reserved: 10,
        limit: 100,
        currency: Currency("usd".to_owned()),
        waits_for: Some("budget".to_owned()),
        sequence,
        updated_at: DateTime::UNIX_EPOCH,
    }
}

#[tokio::test]
async fn a_live_plan_is_replaced_only_by_a_later_event() {
    let plans = LivePlans::new(store(), Lifetimes::default());
    let key = PlanKey::new(Uuid::nil(), 1);
    assert_eq!(plans.get(key).await.unwrap(), None);
    let batch = [plan(7, PlanState::Executing), plan(6, PlanState::Staged), plan(7, PlanState::Paused)];
    assert_eq!(plans.put_all(&batch).await.unwrap(), 1);
    assert_eq!(plans.get(key).await.unwrap(), Some(plan(7, PlanState::Executing)));
    assert_eq!(plans.put_all(&[plan(8, PlanState::Completed)]).await.unwrap(), 1);
    let found = plans.get_all(&[PlanKey::new(Uuid::nil(), 2), key]).await.unwrap();
    assert_eq!(found, [None, Some(plan(8, PlanState::Completed))]);
    assert_eq!((plans.put_all(&[]).await.unwrap(), plans.get_all(&[]).await.unwrap().len()), (0, 0));
}

#[tokio::test]
async fn an_ended_plan_is_kept_for_less_long() {
    let server = Server::start_anywhere().await;
    let plans = LivePlans::new(server.store(TIMEOUT), Lifetimes::default());
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    for (sequence, state, most) in [(1, PlanState::Executing, 86_400), (2, PlanState::Completed, 3_600)] {
        plans.put_all(&[plan(sequence, state)]).await.unwrap();
        let key = format!("t:plan:{}", PlanKey::new(Uuid::nil(), 1));
        let seconds: i64 = redis::cmd("TTL").arg(key).query_async(&mut connection).await.unwrap();
        assert!(seconds > most / 2 && seconds <= most, "{state}: {seconds}");
    }
}
