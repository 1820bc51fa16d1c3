//! The seal from end to end: signed verdicts, rows that were altered, the approval package, and people who approve.

use dat_plan::approval::Outcome;
use dat_plan::signing::{KeyRing, SigningKey, Trust};
use dat_plan::{PlanKey, PlanState};
use dat_tests::{
    Announcement, Fleet, FleetOptions, PlanDraft, SandboxClient, StepDraft, Submission, WorkerOptions,
    eventually,
};
use dat_topology::{Exchange, Stage, key};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::keys::{file, folder, settings, signing, trusted};

/// Workers that believe the key `ggp`; a sandbox that signs with it and was given these flags besides.
async fn sealed_fleet(folder: &std::path::Path, people: &[&str], flags: &[&str]) -> Fleet {
    let mut sandbox = vec!["--config".to_owned(), settings(folder, "ggp", people)];
    sandbox.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let defaults = FleetOptions::default();
    let settings = format!("{}{}", defaults.settings, trusted("verdict_key", "ggp"));
    Fleet::start(FleetOptions { sandbox, settings, ..defaults }).await
}

fn trust() -> Trust {
    let verdicts = KeyRing::new([signing("ggp").trusted()]).expect("a ring");
    Trust { verdicts, ..Trust::default() }
}

/// A worker that believes one key of governance.
fn believing(folder: &std::path::Path, id: &str) -> WorkerOptions {
    let settings = format!("{}{}", FleetOptions::default().settings, trusted("verdict_key", id));
    let config = file(folder, &format!("believes-{id}.toml"), &settings);
    WorkerOptions { environment: vec![("DAT_CONFIG".to_owned(), config)], ..WorkerOptions::default() }
}

async fn altered(fleet: &Fleet, change: &str, plan: PlanKey) {
    let mut sql = PgConnection::connect(&fleet.realm().database_url).await.expect("the database answers");
    let mut tx = sql.begin().await.expect("a transaction");
    for table in ["execution_plan", "plan_verdict"] {
        let off = format!("ALTER TABLE {table} DISABLE TRIGGER USER");
        sqlx::query(AssertSqlSafe(off)).execute(&mut *tx).await.expect("as the owner");
    }
    let change = change.replace("$P", &format!("'{}'", plan.plan_id));
    let changed = sqlx::query(AssertSqlSafe(change)).execute(&mut *tx).await.expect("changed");
    assert_eq!(changed.rows_affected(), 1);
    for table in ["execution_plan", "plan_verdict"] {
        let on = format!("ALTER TABLE {table} ENABLE TRIGGER USER");
        sqlx::query(AssertSqlSafe(on)).execute(&mut *tx).await.expect("as the owner");
    }
    tx.commit().await.expect("committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_keys_only_what_governance_signed_binds() {
    let folder = folder();
    let fleet = sealed_fleet(&folder, &[], &[]).await;
    let producer = fleet.producer().await;
    let plan = producer.submit(&PlanDraft::in_order("signed", 2).document()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    // One that waits for a verdict gets several that nobody believes.
    let waiting =
        producer.submit(&PlanDraft::in_order("waits", 1).label("sandbox.ggp", "wait").document()).await;
    let hash = fleet.plan(waiting).await.plan_hash;
    let verdict = json!({
        "decision_id": "D-1", "plan_id": waiting.plan_id, "plan_version": 1, "plan_hash": hash,
        "outcome": "approved", "approver": "eve",
    });
    let mut by_another = verdict.clone();
    signing("evil").sign(&mut by_another).expect("signed");
    let mut altered = verdict.clone();
    signing("ggp").sign(&mut altered).expect("signed");
    altered["reason"] = json!("added since");
    for (sent, code) in [(verdict, "unsigned"), (by_another, "unknown_key"), (altered, "wrong_signature")] {
        let submission = Submission { body: sent.to_string().into_bytes(), message_id: None };
        producer.publish(Exchange::Plans, key::PLAN_APPROVED, submission).await;
        let letter = producer.dead_letter(Stage::PlanApproved).await;
        assert_eq!(letter.faults[0]["code"], code, "{letter:?}");
        assert_eq!(letter.body, sent.to_string().into_bytes());
    }
    assert_eq!(fleet.plan(waiting).await.summary.state, PlanState::SubmittedForApproval);
    // By hand, as governance: unsigned it is parked, signed it binds.
    let id = waiting.plan_id.to_string();
    fleet.dat(&["approve", &id, "--approver", "ann", "--yes"]).await;
    assert_eq!(producer.dead_letter(Stage::PlanApproved).await.faults[0]["code"], "unsigned");
    let config = settings(&folder, "ggp", &[]);
    let said = fleet.dat(&["--config", &config, "approve", &id, "--approver", "ann", "--yes"]).await;
    assert!(said.contains("signed with ggp"), "{said}");
    assert_eq!(producer.wait_for_end(waiting).await.state, PlanState::Completed);
    let faults = fleet.store().audit(None, &trust()).await.expect("the database answers").faults;
    assert!(faults.is_empty(), "{faults:#?}");
    fleet.check_everything().await;
}

/// A step altered after its plan was approved: nothing of the plan is ever claimed again, by whichever worker, and it
/// says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_whose_step_was_altered_after_approval_runs_no_further_and_says_why() {
    let folder = folder();
    let mut fleet = sealed_fleet(&folder, &[], &[]).await;
    let producer = fleet.producer().await;
    fleet.sandbox().hold("test.held").await;
    let held = StepDraft::priced("held", 10).set("action", "test.held").set("timeout_ms", 60_000);
    let draft = PlanDraft::new("altered").step(held).step(StepDraft::priced("then", 10));
    let plan = producer.submit(&draft.document()).await;
    fleet.sandbox().wait_for_held(1).await;
    // Another plan, whose workers hold nothing of it in memory.
    let dearer = "UPDATE execution_plan SET document =
        convert_to(replace(convert_from(document, 'UTF8'), '\"cost\":10', '\"cost\":99'), 'UTF8') WHERE plan_id = $P";
    altered(&fleet, dearer, plan).await;
    fleet.sandbox().release().await;
    let broken = |event: &Announcement| event.plan == plan && event.kind == "seal.broken";
    let event = producer.wait_for("the broken seal", broken).await;
    assert_eq!(event.data["step"], "then");
    let said = fleet.dat(&["plan", "explain", &plan.plan_id.to_string()]).await;
    assert!(said.contains("the seal is broken"), "{said}");
    let mut counted = 0;
    for number in 0..2 {
        let (_, metrics) = fleet.worker(number).get("/metrics").await;
        counted += metrics
            .lines()
            .filter_map(|line| line.strip_prefix("dat_seals_broken_total "))
            .filter_map(|count| count.parse::<u64>().ok())
            .sum::<u64>();
    }
    assert!(counted > 0, "no worker counted it");
    // A worker that starts anew reads the altered document, and runs nothing of it either.
    let fresh = fleet.spawn_worker(&WorkerOptions::default()).await;
    fleet.worker(0).kill().await;
    fleet.worker(1).kill().await;
    let mut sql = PgConnection::connect(&fleet.realm().database_url).await.expect("the database answers");
    let again = "UPDATE execution_step SET not_before = now() WHERE step_key = 'then' AND state = 'ready'";
    sqlx::query(again).execute(&mut sql).await.expect("it is due again");
    let hashes = |event: &Announcement| {
        let reason = event.data["reason"].as_str().unwrap_or_default();
        event.plan == plan && event.kind == "seal.broken" && reason.contains("its document hashes to")
    };
    producer.wait_for("the fresh worker's reason", hashes).await;
    fleet.worker(fresh).get("/readyz").await;
    let sent: Vec<String> = fleet.sandbox().requests(plan).await.into_iter().map(|r| r.step).collect();
    assert_eq!(sent, ["held"], "nothing after the alteration");
    let faults = fleet.store().audit(Some(plan), &trust()).await.expect("the database answers").faults;
    assert!(faults.iter().any(|fault| fault.message.contains("the document was altered")), "{faults:#?}");
}

/// A worker that does not know the key leaves the plan as it is, and says so; one that does runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_that_a_worker_does_not_believe_is_held_and_not_lost() {
    let folder = folder();
    let config = settings(&folder, "ggp", &[]);
    let flags = ["--config".to_owned(), config, "--ggp".to_owned(), "wait".to_owned()];
    let mut fleet = Fleet::start(FleetOptions { sandbox: flags.to_vec(), ..FleetOptions::default() }).await;
    let producer = fleet.producer().await;
    let plan = producer.submit(&PlanDraft::in_order("held", 1).document()).await;
    fleet.plan(plan).await;
    for number in 0..2 {
        fleet.worker(number).terminate().await;
        fleet.worker(number).exit().await;
    }
    // Bound by rows alone, as a worker would that believed the key and died before it went on.
    let verdict = fleet.sandbox().decide(&SandboxClient::decision(plan, Outcome::Approved)).await;
    let value = json!(verdict);
    let checked = dat_plan::check::CheckedVerdict { verdict, value };
    let now = dat_plan::Clock::now(&dat_plan::clock::SystemClock);
    let bound = fleet.store().bind_verdicts(&[checked], &trust().verdicts, now).await.expect("it answers");
    assert_eq!(bound, [dat_store::Bound::Bound]);
    let options = believing(&folder, "other");
    let stranger = fleet.spawn_worker(&options).await;
    let broken = |event: &Announcement| event.plan == plan && event.kind == "seal.broken";
    producer.wait_for("the approval that is not believed", broken).await;
    assert_eq!(fleet.plan(plan).await.summary.state, PlanState::Approved);
    let said = fleet.dat(&["plan", "explain", &plan.plan_id.to_string()]).await;
    assert!(said.contains("key 'ggp' is not one that is trusted here"), "{said}");
    fleet.worker(stranger).terminate().await;
    fleet.worker(stranger).exit().await;
    fleet.spawn_worker(&believing(&folder, "ggp")).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    fleet.check_everything().await;
}

/// A worker that does not believe the approval decides nothing of what failed, probes nothing and undoes nothing; each says
/// why, and what helps. One that does goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_neither_ruled_on_nor_undone_by_a_worker_that_does_not_believe_its_approval() {
    let folder = folder();
    let config = settings(&folder, "ggp", &[]);
    let sandbox = vec!["--config".to_owned(), config];
    let mut fleet = Fleet::start(FleetOptions { workers: 0, sandbox, ..FleetOptions::default() }).await;
    let producer = fleet.producer().await;
    // All but the Rollback Coordinator.
    let roles = ["plan-submitted", "plan-approved", "step-dispatch", "relay", "sweeper"];
    let roles = roles.map(str::to_owned).to_vec();
    let ours = WorkerOptions { roles, ..believing(&folder, "ggp") };
    let ours = fleet.spawn_worker(&ours).await;
    let with = |name: &str, sandbox: &Value| {
        let step = StepDraft::new("s", sandbox).undo(&json!({})).set("timeout_ms", 300);
        PlanDraft::new(name).step(StepDraft::priced("before", 10)).step(step).document()
    };
    let failed = producer.submit(&with("failed", &json!({"outcome": "refuse"}))).await;
    let unknown =
        producer.submit(&with("unknown", &json!({"outcome": "lost_reply", "times": 1, "cost": 5}))).await;
    let unwound = producer.submit(&with("unwound", &json!({"outcome": "refuse"}))).await;
    for (plan, kind) in [(failed, "step.failed"), (unknown, "step.unknown"), (unwound, "step.failed")] {
        producer.wait_for(kind, |event| event.plan == plan && event.kind == kind).await;
    }
    fleet.dat(&["plan", "abort", &unwound.plan_id.to_string(), "--reason", "recalled"]).await;
    fleet.worker(ours).terminate().await;
    fleet.worker(ours).exit().await;

    let stranger = fleet.spawn_worker(&believing(&folder, "other")).await;
    for plan in [failed, unwound] {
        producer.wait_for("the seal", |event| event.plan == plan && event.kind == "seal.broken").await;
    }
    for plan in [failed, unknown, unwound] {
        let id = plan.plan_id.to_string();
        eventually(format!("explain says why of {id}"), async || {
            let said = fleet.dat(&["plan", "explain", &id]).await;
            let words = ["key 'ggp' is not one that is trusted here", "[[verdict_key]] of every worker"];
            if words.iter().all(|word| said.contains(word)) { Ok(()) } else { Err(said) }
        })
        .await;
    }
    fleet.worker(stranger).terminate().await;
    fleet.worker(stranger).exit().await;
    let sent: Vec<bool> = fleet
        .sandbox()
        .requests(unwound)
        .await
        .into_iter()
        .map(|request| request.undo_of.is_some())
        .collect();
    assert_eq!(sent, [false, false], "nothing was undone");

    fleet.spawn_worker(&believing(&folder, "ggp")).await;
    assert_eq!(producer.wait_for_end(failed).await.state, PlanState::Aborted);
    assert_eq!(producer.wait_for_end(unwound).await.state, PlanState::Aborted);
    assert_eq!(producer.wait_for_end(unknown).await.state, PlanState::Completed);
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn governance_is_sent_all_that_an_approver_needs_and_what_changed_since_the_last_approval() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let rules = fleet.file(
        "rules.json",
        &json!({"format": 1, "constraints": [
            {"id": "calls", "enforcement": "hard", "kind": "concurrency", "connector": "mux", "max": 200}]})
        .to_string(),
    );
    let act = ["--actor", "ann", "--reason", "a test"];
    fleet.dat(&[&["constraints", "set", &rules, "--fleet"][..], &act].concat()).await;
    let limit =
        ["budget", "set", "--tenant", "acme", "--currency", "usd", "--period", "month", "--amount", "5000"];
    fleet.dat(&[&limit[..], &["--reason", "a test", "--actor", "ann"]].concat()).await;
    let draft = PlanDraft::in_order("package", 2).step(StepDraft::new("gone", &json!({"cost": 5})));
    let first = producer.submit(&draft.clone().document()).await;
    assert_eq!(producer.wait_for_end(first).await.state, PlanState::Completed);
    let second = draft.set("plan_version", 2).budget(900).step(StepDraft::priced("more", 7));
    let second = second.label("sandbox.ggp", "wait").document();
    let second = producer.submit(&second).await;
    let package =
        eventually("GGP has the package", async || fleet.sandbox().packages(second).await.pop().ok_or(()))
            .await
            .package;
    let coverage = package.rollback_coverage.expect("coverage");
    assert_eq!((coverage.covered, coverage.uncovered, coverage.steps.len()), (3, 1, 4));
    assert_eq!(package.cost.map(|cost| (cost.most, cost.irreversible)), Some((32, 5)));
    assert_eq!(package.constraint_sets[0].document["constraints"][0]["id"], "calls");
    let budget = &package.budgets[0];
    assert_eq!((budget.period.as_str(), budget.limit, budget.settled, budget.adds), ("month", 5_000, 25, 32));
    let changes = package.changes.expect("the first version was approved");
    assert_eq!((changes.since_version, changes.steps_added.as_slice()), (1, &["more".to_owned()][..]));
    assert_eq!(changes.budget[0].pointer, "/budget/amount");
    assert_eq!(
        (&changes.budget[0].before, &changes.budget[0].after),
        (&Some(json!(1_000_000)), &Some(json!(900)))
    );
    // A person reads the same, and what superseded what.
    let id = second.plan_id.to_string();
    let said = fleet.dat(&["approve", &id, "--approver", "ann", "--yes"]).await;
    for words in
        ["nothing: irreversible", "mux: test.undo", "calls", "month (usd)", "/budget/amount", "step more"]
    {
        assert!(said.contains(words), "{words}:\n{said}");
    }
    assert_eq!(producer.wait_for_end(second).await.state, PlanState::Completed);
    let shown = fleet.dat(&["plan", "show", &format!("{id}/2")]).await;
    assert!(shown.contains("supersedes version 1"), "{shown}");
    let shown = fleet.dat(&["plan", "show", &format!("{id}/1")]).await;
    assert!(shown.contains("superseded by version 2"), "{shown}");
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_approve_reject_or_ask_people_who_count_once_each() {
    let folder = folder();
    let rules = file(
        &folder,
        "rules.toml",
        r#"
[[rule]]
when = "request.cost.with_undos <= 20"
then = "approve"
reason = "small"

[[rule]]
when = "request.rollback_coverage.uncovered > 0"
then = "reject"
reason = "no way back"

[[rule]]
when = "true"
then = "people"
quorum = 2
"#,
    );
    let people = ["ann", "bob"];
    let fleet = sealed_fleet(&folder, &people, &["--ggp-rules", &rules]).await;
    let producer = fleet.producer().await;
    let small = producer.submit(&PlanDraft::in_order("small", 2).document()).await;
    let reckless = PlanDraft::in_order("reckless", 2).step(StepDraft::new("last", &json!({"cost": 90})));
    // What a plan says of its own approval chooses nobody.
    let reckless = producer.submit(&reckless.label("sandbox.ggp", "approve").document()).await;
    let large = producer.submit(&PlanDraft::in_order("large", 5).document()).await;
    assert_eq!(producer.wait_for_end(small).await.state, PlanState::Completed);
    let end = producer.wait_for_end(reckless).await;
    assert_eq!((end.state, end.count("plan.executing")), (PlanState::Rejected, 0));
    let asked = eventually("GGP asks people", async || {
        fleet.sandbox().packages(large).await.pop().filter(|held| held.quorum.is_some()).ok_or(())
    })
    .await;
    assert_eq!((asked.quorum, asked.verdicts.len()), (Some(2), 0));
    let id = large.plan_id.to_string();
    let say = async |person: &str, by: &str| {
        let config = settings(&folder, by, &[]);
        let arguments = ["--config", &config, "approve", &id, "--approver", person, "--to-ggp", "--yes"];
        let said = fleet.dat(&arguments).await;
        assert!(said.contains("published plan.approval"), "{said}");
    };
    let heard = async |counted: usize, refused: usize| {
        eventually("GGP has heard them", async || {
            let held = fleet.sandbox().packages(large).await.remove(0);
            let seen = (held.approvals.len(), held.refused.len());
            if seen == (counted, refused) { Ok(held) } else { Err(seen) }
        })
        .await
    };
    say("ann", "ann").await;
    heard(1, 0).await;
    // Again, in another's name with her key, and by somebody whom nobody knows.
    say("ann", "ann").await;
    heard(1, 1).await;
    say("bob", "ann").await;
    heard(1, 2).await;
    say("eve", "eve").await;
    heard(1, 3).await;
    assert_eq!(fleet.plan(large).await.summary.state, PlanState::SubmittedForApproval);
    say("bob", "bob").await;
    let end = producer.wait_for_end(large).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let approved = end.events.iter().find(|event| event.kind == "plan.approved").expect("it was approved");
    assert_eq!(approved.data["approver"], "ann, bob");
    let verdict: &Value = &approved.data["verdict"];
    let at = dat_plan::Clock::now(&dat_plan::clock::SystemClock);
    assert_eq!(trust().verdicts.verify(verdict, at), Ok("ggp"));
    fleet.check_everything().await;
}

/// `dat key new` makes what signs and what believes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_for_its_owner_alone_and_is_believed_by_what_is_printed() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    let fleet = Fleet::start(FleetOptions { workers: 0, ..FleetOptions::default() }).await;
    let path = folder.join("ann.seed").display().to_string();
    let printed = fleet.dat(&["key", "new", "ann/2027", "--seed", &path, "--for", "approver"]).await;
    let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let key =
        SigningKey::from_seed("ann/2027", &std::fs::read_to_string(&path).expect("a seed")).expect("a key");
    assert!(printed.contains(&format!("public_key = \"{}\"", key.public_key())), "{printed}");
    assert!(printed.starts_with("[[approver_key]]\nkey_id = \"ann/2027\"\n"), "{printed}");
    // What was printed can be used as it is, and a seed is never overwritten.
    let config = file(&folder, "believes.toml", &printed);
    fleet.dat(&["--config", &config, "audit", "verify"]).await;
    fleet.dat_refused(&["key", "new", "ann/2027", "--seed", &path]).await;
}
