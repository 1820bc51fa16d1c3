//! Limits: the rules that are no expression: a time window, and a bound on a quantity.

use chrono::{DateTime, Utc};
use dat_plan::document::Step;
use serde_json::Value;

/// Why a rule is violated.
#[derive(Debug, PartialEq)]
pub(crate) struct Breach {
    /// What is violated, in one sentence.
    pub(crate) reason: String,
    /// The moment from which it is not.
    pub(crate) retry_at: Option<DateTime<Utc>>,
    /// Whether it is for good.
    pub(crate) lasting: bool,
}

/// When a plan may act: from the one moment, inclusive, to the other, exclusive.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    not_before: Option<DateTime<Utc>>,
    not_after: Option<DateTime<Utc>>,
}

impl Window {
    pub(crate) fn new(
        not_before: Option<DateTime<Utc>>,
        not_after: Option<DateTime<Utc>>,
    ) -> Result<Self, String> {
        match (not_before, not_after) {
            (None, None) => Err("a time window needs not_before, not_after or both".to_owned()),
            (Some(from), Some(to)) if to <= from => {
                Err(format!("a time window that ends at {to} never opens at {from}: not_after must be later"))
            }
            _ => Ok(Self { not_before, not_after }),
        }
    }

    /// Not open yet is a wait, over is for good.
    pub(crate) fn breach(&self, now: DateTime<Utc>) -> Option<Breach> {
        if let Some(end) = self.not_after.filter(|end| now >= *end) {
            let reason = format!("the time window ended at {}", end.to_rfc3339());
            return Some(Breach { reason, retry_at: None, lasting: true });
        }
        let start = self.not_before.filter(|start| now < *start)?;
        let reason = format!("the time window opens at {}", start.to_rfc3339());
        Some(Breach { reason, retry_at: Some(start), lasting: false })
    }
}

/// Bounds of a numeric parameter, both inclusive.
#[derive(Debug, Clone)]
pub(crate) struct Quantity {
    /// Which parameter, at the top level of a step's parameters.
    pub(crate) parameter: String,
    min: Option<f64>,
    max: Option<f64>,
}

impl Quantity {
    pub(crate) fn new(parameter: &str, min: Option<f64>, max: Option<f64>) -> Result<Self, String> {
        match (min, max) {
            (None, None) => Err("a quantity needs min, max or both".to_owned()),
            (Some(min), Some(max)) if min > max => {
                Err(format!("no quantity is at least {min} and at most {max}"))
            }
            _ => Ok(Self { parameter: parameter.to_owned(), min, max }),
        }
    }

    /// One step's value, its references resolved: what is no number is a violation.
    pub(crate) fn breach(&self, step: &str, value: &Value) -> Option<Breach> {
        let parameter = &self.parameter;
        let problem = match (value.as_f64(), self.min, self.max) {
            (None, ..) => "is no number".to_owned(),
            (Some(n), Some(min), _) if n < min => format!("is {n}, less than {min}"),
            (Some(n), _, Some(max)) if n > max => format!("is {n}, more than {max}"),
            _ => return None,
        };
        let reason = format!("'{parameter}' of step '{step}' {problem}");
        Some(Breach { reason, retry_at: None, lasting: true })
    }

    /// Every step's value as far as the document tells; a reference is looked at when it is resolved.
    pub(crate) fn breach_of_plan(&self, steps: &[Step]) -> Option<Breach> {
        let mut breaches = steps.iter().filter_map(|step| {
            let value = step.parameters.get(&self.parameter).filter(|value| value.get("$from").is_none())?;
            self.breach(step.key.as_str(), value)
        });
        let mut first = breaches.next()?;
        match breaches.count() {
            0 => {}
            more => first.reason = format!("{}, and {more} more", first.reason),
        }
        Some(first)
    }
}
