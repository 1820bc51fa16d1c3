//! Exports: all that the log has of one plan version in one file, and what that file proves by itself.
//!
//! **Owns** the form of the file (documented for other implementations in `docs/audit-export.md`) and its check.
//! **May be called** by whoever writes or checks such files. **Must never** read rows, keys or the time: an export is
//! judged by what is in it and by the keys that are given, so that anyone can, without a database and without trust in it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::approval::{Outcome, Verdict};
use crate::checkpoint::{Checkpoint, Leaf, LogHash};
use crate::event::EventKind;
use crate::hash::{NoCanonicalForm, PlanHash, canonical};
use crate::ids::PlanKey;
use crate::replay::Replay;
use crate::signing::Trust;
use crate::state::{PlanState, StepState};

/// The form of exports that this version writes and reads.
pub const FORMAT: u32 = 1;

/// One plan version, as the log has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The form of this object: [`FORMAT`].
    pub format: u32,
    /// The plan.
    pub plan_id: Uuid,
    /// Its version.
    pub plan_version: i32,
    /// When it was exported.
    pub exported_at: DateTime<Utc>,
    /// The plan document as submitted, as JSON.
    pub plan: Value,
    /// Every verdict on it, as received, in the order in which they came.
    pub verdicts: Vec<Value>,
    /// Its stream, from the first event to the last; decisions, spend and operators' acts are events of it.
    pub events: Vec<ExportedEvent>,
    /// Where checkpoints sealed it, in their order.
    pub seals: Vec<ExportedSeal>,
}

/// An event, and what it was chained to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedEvent {
    /// The `CloudEvents` envelope, as it was published.
    pub envelope: Value,
    /// SHA-256 over the hash of the event before it (zeros for the first) and the RFC 8785 form of the envelope.
    pub hash: LogHash,
}

/// A checkpoint that sealed the stream, and the proof that it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedSeal {
    /// Where the stream ended then.
    pub leaf: Leaf,
    /// The leaf's place in the tree, from 0.
    pub place: u32,
    /// The path from the leaf to the root, as [`crate::checkpoint::Tree::proof`] gives it.
    pub proof: Vec<LogHash>,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
}

/// What a file proves, and what does not hold.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExportReport {
    /// The plan.
    pub plan_id: Uuid,
    /// Its version.
    pub plan_version: i32,
    /// Events whose chain was followed.
    pub events: u64,
    /// The last of them that a checkpoint seals; 0 for none.
    pub sealed: i64,
    /// The number of the last checkpoint that seals it.
    pub checkpoint: Option<i64>,
    /// Signatures that were checked, of verdicts and checkpoints; none without keys.
    pub signatures: u64,
    /// Where the plan stands, by its events.
    pub state: Option<PlanState>,
    /// What it spent, net of refunds, by its events.
    pub spent: i64,
    /// What does not hold.
    pub faults: Vec<String>,
}

impl Export {
    /// Checks everything that can be checked without a database. With keys given for verdicts or checkpoints, their
    /// signatures are asked for and checked; without, the file proves only that it is consistent.
    pub fn verify(&self, trust: &Trust) -> Result<ExportReport, NoCanonicalForm> {
        let mut report = ExportReport {
            plan_id: self.plan_id,
            plan_version: self.plan_version,
            ..ExportReport::default()
        };
        if self.format != FORMAT {
            report.faults.push(format!("the file's format is {}, this version reads {FORMAT}", self.format));
            return Ok(report);
        }
        let mut story = Story::default();
        self.follow(&mut story, &mut report)?;
        self.verify_plan(&story, &mut report)?;
        self.verify_verdicts(&story, trust, &mut report);
        self.verify_seals(trust, &mut report);
        report.state = story.replay.plan();
        report.spent = story.spent;
        Ok(report)
    }

    const fn key(&self) -> PlanKey {
        PlanKey::new(self.plan_id, self.plan_version)
    }

    fn follow(&self, story: &mut Story, report: &mut ExportReport) -> Result<(), NoCanonicalForm> {
        let mut before = LogHash::START;
        for (event, place) in self.events.iter().zip(1_i64..) {
            report.events += 1;
            let envelope = &event.envelope;
            let text = |field: &str| envelope.get(field).and_then(Value::as_str).unwrap_or_default();
            let hash = Sha256::new().chain_update(before.0).chain_update(canonical(envelope)?).finalize();
            if hash.as_slice() != event.hash.0 {
                report
                    .faults
                    .push(format!("event {place} ({}) does not hash to what was chained", text("type")));
            }
            before = event.hash;
            if text("sequence") != place.to_string() || text("id") != format!("{}/{place}", self.key()) {
                let (id, sequence) = (text("id"), text("sequence"));
                report.faults.push(format!("event {place} says that it is {id}, at {sequence}"));
            }
            if let Err(what) = story.follow(place, text("type"), text("time"), envelope.get("data")) {
                report.faults.push(format!("event {place} ({}): {what}", text("type")));
            }
        }
        if self.events.is_empty() {
            report.faults.push("there are no events".to_owned());
        }
        report.faults.extend(story.replay.contradiction());
        Ok(())
    }

    fn verify_plan(&self, story: &Story, report: &mut ExportReport) -> Result<(), NoCanonicalForm> {
        let hash = PlanHash::of(&self.plan)?;
        match &story.registered {
            Some(registered) if registered == hash.as_str() => {}
            Some(registered) => {
                report.faults.push(format!("the plan hashes to {hash}, its events registered {registered}"));
            }
            None => report.faults.push("no event says under which hash the plan was registered".to_owned()),
        }
        let says = |field: &str| self.plan.get(field).cloned().unwrap_or_default();
        // The case of a UUID is its writer's own.
        let is_it = says("plan_id").as_str().is_some_and(|id| id.parse() == Ok(self.plan_id));
        if !is_it || says("plan_version") != self.plan_version {
            report.faults.push(format!("the plan is {}/{}", says("plan_id"), says("plan_version")));
        }
        Ok(())
    }

    fn verify_verdicts(&self, story: &Story, trust: &Trust, report: &mut ExportReport) {
        for value in &self.verdicts {
            let verdict: Verdict = match serde_json::from_value(value.clone()) {
                Ok(verdict) => verdict,
                Err(error) => {
                    report.faults.push(format!("a verdict cannot be read: {error}"));
                    continue;
                }
            };
            let name = format!("the verdict {} ({})", verdict.decision_id, verdict.outcome.as_str());
            let mut say = |what: String| report.faults.push(format!("{name} {what}"));
            if verdict.plan() != self.key() {
                say(format!("is of plan {}", verdict.plan()));
            }
            if story.registered.as_deref().is_some_and(|hash| hash != verdict.plan_hash.as_str()) {
                say(format!("is of {}", verdict.plan_hash));
            }
            let Some(told) = story.verdicts.iter().find(|told| told.value == *value) else {
                say("is in no event".to_owned());
                continue;
            };
            if told.outcome != verdict.outcome {
                say(format!("is told of as {}", told.outcome.as_str()));
            }
            if !trust.verdicts.is_empty() {
                match trust.verdicts.verify(value, told.at) {
                    Ok(_) => report.signatures += 1,
                    Err(fault) => report.faults.push(format!("{name} does not stand: {fault}")),
                }
            }
        }
        for told in story.verdicts.iter().filter(|told| !self.verdicts.contains(&told.value)) {
            let what = told.outcome.as_str();
            report
                .faults
                .push(format!("event {} holds a verdict ({what}) that is not in the file", told.place));
        }
    }

    fn verify_seals(&self, trust: &Trust, report: &mut ExportReport) {
        let mut last = 0;
        for seal in &self.seals {
            let number = seal.checkpoint.number;
            let mut say = |what: String| report.faults.push(format!("checkpoint {number}: {what}"));
            if number <= last {
                say(format!("it stands after checkpoint {last}"));
            }
            last = number;
            if seal.leaf.plan() != self.key() {
                say(format!("its leaf is of {}", seal.leaf.plan()));
            }
            let place = usize::try_from(seal.leaf.last_sequence - 1).ok();
            match place.and_then(|place| self.events.get(place)) {
                None => say(format!(
                    "it sealed the stream up to event {}, it ends at {}",
                    seal.leaf.last_sequence,
                    self.events.len()
                )),
                Some(event) if event.hash != seal.leaf.last_hash => {
                    say(format!("event {} is another than it sealed", seal.leaf.last_sequence));
                }
                Some(_) => {}
            }
            if !seal.checkpoint.holds(&seal.leaf, seal.place, &seal.proof) {
                say("its root does not hold the leaf".to_owned());
            }
            if !trust.checkpoints.is_empty() {
                match seal.checkpoint.verify(&trust.checkpoints) {
                    Ok(_) => report.signatures += 1,
                    Err(fault) => say(fault.to_string()),
                }
            }
            report.sealed = report.sealed.max(seal.leaf.last_sequence);
            report.checkpoint = Some(number);
        }
    }
}

/// A verdict as an event tells of it.
struct ToldVerdict {
    place: i64,
    outcome: Outcome,
    value: Value,
    at: DateTime<Utc>,
}

/// What the events say, one after the other.
#[derive(Default)]
struct Story {
    replay: Replay,
    registered: Option<String>,
    verdicts: Vec<ToldVerdict>,
    spent: i64,
}

impl Story {
    fn follow(&mut self, place: i64, kind: &str, time: &str, data: Option<&Value>) -> Result<(), String> {
        let at = DateTime::parse_from_rfc3339(time).map_err(|error| format!("its time: {error}"))?.to_utc();
        // A word of another version of DAT is about nothing that this one knows.
        let Some(Ok(kind)) = kind.strip_prefix("dat.").map(str::parse::<EventKind>) else { return Ok(()) };
        let field = |name: &str| data.and_then(|data| data.get(name));
        let text = |name: &str| field(name).and_then(Value::as_str);
        let amount = || field("amount").and_then(Value::as_i64).unwrap_or(0);
        match kind {
            EventKind::Plan(PlanState::Draft) => self.registered = text("plan_hash").map(ToOwned::to_owned),
            EventKind::SpendIncurred => self.spent += amount(),
            EventKind::RefundIssued => self.spent -= amount(),
            EventKind::Step(StepState::Running) => {
                let came = |outcome| self.verdicts.iter().any(|told| told.outcome == outcome);
                let step = text("step").unwrap_or_default();
                if !came(Outcome::Approved) {
                    return Err(format!("it starts step {step} before any approval"));
                }
                if came(Outcome::Revoked) {
                    return Err(format!("it starts step {step} after the approval was revoked"));
                }
            }
            _ => {}
        }
        let outcome = match kind {
            EventKind::Plan(PlanState::Approved) => Some(Outcome::Approved),
            EventKind::Plan(PlanState::Rejected) => Some(Outcome::Rejected),
            EventKind::Revoked => Some(Outcome::Revoked),
            _ => None,
        };
        if let (Some(outcome), Some(value)) = (outcome, field("verdict")) {
            self.verdicts.push(ToldVerdict { place, outcome, value: value.clone(), at });
        }
        self.replay.follow(kind, text("step")).map_err(|impossible| impossible.to_string())
    }
}
