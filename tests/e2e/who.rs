//! Who may submit, and what each may not do: users of the real broker with few rights, each trying what is not theirs.

use std::fmt::Write as _;

use dat_plan::{PlanKey, PlanState};
use dat_tests::{
    Announcement, Fleet, FleetOptions, Login, PlanDraft, Producer, Submission, WorkerOptions, eventually,
};
use dat_topology::{Exchange, Outside, Party, Stage, Topology, key};
use serde_json::{Value, json};

use crate::keys::{file, folder, settings, trusted};

const SUBMIT: (Exchange, &str) = (Exchange::Plans, key::PLAN_SUBMITTED);

/// A fleet in which each of these users may submit for these tenants.
async fn fleet_of(submitters: &[(&str, &[&str])]) -> Fleet {
    let mut settings = FleetOptions::default().settings;
    for (user, tenants) in submitters {
        // Writing to a string cannot fail.
        let _ = writeln!(settings, "[[submitter]]\nuser = \"{user}\"\ntenants = {}", json!(tenants));
    }
    Fleet::start(FleetOptions { settings, ..FleetOptions::default() }).await
}

fn login(fleet: &Fleet, name: &str, party: Party) -> Login {
    let realm = fleet.realm();
    Login::create(realm, name, &Topology::new(realm.namespace.as_deref()).rights(party))
}

fn plan_of(document: &Value) -> PlanKey {
    PlanKey::new(document["plan_id"].as_str().expect("an id").parse().expect("an id"), 1)
}

fn named(document: &Value, message_id: &str) -> Submission {
    Submission { message_id: Some(message_id.to_owned()), ..Submission::of(document) }
}

/// Waits until a submission is refused and parked; gives who the broker says published it.
async fn refused(producer: &Producer, message_id: &str, says: &[&str]) -> Option<String> {
    let is_it =
        |event: &Announcement| event.kind == "submission.rejected" && event.data["message_id"] == message_id;
    let event = producer.wait_for(&format!("the refusal of {message_id}"), is_it).await;
    let letter = producer.dead_letter(Stage::PlanSubmitted).await;
    assert_eq!(letter.message_id.as_deref(), Some(message_id));
    assert_eq!(letter.reason, "the submitter may not submit for this tenant");
    for faults in [&event.data["faults"], &letter.faults] {
        let fault = faults.as_array().and_then(|faults| faults.last()).expect("a fault");
        assert_eq!((&fault["code"], &fault["pointer"]), (&json!("submitter_not_allowed"), &json!("/tenant")));
        let message = fault["message"].as_str().unwrap_or_default();
        assert!(says.iter().all(|words| message.contains(words)), "{message}");
    }
    assert_eq!(event.data["user"].as_str(), letter.user.as_deref());
    letter.user
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_submitters_of_two_tenants_do_what_is_theirs_and_nothing_else() {
    let (ann, bob) = (Login::name("ann"), Login::name("bob"));
    let fleet = fleet_of(&[(&ann, &["acme"]), (&bob, &["globex"])]).await;
    let producer = fleet.producer().await;
    let topology = Topology::new(fleet.realm().namespace.as_deref());
    let queue = |stage: Stage| topology.queue(stage).name().to_owned();
    let logins = [login(&fleet, &ann, Party::Submitter), login(&fleet, &bob, Party::Submitter)];
    let tenants = ["acme", "globex"];
    let of = |tenant: &str| PlanDraft::in_order(tenant, 2).set("tenant", tenant).document();
    for ((login, tenant), (other, others)) in logins.iter().zip(tenants).zip(logins.iter().zip(tenants).rev())
    {
        let own = of(tenant);
        let me = Some(login.name.as_str());
        login.publish(SUBMIT, Submission::of(&own), me, &[]).await.expect("its own plan is taken");
        assert_eq!(producer.wait_for_end(plan_of(&own)).await.state, PlanState::Completed);
        let shown = fleet.dat(&["plan", "show", &plan_of(&own).plan_id.to_string()]).await;
        assert!(shown.contains(&format!("from      {}", login.name)), "{shown}");

        // In the other's name, the broker does not take it.
        let foreign = of(others);
        let forged = login.publish(SUBMIT, Submission::of(&foreign), Some(&other.name), &[]).await;
        let forged = forged.expect_err("a name that is not one's own");
        assert!(forged.code == 406 && forged.text.contains("user_id"), "{forged:?}");
        // In its own, for the other's tenant, DAT does not.
        let id = format!("{} for {others}", login.name);
        login.publish(SUBMIT, named(&foreign, &id), me, &[]).await.expect("the broker takes it");
        let user = refused(&producer, &id, &[&login.name, others, "[[submitter]]"]).await;
        assert_eq!(user.as_deref(), me);
        assert!(fleet.store().plan(plan_of(&foreign)).await.expect("it answers").is_none());
        // Nor a version of the other's plan, under either tenant.
        let theirs = PlanDraft::in_order("taken over", 1).set("plan_id", own["plan_id"].clone());
        for tenant in tenants {
            let id = format!("{} takes {tenant}'s over", other.name);
            let version = theirs.clone().set("plan_version", 2).set("tenant", tenant).document();
            let me = Some(other.name.as_str());
            other.publish(SUBMIT, named(&version, &id), me, &[]).await.expect("the broker takes it");
            if tenant == others {
                let letter = producer.dead_letter(Stage::PlanSubmitted).await;
                assert_eq!(letter.faults[0]["code"], "foreign_tenant", "{letter:?}");
            } else {
                refused(&producer, &id, &[&other.name, tenant]).await;
            }
        }
        assert_eq!(fleet.plan(plan_of(&own)).await.superseded_by, Vec::<i32>::new());

        // What its rights leave out, the broker refuses, and says what of.
        let verdict = || Submission::of(&json!({"outcome": "approved"}));
        for to in [
            (Exchange::Plans, key::PLAN_APPROVED),
            (Exchange::Plans, key::PLAN_REJECTED),
            (Exchange::Plans, key::PLAN_REVOKED),
            (Exchange::Steps, key::STEP_DISPATCH),
            (Exchange::Ggp, key::PLAN_APPROVAL),
            (Exchange::Events, "plan.completed"),
            (Exchange::Control, ""),
        ] {
            let refused = login.publish(to, verdict(), me, &[]).await.expect_err("it may submit alone");
            assert_eq!(refused.code, 403, "{to:?}: {refused:?}");
            assert!(refused.text.contains(topology.exchange(to.0).name()), "{refused:?}");
        }
        for name in [queue(Stage::PlanSubmitted), topology.queue(Outside::GgpRequests).name().to_owned()] {
            for refused in [login.consume(&name).await, login.get(&name).await] {
                let refused = refused.expect_err("it may read nothing");
                assert!(refused.code == 403 && refused.text.contains(&name), "{refused:?}");
            }
        }
        let refused = login.declare("anything").await.expect_err("it may declare nothing");
        assert_eq!(refused.code, 403, "{refused:?}");
    }
    fleet.check_everything().await;
}

/// Every party with its own rights and no others: a plan goes its way, an operator stops and goes on, and what is another's
/// is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_that_each_party_needs_on_the_broker_is_enough_and_is_all() {
    let mut fleet = Fleet::start(FleetOptions { workers: 0, ..FleetOptions::default() }).await;
    let producer = fleet.producer().await;
    let topology = Topology::new(fleet.realm().namespace.as_deref());
    let as_party = |party: Party| login(&fleet, &Login::name(party.as_str()), party);
    let [administrator, worker, follower, operator] =
        [Party::Administrator, Party::Worker, Party::Follower, Party::Operator].map(as_party);
    let [governance, approver, mux, flo, pte] =
        [Party::Governance, Party::Approver, Party::Mux, Party::Flo, Party::Pte].map(as_party);
    let (done, said) = fleet.dat_with(administrator.environment(), &["topology", "apply"]).await;
    assert!(done, "{said}");
    let options = WorkerOptions { environment: worker.environment().to_vec(), ..WorkerOptions::default() };
    let number = fleet.spawn_worker(&options).await;
    fleet.worker(number).get_until("/readyz", |(status, _)| *status == 200).await;

    // Submitted, approved by hand, stopped and gone on with, and run to its end by a worker that can do no more.
    let document = PlanDraft::in_order("least", 3).label("sandbox.ggp", "wait").document();
    let (plan, path) = (plan_of(&document), fleet.file("least.json", &document.to_string()));
    let id = plan.plan_id.to_string();
    let act = ["--tenant", "acme", "--actor", "ops", "--reason", "a test"];
    for (party, words) in
        [(&operator, [&["control", "pause"][..], &act].concat()), (&follower, vec!["plan", "submit", &path])]
    {
        let (done, said) = fleet.dat_with(party.environment(), &words).await;
        assert!(done, "{words:?}: {said}");
    }
    fleet.plan(plan).await;
    for (party, words) in [
        (&governance, vec!["approve", &id, "--approver", "ggp", "--yes"]),
        (&operator, [&["control", "resume"][..], &act].concat()),
    ] {
        let (done, said) = fleet.dat_with(party.environment(), &words).await;
        assert!(done, "{words:?}: {said}");
    }
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);

    let nothing = || Submission::of(&json!({}));
    let verdict = (Exchange::Plans, key::PLAN_APPROVED);
    for (party, to) in [
        (&worker, SUBMIT),
        (&worker, verdict),
        (&worker, (Exchange::Control, "")),
        (&governance, SUBMIT),
        (&governance, (Exchange::Ggp, key::PLAN_APPROVAL)),
        (&approver, verdict),
        (&approver, (Exchange::Ggp, key::PLAN_APPROVAL_REQUESTED)),
        (&operator, verdict),
        (&operator, (Exchange::Steps, key::STEP_DISPATCH)),
        (&mux, verdict),
        (&flo, (Exchange::Flo, "spend.incurred")),
        (&pte, (Exchange::Events, "plan.completed")),
        (&administrator, verdict),
    ] {
        let refused =
            party.publish(to, nothing(), None, &[]).await.expect_err(&format!("{}: {to:?}", party.name));
        assert_eq!(refused.code, 403, "{}: {refused:?}", party.name);
    }
    let queue = |queue: Outside| topology.queue(queue).name().to_owned();
    let work = topology.queue(Stage::PlanApproved).name().to_owned();
    for (party, own, others) in [
        (&governance, queue(Outside::GgpRequests), work.clone()),
        (&mux, queue(Outside::MuxActions), queue(Outside::GgpRequests)),
        (&flo, queue(Outside::FloEvents), queue(Outside::PteEvents)),
        (&pte, queue(Outside::PteEvents), queue(Outside::FloEvents)),
        (&worker, work.clone(), format!("{work}.dead")),
        (&operator, format!("{work}.dead"), work.clone()),
    ] {
        assert_eq!(party.consume(&own).await, Ok(()), "{} and its own queue", party.name);
        let refused = party.consume(&others).await.expect_err(&format!("{} and {others}", party.name));
        assert!(refused.code == 403 && refused.text.contains(&others), "{refused:?}");
    }
    fleet.check_everything().await;
}

/// The command says whose a submission is; nobody else is believed, whatever a message says of itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submission_of_nobody_known_is_parked_and_is_the_operators_when_sent_again() {
    let (ann, eve, ops) = (Login::name("ann"), Login::name("eve"), Login::name("ops"));
    let fleet = fleet_of(&[(&ann, &["acme"]), (&ops, &["*"])]).await;
    let producer = fleet.producer().await;
    let ann = login(&fleet, &ann, Party::Follower);
    let eve = login(&fleet, &eve, Party::Submitter);
    let ops = login(&fleet, &ops, Party::Operator);
    let plan = |name: &str| PlanDraft::in_order(name, 2).document();

    // What says nothing, or is by somebody who is not there; a header is believed by nobody.
    let anonymous = plan("anonymous");
    let claims = [("x-dat-user", ann.name.as_str()), ("user_id", &ann.name)];
    ann.publish(SUBMIT, named(&anonymous, "anonymous"), None, &claims).await.expect("taken");
    assert_eq!(refused(&producer, "anonymous", &["user_id"]).await, None);
    let (unknown, me) = (plan("unknown"), Some(eve.name.as_str()));
    eve.publish(SUBMIT, named(&unknown, "unknown"), me, &claims).await.expect("taken");
    assert_eq!(refused(&producer, "unknown", &[&eve.name, "[[submitter]]"]).await, me.map(str::to_owned));
    // What is no plan either is told both.
    let broken = json!({"plan_id": unknown["plan_id"], "tenant": "globex"});
    ann.publish(SUBMIT, named(&broken, "broken"), Some(&ann.name), &[]).await.expect("taken");
    refused(&producer, "broken", &["globex"]).await;

    // The command, under a login that may.
    let own = plan("by the command");
    let path = fleet.file("own.json", &own.to_string());
    let submit = ["plan", "submit", &path, "--wait", "--timeout-s", "60"];
    let (done, said) = fleet.dat_with(ann.environment(), &submit).await;
    assert!(done, "{said}");
    assert_eq!(fleet.plan(plan_of(&own)).await.submitter.as_deref(), Some(ann.name.as_str()));
    let drafted = producer.wait_for("its draft", |e| e.plan == plan_of(&own) && e.kind == "plan.draft").await;
    assert_eq!(drafted.data["submitter"], ann.name.as_str());

    // An operator sends on what was parked, and vouches for it.
    eve.publish(SUBMIT, named(&unknown, "again"), me, &[]).await.expect("taken");
    let parked = eventually("it is parked", async || {
        let (found, said) = fleet.dat_with(ops.environment(), &["dead", "show", "again"]).await;
        if found { Ok(said) } else { Err(said) }
    })
    .await;
    assert!(parked.contains(&format!("published by {}", eve.name)), "{parked}");
    let replay = ["dead", "replay", "--id", "again", "--actor", "ops", "--reason", "eve is new"];
    let (done, said) = fleet.dat_with(ops.environment(), &replay).await;
    assert!(done, "{said}");
    assert_eq!(producer.wait_for_end(plan_of(&unknown)).await.state, PlanState::Completed);
    assert_eq!(fleet.plan(plan_of(&unknown)).await.submitter.as_deref(), Some(ops.name.as_str()));
    fleet.check_everything().await;
}

/// The name that the broker validated is the one whose approval does not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_approves_the_plan_that_they_submitted() {
    let (ann, bob, eve) = (Login::name("ann"), Login::name("bob"), Login::name("eve"));
    let people = [ann.as_str(), &bob, &eve];
    let folder = folder();
    let rules = "[[rule]]\nwhen = \"true\"\nthen = \"people\"\nquorum = 2\n";
    let rules = file(&folder, "rules.toml", rules);
    let sandbox = ["--config".to_owned(), settings(&folder, "ggp", &people), "--ggp-rules".to_owned(), rules];
    let submitters = format!("[[submitter]]\nuser = \"{eve}\"\ntenants = [\"acme\"]\n");
    let defaults = FleetOptions::default();
    let believes = format!("{}{submitters}{}", defaults.settings, trusted("verdict_key", "ggp"));
    let fleet =
        Fleet::start(FleetOptions { sandbox: sandbox.to_vec(), settings: believes, ..defaults }).await;
    let producer = fleet.producer().await;
    let submitting = login(&fleet, &eve, Party::Submitter);
    let document = PlanDraft::in_order("hers", 2).document();
    let plan = plan_of(&document);
    submitting.publish(SUBMIT, Submission::of(&document), Some(&eve), &[]).await.expect("taken");
    let asked = eventually("GGP asks people", async || {
        fleet.sandbox().packages(plan).await.pop().filter(|held| held.quorum.is_some()).ok_or(())
    })
    .await;
    assert_eq!(asked.package.submitter.as_deref(), Some(eve.as_str()));
    drop(submitting);

    let id = plan.plan_id.to_string();
    let say = async |person: &str| {
        let approver = login(&fleet, person, Party::Approver);
        let config = settings(&folder, person, &[]);
        let arguments = ["--config", &config, "approve", &id, "--approver", person, "--to-ggp", "--yes"];
        let (done, said) = fleet.dat_with(approver.environment(), &arguments).await;
        assert!(done && said.contains("published plan.approval"), "{said}");
        assert!(said.contains(&format!("from      {eve}")), "an approver sees whose it is: {said}");
    };
    let heard = async |counted: usize, refused: usize| {
        eventually("GGP has heard them", async || {
            let held = fleet.sandbox().packages(plan).await.remove(0);
            let seen = (held.approvals.len(), held.refused.len());
            if seen == (counted, refused) { Ok(held) } else { Err(seen) }
        })
        .await
    };
    say(&ann).await;
    heard(1, 0).await;
    // Signed with her own key, which is believed: it is hers, and does not count.
    say(&eve).await;
    let held = heard(1, 1).await;
    assert!(json!(held.refused).to_string().contains("submitted the plan"), "{:?}", held.refused);
    assert_eq!(fleet.plan(plan).await.summary.state, PlanState::SubmittedForApproval);
    say(&bob).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let approved = end.events.iter().find(|event| event.kind == "plan.approved").expect("it was approved");
    assert_eq!(approved.data["approver"], format!("{ann}, {bob}").as_str());
    fleet.check_everything().await;
}
