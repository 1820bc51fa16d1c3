//! How far a long action is, by its connector's word. Pure, and for people: nothing is decided by it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest message that is kept, in characters.
const MESSAGE: usize = 500;
/// The largest count, as amounts: what a JSON number holds exactly.
const MOST: i64 = crate::amount::MAX;

/// A report of progress. What a connector counts is its own affair; it may count nothing, and only say something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// So much is done.
    pub done: Option<i64>,
    /// Of so much.
    pub total: Option<i64>,
    /// What it is at.
    pub message: Option<String>,
}

impl Progress {
    /// The report as it can be kept: counts that are none are left out, a message is cut to 500 characters and rid of what
    /// no database stores. None where nothing is left.
    #[must_use]
    pub fn kept(self) -> Option<Self> {
        let count = |count: Option<i64>| count.filter(|count| (0..=MOST).contains(count));
        let message = self.message.map(|text| text.replace('\0', "\\u0000").chars().take(MESSAGE).collect());
        let kept = Self {
            done: count(self.done),
            total: count(self.total),
            message: message.filter(|text: &String| !text.is_empty()),
        };
        (kept != Self::default()).then_some(kept)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.done, self.total) {
            (Some(done), Some(total)) => write!(f, "{done} of {total}")?,
            (Some(done), None) => write!(f, "{done} done")?,
            (None, Some(total)) => write!(f, "{total} to do")?,
            (None, None) => {}
        }
        match &self.message {
            Some(message) if self.done.or(self.total).is_some() => write!(f, ", {message}"),
            Some(message) => f.write_str(message),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_kept_is_left_out_and_the_rest_is_said() {
        let said = |done, total, message: Option<&str>| {
            Progress { done, total, message: message.map(str::to_owned) }.kept().map(|kept| kept.to_string())
        };
        assert_eq!(said(Some(3), Some(10), Some("packing")).as_deref(), Some("3 of 10, packing"));
        assert_eq!(said(Some(3), None, None).as_deref(), Some("3 done"));
        assert_eq!(said(Some(-1), Some(i64::MAX), Some("\0")).as_deref(), Some("\\u0000"));
        assert_eq!(said(None, Some(-1), Some("")), None);
        let long = said(None, None, Some(&"é".repeat(501))).unwrap_or_default();
        assert_eq!(long.chars().count(), 500);
    }
}
