//! What a request tells the sandbox MUX to do: `parameters.sandbox`.

use std::time::Duration;

use dat_plan::mux::ActionRequest;
use serde::Deserialize;
use serde_json::{Map, Value};

/// How a request ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// The effect happens and the answer says so.
    #[default]
    Ok,
    /// No effect; the answer may be retried.
    Error,
    /// No effect; the answer is final.
    Refuse,
    /// No effect, no answer.
    Timeout,
    /// The effect happens, no answer.
    LostReply,
}

/// `parameters.sandbox`; all of it optional, and without it the request is `ok` at once.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Behaviour {
    outcome: Ending,
    /// For attempts up to this one; afterwards `ok`. Absent, for every attempt.
    times: Option<u32>,
    /// How long the request takes before anything of it is decided.
    pub(crate) delay_ms: u64,
    /// How many reports of progress it sends meanwhile, spread over that time; 1,000 at most.
    pub(crate) progress: u32,
    /// What the effect costs. Only an effect costs anything.
    pub(crate) cost: i64,
    /// What the effect gives back.
    pub(crate) refund: i64,
    /// With an error: how long to leave MUX alone, milliseconds.
    pub(crate) retry_after_ms: Option<u64>,
    /// What the effect results in, `{}` where absent.
    pub(crate) result: Option<Value>,
}

impl Behaviour {
    /// What a request asks for. An unknown field or word is a fault, so that a typing error in a plan shows.
    pub(crate) fn of(request: &ActionRequest) -> Result<Self, serde_json::Error> {
        match request.parameters.get("sandbox") {
            None => Ok(Self::default()),
            Some(told) => Self::deserialize(told),
        }
    }

    /// How many reports of progress are sent, and how long it takes until each, and from the last to the end.
    pub(crate) fn beats(&self) -> (u32, Duration) {
        let reports = self.progress.min(1_000);
        (reports, Duration::from_millis(self.delay_ms) / (reports + 1))
    }

    /// How this attempt ends.
    pub(crate) fn ending(&self, attempt: i32) -> Ending {
        match self.times {
            Some(times) if i64::from(attempt) > i64::from(times) => Ending::Ok,
            _ => self.outcome,
        }
    }

    /// The result of the effect.
    pub(crate) fn result(&self) -> Value {
        self.result.clone().unwrap_or_else(|| Value::Object(Map::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux::tests::request;
    use serde_json::json;

    #[test]
    fn without_instructions_a_request_is_ok_at_once() {
        let behaviour = Behaviour::of(&request(json!(null))).expect("readable");
        assert_eq!(behaviour, Behaviour::default());
        assert_eq!(behaviour.ending(1), Ending::Ok);
        assert_eq!(behaviour.result(), json!({}));
    }

    #[test]
    fn times_counts_attempts() {
        let behaviour = Behaviour::of(&request(json!({"outcome": "error", "times": 2}))).expect("readable");
        assert_eq!([1, 2, 3].map(|n| behaviour.ending(n)), [Ending::Error, Ending::Error, Ending::Ok]);
        let always = Behaviour::of(&request(json!({"outcome": "lost_reply"}))).expect("readable");
        assert_eq!(always.ending(100), Ending::LostReply);
    }

    #[test]
    fn reports_are_spread_over_the_delay() {
        let told = json!({"delay_ms": 1000, "progress": 3});
        let behaviour = Behaviour::of(&request(told)).expect("readable");
        assert_eq!(behaviour.beats(), (3, Duration::from_millis(250)));
        assert_eq!(Behaviour::default().beats(), (0, Duration::ZERO));
    }

    #[test]
    fn a_typing_error_is_a_fault() {
        assert!(Behaviour::of(&request(json!({"outcome": "eror"}))).is_err());
        assert!(Behaviour::of(&request(json!({"costs": 1}))).is_err());
        assert!(Behaviour::of(&request(json!("ok"))).is_err());
    }
}
