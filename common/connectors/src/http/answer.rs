//! What an answer means. A status says that it is done, that it is certainly not, or leaves it open; what cannot be read
//! leaves it open too. Pure, but for the time that a date in `Retry-After` is held against.

use std::time::Duration;

use chrono::{DateTime, Utc};
use dat_plan::amount;
use hyper::StatusCode;
use hyper::header::{HeaderMap, RETRY_AFTER};
use serde_json::{Map, Value};

use super::action::Action;
use super::client::Answered;
use super::settings::{AmountSetting, ProbeSetting, Verb};
use crate::connector::{Answer, ProbeAnswer, Reached};

/// The longest that an outside system can have us wait.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// The longest message of an answer that is passed on, in characters.
const MESSAGE_CHARS: usize = 200;
/// Where answers have their message, as far as there is a custom (RFC 9457 among them).
const MESSAGES: [&str; 6] =
    ["/message", "/error/message", "/detail", "/title", "/error_description", "/error"];

/// What an answer to an action means.
pub(super) fn read(action: &Action, answered: &Answered, now: DateTime<Utc>) -> Answer {
    let setting = &action.setting;
    let status = answered.status;
    let detail = said(&setting.name, answered);
    if status.is_success() {
        return match done(answered, &setting.result, setting.cost.as_ref(), setting.refund.as_ref()) {
            Ok((result, cost, refund)) => Answer::Done { result, cost, refund },
            Err(why) => Answer::Unanswered { detail: format!("{detail}, but {why}") },
        };
    }
    let ill = status.is_server_error();
    let again = |detail| {
        let retry_after_ms = retry_after(&answered.headers, now);
        Answer::Error { cost: 0, detail, retry_after_ms, ill }
    };
    if setting.retryable.contains(&status.as_u16()) {
        return again(detail);
    }
    let is_get = setting.method == Verb::Get;
    let open = ill
        || status == StatusCode::REQUEST_TIMEOUT
        || setting.open.contains(&status.as_u16())
        // A redirect is not followed. 307 and 308 say that it is to be asked elsewhere; the others may come after the deed.
        || (status.is_redirection() && !is_get && !is_elsewhere(status));
    match (open, action.idempotent) {
        // It may have taken effect; the same key makes it no second one.
        (true, true) => again(format!("{detail}; it can be asked again")),
        (true, false) => {
            Answer::Unanswered { detail: format!("{detail}, which leaves open whether it was done") }
        }
        (false, _) if status.is_redirection() => {
            Answer::Refused { cost: 0, detail: format!("{detail}: it is not followed there") }
        }
        (false, _) => Answer::Refused { cost: 0, detail },
    }
}

fn is_elsewhere(status: StatusCode) -> bool {
    matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT)
}

/// What the answer to a probe means. `over`: no request with its key can be accepted any more.
pub(super) fn read_probe(probe: &ProbeSetting, name: &str, answered: &Answered, over: bool) -> ProbeAnswer {
    let unknown = |detail| ProbeAnswer::Unknown { detail, answered: true, reached: Reached::Yes };
    let detail = said(&format!("the probe of {name}"), answered);
    let not_done = || {
        if over {
            return ProbeAnswer::Sealed;
        }
        let detail = "it is not done, and could still be accepted".to_owned();
        ProbeAnswer::Unknown { detail, answered: false, reached: Reached::Yes }
    };
    let status = answered.status.as_u16();
    if probe.not_done_status.contains(&status) {
        return not_done();
    }
    if !probe.done_status.contains(&status) {
        // It did not tell: the outside system may be ill. Only an answer about the key is one.
        let reached = if answered.status.is_server_error() { Reached::No } else { Reached::Yes };
        return ProbeAnswer::Unknown { detail, answered: false, reached };
    }
    if let Some(pointer) = &probe.pointer {
        let value = match body(answered) {
            Ok(body) => body.pointer(pointer).cloned(),
            Err(why) => return unknown(format!("{detail}, but {why}")),
        };
        match value {
            Some(value) if probe.done.contains(&value) => {}
            Some(value) if probe.not_done.contains(&value) => return not_done(),
            _ => return unknown(format!("{detail}, and does not say at '{pointer}' whether it is done")),
        }
    }
    match done(answered, &probe.result, probe.cost.as_ref(), probe.refund.as_ref()) {
        Ok((result, cost, refund)) => ProbeAnswer::Done { result, cost, refund },
        Err(why) => unknown(format!("{detail}, but {why}")),
    }
}

/// Result, cost and refund of an answer that says that it is done.
fn done(
    answered: &Answered,
    result: &str,
    cost: Option<&AmountSetting>,
    refund: Option<&AmountSetting>,
) -> Result<(Value, i64, i64), String> {
    let body = body(answered)?;
    let found = match body.pointer(result) {
        Some(found) => found.clone(),
        None => return Err(format!("it has nothing at '{result}'")),
    };
    Ok((found, amount_in(&body, cost)?, amount_in(&body, refund)?))
}

fn amount_in(body: &Value, setting: Option<&AmountSetting>) -> Result<i64, String> {
    let amount = match setting {
        None => return Ok(0),
        Some(AmountSetting::Fixed(amount)) => Some(*amount),
        Some(AmountSetting::At(pointer)) => match body.pointer(pointer) {
            None | Some(Value::Null) => return Ok(0),
            Some(value) => value.as_i64(),
        },
    };
    amount
        .filter(|amount| (0..=amount::MAX).contains(amount))
        .ok_or_else(|| "it has an amount that is no integer within 0 to 2^53 − 1".to_owned())
}

/// The body as JSON; `{}` where there is none.
fn body(answered: &Answered) -> Result<Value, String> {
    let bytes = answered.body.as_ref().map_err(Clone::clone)?;
    if bytes.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    serde_json::from_slice(bytes).map_err(|error| format!("it cannot be read: {error}"))
}

/// Who answered what, with the answer's own message where it has one.
fn said(who: &str, answered: &Answered) -> String {
    let said = format!("{who} was answered {}", answered.status);
    if answered.status.is_success() {
        return said;
    }
    let body = body(answered).unwrap_or_default();
    match MESSAGES.iter().find_map(|pointer| body.pointer(pointer)?.as_str()) {
        None => said,
        Some(message) => format!("{said}: {}", message.chars().take(MESSAGE_CHARS).collect::<String>()),
    }
}

/// How long `Retry-After` asks to wait, in milliseconds: seconds, or a date. Nothing where it cannot be read.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> u64 {
    let Some(text) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim) else {
        return 0;
    };
    let ms = match text.parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1_000),
        Err(_) => DateTime::parse_from_rfc2822(text)
            .map_or(0, |at| u64::try_from((at.to_utc() - now).num_milliseconds()).unwrap_or(0)),
    };
    ms.min(u64::try_from(LONGEST_WAIT.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = DateTime::from_timestamp(784_111_777, 0).expect("Sun, 06 Nov 1994 08:49:37 GMT");
        for (text, ms) in [
            ("3", 3_000),
            ("Sun, 06 Nov 1994 08:49:47 GMT", 10_000),
            ("Sun, 06 Nov 1994 08:49:27 GMT", 0),
            ("999999999999999999", 3_600_000),
            ("Fri, 31 Dec 1999 23:59:59 GMT", 3_600_000),
            ("soon", 0),
            ("-1", 0),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("a header"));
            assert_eq!(retry_after(&headers, now), ms, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), 0);
    }
}
