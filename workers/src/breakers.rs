//! Circuit breakers as they are set: asked before every claim and every probe, told of every answer. What an open one holds
//! back waits, holding nothing; one request at a time tries. Redis away, every breaker is closed; what an operator has
//! forced open the claim itself reads, what is forced closed is asked for only when a breaker is not.
//!
//! **Undos and probes are held back like steps**, and each may be the one that tries: sent to a system that is ill they
//! would fail as anything does, and an undo would use up its attempts. Nothing is lost by their waiting: a key that is not
//! sealed stays unknown, and what is to be undone stays so, each with the breaker as its reason. Each wait is bounded, by
//! the breaker's own pause and by [`LOOK_AGAIN`]; an operator who knows better closes the breaker, which wakes them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use dat_connectors::{Answer, ProbeAnswer, Reached};
use dat_guards::{BreakerRequest, BreakerRule, Health, Moved, Passage, RuntimeStore};
use dat_plan::UnitKey;
use dat_store::breaker_wait;

use crate::fleet::Fleet;
use crate::limits::{Candidates, Limited, Limiter};
use crate::settings::{BadSetting, BreakerSetting};

/// What an open breaker holds back looks again after so long at the latest: an operator may have closed it just as it was
/// put off.
const LOOK_AGAIN: TimeDelta = TimeDelta::minutes(5);

/// The breakers of this fleet.
pub(crate) struct Breakers {
    set: BTreeMap<String, BreakerRule>,
    redis: dat_guards::Breakers,
    /// The trials that this worker holds, by the name of the request.
    trials: Mutex<BTreeMap<String, Trial>>,
}

struct Trial {
    connector: String,
    rule: BreakerRule,
    /// Its attempt runs; until then it may be given back.
    started: bool,
}

impl Breakers {
    pub(crate) fn new(
        settings: &[BreakerSetting],
        runtime: &RuntimeStore,
        worker: &str,
    ) -> Result<Self, BadSetting> {
        let set = settings
            .iter()
            .map(|setting| Ok((setting.connector.clone(), setting.rule()?)))
            .collect::<Result<_, BadSetting>>()?;
        let redis = dat_guards::Breakers::new(runtime.clone(), worker);
        Ok(Self { set, redis, trials: Mutex::default() })
    }

    /// An attempt was started: if it is a trial, what comes of it decides.
    pub(crate) fn started(&self, unit: &UnitKey, attempt: i32) {
        if self.set.is_empty() {
            return;
        }
        if let Some(trial) = self.trials().get_mut(&name(unit, attempt)) {
            trial.started = true;
        }
    }

    fn trials(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Trial>> {
        self.trials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks of a batch, in one call to Redis; gives the trials that were granted, to be given back unless they are started.
pub(crate) async fn ask(fleet: &Fleet, batch: &Candidates, said: &mut [Limited]) -> Vec<String> {
    let breakers = &fleet.breakers;
    let lease = Duration::from_millis(fleet.settings.lease_ms);
    let asked: Vec<(usize, String, BreakerRule)> = batch
        .iter()
        .enumerate()
        .filter_map(|(place, (candidate, _))| {
            let rule = *breakers.set.get(&candidate.connector)?;
            Some((place, name(&candidate.unit, candidate.attempt), rule))
        })
        .collect();
    if asked.is_empty() {
        return Vec::new();
    }
    let requests: Vec<BreakerRequest<'_>> = asked
        .iter()
        .map(|(place, request, rule)| {
            let (candidate, plan) = &batch[*place];
            let timeout = plan.unit(candidate.unit).map_or(0, |spec| spec.timeout_ms);
            let lifetime = Duration::from_millis(timeout) + lease;
            BreakerRequest { connector: &candidate.connector, request, lifetime, rule: *rule }
        })
        .collect();
    let passages = match breakers.redis.ask(&requests).await {
        Ok(passages) => passages,
        Err(away) => {
            tracing::warn!(%away, "every breaker is closed");
            return Vec::new();
        }
    };
    let forced_closed = forced_closed(fleet, &passages).await;
    let now = fleet.now();
    let mut trials = Vec::new();
    for ((place, request, rule), passage) in asked.iter().zip(passages) {
        let connector = &batch[*place].0.connector;
        fleet.metrics.breaker_open(connector, passage != Passage::Closed);
        let (until, why) = match passage {
            Passage::Closed => continue,
            Passage::Trial => {
                let trial = Trial { connector: connector.clone(), rule: *rule, started: false };
                breakers.trials().insert(request.clone(), trial);
                trials.push(request.clone());
                continue;
            }
            Passage::Open(until) => (until, OPEN),
            Passage::Tried(until) => (until, TRIED),
        };
        if forced_closed.contains(connector) {
            continue;
        }
        let until = until.min(now + LOOK_AGAIN);
        let reason = put_off(fleet, connector, why, until);
        said[*place] = Limited::Wait { until, reason, rate_slot: None, by: Limiter::Breaker };
    }
    trials
}

/// Why something waits, in the words after [`breaker_wait`]'s.
const OPEN: &str = "open";
const TRIED: &str = "open, and one step tries it,";

/// Counts what is put off, and gives the reason.
fn put_off(fleet: &Fleet, connector: &str, why: &str, until: DateTime<Utc>) -> String {
    fleet.metrics.breaker_put_off(connector);
    let moment = until.to_rfc3339_opts(SecondsFormat::Millis, true);
    format!("{}{why} until {moment}", breaker_wait(connector))
}

/// Asks of one probe, which takes `timeout` at most; gives until when it is held back, and why. One that may go is to be
/// reported ([`report_probe`]): it may be the one that tries.
pub(crate) async fn hold_probe(
    fleet: &Fleet,
    connector: &str,
    probe: &dat_store::Probe,
    timeout: Duration,
) -> Option<(DateTime<Utc>, String)> {
    let breakers = &fleet.breakers;
    let rule = *breakers.set.get(connector)?;
    let request = probe_name(probe);
    let lifetime = timeout + Duration::from_millis(fleet.settings.lease_ms);
    let asked = BreakerRequest { connector, request: &request, lifetime, rule };
    let passage = match breakers.redis.ask(&[asked]).await {
        Ok(passages) => passages.first().copied()?,
        Err(away) => {
            tracing::warn!(%away, "every breaker is closed");
            return None;
        }
    };
    fleet.metrics.breaker_open(connector, passage != Passage::Closed);
    let (until, why) = match passage {
        Passage::Closed => return None,
        Passage::Trial => {
            let trial = Trial { connector: connector.to_owned(), rule, started: true };
            breakers.trials().insert(request, trial);
            return None;
        }
        Passage::Open(until) => (until, OPEN),
        Passage::Tried(until) => (until, TRIED),
    };
    if forced_closed(fleet, &[passage]).await.iter().any(|closed| closed == connector) {
        return None;
    }
    let until = until.min(fleet.now() + LOOK_AGAIN);
    let reason =
        format!("{}; the outcome is unknown, and its probe waits", put_off(fleet, connector, why, until));
    Some((until, reason))
}

/// Tells what a probe says of the outside system's health, as of any call.
pub(crate) async fn report_probe(
    fleet: &Fleet,
    connector: &str,
    probe: &dat_store::Probe,
    answer: &ProbeAnswer,
) {
    let health = match answer {
        ProbeAnswer::Done { .. }
        | ProbeAnswer::Sealed
        | ProbeAnswer::Unknown { reached: Reached::Yes, .. } => Health::Well,
        ProbeAnswer::Unknown { reached: Reached::No, .. } => Health::Ill,
        ProbeAnswer::Unknown { reached: Reached::Unasked, .. }
        | ProbeAnswer::Repeatable { .. }
        | ProbeAnswer::NoProbe { .. } => Health::Unasked,
    };
    ended(fleet, connector, &probe_name(probe), health).await;
}

/// The connectors whose breakers an operator holds closed.
async fn forced_closed(fleet: &Fleet, passages: &[Passage]) -> Vec<String> {
    if passages.iter().all(|passage| *passage == Passage::Closed) {
        return Vec::new();
    }
    match fleet.store.forced_breakers().await {
        Ok(forced) => forced.into_iter().filter(|b| b.forced == "closed").map(|b| b.connector).collect(),
        Err(error) => {
            tracing::debug!(%error, "breakers go by themselves");
            Vec::new()
        }
    }
}

/// Gives back the trials that were not started.
pub(crate) async fn give_back(fleet: &Fleet, trials: Vec<String>) {
    for request in trials {
        let unused = {
            let mut held = fleet.breakers.trials();
            match held.get(&request) {
                Some(trial) if !trial.started => held.remove(&request),
                _ => None,
            }
        };
        if let Some(trial) = unused {
            tell(fleet, &trial.connector, &request, trial.rule, Health::Unasked).await;
        }
    }
}

/// Tells what an answer says of the outside system's health.
pub(crate) async fn report(fleet: &Fleet, connector: &str, unit: &UnitKey, attempt: i32, answer: &Answer) {
    let health = match answer {
        Answer::NotSent { .. } | Answer::Unanswered { .. } | Answer::Error { ill: true, .. } => Health::Ill,
        Answer::Done { .. } | Answer::Refused { .. } | Answer::Error { ill: false, .. } => Health::Well,
    };
    ended(fleet, connector, &name(unit, attempt), health).await;
}

/// A request ended. That all is well is news only where it was not.
async fn ended(fleet: &Fleet, connector: &str, request: &str, health: Health) {
    let breakers = &fleet.breakers;
    let Some(rule) = breakers.set.get(connector) else { return };
    let tries = breakers.trials().remove(request).is_some();
    if tries || health == Health::Ill {
        tell(fleet, connector, request, *rule, health).await;
    }
}

/// An attempt ended: if it was to try and nothing was asked, another may.
pub(crate) async fn unasked(fleet: &Fleet, unit: &UnitKey, attempt: i32) {
    if fleet.breakers.set.is_empty() {
        return;
    }
    let request = name(unit, attempt);
    let trial = fleet.breakers.trials().remove(&request);
    if let Some(trial) = trial {
        tell(fleet, &trial.connector, &request, trial.rule, Health::Unasked).await;
    }
}

async fn tell(fleet: &Fleet, connector: &str, request: &str, rule: BreakerRule, health: Health) {
    // How long a trial is believed is asked when it is granted, not here.
    let told = BreakerRequest { connector, request, lifetime: Duration::ZERO, rule };
    match fleet.breakers.redis.report(&told, health).await {
        Ok(Moved::No) => {}
        Ok(Moved::Opened) => {
            tracing::warn!(connector, "its breaker is open");
            fleet.metrics.breaker_opened(connector);
        }
        Ok(Moved::Closed) => {
            tracing::info!(connector, "its breaker is closed again");
            fleet.metrics.breaker_open(connector, false);
        }
        Err(away) => tracing::debug!(%away, "its breaker was not told"),
    }
}

/// One request, by unit and attempt.
fn name(unit: &UnitKey, attempt: i32) -> String {
    format!("{}/{}/{}/{attempt}", unit.plan, unit.kind.as_str(), unit.index)
}

/// One probe: by how many were made before.
fn probe_name(probe: &dat_store::Probe) -> String {
    format!("{}/probe/{}", name(&probe.lease.unit, probe.attempt), probe.probes)
}
