//! The proof that leaves the house: checkpoints that are published and kept, a plan's file checked with no database by
//! two implementations that share nothing, and a plan's state rebuilt from its events.

use std::process::Stdio;

use dat_plan::checkpoint::Checkpoint;
use dat_plan::signing::{KeyRing, Trust};
use dat_plan::{PlanKey, PlanState};
use dat_tests::{Announcement, Fleet, FleetOptions, PlanDraft, StepDraft, eventually, random_id, within};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;

use crate::documents::root;
use crate::keys::{file, folder, seed, settings, signing, trusted};

/// What an auditor believes: the keys of governance and of the log.
fn beliefs() -> String {
    trusted("verdict_key", "ggp") + &trusted("checkpoint_key", "log")
}

/// A fleet whose governance signs verdicts and whose sealer signs checkpoints, ten a second.
async fn sealed_fleet() -> Fleet {
    let folder = folder();
    let log = file(&folder, "log.seed", &seed("log"));
    let defaults = FleetOptions::default();
    let sealing = format!(
        "[checkpoint]\nevery_ms = 100\n[checkpoint.signing]\nkey_id = \"log\"\nseed = \"file:{log}\"\n"
    );
    let believes = format!("{}{sealing}{}", defaults.settings, trusted("verdict_key", "ggp"));
    Fleet::start(FleetOptions {
        sandbox: vec!["--config".to_owned(), settings(&folder, "ggp", &[])],
        settings: believes,
        ..defaults
    })
    .await
}

/// Waits until a checkpoint seals all of a plan; gives its export as text.
async fn exported(fleet: &Fleet, plan: PlanKey) -> String {
    let name = plan.to_string();
    eventually("the plan is sealed", async || {
        let text = fleet.dat(&["audit", "export", &name]).await;
        let export: Value =
            serde_json::from_str(text.lines().next().unwrap_or_default()).map_err(|e| e.to_string())?;
        let sealed =
            export["seals"].as_array().and_then(|seals| seals.last()?["leaf"]["last_sequence"].as_u64());
        let events = export["events"].as_array().map_or(0, Vec::len) as u64;
        if sealed == Some(events) { Ok(export.to_string()) } else { Err(format!("{sealed:?} of {events}")) }
    })
    .await
}

/// What the second implementation says of a file, and whether it finds no fault.
async fn python(file: &str, settings: &str) -> (bool, String) {
    let python = std::env::var("DAT_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = root().join("tests/audit_export.py").display().to_string();
    let run = Command::new(&python)
        .args([&script, file, settings])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within(format_args!("{python} {script}"), run).await.expect("there is a Python");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

/// Changes of an exported file, by pointers into it, and words of the fault that both implementations name.
fn forgeries(export: &Value) -> Vec<(&'static str, Value, &'static str)> {
    let mut forged = Vec::new();
    let mut forge = |what: &'static str, words: &'static str, change: &dyn Fn(&mut Value)| {
        let mut copy = export.clone();
        change(&mut copy);
        assert_ne!(copy, *export, "{what} changed nothing");
        forged.push((what, copy, words));
    };
    let list = |value: &mut Value, name: &str| value[name].as_array_mut().expect("a list").clone();
    let put = |value: &mut Value, pointer: &str, to: Value| *value.pointer_mut(pointer).expect(pointer) = to;
    forge("a field of an event", "event 4 ", &|v| put(v, "/events/3/envelope/data/tenant", json!("evil")));
    forge("the time of an event", "event 2 ", &|v| {
        put(v, "/events/1/envelope/time", json!("2020-01-01T00:00:00.000000Z"));
    });
    forge("a hash", "event 3 ", &|v| put(v, "/events/2/hash", json!("0".repeat(64))));
    forge("an event taken out", "event 5 ", &|v| {
        let mut events = list(v, "events");
        events.remove(4);
        v["events"] = json!(events);
    });
    forge("the last event taken off", "it ends at", &|v| {
        let mut events = list(v, "events");
        events.pop();
        v["events"] = json!(events);
    });
    forge("two events swapped", "event 6 ", &|v| {
        let mut events = list(v, "events");
        events.swap(5, 6);
        v["events"] = json!(events);
    });
    forge("an event put in", "event 3 ", &|v| {
        let mut events = list(v, "events");
        events.insert(2, events[1].clone());
        v["events"] = json!(events);
    });
    forge("the plan", "the plan hashes to", &|v| put(v, "/plan/budget/amount", json!(1)));
    forge("a verdict", "is in no event", &|v| put(v, "/verdicts/0/approver", json!("eve")));
    forge("a verdict without its signature", "is in no event", &|v| {
        v["verdicts"][0].as_object_mut().expect("a verdict").remove("signature");
    });
    forge("no verdict", "that is not in the file", &|v| v["verdicts"] = json!([]));
    forge("a leaf", "its root does not hold the leaf", &|v| put(v, "/seals/0/leaf/last_sequence", json!(1)));
    forge("a place", "its root does not hold the leaf", &|v| put(v, "/seals/0/place", json!(4_000)));
    forge("a root", "its root does not hold the leaf", &|v| {
        put(v, "/seals/0/checkpoint/root", json!("1".repeat(64)));
    });
    forge("a checkpoint's time", "the signature is not that of key 'log'", &|v| {
        put(v, "/seals/0/checkpoint/at", json!("2026-01-01T00:00:00.000000Z"));
    });
    forge("a checkpoint by another key", "key 'evil'", &|v| {
        put(v, "/seals/0/checkpoint/key_id", json!("evil"));
    });
    forged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exported_plan_is_checked_with_no_database_by_two_that_agree_on_every_forgery() {
    let fleet = sealed_fleet().await;
    let producer = fleet.producer().await;
    let plan = producer.submit(&PlanDraft::in_order("proved", 3).document()).await;
    // What JSON can hold and still has one canonical form.
    let odd = json!({"cost": 7, "result": {"\u{20ac}": 1e21, "\u{1F600}": 0.000_001, "\r": [1.5, -0.0, 1e-7], "ö": "\u{7f}\u{1}\"\\"}});
    let odd = producer.submit(&PlanDraft::new("odd").step(StepDraft::new("only", &odd)).document()).await;
    for end in producer.wait_for_ends(&[plan, odd]).await {
        assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    }
    let settings = fleet.file("auditor.toml", &beliefs());
    let nowhere = ["--database-url", "postgres://nobody@127.0.0.1:1/none", "--config", &settings];
    for plan in [plan, odd] {
        let file = fleet.file("export.json", &exported(&fleet, plan).await);
        let said = fleet.dat(&[&nowhere[..], &["audit", "verify", "--file", &file]].concat()).await;
        assert!(said.contains("all of them sealed") && said.contains("it holds together"), "{said}");
        let (holds, said) = python(&file, &settings).await;
        assert!(holds && said.contains("0 faults"), "{said}");
    }
    let export: Value = serde_json::from_str(&exported(&fleet, plan).await).expect("JSON");
    for (what, forged, words) in forgeries(&export) {
        let file = fleet.file("forged.json", &forged.to_string());
        let said = fleet.dat_refused(&[&nowhere[..], &["audit", "verify", "--file", &file]].concat()).await;
        assert!(said.contains(words), "{what}: dat does not say '{words}': {said}");
        let (holds, said) = python(&file, &settings).await;
        assert!(!holds && said.contains(words), "{what}: Python does not say '{words}': {said}");
    }
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_are_published_signed_and_what_someone_kept_of_them_convicts_a_log_cut_short() {
    let fleet = sealed_fleet().await;
    let producer = fleet.producer().await;
    let plan = producer.submit(&PlanDraft::in_order("kept", 2).document()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    exported(&fleet, plan).await;
    // Someone else holds what was published; it is the one that the log has.
    let heard = |event: &Announcement| event.kind == "audit.checkpoint";
    let published = producer.wait_for("a checkpoint is published", heard).await;
    let published: Checkpoint = serde_json::from_value(published.data).expect("a checkpoint");
    let number = published.number.to_string();
    let printed = fleet.dat(&["audit", "checkpoint", "--number", &number]).await;
    assert_eq!(Checkpoint::read(&printed).expect("a checkpoint"), published);
    let key = signing("log");
    let trust = Trust { checkpoints: KeyRing::new([key.trusted()]).expect("a ring"), ..Trust::default() };
    assert_eq!(published.verify(&trust.checkpoints), Ok("log"));
    let settings = fleet.file("auditor.toml", &beliefs());
    let held = fleet.file("held.json", &(printed + &fleet.dat(&["audit", "checkpoint"]).await));
    let said = fleet.dat(&["--config", &settings, "audit", "verify", "--checkpoint", &held]).await;
    assert!(said.contains("every one holds"), "{said}");
    // One that the log never had.
    let mut other = Checkpoint { number: 1_000_000, ..published };
    other.sign(&key).expect("signed");
    let other = fleet.file("other.json", &other.value().to_string());
    let said = fleet.dat_refused(&["--config", &settings, "audit", "verify", "--checkpoint", &other]).await;
    assert!(said.contains("checkpoint 1000000 is held elsewhere"), "{said}");
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_rebuilt_from_its_events_alone() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let failing =
        PlanDraft::in_order("undone", 2).step(StepDraft::new("last", &json!({"outcome": "refuse"})));
    let plan = producer.submit(&failing.document()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Aborted);
    let name = plan.to_string();
    let said = fleet.dat(&["audit", "replay", &name]).await;
    assert!(said.contains("rows and events agree") && said.contains("undo of"), "{said}");
    let told: Value =
        serde_json::from_str(&fleet.dat(&["audit", "replay", &name, "-o", "json"]).await).expect("JSON");
    assert_eq!(
        (&told["state"], &told["row"], &told["faults"]),
        (&json!("aborted"), &json!("aborted"), &json!([]))
    );
    let absent = fleet.dat_refused(&["audit", "replay", &random_id().to_string()]).await;
    assert!(absent.contains("dat plan"), "{absent}");
    fleet.check_everything().await;
}

/// Makes everything that has ended so far a matter of January, as the owner of the tables: nobody waits so long.
const JANUARY: &str = "
    SELECT ensure_event_partition('2026-01-15');
    ALTER TABLE execution_event DISABLE TRIGGER USER;
    UPDATE execution_event SET partition_date = '2026-01-15' WHERE plan_version > 0;
    ALTER TABLE execution_event ENABLE TRIGGER USER;
    UPDATE event_stream SET partition_date = '2026-01-15' WHERE plan_version > 0;
    UPDATE execution_plan SET ended_at = '2026-01-20' WHERE ended_at IS NOT NULL";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_that_is_long_over_leaves_the_database_in_files_that_verify() {
    let fleet = sealed_fleet().await;
    let producer = fleet.producer().await;
    let plans = [
        producer.submit(&PlanDraft::in_order("old", 2).document()).await,
        producer.submit(&PlanDraft::in_order("as old", 1).document()).await,
    ];
    producer.wait_for_ends(&plans).await;
    for plan in plans {
        exported(&fleet, plan).await;
    }
    let mut owner = PgConnection::connect(&fleet.realm().database_url).await.expect("the database answers");
    sqlx::raw_sql(JANUARY).execute(&mut owner).await.expect("it is made old");
    owner.close().await.expect("closed");
    let young = producer.submit(&PlanDraft::in_order("young", 1).document()).await;
    assert_eq!(producer.wait_for_end(young).await.state, PlanState::Completed);
    let settings = fleet.file("auditor.toml", &beliefs());
    let folder = folder();
    let out = folder.display().to_string();
    let said = fleet.dat(&["audit", "archive", "--older-than", "30"]).await;
    assert!(said.contains("2026-01") && said.contains("--out DIR archives it"), "{said}");
    let archive = ["--config", &settings, "audit", "archive", "--older-than", "30", "--out", &out];
    let said = fleet.dat(&archive).await;
    assert!(said.contains("2026-01: 2 plans") && said.contains("exported, checked and detached"), "{said}");
    assert!(fleet.dat(&archive).await.contains("no month is over"), "nothing is archived twice");
    for plan in plans {
        let file = folder.join("2026-01").join(format!("{}.v{}.json", plan.plan_id, plan.plan_version));
        let file = file.display().to_string();
        let said = fleet.dat(&["--config", &settings, "audit", "verify", "--file", &file]).await;
        assert!(said.contains("archived") && said.contains("all of them sealed"), "{said}");
        let (holds, said) = python(&file, &settings).await;
        assert!(holds, "{said}");
        let said = fleet.dat_refused(&["audit", "export", &plan.to_string()]).await;
        assert!(said.contains("were archived"), "{said}");
        assert_eq!(fleet.plan(plan).await.summary.state, PlanState::Archived);
    }
    let said = fleet.dat(&["--config", &settings, "audit", "verify"]).await;
    assert!(said.contains("2 streams were archived"), "{said}");
    std::fs::remove_dir_all(&folder).expect("removed");
}
