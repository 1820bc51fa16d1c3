//! The sandbox on a real broker: what DAT sends, and what comes back.

mod stage;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use dat_bus::{Message, RpcError};
use dat_plan::PlanHash;
use dat_plan::approval::{Outcome, Verdict};
use dat_plan::mux::{ActionReply, ActionStatus, ProbeReply, ProbeStatus};
use dat_sandbox::report::{
    AppliedEffect, EventSummary, Held, LedgerLine, MuxSummary, Package, Request, RequestStatus,
};
use serde_json::{Value, json};
use stage::{Dat, PATIENCE, Stage, Vhost, next};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const PLAN: Uuid = Uuid::from_u128(0x0199_d3a4_7c1e_7b1a_9c44_0a3f_5d0c_7421);

fn request(key: &str, sandbox: &Value) -> Value {
    json!({
        "action": "listing.create", "parameters": {"sandbox": sandbox}, "idempotency_key": key,
        "not_after": "2100-01-01T00:00:00Z", "max_cost": 100, "currency": "usd", "tenant": "acme",
        "plan_id": PLAN, "plan_version": 1, "step": "a", "attempt": 1
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_done_once_and_answered_each_time() {
    let stage = Stage::new("once").await;
    let listing = request("a/1", &json!({"cost": 7, "result": {"listing_id": "L-1"}}));
    let first: ActionReply = stage.dat.ask("listing.create", &listing).await;
    assert_eq!(
        (first.status, first.cost, first.result.clone()),
        (ActionStatus::Ok, 7, Some(json!({"listing_id": "L-1"})))
    );
    let again: ActionReply = stage.dat.ask("listing.create", &listing).await;
    assert_eq!(again, first);

    let effects: Vec<AppliedEffect> = stage.report(&format!("/mux/effects?plan_id={PLAN}&plan_version=1"));
    assert!(matches!(&effects[..], [one] if one.applied == 1 && one.effect.idempotency_key == "a/1"));
    let requests: Vec<Request> = stage.report("/mux/requests");
    assert!(matches!(&requests[..], [ok, replay]
        if ok.status == RequestStatus::Ok && replay.status == RequestStatus::Replayed && ok.finished < Some(replay.received)));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_whose_answer_is_lost_is_found_by_a_probe() {
    let stage = Stage::new("lost").await;
    let body = request("a/1", &json!({"outcome": "lost_reply", "cost": 7}));
    let silence = stage.dat.call("listing.create", &body, Duration::from_millis(300)).await;
    assert!(matches!(silence, Err(RpcError::MaybeSent(_))), "{silence:?}");
    let figures: MuxSummary = stage.report("/mux/summary?at_least=1&wait_ms=20000");
    assert_eq!(figures.by_status.get(&RequestStatus::LostReply), Some(&1));
    let found: ProbeReply = stage.dat.ask("probe", &json!({"idempotency_key": "a/1"})).await;
    assert_eq!((found.status, found.cost, found.result), (ProbeStatus::Done, 7, Some(json!({}))));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_seals_what_is_still_on_its_way() {
    let stage = Stage::new("seal").await;
    stage.tell::<Held>("/mux/hold", &json!({"action": "*"}));
    let asking = tokio::spawn({
        let mux = stage.dat.mux.clone();
        let message = Message::json("mux", "listing.create", request("a/1", &json!({})).to_string());
        async move { mux.call(message, tokio::time::Instant::now() + PATIENCE).await }
    });
    let held: Held = stage.report("/mux/held?at_least=1&wait_ms=20000");
    assert_eq!(held.held, 1);
    let sealed: ProbeReply = stage.dat.ask("probe", &json!({"idempotency_key": "a/1"})).await;
    assert_eq!(sealed.status, ProbeStatus::Sealed);
    stage.tell::<Held>("/mux/release", &json!({}));
    let answer = asking.await.expect("asked").expect("an answer");
    let answer: ActionReply = serde_json::from_slice(&answer.body).expect("readable");
    assert_eq!(answer.status, ActionStatus::Refused);

    let figures: MuxSummary = stage.report("/mux/summary");
    assert_eq!((figures.effects, figures.refused_sealed, figures.probes, figures.sealed), (0, 1, 1, 1));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_refused_or_dropped() {
    let stage = Stage::new("unreadable").await;
    stage.dat.publish(Message::json("mux", "listing.create", "nonsense")).await;
    let refused: ActionReply = stage.dat.ask("listing.create", &json!({"action": 7})).await;
    assert_eq!(refused.status, ActionStatus::Refused);
    let figures: MuxSummary = stage.report("/mux/summary");
    assert_eq!((figures.dropped, figures.malformed, figures.requests), (1, 1, 0));
    stage.end().await;
}

fn asked(labels: &Value) -> Message {
    let plan = json!({"plan_id": PLAN, "plan_version": 1, "tenant": "acme",
                      "budget": {"amount": 500, "currency": "usd"}, "labels": labels});
    let event = json!({
        "specversion": "1.0", "id": format!("{PLAN}/1/2"), "source": "dat", "type": "dat.plan.approval_requested",
        "subject": PLAN, "sequence": "2", "data": {
            "plan_id": PLAN, "plan_version": 1, "tenant": "acme",
            "plan_hash": PlanHash::of(&plan).expect("canonical"), "constraint_set_hash": PlanHash::of(&json!([])).expect("canonical"), "plan": plan,
            "readiness": {"steps": 1, "max_cost": 5, "reversible": 1, "irreversible": [], "warnings": []}
        }
    });
    Message::json("ggp", "plan.approval_requested", event.to_string()).traceparent("00-ab-cd-01")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_gets_one_verdict_however_often_it_is_sent() {
    let stage = Stage::new("verdict").await;
    let mut verdicts = stage.dat.listen("dat.plans", "plan.*").await;
    let package = asked(&json!({"sandbox.budget": "120"}));
    stage.dat.publish(package.clone()).await;
    let first = next(&mut verdicts).await;
    let verdict: Verdict = serde_json::from_slice(&first.body).expect("a verdict");
    assert_eq!((verdict.outcome, verdict.budget.map(|budget| budget.amount)), (Outcome::Approved, Some(120)));
    assert_eq!((first.routing_key.as_str(), first.traceparent()), ("plan.approved", Some("00-ab-cd-01")));
    assert_eq!(first.message_id, Some(verdict.decision_id));
    stage.dat.publish(package).await;
    assert_eq!(next(&mut verdicts).await.body, first.body);

    let packages: Vec<Package> = stage.report(&format!("/ggp/packages?plan_id={PLAN}"));
    assert!(matches!(&packages[..], [one] if one.deliveries == 2 && one.verdicts.len() == 1));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_plan_is_decided_by_hand_and_revoked() {
    let stage = Stage::new("decide").await;
    let mut verdicts = stage.dat.listen("dat.plans", "plan.*").await;
    stage.dat.publish(asked(&json!({"sandbox.ggp": "wait"}))).await;
    let decision =
        json!({"plan_id": PLAN, "plan_version": 1, "outcome": "rejected", "reason": "no", "wait_ms": 20000});
    let told: Verdict = stage.tell("/ggp/decide", &decision);
    let heard = next(&mut verdicts).await;
    assert_eq!(
        (heard.routing_key.as_str(), serde_json::from_slice(&heard.body).ok()),
        ("plan.rejected", Some(told))
    );
    let revoked: Verdict =
        stage.tell("/ggp/decide", &json!({"plan_id": PLAN, "plan_version": 1, "outcome": "revoked"}));
    assert_eq!(revoked.outcome, Outcome::Revoked);
    assert_eq!(next(&mut verdicts).await.routing_key, "plan.revoked");
    stage.end().await;
}

fn financial(sequence: u32, kind: &str, amount: i64) -> Value {
    json!({
        "specversion": "1.0", "id": format!("{PLAN}/1/{sequence}"), "source": "dat", "type": format!("dat.{kind}"),
        "subject": PLAN, "sequence": sequence.to_string(), "data": {
            "plan_id": PLAN, "plan_version": 1, "tenant": "acme", "step": "a", "attempt": 1,
            "amount": amount, "currency": "usd", "account_spent": 0
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flo_nets_each_event_once_whether_alone_or_in_a_batch() {
    let stage = Stage::new("flo").await;
    let alone = financial(9, "spend.incurred", 70);
    for _ in 0..2 {
        stage.dat.publish(Message::json("flo", "spend.incurred", alone.to_string())).await;
    }
    let batch = json!([financial(10, "refund.issued", 30), financial(11, "spend.released", 5), alone]);
    let batch = Message::json("flo", "refund.issued", batch.to_string());
    stage.dat.publish(batch.content_type("application/cloudevents-batch+json")).await;
    stage
        .dat
        .publish(Message::json("pte", "step.completed", financial(12, "step.completed", 0).to_string()))
        .await;

    let figures: EventSummary = stage.report("/flo/summary?at_least=5&wait_ms=20000");
    assert_eq!((figures.events, figures.duplicates, figures.out_of_order), (3, 2, 0));
    let lines: Vec<LedgerLine> = stage.report(&format!("/flo/plans?plan_id={PLAN}"));
    assert!(
        matches!(&lines[..], [LedgerLine { incurred: 70, refunded: 30, released: 5, net: 40, .. }]),
        "{lines:?}"
    );
    let performance: EventSummary = stage.report("/pte/summary?at_least=1&wait_ms=20000");
    assert_eq!(performance.by_type.get("dat.step.completed"), Some(&1));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_and_seals_outlive_a_kill() {
    let vhost = Vhost::new("kill");
    let data = std::env::temp_dir().join(format!("dat-sandbox-{}-kill.redb", std::process::id()));
    // Absent, unless an earlier process of the same number left it.
    let _ = std::fs::remove_file(&data);
    let mut doomed = Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "a_sandbox_that_waits_to_be_killed", "--nocapture"])
        .env(DOOMED_URL, vhost.amqp_url())
        .env(DOOMED_DATA, &data)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let said = BufReader::new(doomed.stdout.take().expect("its output")).lines();
    let ready = said.map_while(Result::ok).any(|line| line.contains(READY));
    assert!(ready, "the sandbox's process ended early");

    let dat = Dat::new(&vhost.amqp_url()).await;
    let done: ActionReply = dat.ask("listing.create", &request("done", &json!({"cost": 7}))).await;
    let sealed: ProbeReply = dat.ask("probe", &json!({"idempotency_key": "sealed"})).await;
    assert_eq!((done.status, sealed.status), (ActionStatus::Ok, ProbeStatus::Sealed));
    doomed.kill().expect("killed");
    doomed.wait().expect("gone");

    let stage = Stage::on(vhost, dat, Some(data.clone())).await;
    let again: ActionReply = stage.dat.ask("listing.create", &request("done", &json!({"cost": 9}))).await;
    let refused: ActionReply = stage.dat.ask("listing.create", &request("sealed", &json!({}))).await;
    assert_eq!((again.cost, refused.status), (7, ActionStatus::Refused));
    let figures: MuxSummary = stage.report("/mux/summary");
    assert_eq!((figures.effects, figures.replays, figures.refused_sealed), (1, 1, 1));
    stage.end().await;
    std::fs::remove_file(&data).expect("removed");
}

const DOOMED_URL: &str = "SANDBOX_TEST_AMQP_URL";
const DOOMED_DATA: &str = "SANDBOX_TEST_DATA";
const READY: &str = "the sandbox is ready to be killed";

/// Not a test of its own: the process that [`effects_and_seals_outlive_a_kill`] kills.
#[tokio::test]
#[ignore = "started by effects_and_seals_outlive_a_kill, which kills it"]
async fn a_sandbox_that_waits_to_be_killed() {
    let (Ok(url), Ok(data)) = (std::env::var(DOOMED_URL), std::env::var(DOOMED_DATA)) else { return };
    let sandbox = stage::start(&url, Some(data.into()), CancellationToken::new()).await;
    sandbox.ready().await;
    writeln!(std::io::stdout(), "{READY}").expect("said");
    sandbox.join().await.expect("killed before it ends");
}
